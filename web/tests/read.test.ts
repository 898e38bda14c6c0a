import { expect, test } from 'vitest';
import { problemOf, readEvent, Refused, tokensPerSecond } from '$lib/api/read';
import { troubleOf } from '$lib/problems';
import type { Answer } from '$lib/types';

const blank = (): Answer => ({ model: null, state: 'waiting', text: '', pieces: 0, startedAt: 0 });
const chunk = (body: unknown) => ({ event: 'message', data: JSON.stringify(body) });

test('the chunks of a chat become text, figures and the model that answered', () => {
  const answer = blank();
  readEvent(chunk({ choices: [{ delta: { role: 'assistant', content: '' } }] }), answer, 5);
  expect(answer.state).toBe('waiting');
  readEvent(chunk({ choices: [{ delta: { content: '39' } }] }), answer, 10);
  readEvent(chunk({ choices: [{ delta: { content: '.63' } }] }), answer, 20);
  const report = { model: 'demo', degraded: true, cached_images: 1, decode_ms: 50, cache: 'hit' };
  readEvent(chunk({ choices: [{ delta: {}, finish_reason: 'stop' }], sightline: report }), answer, 30);
  readEvent(chunk({ choices: [], usage: { completion_tokens: 6, total_time_ms: 90 } }), answer, 31);
  expect(answer).toMatchObject({ text: '39.63', firstTokenAt: 10, pieces: 2, state: 'streaming' });
  expect(answer.stats).toMatchObject({
    model: 'demo',
    degraded: true,
    cached: true,
    outputTokens: 6,
    totalMs: 90,
    stopped: 'stop',
  });
  expect(tokensPerSecond(answer, 0)).toBe(100);
  expect(readEvent({ event: 'message', data: '[DONE]' }, answer, 40)).toBe(false);
});

test('the confidence of a chat is the geometric mean of its tokens, whatever chunks they come in', () => {
  const answer = blank();
  const some = (...of: number[]) => ({ content: of.map((p) => ({ logprob: Math.log(p) })) });
  readEvent(chunk({ choices: [{ delta: { content: 'a' }, logprobs: some(0.5) }] }), answer, 1);
  readEvent(chunk({ choices: [{ delta: { content: 'bc' }, logprobs: some(0.8, 0.2) }] }), answer, 2);
  readEvent(chunk({ choices: [{ delta: {}, logprobs: null, finish_reason: 'stop' }] }), answer, 3);
  expect(answer.confidence).toBeCloseTo((0.5 * 0.8 * 0.2) ** (1 / 3), 12);
  const silent = blank();
  readEvent(chunk({ choices: [{ delta: { content: 'a' } }] }), silent, 1);
  expect(silent.confidence).toBeUndefined();
});

test('progress comes without choices and changes nothing else', () => {
  const answer = blank();
  const progress = { stage: 'queued', place: 2, wait_s: null, done: 0, total: 0 };
  readEvent(chunk({ choices: [], sightline: { progress } }), answer, 1);
  expect(answer.progress).toEqual(progress);
  expect(answer.stats).toBeUndefined();
  readEvent({ event: 'progress', data: '{"stage":"looking","done":1,"total":3}' }, answer, 2);
  expect(answer.progress?.stage).toBe('looking');
});

test('the last event of a task replaces the text by the whole answer', () => {
  const answer = blank();
  readEvent({ event: 'token', data: '{"token":"{","index":0}' }, answer, 1);
  const final = {
    answer: '{"a":1}',
    confidence: 0.5,
    data: { a: 1 },
    field_confidence: { a: 0.5 },
    metadata: { processing_time_ms: 12, output_tokens: 3, stopped: 'length', degraded: true, model: 'small' },
  };
  expect(readEvent({ event: 'final', data: JSON.stringify(final) }, answer, 2)).toBe(false);
  expect(answer).toMatchObject({
    text: '{"a":1}',
    data: { a: 1 },
    fieldConfidence: { a: 0.5 },
    confidence: 0.5,
  });
  expect(answer.stats).toMatchObject({ totalMs: 12, stopped: 'length', degraded: true, model: 'small' });
});

test('each page of a document is told as it was read', () => {
  const answer = blank();
  const page = {
    stage: 'page',
    done: 2,
    pages: 5,
    page: 7,
    answer: 'Oil 6.53',
    confidence: 0.8,
    stopped: 'end',
    error: null,
  };
  readEvent({ event: 'progress', data: JSON.stringify(page) }, answer, 1);
  const broken = { ...page, done: 3, page: 8, answer: '', error: { code: 'x', message: 'page 8 is empty' } };
  readEvent({ event: 'progress', data: JSON.stringify(broken) }, answer, 2);
  expect(answer.progress).toEqual({ stage: 'reading', read: 3, pages: 5 });
  expect(answer.pageNotes).toEqual([
    { page: 7, text: 'Oil 6.53', confidence: 0.8 },
    { page: 8, text: '', confidence: 0.8, problem: 'page 8 is empty' },
  ]);
});

test('an error within a stream of either kind raises what the server said', () => {
  expect(() =>
    readEvent(chunk({ error: { message: 'too long', code: 'context_length_exceeded' } }), blank(), 1),
  ).toThrow(Refused);
  expect(() => readEvent({ event: 'error', data: '{"code":2001,"msg":"full"}' }, blank(), 1)).toThrow('full');
});

test('a refusal names its request and when to come back', () => {
  const headers = new Headers({ 'retry-after': '3', 'x-request-id': 'req_1' });
  const problem = problemOf({ error: { message: 'busy', code: 'server_overloaded' } }, 503, headers);
  expect(problem).toEqual({
    message: 'busy',
    code: 'server_overloaded',
    status: 503,
    requestId: 'req_1',
    retryAfter: 3,
  });
});

test('a refusal that is no JSON still has a status', () => {
  expect(problemOf(null, 502)).toMatchObject({ message: '', code: '502', status: 502 });
});

test('refusals are sorted into what a person can do about them', () => {
  const sorted = (code: string, status: number) => troubleOf({ code, status });
  expect(sorted('server_overloaded', 503)).toBe('busy');
  expect(sorted('2001', 503)).toBe('busy');
  expect(sorted('document_too_large', 413)).toBe('size');
  expect(sorted('image_parse_error', 400)).toBe('picture');
  expect(sorted('document_password_required', 400)).toBe('document');
  expect(sorted('', 401)).toBe('key');
  expect(sorted('insufficient_quota', 429)).toBe('limit');
  expect(sorted('502', 502)).toBe('fault');
  expect(sorted('invalid_value', 400)).toBe('asked');
  expect(sorted('connection_lost', 0)).toBe('lost');
});
