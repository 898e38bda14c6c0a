// Reads a chart that a model parsed, as a table and as what to draw. Takes chart_parse's form and looser ones.

export interface Series {
  name: string;
  points: { x: string; y: number }[];
}

export type ChartShape = 'bar' | 'line' | 'pie' | 'scatter';

export interface Chart {
  shape: ChartShape;
  title: string;
  xAxis: string;
  yAxis: string;
  series: Series[];
}

type Json = Record<string, unknown>;

const text = (value: unknown): string =>
  typeof value === 'string' || typeof value === 'number' ? String(value) : '';

/** The chart in a parsed answer, or null when there is none in it. */
export function chartOf(data: unknown): Chart | null {
  if (typeof data !== 'object' || data === null || Array.isArray(data)) return null;
  const from = data as Json;
  const series = seriesOf(from);
  if (!series.some((one) => one.points.length)) return null;
  return {
    shape: shapeOf(text(from['chart_type'] ?? from['type'])),
    title: text(from['title']),
    xAxis: text(from['x_axis']),
    yAxis: text(from['y_axis']),
    series,
  };
}

function seriesOf(from: Json): Series[] {
  if (Array.isArray(from['series'])) return from['series'].map((one: unknown) => oneSeries(one as Json));
  const data = from['data'];
  if (typeof data !== 'object' || data === null) return [];
  const points = Object.entries(data as Json).flatMap(([x, y]) =>
    Number.isFinite(y) ? [{ x, y: y as number }] : [],
  );
  return [{ name: text(from['y_axis']), points }];
}

function oneSeries(from: Json | null): Series {
  const points = Array.isArray(from?.['points']) ? (from['points'] as (Json | null)[]) : [];
  return {
    name: text(from?.['name']),
    points: points.flatMap((point) =>
      Number.isFinite(point?.['y']) ? [{ x: text(point?.['x']), y: point?.['y'] as number }] : [],
    ),
  };
}

function shapeOf(name: string): ChartShape {
  if (/pie|donut|doughnut|饼|环/i.test(name)) return 'pie';
  if (/scatter|bubble|散点|气泡/i.test(name)) return 'scatter';
  if (/line|area|折线|曲线|面积/i.test(name)) return 'line';
  return 'bar';
}

export interface Table {
  head: string[];
  rows: (string | number | null)[][];
}

/** One row per x, one column per series, in the order they were first read. `unnamed`: heads for what has no name. */
export function tableOf(chart: Chart, unnamed: { label: string; value: string }): Table {
  const several = chart.series.length > 1;
  const names = chart.series.map(
    (one, index) => one.name || chart.yAxis || (several ? `${index + 1}` : unnamed.value),
  );
  const rows = labels(chart).map((x) => [
    x,
    ...chart.series.map((one) => one.points.find((point) => point.x === x)?.y ?? null),
  ]);
  return { head: [chart.xAxis || unnamed.label, ...names], rows };
}

export const labels = (chart: Chart): string[] => [
  ...new Set(chart.series.flatMap((one) => one.points.map((point) => point.x))),
];

/** RFC 4180. A cell that a spreadsheet would take for a formula gets a quote before it. */
export function csv(table: Table): string {
  const cell = (value: string | number | null): string => {
    if (typeof value === 'number') return String(value);
    const safe = /^[=+\-@\t\r]/.test(value ?? '') ? `'${value}` : (value ?? '');
    return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  return [table.head, ...table.rows].map((row) => row.map(cell).join(',')).join('\r\n') + '\r\n';
}

/** Round steps that cover the values, from low to high, about `count` of them. */
export function ticks(low: number, high: number, count = 4): number[] {
  if (low === high) return low === 0 ? [0, 1] : ticks(Math.min(0, low), Math.max(0, high), count);
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = ([1, 2, 2.5, 5, 10].find((one) => one * power >= raw) ?? 10) * power;
  const first = Math.floor(low / step);
  const last = Math.ceil(high / step - 1e-9);
  return Array.from({ length: last - first + 1 }, (_, index) =>
    Number(((first + index) * step).toPrecision(12)),
  );
}
