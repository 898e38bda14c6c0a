import 'fake-indexeddb/auto';
import { expect, test } from 'vitest';
import { Store } from '$lib/store/db';
import { ageOf, matches, titleOf } from '$lib/store/search';
import { bundle, unbundle } from '$lib/store/transfer';
import type { Chat } from '$lib/types';

const chat = (id: string, updated: number): Chat => ({
  id,
  title: `Title ${id}`,
  created: 1,
  updated,
  turns: [
    {
      id: `${id}-1`,
      task: 'chat',
      text: 'What is the ＴＯＴＡＬ?',
      media: [
        {
          id: `${id}-m`,
          kind: 'image',
          name: 'receipt.png',
          mime: 'image/png',
          bytes: 3,
          width: 1,
          height: 1,
          thumb: 'data:image/jpeg;base64,AA',
        },
      ],
      answers: [
        { model: null, state: 'done', text: '总额 39.63', pieces: 1, startedAt: 0, stats: { model: 'demo' } },
      ],
    },
  ],
});

test('conversations come back newest first, with their files, until they are removed', async () => {
  const store = await Store.open('test-keep');
  await store.put(chat('a', 1));
  await store.put(chat('b', 2));
  await store.putFile('a-m', new Blob(['abc']));
  expect((await store.chats()).map((one) => one.id)).toEqual(['b', 'a']);
  expect(await (await store.file('a-m'))?.text()).toBe('abc');
  await store.remove(chat('a', 1));
  expect((await store.chats()).map((one) => one.id)).toEqual(['b']);
  expect(await store.file('a-m')).toBeNull();
  await store.clear();
  expect(await store.chats()).toEqual([]);
});

test('search looks at titles, questions, answers and file names, in any case and width', () => {
  for (const query of ['title a', 'total', '总额', 'RECEIPT.png', 'what 39', ''])
    expect(matches(chat('a', 1), query)).toBe(true);
  expect(matches(chat('a', 1), 'total missing')).toBe(false);
});

test('conversations are grouped by day', () => {
  const now = new Date(2026, 10, 21, 12).getTime();
  const hour = 3_600_000;
  expect([0, 11, 13, 24 * 6, 24 * 8].map((hours) => ageOf(now - hours * hour, now))).toEqual([
    'today',
    'today',
    'week',
    'week',
    'older',
  ]);
});

test('a title is the first line of the question, cut between letters', () => {
  expect(titleOf('  What?\nmore', 'x')).toBe('What?');
  expect(titleOf('', 'receipt.png')).toBe('receipt.png');
  expect([...titleOf('图'.repeat(60), '')]).toHaveLength(48);
});

test('an export comes back with new ids and its files', () => {
  const text = JSON.stringify(bundle([chat('a', 5)], { 'a-m': 'data:image/png;base64,AAAA' }));
  const back = unbundle(text);
  const [one] = back?.chats ?? [];
  expect(one).toMatchObject({ title: 'Title a', updated: 5 });
  expect(one?.id).not.toBe('a');
  const media = one?.turns[0]?.media[0];
  expect(media?.id).not.toBe('a-m');
  expect(back?.files.get(media?.id ?? '')).toBe('data:image/png;base64,AAAA');
  expect(one?.turns[0]?.answers[0]).toMatchObject({
    state: 'done',
    text: '总额 39.63',
    stats: { model: 'demo' },
  });
});

test('what was read on each page, what failed and that a document is locked survive an export', () => {
  const one = chat('a', 5);
  Object.assign(one.turns[0]?.media[0] ?? {}, { kind: 'pdf', pages: 2, locked: true, range: '1-2' });
  const kept = {
    pageNotes: [
      { page: 1, text: 'Oil', confidence: 0.5 },
      { page: 2, text: '', problem: 'page 2 is empty' },
    ],
    problem: { message: 'busy', code: 'server_overloaded', status: 503, requestId: 'req_1' },
  };
  Object.assign(one.turns[0]?.answers[0] ?? {}, kept);
  const back = unbundle(JSON.stringify(bundle([one], {})))?.chats[0]?.turns[0];
  expect(back?.media[0]).toMatchObject({ pages: 2, locked: true, range: '1-2' });
  expect(back?.answers[0]).toMatchObject(kept);
});

test('a file from a stranger brings nothing but plain values', () => {
  expect(unbundle('{')).toBeNull();
  expect(unbundle('{"format":"other","chats":[]}')).toBeNull();
  const odd = {
    format: 'sightline-conversations',
    chats: [
      {
        title: 7,
        turns: [
          {
            task: 'rm',
            media: [{ id: 'x', thumb: 'javascript:alert(1)' }],
            answers: [{ state: 'streaming', stats: { model: {} } }],
          },
        ],
      },
    ],
    files: { x: 'http://elsewhere/' },
  };
  const back = unbundle(JSON.stringify(odd));
  expect(back?.files.size).toBe(0);
  expect(back?.chats[0]?.turns[0]).toMatchObject({
    task: 'chat',
    media: [{ thumb: '' }],
    answers: [{ state: 'stopped', stats: {} }],
  });
});
