// Decides whether and how a picture is made smaller before it is sent. Pure arithmetic; the canvas is elsewhere.
import type { Limits } from './kinds';

export interface Plan {
  width: number;
  height: number;
  mime: 'image/jpeg' | 'image/png';
}

/** JPEG quality of a scaled photo: above what text needs to stay sharp, a fifth of the bytes of a PNG. */
export const QUALITY = 0.92;

/**
 * What to make of a picture of this size, or null to send the file as it is. The server would scale a longer side down
 * anyway, so sending more pixels costs time and shows the model nothing.
 */
export function plan(
  size: { width: number; height: number; bytes: number; mime: string },
  limits: Pick<Limits, 'imageBytes' | 'imageSide'>,
): Plan | null {
  const longest = Math.max(size.width, size.height);
  if (longest <= limits.imageSide && size.bytes <= limits.imageBytes) return null;
  const factor = Math.min(1, limits.imageSide / longest);
  const whole = (side: number) => Math.max(1, Math.round(side * factor));
  // A screenshot stays a PNG as long as it is small: its edges are what there is to read.
  const mime = size.mime === 'image/png' && size.bytes <= limits.imageBytes / 2 ? 'image/png' : 'image/jpeg';
  return { width: whole(size.width), height: whole(size.height), mime };
}

/** The largest size with this shape inside a square box. */
export function inside(width: number, height: number, box: number): { width: number; height: number } {
  const factor = Math.min(1, box / Math.max(width, height, 1));
  return { width: Math.max(1, Math.round(width * factor)), height: Math.max(1, Math.round(height * factor)) };
}
