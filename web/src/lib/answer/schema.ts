// Makes a JSON schema of a list of fields. Knows only what `extract` needs.

export type FieldType = 'string' | 'number' | 'boolean' | 'array';

export interface Field {
  name: string;
  type: FieldType;
}

export const EMPTY_FIELDS: Field[] = [
  { name: 'merchant', type: 'string' },
  { name: 'date', type: 'string' },
  { name: 'total', type: 'number' },
];

/** The schema of these fields, or the typed JSON when it is an object; null when neither is usable. */
export function schemaOf(from: Field[] | string): string | null {
  if (typeof from === 'string') {
    try {
      const value: unknown = JSON.parse(from);
      return typeof value === 'object' && value !== null && !Array.isArray(value)
        ? JSON.stringify(value)
        : null;
    } catch {
      return null;
    }
  }
  const named = from.map(({ name, type }) => ({ name: name.trim(), type })).filter(({ name }) => name);
  if (!named.length) return null;
  const properties = Object.fromEntries(named.map(({ name, type }) => [name, propertyOf(type)]));
  const required = Object.keys(properties);
  return JSON.stringify({ type: 'object', properties, required, additionalProperties: false });
}

const propertyOf = (type: FieldType): object =>
  type === 'array' ? { type, items: { type: 'string' } } : { type };
