import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { diffColumns, FlameFormatError, singleColumns } from '../../src/logic/flame/columns';
import { toWire } from '../mock/wire';
import { diff, drawn, fromWire, single } from './pictures';

describe('decoding', () => {
  test("Pyroscope's worked single example", () => {
    const columns = singleColumns({
      names: ['total', 'd', 'a', 'c', 'b'],
      levels: [[0, 10, 0, 0], [0, 6, 1, 2, 0, 4, 4, 1], [1, 3, 3, 4, 0, 2, 2, 3]],
    });
    expect(drawn(columns)).toEqual(['total 10/0', '.a 6/1', '..b 3/3', '..c 2/2', '.d 4/4']);
    expect([...columns.skip]).toEqual([5, 4, 3, 4, 5]);
    expect([...columns.parent]).toEqual([0, 0, 1, 1, 0]);
  });

  test("Pyroscope's worked diff example: left is the baseline", () => {
    const columns = diffColumns({
      names: ['total', 'a', 'c', 'b'],
      levels: [[0, 4, 0, 0, 3, 0, 0], [0, 4, 1, 0, 3, 0, 1], [1, 3, 3, 0, 1, 1, 3, 0, 0, 0, 0, 2, 2, 2]],
    });
    expect(drawn(columns)).toEqual(['total 3/0 a=4/0', '.a 3/0 a=4/1', '..b 1/1 a=3/3', '..c 2/2 a=0/0']);
  });

  test('an empty graph is its root', () => {
    expect(drawn(singleColumns({ names: ['total'], levels: [[0, 0, 0, 0]] }))).toEqual(['total 0/0']);
  });

  test('values above 2^32 stay exact', () => {
    expect(single('a;b 9007199254740001').total[2]).toBe(9007199254740001);
  });
});

describe('malformed graphs are refused by name, not drawn wrongly', () => {
  const cases: [string, number[][], RegExp][] = [
    ['no levels', [], /no root/],
    ['half a frame', [[0, 1, 0]], /whole frames/],
    ['two roots', [[0, 1, 1, 0, 0, 1, 1, 0]], /exactly the root/],
    ['a name that is not listed', [[0, 1, 1, 7]], /function 7/],
    ['a negative value', [[0, -1, 0, 0]], /not a count/],
    ['not a number', [[0, Number.NaN, 0, 0]], /not a count/],
    ['a child wider than its caller', [[0, 5, 0, 0], [0, 6, 6, 0]], /outside every frame/],
    ['a child across two callers', [[0, 4, 0, 0], [0, 2, 0, 0, 0, 2, 0, 0], [1, 2, 2, 0]], /outside every frame/],
  ];
  test.each(cases)('%s', (_, levels, message) => {
    expect(() => singleColumns({ names: ['total'], levels })).toThrow(FlameFormatError);
    expect(() => singleColumns({ names: ['total'], levels })).toThrow(message);
  });
});

const stacks = fc.dictionary(
  fc.array(fc.constantFrom('a', 'b', 'c', 'd'), { minLength: 1, maxLength: 6 }).map((names) => names.join(';')),
  fc.integer({ min: 1, max: 1000 }),
  { minKeys: 1, maxKeys: 30 },
);

test('decoding agrees with the stacks a graph was made of', () => {
  fc.assert(
    fc.property(stacks, stacks, (baseline, comparison) => {
      const sides = [new Map(Object.entries(baseline)), new Map(Object.entries(comparison))];
      const columns = diffColumns(fromWire(toWire(sides)));
      const path = (frame: number): string =>
        frame === 0 ? '' : [path(columns.parent[frame]), columns.names[columns.name[frame]]].filter(Boolean).join(';');
      for (let i = 1; i < columns.count; i++) {
        const stack = path(i);
        const total = (side: Map<string, number>): number =>
          [...side].filter(([other]) => other === stack || other.startsWith(`${stack};`)).reduce((sum, [, value]) => sum + value, 0);
        expect([columns.base?.total[i], columns.total[i]]).toEqual(sides.map(total));
        expect([columns.base?.self[i], columns.self[i]]).toEqual(sides.map((side) => side.get(stack) ?? 0));
        expect(columns.parent[i]).toBeLessThan(i);
        expect(columns.skip[i]).toBeLessThanOrEqual(columns.skip[columns.parent[i]]);
        expect(columns.level[i]).toBe(columns.level[columns.parent[i]] + 1);
      }
      expect(new Set(Array.from({ length: columns.count }, (_, i) => path(i))).size).toBe(columns.count);
    }),
    { numRuns: 150 },
  );
});

test('a diff keeps code that only one side has', () => {
  expect(drawn(diff('a;old 2 0\na;new 0 5'))).toEqual(['total 5/0 a=2/0', '.a 5/0 a=2/0', '..new 5/5 a=0/0', '..old 0/0 a=2/2']);
});
