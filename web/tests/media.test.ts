import { expect, test } from 'vitest';
import { DEFAULT_LIMITS, kindOf, sendable } from '$lib/media/kinds';
import { pagesOf, rangeOf } from '$lib/media/pages';
import { inside, plan } from '$lib/media/scale';

const head = (...parts: (string | number)[]) =>
  Uint8Array.from(
    parts.flatMap((part) =>
      typeof part === 'number' ? [part] : [...part].map((letter) => letter.charCodeAt(0)),
    ),
  );

test('files are known by their bytes, not by their names', () => {
  expect(kindOf(head(0xff, 0xd8, 0xff, 0xe0))?.mime).toBe('image/jpeg');
  expect(kindOf(head(0x89, 'PNG\r\n', 0x1a, '\n'))?.mime).toBe('image/png');
  expect(kindOf(head('RIFF', 0, 0, 0, 0, 'WEBPVP8 '))?.mime).toBe('image/webp');
  expect(kindOf(head(0, 0, 0, 24, 'ftypheic'))).toMatchObject({ mime: 'image/heic', drawable: false });
  expect(kindOf(head(0, 0, 0, 24, 'ftypisom'))?.kind).toBe('video');
  expect(kindOf(head('%PDF-1.7'))?.kind).toBe('pdf');
  expect(kindOf(head(0x1a, 'E', 0xdf, 0xa3))?.mime).toBe('video/webm');
  expect(kindOf(head('<html>'))).toBeNull();
});

test('a picture within the limits is sent as it is', () => {
  expect(plan({ width: 1920, height: 1080, bytes: 5e6, mime: 'image/jpeg' }, DEFAULT_LIMITS)).toBeNull();
});

test('a long side is scaled to the limit, a small PNG stays one, a heavy file becomes a JPEG', () => {
  expect(plan({ width: 4000, height: 3000, bytes: 4e6, mime: 'image/jpeg' }, DEFAULT_LIMITS)).toEqual({
    width: 1920,
    height: 1440,
    mime: 'image/jpeg',
  });
  expect(plan({ width: 2560, height: 1, bytes: 3e5, mime: 'image/png' }, DEFAULT_LIMITS)).toEqual({
    width: 1920,
    height: 1,
    mime: 'image/png',
  });
  expect(plan({ width: 1000, height: 1000, bytes: 12e6, mime: 'image/png' }, DEFAULT_LIMITS)?.mime).toBe(
    'image/jpeg',
  );
});

test('a thumbnail keeps the shape and never grows', () => {
  expect(inside(4000, 1000, 160)).toEqual({ width: 160, height: 40 });
  expect(inside(20, 10, 160)).toEqual({ width: 20, height: 10 });
});

test('what fits into a body leaves room for base64', () => {
  expect(sendable(DEFAULT_LIMITS) * (4 / 3)).toBeLessThan(DEFAULT_LIMITS.bodyBytes);
});

test('page ranges are read the way people write them', () => {
  expect(pagesOf('', 3)).toEqual([1, 2, 3]);
  expect(pagesOf('1-3, 8', 9)).toEqual([1, 2, 3, 8]);
  expect(pagesOf('8，1—2、2', 9)).toEqual([1, 2, 8]);
  expect(pagesOf('7-', 9)).toEqual([7, 8, 9]);
  for (const wrong of ['0', '10', '3-2', 'a', '1,,2', '1-2-3']) expect(pagesOf(wrong, 9)).toBeNull();
});

test('pages are written back in the shortest form', () => {
  expect(rangeOf([1, 2, 3, 8], 9)).toBe('1-3,8');
  expect(rangeOf([1, 2, 3], 3)).toBe('');
});
