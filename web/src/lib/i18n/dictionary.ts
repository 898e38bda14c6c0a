// The type that every language must have: the shape of the English words.
import type { en } from './en';

type Words<T> = T extends string
  ? string
  : T extends (...args: infer A) => string
    ? (...args: A) => string
    : { [K in keyof T]: Words<T[K]> };

/** What a language must have. A missing or surplus string is a type error. */
export type Dictionary = Words<typeof en>;
