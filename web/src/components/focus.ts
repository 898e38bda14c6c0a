// What text and picture point at together: a mark, a page or a moment. Shared by the turns about the same pictures.
import { marksOfData, marksOfText, type Mark } from '$lib/answer/marks';
import type { Answer, Turn } from '$lib/types';

export interface Focus {
  mark: number | null;
  page: number | null;
  second: number | null;
  /** The answer whose marks are on the picture; null for the last one that has any. */
  answer: Answer | null;
}

export function marksOf(turn: Turn, answer: Answer): Mark[] {
  return turn.task === 'ground' && answer.data !== undefined
    ? marksOfData(answer.data, answer.fieldConfidence)
    : marksOfText(answer.text);
}

/** The colour of a mark, as the name of a CSS variable; the same label always has the same colour. */
export function colourOf(label: string, labels: string[]): string {
  return `--mark-${(Math.max(0, labels.indexOf(label)) % 6) + 1}`;
}
