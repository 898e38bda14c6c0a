import { expect, test } from 'vitest';
import { EventReader, events } from '$lib/api/sse';

const all = (pieces: string[]) => {
  const reader = new EventReader();
  return pieces.flatMap((piece) => reader.push(piece));
};

test('an event that comes in any pieces is given once, whole', () => {
  const text = 'event: token\ndata: {"token":"第"}\n\ndata: [DONE]\n\n';
  const expected = [
    { event: 'token', data: '{"token":"第"}' },
    { event: 'message', data: '[DONE]' },
  ];
  for (let size = 1; size <= text.length; size += 1) {
    const pieces = Array.from({ length: Math.ceil(text.length / size) }, (_, at) =>
      text.slice(at * size, (at + 1) * size),
    );
    expect(all(pieces)).toEqual(expected);
  }
});

test('comments and empty events are dropped, several data lines are joined', () => {
  expect(all([': ping\n\n', 'event: nothing\n\n', 'data: a\ndata:b\n\n'])).toEqual([
    { event: 'message', data: 'a\nb' },
  ]);
});

test('all three line ends are understood, also one that is cut in two', () => {
  expect(all(['data: a\r', '\n\r\n', 'data: b\n\ndata: c\r\rx'])).toEqual([
    { event: 'message', data: 'a' },
    { event: 'message', data: 'b' },
    { event: 'message', data: 'c' },
  ]);
});

test('a letter of three bytes that two packets share is read as one', async () => {
  const bytes = new TextEncoder().encode('data: 第\n\n');
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      controller.enqueue(bytes.slice(0, 7));
      controller.enqueue(bytes.slice(7));
      controller.close();
    },
  });
  const found = [];
  for await (const event of events(body)) found.push(event);
  expect(found).toEqual([{ event: 'message', data: '第' }]);
});
