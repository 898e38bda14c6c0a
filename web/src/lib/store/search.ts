// Searches conversations and groups them by age. Pure; knows no storage.
import type { Chat } from '$lib/types';

/** Whether every word of the query is somewhere in the conversation, in any case. */
export function matches(chat: Chat, query: string): boolean {
  const words = folded(query).split(/\s+/).filter(Boolean);
  if (!words.length) return true;
  const text = folded(
    [
      chat.title,
      ...chat.turns.flatMap((turn) => [
        turn.text,
        ...turn.media.map((media) => media.name),
        ...turn.answers.map((answer) => answer.text),
      ]),
    ].join('\n'),
  );
  return words.every((word) => text.includes(word));
}

/** One form for full-width and half-width letters and for all cases. */
const folded = (text: string): string => text.normalize('NFKC').toLowerCase();

export type Age = 'today' | 'week' | 'older';

export function ageOf(updated: number, now: number): Age {
  const midnight = new Date(now).setHours(0, 0, 0, 0);
  if (updated >= midnight) return 'today';
  return updated >= midnight - 6 * 86_400_000 ? 'week' : 'older';
}

/** A name for a conversation out of its first question. */
export function titleOf(text: string, fallback: string): string {
  const line = text.trim().split('\n')[0]?.trim() ?? '';
  const letters = [...line];
  return letters.length > 48 ? `${letters.slice(0, 47).join('')}…` : line || fallback;
}
