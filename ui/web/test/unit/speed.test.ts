// A graph of a hundred thousand frames stays quick: what is off screen or under a pixel must cost nothing. The limits
// are several times what a slow machine needs, so that only a change of order fails.
import { expect, test } from 'vitest';
import { singleColumns } from '../../src/logic/flame/columns';
import { functionRows } from '../../src/logic/flame/functions';
import { layout, wholeViewport } from '../../src/logic/flame/layout';
import { place } from '../../src/logic/flame/placement';
import { findMatches } from '../../src/logic/flame/search';
import type { Flamebearer } from '../../src/types/api';

/** Ten callees per frame, five levels deep; every frame has some time of its own. */
function bigGraph(): Flamebearer {
  const names = ['total', ...Array.from({ length: 8000 }, (_, i) => `crate::module${i % 97}::function${i}`)];
  const levels: number[][] = [];
  const leaf = 3;
  const totalAt = (level: number): number => (level === 5 ? leaf : 1 + 10 * totalAt(level + 1));
  for (let level = 0; level <= 5; level++) {
    const values: number[] = [];
    for (let i = 0; i < 10 ** level; i++) {
      const firstOfParent = i % 10 === 0 && level > 0;
      // The gap before a first callee is what its callers keep for themselves at their right end.
      const gap = firstOfParent && i > 0 ? trailing(i) : 0;
      values.push(gap, totalAt(level), level === 5 ? leaf : 1, 1 + ((i * 31 + level) % 8000));
    }
    levels.push(values);
  }
  return { names, levels };
}

/** Own time of all callers that end where the callee with this index begins: one unit each. */
function trailing(index: number): number {
  let gap = 0;
  for (let i = index; i % 10 === 0 && i > 0; i /= 10) gap++;
  return gap;
}

function timed<T>(work: () => T): { readonly result: T; readonly ms: number } {
  const start = performance.now();
  const result = work();
  return { result, ms: performance.now() - start };
}

test('100,000 frames', () => {
  const wire = bigGraph();
  const decoded = timed(() => singleColumns(wire));
  const columns = decoded.result;
  expect(columns.count).toBe(111_111);
  const placement = place(columns, 'both', { baseline: 1, comparison: 1 });
  const drawn = timed(() => layout(columns, placement, wholeViewport(placement, 0, 1600)));
  expect(drawn.result.count).toBeLessThan(1600 * 6);
  const table = timed(() => functionRows(columns));
  const searched = timed(() => findMatches(columns, (name) => name.includes('module42')));
  expect(searched.result.functions).toBeGreaterThan(50);
  console.log({ decode: decoded.ms, layout: drawn.ms, table: table.ms, search: searched.ms });
  expect(decoded.ms).toBeLessThan(500);
  expect(drawn.ms).toBeLessThan(100);
  expect(table.ms).toBeLessThan(150);
  expect(searched.ms).toBeLessThan(150);
});
