import { expect, test } from 'vitest';
import { call, type Asking } from '$lib/api/body';
import { curl, placeholder, python } from '$lib/api/snippets';
import type { Answer, Chat, Media, Task, Turn } from '$lib/types';

const media = (id: string, kind: Media['kind'] = 'image', rest: Partial<Media> = {}): Media => ({
  id,
  kind,
  name: `${id}.png`,
  mime: 'image/png',
  bytes: 1,
  width: 1,
  height: 1,
  thumb: '',
  ...rest,
});
const said = (text: string): Answer => ({
  model: null,
  state: text ? 'done' : 'failed',
  text,
  pieces: 0,
  startedAt: 0,
});
const turn = (id: string, text: string, pictures: Media[], answer: string, task: Task = 'chat'): Turn => ({
  id,
  task,
  text,
  media: pictures,
  answers: [said(answer)],
});
const chat = (...turns: Turn[]): Chat => ({ id: 'c', title: '', created: 0, updated: 0, turns });
const asking: Asking = { model: null, temperature: 0, maxTokens: null };
const inline = async (one: Media) => `data:${one.id}`;
const picture = (id: string) => ({ type: 'image_url', image_url: { url: `data:${id}` } });

test('a follow-up carries the earlier turns and sends each picture once', async () => {
  const second = turn('2', 'And the date?', [], '');
  const made = await call(chat(turn('1', 'Total?', [media('a')], '39.63'), second), second, asking, inline);
  expect(made.path).toBe('v1/chat/completions');
  expect(made.body['messages']).toEqual([
    { role: 'user', content: [picture('a'), { type: 'text', text: 'Total?' }] },
    { role: 'assistant', content: '39.63' },
    { role: 'user', content: [{ type: 'text', text: 'And the date?' }] },
  ]);
  expect(made.body).toMatchObject({
    temperature: 0,
    stream: true,
    stream_options: { include_progress: true },
  });
  expect(made.body).not.toHaveProperty('model');
});

test('pictures of a question that failed go with the next one', async () => {
  const second = turn('2', 'Again?', [media('b')], '');
  const made = await call(chat(turn('1', 'Total?', [media('a')], ''), second), second, asking, inline);
  expect(made.body['messages']).toEqual([
    { role: 'user', content: [picture('a'), picture('b'), { type: 'text', text: 'Again?' }] },
  ]);
});

test('turns after the one that is asked again are not sent', async () => {
  const first = turn('1', 'Total?', [media('a')], 'x');
  const made = await call(chat(first, turn('2', 'More', [], 'y')), first, asking, inline);
  expect(made.body['messages']).toHaveLength(1);
});

test('videos and documents have their own parts, a document its pages', async () => {
  const one = turn('1', 'What?', [media('v', 'video'), media('d', 'pdf', { range: '1，2', pages: 9 })], '');
  const made = await call(chat(one), one, asking, inline);
  expect((made.body['messages'] as { content: unknown[] }[])[0]?.content.slice(0, 2)).toEqual([
    { type: 'video_url', video_url: { url: 'data:v' } },
    { type: 'file', file: { file_data: 'data:d', filename: 'd.png' }, pages: '1-2' },
  ]);
});

test('a task is asked about the latest pictures, with its schema', async () => {
  const second: Turn = { ...turn('2', '', [], '', 'extract'), schema: '{"type":"object"}' };
  const made = await call(chat(turn('1', 'Total?', [media('a')], 'x'), second), second, asking, inline);
  expect(made.path).toBe('infer_stream');
  expect(made.body).toEqual({
    task: 'extract',
    images: ['data:a'],
    options: { progress: true, schema: { type: 'object' } },
  });
});

test('a document task sends one PDF with its pages; a video task its video and no picture', async () => {
  const pdf = turn('1', '', [media('d', 'pdf', { range: '2-', pages: 3 }), media('a')], '', 'doc_analyze');
  const first = await call(chat(pdf), pdf, asking, inline);
  expect(first.body).toEqual({
    task: 'doc_analyze',
    documents: ['data:d'],
    options: { progress: true, pages: '2-3' },
  });
  const video = turn('2', 'What?', [media('b'), media('v', 'video')], '', 'video_qa');
  const second = await call(chat(video), video, asking, inline);
  expect(second.body).toEqual({
    task: 'video_qa',
    videos: ['data:v'],
    text: 'What?',
    options: { progress: true, temperature: 0 },
  });
});

test('the password of a locked PDF goes with it, in both kinds of question', async () => {
  const open = { ...asking, passwordOf: () => 'secret' };
  const task = turn('1', '', [media('d', 'pdf', { pages: 3, locked: true })], '', 'doc_analyze');
  expect((await call(chat(task), task, open, inline)).body['options']).toEqual({
    progress: true,
    password: 'secret',
  });
  const plain = { ...task, task: 'chat' as const };
  const asked = (await call(chat(plain), plain, open, inline)).body['messages'] as { content: unknown[] }[];
  expect(asked[0]?.content[0]).toMatchObject({ type: 'file', password: 'secret' });
});

test('a task of one picture gets the first of the latest ones', async () => {
  const second = turn('2', 'the star', [], '', 'ground');
  const made = await call(chat(turn('1', '', [media('a'), media('b')], 'x'), second), second, asking, inline);
  expect(made.body['images']).toEqual(['data:a']);
});

test('a copied command reads the picture from its file and quotes for the shell', async () => {
  const one = turn('1', 'Cost in $ or `€`?', [media("it's $(my) picture")], '');
  const text = curl(await call(chat(one), one, asking, placeholder), 'http://h/v1/chat/completions', true);
  expect(text).toContain("$(base64 < './it'\\''s $(my) picture.png' | tr -d '\\n')");
  expect(text).toMatch(/^# Reads from this folder: it's \$\(my\) picture\.png\ncurl /);
  expect(text).not.toMatch(/stream|logprobs/);
  expect(text).toContain('Cost in \\$ or \\`€\\`?');
  expect(text).toContain('Authorization: Bearer $SIGHTLINE_KEY');
});

test('a copied program asks without a stream and reads the picture from its file', async () => {
  const one = turn('1', 'Total?', [media('a')], '');
  const text = python(await call(chat(one), one, asking, placeholder), 'http://h/v1/chat/completions', false);
  expect(text).toContain('inline("a.png", "image/png")');
  expect(text).not.toMatch(/stream|logprobs/);
  const task = turn('1', '', [media('a')], '', 'ocr');
  const other = python(await call(chat(task), task, asking, placeholder), 'http://h/infer_stream', false);
  expect(other).toContain('Request("http://h/infer", ');
  expect(other).not.toMatch(/stream|progress/);
});
