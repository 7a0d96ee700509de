import { describe, expect, test } from 'vitest';
import type { Service } from '../../src/types/api';
import { groupServices, resample, serviceDetail, shortImage, sparkPath } from '../../src/logic/services';
import { bucketTimes, fillBuckets, firstPoint, recordedPart, stackLayers, toPoints } from '../../src/logic/timeline';
import { busiest, moveEdge, moveSpan, previousSpan, quietest, spanBetween, suggestPair } from '../../src/logic/windows';

const WINDOW = { from: 0, until: 5000 };
const points = (...values: number[]) => values.map((value, i) => ({ atMs: (i + 1) * 1000, value }));

describe('buckets', () => {
  test('a point at t is what happened in the step that ends at t', () => {
    expect(bucketTimes(WINDOW, 1000)).toEqual([1000, 2000, 3000, 4000, 5000]);
    expect(fillBuckets([{ atMs: 2000, value: 7 }], WINDOW, 1000, 1000)).toEqual([0, 7, 0, 0, 0]);
  });

  test('nothing recorded is a gap before recording began and zero after', () => {
    expect(fillBuckets([{ atMs: 4000, value: 7 }], WINDOW, 1000, 3000)).toEqual([null, null, 0, 7, 0]);
    expect(fillBuckets([], WINDOW, 1000, null)).toEqual([null, null, null, null, null]);
  });

  test('points outside the window are left out', () => {
    expect(fillBuckets([{ atMs: 0, value: 1 }, { atMs: 6000, value: 1 }], WINDOW, 1000, 0)).toEqual([0, 0, 0, 0, 0]);
  });

  test('rates divide by the part that was recorded', () => {
    expect(firstPoint([{ labels: {}, points: points(1) }, { labels: {}, points: [] }])).toBe(1000);
    expect(recordedPart({ from: 0, until: 900_000 }, 840_000, 5000)).toEqual({ from: 835_000, until: 900_000 });
    expect(recordedPart(WINDOW, null, 1000)).toEqual(WINDOW);
    expect(recordedPart(WINDOW, 9000, 1000)).toEqual({ from: 4999, until: 5000 });
  });
});

describe('stacked layers', () => {
  const line = (label: string, ...values: (number | null)[]) => ({ label, values });

  test('biggest first, each on top of the one before, the rest in one', () => {
    const layers = stackLayers([line('small', 1, 1), line('big', 5, 5), line('tiny', 0, 1), line('mid', 2, 3)], 2);
    expect(layers.map((layer) => [layer.label, layer.stacked])).toEqual([
      ['big', [5, 5]],
      ['mid', [7, 8]],
      [null, [8, 10]],
    ]);
  });

  test('gaps stay gaps only where every layer has one', () => {
    expect(stackLayers([line('a', null, 4), line('b', null, null)], 6).map((layer) => layer.stacked)).toEqual([[null, 4], [null, 4]]);
    expect(toPoints([1, 2], [null, 4])).toEqual([{ atMs: 2, value: 4 }]);
  });
});

describe('windows', () => {
  test('drawn in either direction, to whole seconds, inside the range', () => {
    expect(spanBetween(3400, 1200, WINDOW)).toEqual({ from: 1000, until: 3000 });
    expect(spanBetween(-900, 99_000, WINDOW)).toEqual(WINDOW);
    expect(spanBetween(1000, 1200, WINDOW)).toBeNull();
  });

  test('moved and resized, never out of the range nor to nothing', () => {
    const span = { from: 1000, until: 3000 };
    expect(moveSpan(span, 9000, WINDOW)).toEqual({ from: 3000, until: 5000 });
    expect(moveSpan(span, -9000, WINDOW)).toEqual({ from: 0, until: 2000 });
    expect(moveEdge(span, 'from', 9000, WINDOW)).toEqual({ from: 2000, until: 3000 });
    expect(moveEdge(span, 'until', 0, WINDOW)).toEqual({ from: 1000, until: 2000 });
    expect(moveEdge(span, 'until', 4000, WINDOW)).toEqual({ from: 1000, until: 4000 });
  });

  test('the baseline suggested is the quietest time with samples, apart from the comparison', () => {
    const load = points(3, 0, 0, 2, 2, 9, 9, 1, 4);
    const spike = busiest(load, 1000, 2000);
    expect(spike).toEqual({ from: 5000, until: 7000 });
    expect(quietest(load, 1000, { from: 5000, until: 7000 })).toEqual({ from: 2000, until: 4000 });
    expect(quietest(points(0, 0, 5), 1000, { from: 2000, until: 3000 })).toBeNull();
    expect(previousSpan({ from: 1000, until: 3000 }, WINDOW)).toEqual({ from: 0, until: 1000 });
    expect(previousSpan({ from: 0, until: 3000 }, WINDOW)).toBeNull();
  });

  test('a pair worth comparing: busiest against quietest', () => {
    expect(suggestPair(points(2, 1, 2, 2, 8, 2), 1000)).toEqual({ comparison: { from: 4000, until: 5000 }, baseline: { from: 1000, until: 2000 } });
    expect(suggestPair([], 1000)).toBeNull();
    expect(suggestPair(points(4), 1000)).toBeNull();
  });
});

describe('services', () => {
  const service = (name: string, cpuSeconds: number, idle: boolean, labels = {}): Service => ({ name, kind: 'container', cpuSeconds, idle, labels, profileTypes: [] });
  const all = [service('b', 1, false), service('a', 5, false, { image: 'reg.example/team/web:1@sha256:abc123' }), service('z', 0, true)];

  test('busiest first, idle ones apart, found by name, kind or label', () => {
    const names = (typed: string): string[][] => {
      const { busy, idle } = groupServices(all, typed);
      return [busy.map((one) => one.name), idle.map((one) => one.name)];
    };
    expect(names('')).toEqual([['a', 'b'], ['z']]);
    expect(names(' WEB ')).toEqual([['a'], []]);
  });

  test('details', () => {
    expect(shortImage('reg.example:5000/team/web:1@sha256:abc123')).toBe('web:1');
    expect(serviceDetail(service('x', 1, false, { pod: 'p', namespace: 'n', image: 'i' }))).toBe('n/p');
  });

  test('sparklines keep a visible bar for every value and a gap for none', () => {
    expect(resample([1, 3, null, null, 5, null], 3)).toEqual([2, null, 5]);
    expect(sparkPath([0.001, null, 4], 30, 10, 4).match(/M/g)).toHaveLength(2);
  });
});
