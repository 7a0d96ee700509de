import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { contrast, inkOn, nameColours, packageOf, STATE_FRAMES } from '../../src/logic/colour';
import { formatAmount, formatCores, formatDelta, formatSeconds, formatShare, measureOf, toQuantity } from '../../src/logic/measure';
import { shareComplete, wantsALook } from '../../src/logic/stacks';
import { readSelector, valueOf, withValue, writeSelector } from '../../src/logic/selector';
import { chartWindow, isRelative, readTimePoint, resolveRange, stepFor, writeTimePoint } from '../../src/logic/time';
import { DEFAULT_VIEW, readView, writeView } from '../../src/logic/url';
import type { Matcher, View } from '../../src/types/view';

const matcher: fc.Arbitrary<Matcher> = fc.record({
  name: fc.oneof(fc.stringMatching(/^[a-z_]{1,8}$/), fc.string({ minLength: 1 })),
  op: fc.constantFrom('=' as const, '!=' as const, '=~' as const, '!~' as const),
  value: fc.string({ unit: 'grapheme' }),
});

describe('completeness of stacks', () => {
  test('100 % means all', () => {
    expect(shareComplete({ stacks: 1000, complete: 1000 })).toBe('100 %');
    expect(shareComplete({ stacks: 100_000, complete: 99_999 })).toBe('99.9 %');
    expect(shareComplete({ stacks: 3, complete: 0 })).toBe('0.0 %');
    expect(shareComplete({ stacks: 0, complete: 0 })).toBeNull();
  });

  test('a share below 99 % wants a look', () => {
    expect([98, 99].map((complete) => wantsALook({ stacks: 100, complete }))).toEqual([true, false]);
  });
});

describe('selectors', () => {
  test('reading undoes writing, whatever the values hold', () => {
    fc.assert(
      fc.property(fc.array(matcher, { maxLength: 5 }), (matchers) => {
        expect(readSelector(writeSelector(matchers))).toEqual({ matchers });
      }),
    );
  });

  test('braces and a trailing comma are optional', () => {
    const expected = { matchers: [{ name: 'pod', op: '=~', value: 'web.*' }] };
    for (const text of ['pod=~"web.*"', '{pod=~"web.*"}', ' { pod =~ "web.*" , } ']) expect(readSelector(text)).toEqual(expected);
    expect(readSelector('')).toEqual({ matchers: [] });
  });

  test.each([
    ['pod', 3, '=, !=, =~ or !~'],
    ['pod=web', 4, 'double quotes'],
    ['pod="web', 8, 'no closing quote'],
    ['{pod="a"', 8, 'closing brace'],
    ['a="1" b="2"', 6, 'comma'],
    ['="x"', 0, 'label name'],
    ['{} x', 3, 'unexpected text'],
  ])('%s is wrong at %d', (text, at, message) => {
    expect(readSelector(text)).toEqual({ error: { at, message: expect.stringContaining(message) } });
  });

  test('pinning a label keeps the other matchers', () => {
    const pinned = withValue([{ name: 'pod', op: '=~', value: 'a' }], 'service_name', 'web');
    expect(writeSelector(pinned)).toBe('{service_name="web", pod=~"a"}');
    expect(valueOf(pinned, 'service_name')).toBe('web');
    expect(withValue(pinned, 'service_name', null)).toHaveLength(1);
  });
});

describe('the URL', () => {
  const span = fc.tuple(fc.nat(1e9), fc.integer({ min: 1, max: 1e6 })).map(([from, length]) => ({ from, until: from + length }));
  const range = fc.oneof(
    span.map((one) => ({ from: { at: one.from }, until: { at: one.until } })),
    fc.integer({ min: 1, max: 5000 }).map((minutes) => ({ from: { ago: minutes * 60_000 }, until: { ago: 0 } })),
  );
  const view: fc.Arbitrary<View> = fc
    .record({
      range,
      profileType: fc.constantFrom(DEFAULT_VIEW.profileType, 'memory:alloc_space:bytes:space:bytes', 'wall:wall:nanoseconds:wall:nanoseconds:delta'),
      matchers: fc.array(matcher, { maxLength: 3 }),
      selected: fc.option(span),
      baseline: fc.option(span),
      quantity: fc.constantFrom('rate' as const, 'amount' as const, 'share' as const),
      basis: fc.constantFrom('both' as const, 'baseline' as const, 'comparison' as const),
      search: fc.string({ maxLength: 40 }),
      focus: fc.constantFrom('', '0123456789abcdef'),
      sort: fc.record({ column: fc.constantFrom('name' as const, 'self' as const, 'total' as const, 'delta' as const), descending: fc.boolean() }),
      panel: fc.constantFrom('both' as const, 'graph' as const, 'table' as const),
    })
    .map((one) => (one.selected ? one : Object.assign(one, { baseline: null })));

  test('every field survives the way through a link', () => {
    fc.assert(
      fc.property(view, (one) => {
        expect(readView(writeView(one))).toEqual(one);
      }),
    );
  });

  test('the default view is the bare address', () => {
    expect(writeView(DEFAULT_VIEW)).toBe('');
    expect(readView('')).toEqual(DEFAULT_VIEW);
  });

  test('what a link says wrongly is dropped', () => {
    fc.assert(fc.property(fc.string(), (text) => void readView(`?${text}`)));
    expect(readView('?v=1&from=5&until=4&b=9-3&a=1-2&unit=x&width=y&sort=z&panel=q&q={bad&focus=zz&type=cpu')).toEqual(DEFAULT_VIEW);
    expect(readView('?v=2&from=now-1h')).toEqual(DEFAULT_VIEW);
  });

  test('a baseline without a comparison is no diff', () => {
    expect(readView('?v=1&a=1-2').baseline).toBeNull();
  });
});

