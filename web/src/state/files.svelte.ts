// The bytes of pictures, videos and documents: in memory while in use, in the browser's storage otherwise.
import type { Media } from '$lib/types';
import { dataUrl } from '$lib/media/load';
import { store } from './storage';

const blobs = new Map<string, Blob>();
/** Passwords of PDFs, by media id. Never stored. */
const passwords = new Map<string, string>();
const urls = new Map<string, string>();

export function keep(id: string, blob: Blob): void {
  blobs.set(id, blob);
}

export async function blobOf(media: Media): Promise<Blob | null> {
  const known = blobs.get(media.id);
  if (known) return known;
  const found = await (await store())?.file(media.id);
  if (found) blobs.set(media.id, found);
  return found ?? null;
}

/** An address to show the file at, the same for as long as the page lives; null when the file is gone. */
export async function urlOf(media: Media): Promise<string | null> {
  const known = urls.get(media.id);
  if (known) return known;
  const blob = await blobOf(media);
  if (!blob) return null;
  const url = urls.get(media.id) ?? URL.createObjectURL(blob);
  urls.set(media.id, url);
  return url;
}

/** The file as a data URL, as requests carry it. Raises when it is gone. */
export async function inline(media: Media): Promise<string> {
  const blob = await blobOf(media);
  if (!blob) throw new FileGone(media.name);
  return dataUrl(blob.type === media.mime ? blob : new Blob([blob], { type: media.mime }));
}

export class FileGone extends Error {}

export const passwordOf = (media: Media): string | undefined => passwords.get(media.id);

export function keepPassword(media: Media, password: string): void {
  passwords.set(media.id, password);
}

export function forget(id: string): void {
  const url = urls.get(id);
  if (url) URL.revokeObjectURL(url);
  urls.delete(id);
  blobs.delete(id);
}
