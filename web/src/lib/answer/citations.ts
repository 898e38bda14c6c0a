// Finds where an answer names pages or moments of its source. Knows no display.

export interface Citation {
  start: number;
  end: number;
  page?: number;
  second?: number;
}

const PAGE =
  /[[(（【]\s*(?:p(?:p|age|ages)?\.?\s*|第\s*)(\d{1,5})\s*页?\s*[\])）】]|(?:\bpage\s+|第\s*)(\d{1,5})(?:\s*页|\b(?!\s*页))/gi;
const MOMENT = /(?<![\d:.])(?:(\d{1,2}):)?([0-5]?\d):([0-5]\d)(?:\.\d)?(?![\d:])/g;

/** Pages named in the text, of a document with `count` pages. */
export function pageCitations(text: string, count: number): Citation[] {
  return [...text.matchAll(PAGE)].flatMap((match) => {
    const page = Number(match[1] ?? match[2]);
    // "第3" alone may be anything ("第3项"); it needs 页 or brackets around it.
    if (/^第/.test(match[0]) && !match[0].includes('页')) return [];
    return page >= 1 && page <= count
      ? [{ start: match.index, end: match.index + match[0].length, page }]
      : [];
  });
}

const SECONDS = /(?<![\d.:])(\d{1,4}(?:\.\d+)?)\s*(?:seconds?\b|s\b|秒)/g;

/** Moments such as 0:07, 01:02:03 or 2.5 seconds, within `duration` seconds. */
export function momentCitations(text: string, duration: number): Citation[] {
  const found = (match: RegExpExecArray, second: number): Citation[] =>
    second <= duration ? [{ start: match.index, end: match.index + match[0].length, second }] : [];
  return [
    ...[...text.matchAll(MOMENT)].flatMap((match) =>
      found(match, Number(match[1] ?? 0) * 3600 + Number(match[2]) * 60 + Number(match[3])),
    ),
    ...[...text.matchAll(SECONDS)].flatMap((match) => found(match, Number(match[1]))),
  ];
}
