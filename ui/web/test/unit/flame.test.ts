import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { diffSteps, frameChange } from '../../src/logic/flame/diff';
import { biggestChanges, functionRows, selfDelta, sortRows } from '../../src/logic/flame/functions';
import { place } from '../../src/logic/flame/placement';
import { exactly, findMatches, neighbourMatch, readSearch } from '../../src/logic/flame/search';
import { findStack, stackId } from '../../src/logic/flame/stack-id';
import { move } from '../../src/logic/flame/walk';
import { diff, frameNamed, single } from './pictures';

const ONE = { baseline: 1, comparison: 1 };

describe('function table', () => {
  test('recursion adds to a total once', () => {
    const rows = functionRows(single('a;b;a;b 4\na;c 1'));
    expect(rows.map((row) => [row.name, row.self, row.total]).toSorted()).toEqual([
      ['a', 0, 5],
      ['b', 4, 4],
      ['c', 1, 1],
    ]);
  });

  test('self values add up to the whole, totals never exceed it', () => {
    const stack = fc.array(fc.constantFrom('a', 'b', 'c'), { minLength: 1, maxLength: 5 }).map((names) => names.join(';'));
    fc.assert(
      fc.property(fc.dictionary(stack, fc.integer({ min: 1, max: 99 }), { minKeys: 1 }), (stacks) => {
        const columns = single(Object.entries(stacks).map(([name, value]) => `${name} ${value}`).join('\n'));
        const rows = functionRows(columns);
        expect(rows.reduce((sum, row) => sum + row.self, 0)).toBe(columns.total[0]);
        expect(Math.max(...rows.map((row) => row.total))).toBeLessThanOrEqual(columns.total[0]);
      }),
    );
  });

  test('sorts by each column both ways, equal rows by name', () => {
    const rows = functionRows(diff('b 5 5\na 5 9\nc 8 1'));
    const names = (column: 'name' | 'self' | 'delta', descending: boolean): string =>
      sortRows(rows, { column, descending }, ONE).map((row) => row.name).join('');
    expect([names('name', false), names('self', true), names('delta', true), names('delta', false)]).toEqual(['abc', 'abc', 'abc', 'cba']);
    expect(sortRows(functionRows(single('z 1\ny 1\nx 1')), { column: 'self', descending: true }, ONE).map((row) => row.name).join('')).toBe('xyz');
  });

  test('the biggest changes are told per second, so a longer window is no growth', () => {
    const rows = functionRows(diff('steady 10 20\ngrew 10 60\nshrank 10 4'));
    const weights = { baseline: 0.1, comparison: 0.05 };
    const { grew, shrank } = biggestChanges(rows, weights, 3);
    expect(grew.map((row) => row.name)).toEqual(['grew']);
    expect(shrank.map((row) => row.name)).toEqual(['shrank']);
    expect(selfDelta(grew[0], weights)).toBeCloseTo(2);
  });
});

describe('change of a frame', () => {
  const certain = { weights: ONE, samplesPerValue: 0 };
  test.each([
    [100, 100, 'same', 0],
    [100, 102, 'same', 0],
    [100, 115, 'grew', 1],
    [100, 150, 'grew', 2],
    [100, 200, 'grew', 3],
    [100, 900, 'grew', 4],
    [900, 100, 'shrank', -4],
    [0, 5, 'new', 4],
    [5, 0, 'gone', -4],
    [0, 0, 'same', 0],
  ] as const)('%d → %d is %s, step %d', (before, after, kind, step) => {
    expect(frameChange(before, after, certain)).toMatchObject({ kind, step });
  });

  test('a change within two standard errors of the sample counts is neutral', () => {
    const sampled = { weights: ONE, samplesPerValue: 1 };
    expect(frameChange(10, 16, sampled).kind).toBe('same');
    expect(frameChange(1000, 1600, sampled).kind).toBe('grew');
    expect(frameChange(0, 3, sampled).kind).toBe('same');
    expect(frameChange(0, 5, sampled).kind).toBe('new');
  });

  test('uniform growth shows in cores, where a comparison of shares would see nothing', () => {
    const columns = diff('a 100 200\nb 300 600');
    expect([...diffSteps(columns, { weights: ONE, samplesPerValue: 0 })]).toEqual([3, 3, 3]);
    const shares = { baseline: 1 / 400, comparison: 1 / 800 };
    expect([...diffSteps(columns, { weights: shares, samplesPerValue: 0 })]).toEqual([0, 0, 0]);
  });
});

describe('search', () => {
  const found = (text: string, names: readonly string[]): string[] => {
    const search = readSearch(text);
    return 'test' in search ? names.filter(search.test) : [search.error];
  };

  test('plain text, smart case, regular expressions', () => {
    expect(found('malloc', ['Malloc', 'free'])).toEqual(['Malloc']);
    expect(found('Malloc', ['Malloc', 'malloc'])).toEqual(['Malloc']);
    expect(found('^a.*z$', ['abz', 'abzz', 'bz'])).toEqual(['abz', 'abzz']);
    expect(found('std::vec', ['std::vec::push'])).toEqual(['std::vec::push']);
  });

  test('an invalid expression says why', () => {
    expect(readSearch('a(')).toEqual({ error: expect.stringMatching(/group/i) });
  });

  test('exactly finds one name, whatever it contains', () => {
    const names = ['a.(*T[int]).M$1', 'a.(*T[int]).M$12', 'axb'];
    expect(names.map((name) => found(exactly(name), names))).toEqual(names.map((name) => [name]));
  });

  test('value under matches counts nested matches once', () => {
    const columns = single('a;m;b;m 3\nm 2\nc 5');
    const matches = findMatches(columns, (name) => name === 'm');
    expect([matches.functions, matches.frames.length, matches.value]).toEqual([1, 3, 5]);
    const first = matches.frames[0];
    expect(neighbourMatch(matches, 0, 1)).toBe(first);
    expect(neighbourMatch(matches, first, -1)).toBe(matches.frames[2]);
  });
});

describe('stack ids and moves', () => {
  const columns = single('a;b;c 3\na;d 9\ne;b;c 1');
  const placement = place(columns, 'both', ONE);

  test('an id finds its frame again, also in other data', () => {
    for (let i = 0; i < columns.count; i++) expect(findStack(columns, stackId(columns, i))).toBe(i);
    const newer = single('0;x 5\na;b;c 1\ne;b;c 70');
    const found = findStack(newer, stackId(columns, frameNamed(columns, 'c')));
    expect(newer.names[newer.name[newer.parent[newer.parent[found]]]]).toBe('a');
    expect(findStack(newer, stackId(columns, frameNamed(columns, 'd')))).toBe(-1);
  });

  test('arrow keys lead to caller, largest callee and neighbours, and stop at the ends', () => {
    const go = (from: string, step: Parameters<typeof move>[3]): string =>
      columns.names[columns.name[move(columns, placement, frameNamed(columns, from), step)]];
    expect(go('a', 'callee')).toBe('d');
    expect(go('d', 'previous')).toBe('b');
    expect(go('b', 'previous')).toBe('b');
    expect(go('b', 'last')).toBe('d');
    expect(go('d', 'callee')).toBe('d');
    expect(go('d', 'caller')).toBe('a');
    expect(move(columns, placement, 0, 'caller')).toBe(0);
  });
});
