// Search: which functions match, and how much of the graph lies under them.
import type { FlameColumns } from './columns';

/** Tells whether a name matches. */
export type NameTest = (name: string) => boolean;

export type SearchResult = { readonly test: NameTest } | { readonly error: string };

const META = /[\\^$.*+?()[\]{}|]/;

/**
 * Plain text finds itself anywhere; text with a metacharacter is a regular expression. Case counts once the text has a
 * capital letter. `::`, `/` and `-` are no metacharacters, so most names can be pasted as they are.
 */
export function readSearch(text: string): SearchResult {
  const flags = /[A-Z]/.test(text) ? '' : 'i';
  if (!META.test(text)) {
    const wanted = flags ? text.toLowerCase() : text;
    return { test: (name) => (flags ? name.toLowerCase() : name).includes(wanted) };
  }
  try {
    const pattern = new RegExp(text, flags);
    return { test: (name) => pattern.test(name) };
  } catch (error) {
    return { error: error instanceof Error ? error.message.replace(/^Invalid regular expression: /, '') : String(error) };
  }
}

export interface Matches {
  /** 1 for each matching function, by name index. */
  readonly names: Uint8Array;
  readonly functions: number;
  /** Matching frames in drawing order. */
  readonly frames: readonly number[];
  /** Value under matching frames, a frame under another counted once. */
  readonly value: number;
  readonly baseValue: number;
}

export function findMatches(columns: FlameColumns, test: NameTest): Matches {
  const names = new Uint8Array(columns.names.length);
  let functions = 0;
  for (let i = 0; i < names.length; i++) {
    if (test(columns.names[i])) {
      names[i] = 1;
      functions++;
    }
  }
  const frames: number[] = [];
  let value = 0;
  let baseValue = 0;
  let coveredUntil = 0;
  for (let i = 1; i < columns.count; i++) {
    if (names[columns.name[i]] === 0) continue;
    frames.push(i);
    if (i < coveredUntil) continue;
    coveredUntil = columns.skip[i];
    value += columns.total[i];
    baseValue += columns.base?.total[i] ?? 0;
  }
  return { names, functions, frames, value, baseValue };
}

/** The match after (or before) a frame, round the end; -1 when there is none. */
export function neighbourMatch(matches: Matches, frame: number, direction: 1 | -1): number {
  const { frames } = matches;
  if (frames.length === 0) return -1;
  if (direction === 1) return frames.find((i) => i > frame) ?? frames[0];
  return frames.findLast((i) => i < frame) ?? frames[frames.length - 1];
}

/** A search text that matches this name and no other. */
export function exactly(name: string): string {
  return `^${name.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&')}$`;
}
