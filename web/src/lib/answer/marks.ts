// Finds boxes and points in what a model wrote. Coordinates are thousandths of the picture's sides, as Qwen3-VL gives them.

export const SCALE = 1000;

export interface Mark {
  id: number;
  label: string;
  /** Left, top, right, bottom; for a point both corners are the same. */
  box: [number, number, number, number];
  point: boolean;
  confidence?: number;
  /** Where in the text it stands, so that text and picture can point at each other. */
  span?: [number, number];
}

type Found = Omit<Mark, 'id'>;

/** Marks out of a structured answer (`ground`), with the least certain coordinate as each one's confidence. */
export function marksOfData(data: unknown, confidence?: Record<string, number> | null): Mark[] {
  if (!Array.isArray(data)) return numbered(fromObject(data));
  return numbered(
    data.flatMap((item: unknown, index) =>
      fromObject(item).map((mark) => ({ ...mark, ...worst(confidence, `[${index}].`) })),
    ),
  );
}

function worst(all: Record<string, number> | null | undefined, prefix: string): { confidence?: number } {
  const own = Object.entries(all ?? {}).filter(([path]) => path.startsWith(prefix));
  return own.length ? { confidence: Math.min(...own.map(([, value]) => value)) } : {};
}

/** Marks out of free text: every JSON object in it that has a box or a point, and Qwen2's `<box>` tags. */
export function marksOfText(text: string): Mark[] {
  const found: Found[] = [];
  if (/bbox|point/.test(text)) {
    for (const span of objects(text)) {
      const piece = text.slice(...span);
      if (!/"(bbox_2d|bbox|point_2d|point)"/.test(piece)) continue;
      try {
        found.push(...fromObject(JSON.parse(piece)).map((mark) => ({ ...mark, span })));
      } catch {
        // not JSON after all: it stays text
      }
    }
  }
  return numbered([...found, ...tagged(text)]);
}

function numbered(found: Found[]): Mark[] {
  return found.map((mark, id) => ({ ...mark, id }));
}

/** Start and end of each innermost `{…}`; braces within strings do not count. */
function* objects(text: string): Generator<[number, number]> {
  let start = -1;
  let quoted = false;
  for (let at = 0; at < text.length; at += 1) {
    const letter = text[at];
    if (quoted) {
      if (letter === '\\') at += 1;
      else if (letter === '"' || letter === '\n') quoted = false;
    } else if (letter === '"') quoted = start >= 0;
    else if (letter === '{') start = at;
    else if (letter === '}' && start >= 0) {
      yield [start, at + 1];
      start = -1;
    }
  }
}

function fromObject(value: unknown): Found[] {
  if (typeof value !== 'object' || value === null) return [];
  const item = value as Record<string, unknown>;
  const label = String(item['label'] ?? item['text_content'] ?? item['text'] ?? item['name'] ?? '');
  const boxes = lists(item['bbox_2d'] ?? item['bbox'], 4).map((box) => ({ box: ordered(box), point: false }));
  const points = lists(item['point_2d'] ?? item['point'], 2).map(([x = 0, y = 0]) => ({
    box: [x, y, x, y] as Mark['box'],
    point: true,
  }));
  return [...boxes, ...points].map((shape) => ({ label, ...shape }));
}

/** One list of `length` numbers, or several of them. */
function lists(value: unknown, length: number): number[][] {
  if (!Array.isArray(value)) return [];
  const fits = (one: unknown): one is number[] =>
    Array.isArray(one) && one.length === length && one.every((side) => Number.isFinite(side));
  return fits(value) ? [clamped(value)] : value.filter(fits).map(clamped);
}

const clamped = (sides: number[]): number[] => sides.map((side) => Math.min(SCALE, Math.max(0, side)));

function ordered([a = 0, b = 0, c = 0, d = 0]: number[]): Mark['box'] {
  return [Math.min(a, c), Math.min(b, d), Math.max(a, c), Math.max(b, d)];
}

const TAG =
  /(?:<\|?(?:object_ref_start|ref)\|?>(?<label>[^<]*)<[^>]*>)?\s*<\|?(?:box_start|box)\|?>\s*\((?<a>\d+),\s*(?<b>\d+)\),\s*\((?<c>\d+),\s*(?<d>\d+)\)/g;

function tagged(text: string): Found[] {
  if (!text.includes('box')) return [];
  return [...text.matchAll(TAG)].map((match) => {
    const { label = '', a, b, c, d } = match.groups ?? {};
    const box = ordered(clamped([Number(a), Number(b), Number(c), Number(d)]));
    return { label: label.trim(), box, point: false, span: [match.index, match.index + match[0].length] };
  });
}

/** The same corners in pixels of a picture of this size, rounded as the server rounds `bbox_pixels`. */
export function inPixels(box: Mark['box'], width: number, height: number): Mark['box'] {
  const [left, top, right, bottom] = box;
  const at = (share: number, side: number) => Math.round((share * side) / SCALE);
  return [at(left, width), at(top, height), at(right, width), at(bottom, height)];
}
