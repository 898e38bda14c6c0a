// Makes a picked file ready to send: checked, scaled when that helps, with a thumbnail. Needs a browser's canvas.
import { newId, type Media } from '$lib/types';
import { kindOf, sendable, type Kind, type Limits } from './kinds';
import { inside, plan, QUALITY } from './scale';

export interface Loaded {
  media: Media;
  blob: Blob;
}

export type LoadFault = 'unknown' | 'broken' | 'large' | 'empty' | 'pdfBroken';

/** A file that cannot be sent, and why; `size` and `limit` in bytes where they matter. */
export class Unsendable extends Error {
  constructor(
    readonly fault: LoadFault,
    readonly fileName: string,
    readonly size = 0,
    readonly limit = 0,
  ) {
    super(fault);
  }
}

const THUMB = 160; // pixels; drawn at up to 80

/** Raises Unsendable. */
export async function load(file: Blob, name: string, limits: Limits): Promise<Loaded> {
  if (!file.size) throw new Unsendable('empty', name);
  const kind = kindOf(new Uint8Array(await file.slice(0, 32).arrayBuffer()));
  if (!kind) throw new Unsendable('unknown', name);
  if (kind.kind === 'image') return loadImage(file, name, kind, limits);
  const limit = sendable(limits);
  if (file.size > limit) throw new Unsendable('large', name, file.size, limit);
  return kind.kind === 'pdf' ? loadPdf(file, name, kind) : loadVideo(file, name, kind);
}

const made = (kind: Kind, name: string, blob: Blob, rest: Partial<Media>): Loaded => ({
  blob,
  media: {
    id: newId(),
    kind: kind.kind,
    name,
    mime: kind.mime,
    bytes: blob.size,
    width: 0,
    height: 0,
    thumb: '',
    ...rest,
  },
});

async function loadImage(file: Blob, name: string, kind: Kind, limits: Limits): Promise<Loaded> {
  const typed = new Blob([file], { type: kind.mime });
  const bitmap = await createImageBitmap(typed, { imageOrientation: 'from-image' }).catch(() => null);
  if (!bitmap) {
    if (kind.drawable) throw new Unsendable('broken', name);
    if (file.size > limits.imageBytes) throw new Unsendable('large', name, file.size, limits.imageBytes);
    return made(kind, name, typed, {});
  }
  try {
    const { width, height } = bitmap;
    const thumb = await thumbnail(bitmap, width, height);
    const smaller = plan({ width, height, bytes: file.size, mime: kind.mime }, limits);
    if (!smaller) return made(kind, name, typed, { width, height, thumb });
    const blob = await drawn(bitmap, smaller.width, smaller.height, smaller.mime);
    if (blob.size > limits.imageBytes) throw new Unsendable('large', name, blob.size, limits.imageBytes);
    const original = { bytes: file.size, width, height };
    const size = { width: smaller.width, height: smaller.height };
    return made({ ...kind, mime: smaller.mime }, name, blob, { ...size, original, thumb });
  } finally {
    bitmap.close();
  }
}

async function loadPdf(file: Blob, name: string, kind: Kind): Promise<Loaded> {
  const { Locked } = await import('./pdf');
  const blob = new Blob([file], { type: kind.mime });
  try {
    return made(kind, name, blob, await lookIntoPdf(blob));
  } catch (error) {
    if (error instanceof Locked) return made(kind, name, blob, { locked: true });
    throw new Unsendable('pdfBroken', name);
  }
}

/** How many pages a PDF has, and its first one small. Raises as `open` in pdf.ts. */
export async function lookIntoPdf(blob: Blob, password?: string): Promise<{ pages: number; thumb: string }> {
  const { open } = await import('./pdf');
  const pdf = await open(blob, password);
  const canvas = await pdf.draw(1, THUMB).finally(() => pdf.close());
  return { pages: pdf.pages, thumb: canvas.toDataURL('image/jpeg', 0.8) };
}

/** A video the browser cannot play is sent all the same: the server knows more kinds. */
async function loadVideo(file: Blob, name: string, kind: Kind): Promise<Loaded> {
  const blob = new Blob([file], { type: kind.mime });
  const url = URL.createObjectURL(blob);
  const video = document.createElement('video');
  video.muted = true;
  video.playsInline = true;
  video.preload = 'auto';
  try {
    const ready = once(video, 'loadeddata', 5000);
    video.src = url;
    await ready;
    const { videoWidth: width, videoHeight: height } = video;
    const duration = Number.isFinite(video.duration) ? video.duration : undefined;
    return made(kind, name, blob, { width, height, duration, thumb: await thumbnail(video, width, height) });
  } catch {
    return made(kind, name, blob, {});
  } finally {
    video.removeAttribute('src');
    video.load();
    URL.revokeObjectURL(url);
  }
}

function once(target: HTMLVideoElement, event: string, limitMs: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(reject, limitMs);
    target.addEventListener(event, () => (clearTimeout(timer), resolve()), { once: true });
    target.addEventListener('error', () => (clearTimeout(timer), reject(new Error('unplayable'))), {
      once: true,
    });
  });
}

function canvasOf(
  source: CanvasImageSource,
  width: number,
  height: number,
  ground?: string,
): HTMLCanvasElement {
  const canvas = document.createElement('canvas');
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext('2d');
  if (!context) throw new Error('no canvas');
  if (ground) {
    context.fillStyle = ground;
    context.fillRect(0, 0, width, height);
  }
  context.imageSmoothingQuality = 'high';
  context.drawImage(source, 0, 0, width, height);
  return canvas;
}

async function drawn(source: CanvasImageSource, width: number, height: number, mime: string): Promise<Blob> {
  // JPEG has no alpha; the server puts transparent pictures on white as well.
  const canvas = canvasOf(source, width, height, mime === 'image/jpeg' ? '#fff' : undefined);
  const blob = await new Promise<Blob | null>((resolve) => canvas.toBlob(resolve, mime, QUALITY));
  if (!blob) throw new Error('the canvas could not be encoded');
  return blob;
}

async function thumbnail(source: CanvasImageSource, width: number, height: number): Promise<string> {
  const size = inside(width, height, THUMB);
  return canvasOf(source, size.width, size.height, '#fff').toDataURL('image/jpeg', 0.8);
}

export function dataUrl(blob: Blob): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result));
    reader.onerror = () => reject(reader.error ?? new Error('unreadable'));
    reader.readAsDataURL(blob);
  });
}
