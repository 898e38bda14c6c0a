import { expect, test } from 'vitest';
import { chartOf, csv, tableOf, ticks } from '$lib/answer/chart';
import { momentCitations, pageCitations } from '$lib/answer/citations';
import { leaves, wholeJson } from '$lib/answer/json';
import { formulaAt } from '$lib/answer/math';
import { lineOf, plotOf, slicesOf } from '$lib/answer/plot';
import { schemaOf } from '$lib/answer/schema';

const parsed = {
  chart_type: 'bar chart',
  title: 'Profit',
  x_axis: 'month',
  y_axis: 'k€',
  series: [
    {
      name: '2024',
      points: [
        { x: 'Mar', y: 69 },
        { x: 'Apr', y: -5.5 },
      ],
    },
    { name: '', points: [{ x: 'Apr', y: 7 }] },
  ],
};

test('a parsed chart becomes a table with one row per x', () => {
  const chart = chartOf(parsed);
  expect(chart?.shape).toBe('bar');
  expect(chart && tableOf(chart, { label: 'Label', value: 'Value' })).toEqual({
    head: ['month', '2024', 'k€'],
    rows: [
      ['Mar', 69, null],
      ['Apr', -5.5, 7],
    ],
  });
});

test('the looser form of small models is read too, and what is no chart is not', () => {
  expect(chartOf({ type: 'line', title: 'P', data: { Mar: 69, Jun: 73 } })).toMatchObject({
    shape: 'line',
    series: [
      {
        points: [
          { x: 'Mar', y: 69 },
          { x: 'Jun', y: 73 },
        ],
      },
    ],
  });
  for (const other of [null, [], {}, { series: [] }, { series: [null] }, { data: { a: 'b' } }])
    expect(chartOf(other)).toBeNull();
});

test('CSV quotes what needs it and disarms formulas', () => {
  const text = csv({
    head: ['x', 'a,b'],
    rows: [
      ['=1+1', 2],
      ['say "hi"', null],
    ],
  });
  expect(text).toBe('x,"a,b"\r\n\'=1+1,2\r\n"say ""hi""",\r\n');
});

test('axis steps are round and cover the values', () => {
  expect(ticks(0, 73)).toEqual([0, 20, 40, 60, 80]);
  expect(ticks(0, 0)).toEqual([0, 1]);
  expect(ticks(-5.5, 69)[0]).toBeLessThanOrEqual(-5.5);
});

test('bars stand on zero, below it hang the negative ones', () => {
  const chart = chartOf(parsed);
  const plot = chart && plotOf(chart);
  const zero = plot?.grid.find((line) => line.text === '0')?.y ?? 0;
  const [high, low] = plot?.bars ?? [];
  expect((high?.y ?? 0) + (high?.height ?? 0)).toBeCloseTo(zero);
  expect(low?.y).toBeCloseTo(zero);
});

test('the slices of a pie are shares of the whole', () => {
  const pie = chartOf({
    chart_type: 'pie',
    series: [
      {
        name: '',
        points: [
          { x: 'a', y: 3 },
          { x: 'b', y: 1 },
          { x: 'c', y: 0 },
        ],
      },
    ],
  });
  expect(pie && slicesOf(pie).map((slice) => slice.share)).toEqual([0.75, 0.25]);
});

test('a small chart breaks where nothing was measured', () => {
  expect(lineOf([1, null, 2, 4], 59, 12)).toBe('M56.0 8.0M58.0 6.0L59.0 2.0');
});

test('pages are found as models write them, within the document', () => {
  const at = (text: string) => pageCitations(text, 12).map((one) => one.page);
  expect(at('see [p. 3] and (page 12), page 4')).toEqual([3, 12, 4]);
  expect(at('见第3页和【第 5 页】')).toEqual([3, 5]);
  expect(at('第3项, homepage 4x, page 13')).toEqual([]);
});

test('moments are found within the length of the video', () => {
  const at = (text: string) => momentCitations(text, 30).map((one) => one.second);
  expect(at('at 0:07 and 00:12, but not 0:45 or 3.10:00')).toEqual([7, 12]);
  expect(at('after 2.5 seconds, 第3秒, 4s, not 40 s or 5 stars')).toEqual([2.5, 3, 4]);
});

test('an answer that is JSON is known as such, fenced or not', () => {
  expect(wholeJson('```json\n{"a": 1}\n```')).toEqual({ a: 1 });
  expect(wholeJson(' [1] ')).toEqual([1]);
  expect(wholeJson('{"a": ')).toBeUndefined();
  expect(wholeJson('42')).toBeUndefined();
});

test('values are named by the paths of the server', () => {
  expect(leaves({ items: [{ price: 1 }], total: null })).toEqual([
    { path: 'items[0].price', value: 1 },
    { path: 'total', value: null },
  ]);
});

test('formulas are told from prices', () => {
  expect(formulaAt('$x^2$ is', 0)).toEqual({ tex: 'x^2', end: 5, display: false });
  expect(formulaAt('$$\\sum$$', 0)).toMatchObject({ display: true });
  expect(formulaAt('\\(a\\)', 0)).toMatchObject({ tex: 'a', display: false });
  expect(formulaAt('$5 and $6', 0)).toBeNull();
  expect(formulaAt('$5, $6', 0)).toBeNull();
  expect(formulaAt('costs $ 5 $', 6)).toBeNull();
});

test('fields become a closed schema; typed JSON must be an object', () => {
  expect(
    JSON.parse(
      schemaOf([
        { name: ' total ', type: 'number' },
        { name: '', type: 'string' },
        { name: 'tags', type: 'array' },
      ]) ?? '',
    ),
  ).toEqual({
    type: 'object',
    properties: { total: { type: 'number' }, tags: { type: 'array', items: { type: 'string' } } },
    required: ['total', 'tags'],
    additionalProperties: false,
  });
  expect(schemaOf([{ name: ' ', type: 'string' }])).toBeNull();
  expect(schemaOf('[1]')).toBeNull();
  expect(schemaOf('{"type": "object"}')).toBe('{"type":"object"}');
});
