// The table: one row per function with self and total, and of a diff both sides. The accessible twin of the canvas.
import type { Sort } from '../../types/view';
import type { FlameColumns } from './columns';
import type { Weights } from './placement';

export interface FunctionRow {
  /** Index into the graph's names. */
  readonly index: number;
  readonly name: string;
  readonly self: number;
  readonly total: number;
  readonly baseSelf: number;
  readonly baseTotal: number;
}

/** Sums per function. A function under itself adds to its total only once, so recursion never exceeds 100 %. */
export function functionRows(columns: FlameColumns): FunctionRow[] {
  const size = columns.names.length;
  const sums = { self: new Float64Array(size), total: new Float64Array(size) };
  const base = { self: new Float64Array(size), total: new Float64Array(size) };
  const insideUntil = new Uint32Array(size);
  for (let i = 1; i < columns.count; i++) {
    const name = columns.name[i];
    sums.self[name] += columns.self[i];
    if (columns.base) base.self[name] += columns.base.self[i];
    if (i < insideUntil[name]) continue;
    insideUntil[name] = columns.skip[i];
    sums.total[name] += columns.total[i];
    if (columns.base) base.total[name] += columns.base.total[i];
  }
  const rows: FunctionRow[] = [];
  for (let index = 0; index < size; index++) {
    if (insideUntil[index] === 0) continue;
    rows.push({
      index,
      name: columns.names[index],
      self: sums.self[index],
      total: sums.total[index],
      baseSelf: base.self[index],
      baseTotal: base.total[index],
    });
  }
  return rows;
}

/** How much a function's own work changed, in the weights' unit. */
export function selfDelta(row: FunctionRow, weights: Weights): number {
  return row.self * weights.comparison - row.baseSelf * weights.baseline;
}

export function totalDelta(row: FunctionRow, weights: Weights): number {
  return row.total * weights.comparison - row.baseTotal * weights.baseline;
}

/** Sorted copy. Equal rows stay in name order, so the table does not jump between refreshes. */
export function sortRows(rows: readonly FunctionRow[], sort: Sort, weights: Weights): FunctionRow[] {
  const byName = (a: FunctionRow, b: FunctionRow): number => (a.name < b.name ? -1 : Number(a.name > b.name));
  const value = {
    name: () => 0,
    self: (row: FunctionRow) => row.self,
    total: (row: FunctionRow) => row.total,
    delta: (row: FunctionRow) => selfDelta(row, weights),
  }[sort.column];
  const sign = sort.descending ? -1 : 1;
  if (sort.column === 'name') return rows.toSorted((a, b) => sign * byName(a, b));
  return rows.toSorted((a, b) => sign * (value(a) - value(b)) || byName(a, b));
}

/** The functions whose own work grew and shrank most. */
export function biggestChanges(
  rows: readonly FunctionRow[],
  weights: Weights,
  count: number,
): { readonly grew: FunctionRow[]; readonly shrank: FunctionRow[] } {
  const sorted = sortRows(rows, { column: 'delta', descending: true }, weights);
  return {
    grew: sorted.slice(0, count).filter((row) => selfDelta(row, weights) > 0),
    shrank: sorted.slice(-count).toReversed().filter((row) => selfDelta(row, weights) < 0),
  };
}
