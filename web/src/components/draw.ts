// Draws a picture with its marks onto a canvas, at the picture's own size, for saving as PNG.
import { inPixels, type Mark } from '$lib/answer/marks';
import { colourOf } from './focus';

export async function markedPng(src: string, marks: Mark[]): Promise<Blob> {
  const image = new Image();
  image.src = src;
  await image.decode();
  const canvas = document.createElement('canvas');
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  const context = canvas.getContext('2d');
  if (!context) throw new Error('no canvas');
  context.drawImage(image, 0, 0);
  const stroke = Math.max(2, Math.round(Math.max(canvas.width, canvas.height) / 400));
  const labels = [...new Set(marks.map((mark) => mark.label))];
  const style = getComputedStyle(document.documentElement);
  for (const mark of marks) {
    paint(context, mark, style.getPropertyValue(colourOf(mark.label, labels)), stroke);
  }
  return new Promise((resolve, reject) =>
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error('not encoded'))), 'image/png'),
  );
}

function paint(context: CanvasRenderingContext2D, mark: Mark, colour: string, stroke: number): void {
  const { width, height } = context.canvas;
  const [left, top, right, bottom] = inPixels(mark.box, width, height);
  context.strokeStyle = context.fillStyle = colour;
  context.lineWidth = stroke;
  if (mark.point) {
    context.beginPath();
    context.arc(left, top, stroke * 3, 0, 2 * Math.PI);
    context.fill();
  } else context.strokeRect(left, top, right - left, bottom - top);
  if (!mark.label) return;
  const size = stroke * 7;
  context.font = `600 ${size}px system-ui, sans-serif`;
  const wide = context.measureText(mark.label).width + size * 0.6;
  const y = top >= size * 1.4 ? top - size * 1.4 : bottom;
  context.fillRect(left, y, wide, size * 1.4);
  context.fillStyle = '#fff';
  context.textBaseline = 'middle';
  context.fillText(mark.label, left + size * 0.3, y + size * 0.72);
}
