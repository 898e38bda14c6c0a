// Where each part of a redrawn chart goes, in a box of 480 x 280. Arithmetic only; the component draws.
import { labels, ticks, type Chart } from './chart';

export const BOX = { width: 480, height: 280, left: 48, right: 10, top: 10, bottom: 34 };

export interface Bar {
  x: number;
  y: number;
  width: number;
  height: number;
  series: number;
  value: number;
}
export interface Dot {
  x: number;
  y: number;
  value: number;
}
export interface Plot {
  grid: { y: number; text: string }[];
  names: { x: number; text: string }[];
  bars: Bar[];
  lines: { series: number; dots: Dot[]; path: string }[];
}

const MOST_NAMES = 9;

export function plotOf(chart: Chart): Plot {
  const xs = labels(chart);
  const values = chart.series.flatMap((one) => one.points.map((point) => point.y));
  const low = Math.min(0, ...values);
  const marks = ticks(low, Math.max(0, ...values));
  const bottom = marks[0] ?? 0;
  const top = marks.at(-1) ?? 1;
  const inner = { width: BOX.width - BOX.left - BOX.right, height: BOX.height - BOX.top - BOX.bottom };
  const atY = (value: number) => BOX.top + inner.height * (1 - (value - bottom) / (top - bottom));
  const slot = inner.width / Math.max(1, xs.length);
  const centre = (index: number) => BOX.left + slot * (index + 0.5);
  const every = Math.ceil(xs.length / MOST_NAMES);
  const place = (x: string) => centre(xs.indexOf(x));
  const plot: Plot = {
    grid: marks.map((value) => ({ y: atY(value), text: short(value) })),
    names: xs.flatMap((text, index) =>
      index % every ? [] : [{ x: centre(index), text: clipped(text, slot * every) }],
    ),
    bars: [],
    lines: [],
  };
  chart.series.forEach((one, series) => {
    if (chart.shape === 'bar') {
      const width = Math.min(44, (slot * 0.7) / chart.series.length);
      const first = (width * chart.series.length) / 2;
      for (const point of one.points) {
        const y = Math.min(atY(point.y), atY(0));
        const height = Math.max(1, Math.abs(atY(point.y) - atY(0)));
        plot.bars.push({
          x: place(point.x) - first + width * series,
          y,
          width: width * 0.92,
          height,
          series,
          value: point.y,
        });
      }
      return;
    }
    const dots = one.points.map((point) => ({ x: place(point.x), y: atY(point.y), value: point.y }));
    const path = dots
      .map((dot, index) => `${index ? 'L' : 'M'}${dot.x.toFixed(1)} ${dot.y.toFixed(1)}`)
      .join('');
    plot.lines.push({ series, dots, path: chart.shape === 'scatter' ? '' : path });
  });
  return plot;
}

export interface Slice {
  path: string;
  text: string;
  share: number;
}

/** The slices of a pie of radius 100 around 0,0, from the top, clockwise. */
export function slicesOf(chart: Chart): Slice[] {
  const points = chart.series[0]?.points.filter((point) => point.y > 0) ?? [];
  const sum = points.reduce((total, point) => total + point.y, 0);
  let turned = 0;
  return points.map((point) => {
    const share = point.y / sum;
    const [from, to] = [turned, (turned += share)];
    const at = (part: number) => {
      const angle = 2 * Math.PI * part - Math.PI / 2;
      return `${(100 * Math.cos(angle)).toFixed(2)} ${(100 * Math.sin(angle)).toFixed(2)}`;
    };
    const whole = share > 0.9999;
    const path = whole
      ? 'M0 -100A100 100 0 1 1 -0.01 -100Z'
      : `M0 0L${at(from)}A100 100 0 ${share > 0.5 ? 1 : 0} 1 ${at(to)}Z`;
    return { path, text: point.x, share };
  });
}

function short(value: number): string {
  const size = Math.abs(value);
  if (size >= 1e9) return `${trim(value / 1e9)}G`;
  if (size >= 1e6) return `${trim(value / 1e6)}M`;
  return size >= 1e4 ? `${trim(value / 1e3)}k` : String(value);
}

const trim = (value: number): string => String(Number(value.toFixed(1)));

/** Text that fits about this many pixels at 11 px; a Chinese letter is twice as wide as a Latin one. */
function clipped(text: string, room: number): string {
  let used = 0;
  let out = '';
  for (const letter of text) {
    used += letter > '\u2e80' ? 11.5 : 6.2;
    if (used > room) return `${out.slice(0, -1)}…`;
    out += letter;
  }
  return out;
}

const SAMPLES = 60;

/** A path through the last samples, newest at the right; nothing is drawn where a value is not known. */
export function lineOf(values: (number | null)[], width: number, height: number): string {
  const shown = values.slice(-SAMPLES);
  const known = shown.filter((value) => value !== null);
  const top = Math.max(...known, 0) || 1;
  let gap = true;
  return shown
    .map((value, index) => {
      if (value === null) {
        gap = true;
        return '';
      }
      const x = width - ((shown.length - 1 - index) * width) / (SAMPLES - 1);
      const y = height - 2 - (value / top) * (height - 4);
      const step = `${gap ? 'M' : 'L'}${x.toFixed(1)} ${y.toFixed(1)}`;
      gap = false;
      return step;
    })
    .join('');
}
