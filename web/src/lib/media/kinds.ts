// Tells what a file is by its first bytes, and whether it may be sent. Knows no decoder.
import type { MediaKind } from '$lib/types';

export interface Kind {
  kind: MediaKind;
  mime: string;
  /** Whether browsers other than Safari can draw it. */
  drawable: boolean;
}

const image = (mime: string, drawable = true): Kind => ({ kind: 'image', mime, drawable });
const video = (mime: string): Kind => ({ kind: 'video', mime, drawable: true });

const HEIF = /^(heic|heix|heim|heis|hevc|hevx|mif1|msf1)/;

/** The kind of a file by its first 16 bytes or more; null for one that cannot be sent. */
export function kindOf(head: Uint8Array): Kind | null {
  const text = String.fromCharCode(...head.subarray(0, 16));
  if (text.startsWith('\xff\xd8\xff')) return image('image/jpeg');
  if (text.startsWith('\x89PNG\r\n\x1a\n')) return image('image/png');
  if (text.startsWith('RIFF') && text.slice(8, 12) === 'WEBP') return image('image/webp');
  if (text.startsWith('RIFF') && text.slice(8, 12) === 'AVI ') return video('video/x-msvideo');
  if (text.startsWith('GIF8')) return image('image/gif');
  if (text.startsWith('BM')) return image('image/bmp');
  if (text.startsWith('%PDF-')) return { kind: 'pdf', mime: 'application/pdf', drawable: true };
  if (text.startsWith('\x1aE\xdf\xa3')) return video('video/webm');
  if (text.slice(4, 8) === 'ftyp') {
    const brand = text.slice(8, 12);
    if (HEIF.test(brand)) return image('image/heic', false);
    if (brand === 'avif') return null;
    return brand === 'qt  ' ? video('video/quicktime') : video('video/mp4');
  }
  return null;
}

export interface Limits {
  imageBytes: number;
  imageSide: number;
  images: number;
  bodyBytes: number;
}

export const DEFAULT_LIMITS: Limits = {
  imageBytes: 10 * 2 ** 20,
  imageSide: 1920,
  images: 64,
  bodyBytes: 64 * 2 ** 20,
};

/** Bytes of file that fit into a body: base64 makes four of three, and the words around need a little. */
export const sendable = (limits: Limits): number => Math.floor((limits.bodyBytes - 65_536) * 0.75);
