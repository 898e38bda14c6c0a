// Finds JSON in an answer and names its places as the server does ("items[0].price"). Knows no display.

/** The value, when the whole text is JSON or one fenced block of it; undefined otherwise. */
export function wholeJson(text: string): unknown {
  const fenced = /^\s*```(?:json)?\s*\n([\s\S]*?)\n?```\s*$/i.exec(text);
  const body = (fenced?.[1] ?? text).trim();
  if (!/^[[{]/.test(body)) return undefined;
  try {
    const value: unknown = JSON.parse(body);
    return value;
  } catch {
    return undefined;
  }
}

export const childPath = (path: string, key: string | number): string =>
  typeof key === 'number' ? `${path}[${key}]` : path ? `${path}.${key}` : key;

export interface Leaf {
  path: string;
  value: unknown;
}

/** Every value that is neither object nor array, in order. */
export function leaves(value: unknown, path = ''): Leaf[] {
  if (Array.isArray(value)) return value.flatMap((item, index) => leaves(item, childPath(path, index)));
  if (typeof value === 'object' && value !== null)
    return Object.entries(value).flatMap(([key, item]) => leaves(item, childPath(path, key)));
  return [{ path, value }];
}

/** Below this a value is marked: of the demo model's answers under 0.9 four in five were wrong (docs/api.md). */
export const UNSURE = 0.9;
