import { expect, test } from 'vitest';
import { en } from '$lib/i18n/en';
import { zh } from '$lib/i18n/zh';
import { duration, bytes, share } from '$lib/show';

type Tree = { [key: string]: string | ((...args: never[]) => string) | Tree };

function* entries(tree: Tree, path = ''): Generator<[string, string | ((...args: never[]) => string)]> {
  for (const [key, value] of Object.entries(tree)) {
    if (typeof value === 'object') yield* entries(value, `${path}${key}.`);
    else yield [path + key, value];
  }
}

const english = new Map(entries(en as unknown as Tree));
const chinese = new Map(entries(zh as unknown as Tree));

test('both languages have the same strings, none of them empty where the other has words', () => {
  expect([...chinese.keys()].sort()).toEqual([...english.keys()].sort());
  for (const [path, value] of english) {
    const other = chinese.get(path);
    expect(typeof other, path).toBe(typeof value);
    if (typeof value === 'string') expect((other as string) === '', path).toBe(value === '');
  }
});

// The same in both languages on purpose.
const SAME = new Set([
  'app.title',
  'turn.comma',
  'figure.json',
  'figure.coco',
  'data.tree',
  'media.kinds.pdf',
  'schema.json',
]);

test('no Chinese string was left in English', () => {
  for (const [path, value] of chinese) {
    if (typeof value !== 'string' || !value || SAME.has(path)) continue;
    expect(/[\u4e00-\u9fff]/.test(value), `${path}: ${value}`).toBe(true);
  }
});

test('functions use everything they are given, in both languages', () => {
  for (const words of [english, chinese]) {
    for (const [path, value] of words) {
      if (typeof value !== 'function') continue;
      const given = Array.from({ length: value.length }, (_, at) => 71 + at);
      const said = (value as (...args: unknown[]) => string)(...given);
      for (const one of given) expect(said, path).toContain(String(one));
    }
  }
});

test('figures are written for people', () => {
  expect(
    [82, 994, 1000, 12_400, 125_000, 7_500_000, 200_000_000].map((ms) => duration(ms, en.stats)),
  ).toEqual(['82 ms', '994 ms', '1.0 s', '12 s', '2 min 5 s', '2 h 5 min', '2 days 7 h']);
  expect([512, 2048, 10 * 2 ** 20, 5.2 * 2 ** 30].map(bytes)).toEqual(['512 B', '2.0 kB', '10 MB', '5.2 GB']);
  expect([0.14, 0.97, 0.9977, 1].map(share)).toEqual(['14 %', '97 %', '99.8 %', '100 %']);
});