describe('time', () => {
  test('relative and absolute points', () => {
    for (const text of ['now', 'now-15m', 'now-36h', 'now-7d', 'now-90s', '1700000000000']) {
      const point = readTimePoint(text);
      expect(point && writeTimePoint(point)).toBe(text);
    }
    for (const text of ['', 'now-', 'now-5y', 'yesterday', '-5', '1e9']) expect(readTimePoint(text)).toBeNull();
  });

  test('a relative range reaches to this second, its timeline to the last step that is stored', () => {
    const now = 1_700_000_003_456;
    const range = resolveRange(DEFAULT_VIEW.range, now);
    expect(range).toEqual({ from: 1_699_999_103_000, until: 1_700_000_003_000 });
    expect(chartWindow(range, now)).toEqual({ from: 1_699_999_100_000, until: 1_700_000_000_000 });
    expect(chartWindow({ from: now - 3000, until: now }, now).until).toBeGreaterThan(now - 4000);
    expect(isRelative(DEFAULT_VIEW.range)).toBe(true);
  });

  test('about two hundred buckets, whatever the range', () => {
    for (const minutes of [5, 15, 60, 360, 1440, 10_080]) {
      const buckets = (minutes * 60_000) / stepFor(minutes * 60_000);
      expect(buckets).toBeGreaterThan(90);
      expect(buckets).toBeLessThanOrEqual(300);
    }
  });
});

describe('values as people read them', () => {
  const cores = { measure: 'cpu', quantity: 'rate' } as const;
  test.each([
    [formatCores(0), '0 cores'],
    [formatCores(0.0001), '<0.001 cores'],
    [formatCores(0.42), '0.420 cores'],
    [formatCores(12.34), '12.3 cores'],
    [formatShare(0.0823), '8.23 %'],
    [formatShare(0.099_99), '10.0 %'],
    [formatShare(1), '100 %'],
    [formatShare(0.00001), '<0.01 %'],
    [formatSeconds(0.0042), '4.20 ms'],
    [formatSeconds(184.2), '3 min 04 s'],
    [formatSeconds(9000), '2 h 30 min'],
    [formatAmount(3_500_000, 'bytes'), '3.34 MiB'],
    [formatAmount(1500, 'count'), '1.50 k'],
    [formatDelta(0.42, cores), '▲ +0.420 cores'],
    [formatDelta(-0.1, cores), '▼ −0.100 cores'],
    [formatDelta(0, cores), '= no change'],
    [formatDelta(0.021, { measure: 'cpu', quantity: 'share' }), '▲ +2.10 pp'],
  ])('%s', (actual, expected) => {
    expect(actual).toBe(expected);
  });

  test('never raw nanoseconds', () => {
    const scale = { measure: measureOf('process_cpu:cpu:nanoseconds:cpu:nanoseconds'), seconds: 10, whole: 4e9 };
    expect(toQuantity(2e9, { ...scale, quantity: 'rate' })).toBeCloseTo(0.2);
    expect(toQuantity(2e9, { ...scale, quantity: 'amount' })).toBe(2);
    expect(toQuantity(2e9, { ...scale, quantity: 'share' })).toBe(0.5);
    expect(toQuantity(5, { measure: 'count', quantity: 'share', seconds: 0, whole: 0 })).toBe(0);
    expect(measureOf('memory:inuse_space:bytes:space:bytes')).toBe('bytes');
  });
});

describe('colours', () => {
  test.each([
    ['github.com/acme/api.(*Server).ServeHTTP', 'github.com/acme/api'],
    ['net/http.(*conn).serve', 'net/http'],
    ['runtime.mallocgc', 'runtime'],
    ['tokio::runtime::task::harness::poll', 'tokio::runtime'],
    ['<alloc::vec::Vec<T> as core::clone::Clone>::clone', 'alloc::vec'],
    ['org.apache.lucene.Search.run', 'org.apache'],
    ['tcp_sendmsg_locked', 'tcp'],
    ['__x64_sys_read', 'x64'],
    ['[unknown]', '[unknown]'],
    ['', ''],
  ])('%s is of %s', (name, expected) => {
    expect(packageOf(name)).toBe(expected);
  });

  test('functions of a package share a colour, and names without one are set apart', () => {
    const [a, b, c] = nameColours(['net/http.A', 'net/http.(*B).C', 'ExecProcNode'], 16, 4);
    expect(a).toBe(b);
    expect(a).toBeLessThan(16);
    expect(c).toBeGreaterThanOrEqual(16);
    fc.assert(
      fc.property(fc.string(), (name) => {
        expect(nameColours([name], 16, 4)[0]).toBeLessThan(20 + STATE_FRAMES.length);
      }),
    );
  });

  test('waiting for a CPU and waiting for anything else have colours that nothing else has', () => {
    expect([...nameColours(['[runnable]', '[blocked]', '[no stack]', 'blocked'], 16, 4)].map((at) => at >= 20)).toEqual(
      [true, true, false, false],
    );
  });

  test('ink can be read on every fill', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 0xffffff }), (rgb) => {
        const fill = `#${rgb.toString(16).padStart(6, '0')}`;
        expect(contrast(fill, inkOn(fill))).toBeGreaterThanOrEqual(4.5);
      }),
    );
  });
});
