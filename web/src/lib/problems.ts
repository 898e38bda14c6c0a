// Sorts the server's many refusals into the few that a person can do something about. Knows codes, not words.
import type { Problem } from './types';

export const TROUBLES = [
  'busy',
  'loading',
  'memory',
  'stopping',
  'key',
  'limit',
  'long',
  'picture',
  'video',
  'document',
  'size',
  'blocked',
  'model',
  'asked',
  'fault',
  'lost',
  'gone',
] as const;
export type Trouble = (typeof TROUBLES)[number];

const BY_CODE: Record<string, Trouble> = {
  server_overloaded: 'busy',
  model_loading: 'loading',
  out_of_memory: 'memory',
  server_shutting_down: 'stopping',
  engine_unavailable: 'stopping',
  processing_timeout: 'busy',
  context_length_exceeded: 'long',
  too_many_images: 'long',
  too_many_pages: 'long',
  content_policy_violation: 'blocked',
  model_not_found: 'model',
  invalid_api_key: 'key',
  connection_lost: 'lost',
  file_gone: 'gone',
  // The tasks' own codes
  '1001': 'picture',
  '1002': 'video',
  '1003': 'size',
  '1401': 'key',
  '1429': 'limit',
  '2001': 'busy',
  '2002': 'loading',
  '3001': 'blocked',
};

export function troubleOf({ code, status }: Pick<Problem, 'code' | 'status'>): Trouble {
  const known = BY_CODE[code];
  if (known) return known;
  if (status === 401 || status === 403) return 'key';
  if (status === 429) return 'limit';
  if (/_too_large$/.test(code) || status === 413) return 'size';
  if (/image/.test(code)) return 'picture';
  if (/video|frames/.test(code)) return 'video';
  if (/document/.test(code)) return 'document';
  if (status >= 500 || code === '5000' || code === 'internal_error') return 'fault';
  return 'asked';
}
