// The values the page works with: what is asked, what came back, what is kept. Knows no network and no browser.

export const TASKS = ['chat', 'ocr', 'extract', 'chart_parse', 'ground', 'doc_analyze', 'video_qa'] as const;
export type Task = (typeof TASKS)[number];

export type MediaKind = 'image' | 'video' | 'pdf';

/** One picture, video or document of a question. Its bytes lie apart, by `id`; this is small enough to list. */
export interface Media {
  id: string;
  kind: MediaKind;
  name: string;
  mime: string;
  /** Encoded bytes, as they will be sent. */
  bytes: number;
  /** Upright pixels as they will be sent; 0 where the browser cannot tell (HEIC, PDF). */
  width: number;
  height: number;
  /** The file as it was picked, when the page made it smaller. */
  original?: { bytes: number; width: number; height: number };
  /** A small data URL; empty where the browser cannot draw one. */
  thumb: string;
  duration?: number;
  pages?: number;
  /** A PDF that opens only with a password; `pages` is known once it was given. */
  locked?: boolean;
  /** Pages to read, such as "1-3, 8"; empty for all. */
  range?: string;
}

/** What happens to a question. The page's own words: `loading`, it waits for the model; `merging`, every page is read. */
export type Stage = 'loading' | 'queued' | 'decoding' | 'looking' | 'reading' | 'merging' | 'answering';

export interface Progress {
  stage: Stage;
  place?: number | null;
  wait_s?: number | null;
  done?: number | null;
  total?: number | null;
  /** Documents: pages read so far, of how many. */
  read?: number | null;
  pages?: number | null;
}

export interface Problem {
  message: string;
  code: string;
  status: number;
  requestId?: string;
  retryAfter?: number;
}

export type AnswerState = 'held' | 'waiting' | 'streaming' | 'done' | 'stopped' | 'failed';

/** What an answer took. Null or absent: the server did not say. */
export interface Stats {
  model?: string;
  degraded?: boolean;
  cached?: boolean;
  cachedImages?: number;
  droppedTurns?: number;
  totalMs?: number;
  queueMs?: number;
  visionMs?: number;
  prefillMs?: number;
  decodeMs?: number;
  firstTokenMs?: number;
  promptTokens?: number;
  imageTokens?: number;
  cachedTokens?: number;
  outputTokens?: number;
  stopped?: string;
  /** Whether only the first seconds of a video were watched. */
  trimmed?: boolean;
}

export interface Answer {
  /** The model asked for; null leaves it to the server. */
  model: string | null;
  state: AnswerState;
  text: string;
  progress?: Progress;
  /** Pieces of text so far, which is about the number of tokens. */
  pieces: number;
  startedAt: number;
  firstTokenAt?: number;
  data?: unknown;
  /** Sum of the logarithms of the tokens' probabilities, where the server gives them one by one. */
  logprob?: { sum: number; tokens: number };
  confidence?: number;
  fieldConfidence?: Record<string, number> | null;
  stats?: Stats;
  problem?: Problem;
  /** Summaries of pages, as they were read. */
  pageNotes?: PageNote[];
}

/** What was read on one page of a document, or why it was not. */
export interface PageNote {
  page: number;
  text: string;
  confidence?: number;
  problem?: string;
}

export interface Turn {
  id: string;
  task: Task;
  text: string;
  /** What this turn adds; later turns see it as well. */
  media: Media[];
  schema?: string;
  answers: Answer[];
}

export interface Chat {
  id: string;
  title: string;
  /** Whether a person named it; otherwise it follows the first question. */
  named?: boolean;
  created: number;
  updated: number;
  turns: Turn[];
}

export function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(9));
  return btoa(String.fromCharCode(...bytes))
    .replace(/\+/g, '-')
    .replace(/\//g, '_');
}

export const running = (answer: Answer): boolean =>
  answer.state === 'waiting' || answer.state === 'streaming';
