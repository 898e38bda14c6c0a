// The only file that talks to the server. Addresses are relative to the page, so any base path works.
import { readEvent, problemOf, Refused } from './read';
import { events } from './sse';
import type { Answer } from '$lib/types';
import type { Call } from './body';

export const address = (path: string): string => new URL(path, document.baseURI).href;

function headers(key: string, json = false): HeadersInit {
  return {
    ...(json && { 'content-type': 'application/json' }),
    ...(key && { authorization: `Bearer ${key}` }),
  };
}

/** Asks and reads the stream into `answer`. Aborting `signal` closes the connection, which stops the server's work. */
export async function ask(call: Call, key: string, answer: Answer, signal: AbortSignal): Promise<void> {
  const response = await fetch(address(call.path), {
    method: 'POST',
    headers: headers(key, true),
    body: JSON.stringify(call.body),
    signal,
  });
  if (!response.ok || !response.body) {
    const body: unknown = await response.json().catch(() => null);
    throw new Refused(problemOf(body, response.status, response.headers));
  }
  // Read to the end: a stream that is left before it would cost the connection, which the next question can use.
  let whole = false;
  for await (const event of events(response.body)) {
    if (!whole) whole = !readEvent(event, answer, performance.now());
  }
  if (!whole) throw new TypeError('the stream ended before the answer did');
}

/** The JSON of a GET, or null when it is not there or no server answers. */
export async function getJson<T>(path: string, key: string, signal?: AbortSignal): Promise<T | null> {
  try {
    const response = await fetch(address(path), { headers: headers(key), signal, cache: 'no-store' });
    return response.ok || response.status === 503 ? ((await response.json()) as T) : null;
  } catch {
    return null;
  }
}
