import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { FlameColumns } from '../../src/logic/flame/columns';
import { changeSizes } from '../../src/logic/flame/diff';
import { frameAt, layout, panBy, type Viewport, wholeViewport, zoomAbout } from '../../src/logic/flame/layout';
import { place, rateWeights, shareWeights } from '../../src/logic/flame/placement';
import { diff, frameNamed, single } from './pictures';

const ONE = { baseline: 1, comparison: 1 };

function boxes(columns: FlameColumns, focus: string, widthPx: number): string[] {
  const placement = place(columns, 'both', ONE);
  const frame = focus === '' ? 0 : frameNamed(columns, focus);
  const list = layout(columns, placement, wholeViewport(placement, frame, widthPx));
  return Array.from(list.frame, (at, i) => `${columns.names[columns.name[at]]} ${list.x[i]}+${list.width[i]}`);
}

describe('layout', () => {
  const columns = single('a;b 3\na;c 2\na 1\nd 4');

  test('frames have the width of their value, children from the left, own time at the right', () => {
    expect(boxes(columns, '', 100)).toEqual(['total 0+100', 'a 0+60', 'b 0+30', 'c 30+20', 'd 60+40']);
  });

  test('a focused frame and its callers fill the width; what lies beside them is not drawn', () => {
    expect(boxes(columns, 'a', 60)).toEqual(['total 0+60', 'a 0+60', 'b 0+30', 'c 30+20']);
  });

  test('frames thinner than a pixel leave one sliver per pixel and row, for the weightiest of them', () => {
    const many = single(Array.from({ length: 1000 }, (_, i) => `f${i} ${i === 500 ? 2 : 1}`).join('\n'));
    const placement = place(many, 'both', ONE);
    const list = layout(many, placement, wholeViewport(placement, 0, 10));
    const slivers = [...list.frame].slice(1).map((frame) => many.names[many.name[frame]]);
    expect(slivers).toHaveLength(10);
    expect(slivers).toContain('f500');
  });

  test('rows out of sight are not listed, however deep the graph', () => {
    const deep = single(`${Array.from({ length: 4000 }, (_, i) => `f${i}`).join(';')} 1`);
    const placement = place(deep, 'both', ONE);
    const list = layout(deep, placement, { ...wholeViewport(placement, 0, 100), firstRow: 3990, rows: 5 });
    expect([...list.frame].map((frame) => deep.level[frame])).toEqual([3990, 3991, 3992, 3993, 3994]);
  });

  test('a sliver of a diff stands for the largest change it hides', () => {
    const columns = diff('big;calm 5000 5000\nbig;shrank 8 0\nbig;tiny 1 1\nrest 900000 900000');
    const weights = { baseline: 1, comparison: 1 };
    const placement = place(columns, 'both', weights);
    const list = layout(columns, placement, wholeViewport(placement, 0, 50), changeSizes(columns, weights));
    expect([...list.frame].map((frame) => columns.names[columns.name[frame]])).toEqual(['total', 'big', 'rest']);
    const inside = layout(columns, placement, { ...wholeViewport(placement, frameNamed(columns, 'big'), 0.5), widthPx: 0.9 }, changeSizes(columns, weights));
    expect([...inside.frame].map((frame) => columns.names[columns.name[frame]])).toContain('total');
  });
});

test('what is drawn at a point is what is found there', () => {
  const shape = fc.array(fc.tuple(fc.constantFrom('a', 'b', 'a;c', 'a;d', 'b;e', 'b;e;f'), fc.integer({ min: 1, max: 50 })), { minLength: 1, maxLength: 6 });
  fc.assert(
    fc.property(shape, fc.integer({ min: 50, max: 400 }), (lines, widthPx) => {
      const columns = single([...new Map(lines)].map(([stack, value]) => `${stack} ${value}`).join('\n'));
      const placement = place(columns, 'both', ONE);
      const view = wholeViewport(placement, 0, widthPx);
      const list = layout(columns, placement, view);
      for (let i = 0; i < list.count; i++) {
        if (list.width[i] < 2) continue;
        const point = { x: list.x[i] + list.width[i] / 2, row: columns.level[list.frame[i]] };
        expect(frameAt(columns, placement, view, point)).toBe(list.frame[i]);
      }
      expect(frameAt(columns, placement, view, { x: 1, row: columns.depth })).toBe(-1);
    }),
  );
});

describe('placement of a diff', () => {
  const columns = diff('same 10 20\nnew 0 20\ngone 10 0');

  test('windows of different length are compared per second', () => {
    const { width } = place(columns, 'both', rateWeights({ baseline: 10, comparison: 20 }, 1));
    const of = (name: string): number => width[frameNamed(columns, name)];
    expect([of('same'), of('new'), of('gone')]).toEqual([0.5, 0.25, 0.25]);
  });

  test.each([
    ['baseline', [0.5, 0, 0.5]],
    ['comparison', [0.5, 0.5, 0]],
  ] as const)('width by %s alone', (basis, expected) => {
    const { width } = place(columns, basis, shareWeights(columns));
    expect(['same', 'new', 'gone'].map((name) => width[frameNamed(columns, name)])).toEqual(expected);
  });

  test('an empty side gives no NaN', () => {
    const empty = diff('a 5 0');
    const { width } = place(empty, 'comparison', shareWeights(empty));
    expect([...width].every((value) => Number.isFinite(value))).toBe(true);
  });
});

describe('zoom and pan stay inside the focus', () => {
  const columns = single('a 5\nb 5');
  const placement = place(columns, 'both', ONE);
  const whole = wholeViewport(placement, 0, 100);

  test('zooming keeps the frame under the pointer where it is', () => {
    const view = zoomAbout(placement, whole, 0.25, 2);
    expect([view.from, view.until]).toEqual([0.125, 0.625]);
  });

  test('zooming out ends at the whole, panning at the edge', () => {
    expect(zoomAbout(placement, { ...whole, from: 0.4, until: 0.6 }, 0.5, 0.01)).toMatchObject({ from: 0, until: 1 });
    const near: Viewport = { ...whole, from: 0.9, until: 1 };
    expect(panBy(placement, near, 500)).toMatchObject({ from: 0.9 });
    expect(panBy(placement, near, -10_000)).toMatchObject({ from: 0 });
  });
});
