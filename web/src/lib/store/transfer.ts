// Writes conversations with their files as one JSON file, and reads such a file back. Trusts nothing in it.
import { newId, TASKS, type Answer, type Chat, type Media, type PageNote, type Turn } from '$lib/types';

export interface Bundle {
  format: 'sightline-conversations';
  version: 1;
  chats: Chat[];
  /** Data URLs by the id of their media. */
  files: Record<string, string>;
}

export const bundle = (chats: Chat[], files: Record<string, string>): Bundle => ({
  format: 'sightline-conversations',
  version: 1,
  chats,
  files,
});

type Json = Record<string, unknown>;
const object = (value: unknown): Json => (typeof value === 'object' && value !== null ? (value as Json) : {});
const list = (value: unknown): unknown[] => (Array.isArray(value) ? value : []);
const text = (value: unknown): string => (typeof value === 'string' ? value : '');
const number = (value: unknown): number => (typeof value === 'number' && Number.isFinite(value) ? value : 0);

/** The conversations of an export, all with new ids so that none replaces another; null when it is none. */
export function unbundle(json: string): { chats: Chat[]; files: Map<string, string> } | null {
  let from: Json;
  try {
    from = object(JSON.parse(json));
  } catch {
    return null;
  }
  if (from['format'] !== 'sightline-conversations' || !Array.isArray(from['chats'])) return null;
  const urls = object(from['files']);
  const files = new Map<string, string>();
  const chats = from['chats'].map((chat) => chatOf(object(chat), urls, files));
  return { chats: chats.filter((chat) => chat.turns.length), files };
}

function chatOf(from: Json, urls: Json, files: Map<string, string>): Chat {
  return {
    id: newId(),
    title: text(from['title']).slice(0, 200),
    named: from['named'] === true,
    created: number(from['created']),
    updated: number(from['updated']),
    turns: list(from['turns']).map((turn) => turnOf(object(turn), urls, files)),
  };
}

function turnOf(from: Json, urls: Json, files: Map<string, string>): Turn {
  return {
    id: newId(),
    task: TASKS.find((task) => task === from['task']) ?? 'chat',
    text: text(from['text']),
    media: list(from['media']).map((media) => mediaOf(object(media), urls, files)),
    ...(from['schema'] ? { schema: text(from['schema']) } : {}),
    answers: list(from['answers']).map((answer) => answerOf(object(answer))),
  };
}

function mediaOf(from: Json, urls: Json, files: Map<string, string>): Media {
  const id = newId();
  const url = text(urls[text(from['id'])]);
  if (/^data:[\w.+-]+\/[\w.+-]+;base64,/.test(url)) files.set(id, url);
  const { original, duration, pages } = from;
  const size = object(original);
  return {
    id,
    kind: from['kind'] === 'video' || from['kind'] === 'pdf' ? from['kind'] : 'image',
    name: text(from['name']).slice(0, 200),
    mime: text(from['mime']),
    bytes: number(from['bytes']),
    width: number(from['width']),
    height: number(from['height']),
    thumb: /^data:image\/(jpeg|png|webp);base64,/.test(text(from['thumb'])) ? text(from['thumb']) : '',
    ...(original
      ? {
          original: {
            bytes: number(size['bytes']),
            width: number(size['width']),
            height: number(size['height']),
          },
        }
      : {}),
    ...(duration ? { duration: number(duration) } : {}),
    ...(pages ? { pages: number(pages) } : {}),
    ...(from['locked'] === true ? { locked: true } : {}),
    ...(from['range'] ? { range: text(from['range']) } : {}),
  };
}

/** An answer that was still being written when it was exported counts as stopped. */
function answerOf(from: Json): Answer {
  const state = from['state'] === 'done' || from['state'] === 'failed' ? from['state'] : 'stopped';
  const problem = object(from['problem']);
  return {
    model: typeof from['model'] === 'string' ? from['model'] : null,
    state,
    text: text(from['text']),
    pieces: number(from['pieces']),
    startedAt: 0,
    ...(from['data'] !== undefined && { data: from['data'] }),
    ...(typeof from['confidence'] === 'number' && { confidence: from['confidence'] }),
    ...(from['fieldConfidence'] ? { fieldConfidence: confidences(object(from['fieldConfidence'])) } : {}),
    ...(from['stats'] ? { stats: plain(object(from['stats'])) } : {}),
    ...(from['problem']
      ? {
          problem: {
            message: text(problem['message']),
            code: text(problem['code']),
            status: number(problem['status']),
            ...(problem['requestId'] ? { requestId: text(problem['requestId']) } : {}),
          },
        }
      : {}),
    ...(from['pageNotes'] ? { pageNotes: list(from['pageNotes']).map((note) => noteOf(object(note))) } : {}),
  };
}

const noteOf = (from: Json): PageNote => ({
  page: number(from['page']),
  text: text(from['text']),
  ...(typeof from['confidence'] === 'number' && { confidence: from['confidence'] }),
  ...(from['problem'] ? { problem: text(from['problem']) } : {}),
});

const confidences = (from: Json): Record<string, number> =>
  Object.fromEntries(Object.entries(from).map(([path, value]) => [path, number(value)]));

const plain = (from: Json): Json =>
  Object.fromEntries(
    Object.entries(from).filter(([, value]) => ['string', 'number', 'boolean'].includes(typeof value)),
  );
