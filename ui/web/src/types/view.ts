// The part of the page's state that a link carries. logic/url.ts turns it into a URL and back.

/** Unix milliseconds, or milliseconds before now. */
export type TimePoint = { readonly at: number } | { readonly ago: number };

export interface TimeRange {
  readonly from: TimePoint;
  readonly until: TimePoint;
}

/**
 * The time `(from, until]`, unix milliseconds, from < until. Open at its start like the buckets of a series, so that
 * windows that touch share no sample and a window of n seconds holds n one-second rows.
 */
export interface Span {
  readonly from: number;
  readonly until: number;
}

export type MatchOp = '=' | '!=' | '=~' | '!~';

export interface Matcher {
  readonly name: string;
  readonly op: MatchOp;
  readonly value: string;
}

/** How a value is written: per second of the window (cores), summed (CPU time), or as part of the whole. */
export type Quantity = 'rate' | 'amount' | 'share';

/** Whose width a diff's frames have. */
export type Basis = 'both' | 'baseline' | 'comparison';

export type SortColumn = 'name' | 'self' | 'total' | 'delta';

export interface Sort {
  readonly column: SortColumn;
  readonly descending: boolean;
}

export type Panel = 'both' | 'graph' | 'table';

export interface View {
  readonly range: TimeRange;
  readonly profileType: string;
  readonly matchers: readonly Matcher[];
  /** The selected window; in a diff the comparison. */
  readonly selected: Span | null;
  /** A diff's baseline; set exactly when two windows are compared. */
  readonly baseline: Span | null;
  readonly quantity: Quantity;
  readonly basis: Basis;
  readonly search: string;
  /** Stack id of the zoomed frame, or ''. */
  readonly focus: string;
  readonly sort: Sort;
  readonly panel: Panel;
}
