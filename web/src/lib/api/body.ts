// What is sent for a question: the chat's messages and the tasks' bodies. Knows the wire, not how it is sent.
import { pagesOf, rangeOf } from '$lib/media/pages';
import type { Chat, Media, MediaKind, Task, Turn } from '$lib/types';

/** Gives the data URL of a picture, video or document. */
export type Inline = (media: Media) => Promise<string>;

export interface Asking {
  model: string | null;
  temperature: number | null;
  maxTokens: number | null;
  /** The password of a locked PDF. */
  passwordOf?: (media: Media) => string | undefined;
}

export interface Call {
  path: 'v1/chat/completions' | 'infer_stream';
  body: Record<string, unknown>;
}

/** The words a task asks when nothing was typed; the server's own, so that a follow-up shows the model the same. */
export const DEFAULT_TEXT: Partial<Record<Task, string>> = {
  ocr: 'Read all the text.',
  extract: 'Extract as JSON.',
  chart_parse: 'Extract the chart data as JSON.',
};

export async function call(chat: Chat, turn: Turn, asking: Asking, inline: Inline): Promise<Call> {
  return turn.task === 'chat'
    ? { path: 'v1/chat/completions', body: await chatBody(chat, turn, asking, inline) }
    : { path: 'infer_stream', body: await taskBody(chat, turn, asking, inline) };
}

export async function chatBody(chat: Chat, turn: Turn, asking: Asking, inline: Inline) {
  return {
    ...(asking.model && { model: asking.model }),
    messages: await messages(chat, turn, asking, inline),
    stream: true,
    stream_options: { include_usage: true, include_progress: true },
    logprobs: true, // the confidence shown with the answer is made of them
    ...(asking.temperature !== null && { temperature: asking.temperature }),
    ...(asking.maxTokens !== null && { max_tokens: asking.maxTokens }),
  };
}

/** All turns up to this one. The pictures of a turn without an answer go with the next question. */
export async function messages(chat: Chat, turn: Turn, asking: Asking, inline: Inline): Promise<unknown[]> {
  const found: unknown[] = [];
  let waiting: Media[] = [];
  for (const past of chat.turns) {
    const last = past.id === turn.id;
    waiting = [...waiting, ...past.media];
    const answer = past.answers[0]?.text ?? '';
    if (!last && !answer) continue;
    const text = past.text || DEFAULT_TEXT[past.task] || '';
    found.push({
      role: 'user',
      content: [
        ...(await Promise.all(waiting.map((one) => part(one, asking, inline)))),
        { type: 'text', text },
      ],
    });
    waiting = [];
    if (last) break;
    found.push({ role: 'assistant', content: answer });
  }
  return found;
}

async function part(media: Media, asking: Asking, inline: Inline): Promise<unknown> {
  const url = await inline(media);
  if (media.kind === 'video') return { type: 'video_url', video_url: { url } };
  if (media.kind === 'pdf')
    return { type: 'file', file: { file_data: url, filename: media.name }, ...pagesIn(media, asking) };
  return { type: 'image_url', image_url: { url } };
}

/** What each task reads; those of one picture get the first of the latest ones. */
export const READS: Record<Exclude<Task, 'chat'>, { kind: MediaKind; field: string; single: boolean }> = {
  ocr: { kind: 'image', field: 'images', single: true },
  extract: { kind: 'image', field: 'images', single: false },
  chart_parse: { kind: 'image', field: 'images', single: true },
  ground: { kind: 'image', field: 'images', single: true },
  doc_analyze: { kind: 'pdf', field: 'documents', single: true },
  video_qa: { kind: 'video', field: 'videos', single: true },
};

async function taskBody(chat: Chat, turn: Turn, asking: Asking, inline: Inline) {
  const { kind, field, single } = READS[turn.task as keyof typeof READS];
  const turns = chat.turns.slice(0, chat.turns.findIndex((one) => one.id === turn.id) + 1);
  const latest = turns.findLast((one) => one.media.some((media) => media.kind === kind));
  const all = latest?.media.filter((media) => media.kind === kind) ?? [];
  const media = single ? all.slice(0, 1) : all;
  return {
    task: turn.task,
    [field]: await Promise.all(media.map(inline)),
    ...(turn.text && { text: turn.text }),
    options: {
      progress: true,
      ...(turn.task === 'extract' && turn.schema && { schema: JSON.parse(turn.schema) as unknown }),
      ...(turn.task === 'doc_analyze' && media[0] && pagesIn(media[0], asking)),
      ...(turn.task === 'video_qa' && asking.temperature !== null && { temperature: asking.temperature }),
      ...(asking.maxTokens !== null && { max_tokens: asking.maxTokens }),
    },
  };
}

/** The pages wanted, in the plain form that the server reads, and the password. */
function pagesIn(media: Media, asking: Asking): { pages?: string; password?: string } {
  const count = media.pages ?? 0;
  const pages = media.range && pagesOf(media.range, count);
  const password = asking.passwordOf?.(media);
  return {
    ...(pages && pages.length < count && { pages: rangeOf(pages, count) }),
    ...(password && { password }),
  };
}

/** Every picture, video and document a turn can see: its own and those of the turns before. */
export function mediaUpTo(chat: Chat, turn: Turn): Media[] {
  const end = chat.turns.findIndex((one) => one.id === turn.id);
  return chat.turns.slice(0, end < 0 ? undefined : end + 1).flatMap((one) => one.media);
}
