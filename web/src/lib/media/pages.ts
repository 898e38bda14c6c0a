// Reads "1-3, 8" as page numbers. Knows no PDF.

/** The pages of a range in order, each once; null when it cannot be read or names a page that is not there. */
export function pagesOf(range: string, count: number): number[] | null {
  const text = range
    .trim()
    .replace(/[，、；;]/g, ',')
    .replace(/[–—~～至到]/g, '-');
  if (!text) return Array.from({ length: count }, (_, index) => index + 1);
  const found = new Set<number>();
  for (const piece of text.split(',')) {
    const match = /^\s*(\d{1,6})\s*(?:-\s*(\d{0,6}))?\s*$/.exec(piece);
    if (!match) return null;
    const from = Number(match[1]);
    const to = match[2] === undefined ? from : match[2] === '' ? count : Number(match[2]);
    if (from < 1 || to < from || to > count) return null;
    for (let page = from; page <= to; page += 1) found.add(page);
  }
  return [...found].sort((a, b) => a - b);
}

/** The same pages in the shortest plain form, "1-3,8"; empty for all pages. */
export function rangeOf(pages: number[], count: number): string {
  if (pages.length === count) return '';
  const parts: string[] = [];
  for (let at = 0; at < pages.length;) {
    let end = at;
    while (pages[end + 1] === (pages[end] ?? 0) + 1) end += 1;
    parts.push(end > at ? `${pages[at]}-${pages[end]}` : `${pages[at]}`);
    at = end + 1;
  }
  return parts.join(',');
}
