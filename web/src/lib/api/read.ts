// Turns the events of an answer into changes of it. Knows both streams (chat chunks and task events), no network.
import type { Answer, PageNote, Problem, Progress, Stats } from '$lib/types';
import type { ServerEvent } from './sse';

type Json = Record<string, unknown>;

export class Refused extends Error {
  constructor(readonly problem: Problem) {
    super(problem.message);
  }
}

/** Reads one event into `answer`. Returns false after the last one. Raises Refused for an error event. */
export function readEvent({ event, data }: ServerEvent, answer: Answer, now: number): boolean {
  if (data === '[DONE]') return false;
  const body = JSON.parse(data) as Json;
  if (event === 'error' || (event === 'message' && body['error'])) throw new Refused(problemOf(body, 200));
  if (event === 'message') readChunk(body, answer, now);
  else if (event === 'token') addText(answer, String(body['token'] ?? ''), now);
  else if (event === 'progress') readProgress(body, answer);
  else if (event === 'final') readFinal(body, answer);
  return event !== 'final';
}

function readChunk(body: Json, answer: Answer, now: number): void {
  const sightline = body['sightline'] as Json | undefined;
  const progress = sightline?.['progress'] as Json | undefined;
  if (progress) answer.progress = progress as unknown as Progress;
  const choice = (body['choices'] as Json[] | undefined)?.[0];
  const text = (choice?.['delta'] as Json | undefined)?.['content'];
  if (typeof text === 'string' && text) addText(answer, text, now);
  weigh(answer, (choice?.['logprobs'] as Json | null | undefined)?.['content']);
  if (typeof choice?.['finish_reason'] === 'string')
    answer.stats = { ...answer.stats, stopped: choice['finish_reason'] };
  if (sightline && !progress) answer.stats = { ...answer.stats, ...report(sightline) };
  if (body['usage']) answer.stats = { ...answer.stats, ...usage(body['usage'] as Json) };
}

function addText(answer: Answer, text: string, now: number): void {
  answer.text += text;
  answer.pieces += 1;
  answer.firstTokenAt ??= now;
  answer.state = 'streaming';
}

/** How sure the model was of a chat's words, as the server reckons it for tasks: exp(mean(ln p)) of its tokens. */
function weigh(answer: Answer, tokens: unknown): void {
  if (!Array.isArray(tokens) || !tokens.length) return;
  const { sum, tokens: before } = answer.logprob ?? { sum: 0, tokens: 0 };
  const more = (tokens as { logprob: number }[]).reduce((total, token) => total + token.logprob, 0);
  answer.logprob = { sum: sum + more, tokens: before + tokens.length };
  answer.confidence = Math.exp(answer.logprob.sum / answer.logprob.tokens);
}

/** A stage, or a page that was read: `stage` is "page" then, and the page's answer comes with it. */
function readProgress(body: Json, answer: Answer): void {
  if (body['stage'] !== 'page') {
    answer.progress = body as unknown as Progress;
    return;
  }
  const [read, pages] = [number(body['done']), number(body['pages'])];
  answer.progress = read === pages ? { stage: 'merging' } : { stage: 'reading', read, pages };
  answer.pageNotes = [...(answer.pageNotes ?? []), noteOf(body)];
}

function noteOf(body: Json): PageNote {
  const error = body['error'] as Json | null | undefined;
  return {
    page: Number(body['page']),
    text: String(body['answer'] ?? ''),
    confidence: number(body['confidence']),
    ...(error && { problem: String(error['message'] ?? '') }),
  };
}

function readFinal(body: Json, answer: Answer): void {
  answer.text = String(body['answer'] ?? answer.text);
  if (typeof body['confidence'] === 'number') answer.confidence = body['confidence'];
  if (body['data'] !== undefined) answer.data = body['data'];
  if (body['field_confidence'] !== undefined)
    answer.fieldConfidence = body['field_confidence'] as Record<string, number> | null;
  const meta = (body['metadata'] ?? {}) as Json;
  answer.stats = {
    ...answer.stats,
    totalMs: number(meta['processing_time_ms']),
    promptTokens: number(meta['input_tokens']),
    outputTokens: number(meta['output_tokens']),
    stopped: meta['stopped'] as string | undefined,
    degraded: meta['degraded'] === true,
    cached: meta['cache'] === 'hit',
    trimmed: meta['trimmed'] === true,
    ...(typeof meta['model'] === 'string' && { model: meta['model'] }),
  };
}

function report(from: Json): Stats {
  return {
    model: from['model'] as string | undefined,
    degraded: from['degraded'] === true,
    cached: from['cache'] === 'hit',
    cachedImages: number(from['cached_images']),
    trimmed: (from['videos'] as { trimmed?: boolean }[] | undefined)?.some((video) => video.trimmed) ?? false,
    droppedTurns: number(from['dropped_turns']),
    queueMs: number(from['queue_ms']),
    visionMs: number(from['vision_ms']),
    prefillMs: number(from['prefill_ms']),
    decodeMs: number(from['decode_ms']),
  };
}

function usage(from: Json): Stats {
  const details = (from['prompt_tokens_details'] ?? {}) as Json;
  return {
    totalMs: number(from['total_time_ms']),
    promptTokens: number(from['prompt_tokens']),
    outputTokens: number(from['completion_tokens']),
    cachedTokens: number(details['cached_tokens']),
    imageTokens: number(details['image_tokens']),
  };
}

/** A refusal in either dialect: OpenAI's `{error}` or the tasks' `{code, msg}`. */
export function problemOf(body: unknown, status: number, headers?: Headers): Problem {
  const json = (body ?? {}) as Json;
  const error = json['error'] as Json | undefined;
  const wait = Number(headers?.get('retry-after') ?? NaN);
  return {
    message: String(error?.['message'] ?? json['msg'] ?? ''),
    code: String(error?.['code'] ?? json['code'] ?? status),
    status,
    requestId: headers?.get('x-request-id') ?? (json['request_id'] as string | undefined),
    ...(Number.isFinite(wait) && { retryAfter: wait }),
  };
}

const number = (value: unknown): number | undefined => (typeof value === 'number' ? value : undefined);

/** Tokens a second: by the server's clock when it gave one, else as the pieces came in. */
export function tokensPerSecond(answer: Answer, now: number): number | null {
  const { decodeMs, outputTokens } = answer.stats ?? {};
  if (decodeMs && outputTokens && outputTokens > 1) return ((outputTokens - 1) / decodeMs) * 1000;
  if (!answer.firstTokenAt || answer.pieces < 2 || answer.stats) return null;
  const seconds = (now - answer.firstTokenAt) / 1000;
  return seconds > 0.25 ? (answer.pieces - 1) / seconds : null;
}
