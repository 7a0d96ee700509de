// The flame graph as columns in depth-first order.
//
//   index     0      1      2      3      4
//   frame   total    a      b      c      d          level 0   [total            ]
//   level     0      1      2      2      1                1   [a         ][d    ]
//   skip      5      4      3      4      5                2     [b ][c  ]
//
// `skip[i]` is the index after i's subtree: walking past a frame that is out of sight costs one step, so drawing costs
// what is visible, not what exists. On the wire each level is a flat array, per frame `[gap, total, self, name]`, in a
// diff `[gapL, totalL, selfL, gapR, totalR, selfR, name]`; a gap is counted from the end of the frame to its left.
import type { Flamebearer } from '../../types/api';

export interface FlameColumns {
  readonly names: readonly string[];
  readonly count: number;
  /** Levels that hold frames; 1 when there is only the root. */
  readonly depth: number;
  readonly name: Uint32Array;
  readonly level: Uint32Array;
  /** Index of the caller; the root's is itself. */
  readonly parent: Uint32Array;
  readonly skip: Uint32Array;
  /** Values of the only side, or of the comparison. */
  readonly total: Float64Array;
  readonly self: Float64Array;
  /** Values of the baseline; null when this is not a diff. */
  readonly base: Side | null;
}

export interface Side {
  readonly total: Float64Array;
  readonly self: Float64Array;
}

/** The server's flame graph breaks its own format. */
export class FlameFormatError extends Error {}

/** Frames of the wire, level by level, before they are put in depth-first order. */
interface WireFrames {
  readonly name: number[];
  readonly level: number[];
  readonly parent: number[];
  /** Left edge and width in both sides' values together, in which siblings never overlap. */
  readonly left: number[];
  readonly width: number[];
  readonly values: number[][];
}

export function emptyColumns(): FlameColumns {
  return singleColumns({ names: ['total'], levels: [[0, 0, 0, 0]] });
}

/** @throws FlameFormatError when a level, a name index or the nesting is malformed. */
export function singleColumns(wire: Flamebearer): FlameColumns {
  return toColumns(wire, 4);
}

/** @throws FlameFormatError when a level, a name index or the nesting is malformed. */
export function diffColumns(wire: Flamebearer): FlameColumns {
  return toColumns(wire, 7);
}

function toColumns(wire: Flamebearer, arity: 4 | 7): FlameColumns {
  const frames: WireFrames = { name: [], level: [], parent: [], left: [], width: [], values: [] };
  let previous = { from: 0, until: 0 };
  for (let level = 0; level < wire.levels.length; level++) {
    const from = frames.name.length;
    readLevel(wire, level, arity, frames, previous);
    previous = { from, until: frames.name.length };
    if (from === previous.until) break;
  }
  if (frames.name.length === 0) throw new FlameFormatError('the flame graph has no root');
  return depthFirst(frames, wire.names, arity === 7);
}

function readLevel(
  wire: Flamebearer,
  level: number,
  arity: 4 | 7,
  out: WireFrames,
  above: { readonly from: number; readonly until: number },
): void {
  const values = wire.levels[level];
  if (values.length % arity !== 0) throw new FlameFormatError(`level ${level} does not hold whole frames`);
  if (level === 0 && values.length !== arity) throw new FlameFormatError('level 0 must hold exactly the root');
  let end = 0;
  let parent = above.from;
  for (let at = 0; at < values.length; at += arity) {
    const frame = readFrame(values, at, arity);
    const left = end + frame.gap;
    end = left + frame.width;
    const name = values[at + arity - 1];
    if (!(name in wire.names)) throw new FlameFormatError(`level ${level} names function ${name}, which is not listed`);
    if (level > 0) {
      if (frame.width === 0) continue;
      while (parent < above.until && out.left[parent] + out.width[parent] < end) parent++;
      if (parent >= above.until || out.left[parent] > left) {
        throw new FlameFormatError(`level ${level} has a frame outside every frame of level ${level - 1}`);
      }
    }
    out.name.push(name);
    out.level.push(level);
    out.parent.push(level === 0 ? 0 : parent);
    out.left.push(left);
    out.width.push(frame.width);
    out.values.push(frame.sides);
  }
}

/** One frame's gap and width over both sides; `sides` is `[total, self]`, then the baseline's. */
function readFrame(values: readonly number[], at: number, arity: 4 | 7): { gap: number; width: number; sides: number[] } {
  for (let i = at; i < at + arity; i++) {
    if (!(values[i] >= 0)) throw new FlameFormatError(`a frame holds ${values[i]}, which is not a count`);
  }
  const [gap, total, self] = [values[at], values[at + 1], values[at + 2]];
  if (arity === 4) return { gap, width: total, sides: [total, self] };
  const [rightGap, rightTotal, rightSelf] = [values[at + 3], values[at + 4], values[at + 5]];
  return { gap: gap + rightGap, width: total + rightTotal, sides: [rightTotal, rightSelf, total, self] };
}

function depthFirst(frames: WireFrames, names: readonly string[], isDiff: boolean): FlameColumns {
  const count = frames.name.length;
  const size = new Uint32Array(count).fill(1);
  for (let i = count - 1; i > 0; i--) size[frames.parent[i]] += size[i];

  const columns = {
    names,
    count,
    depth: frames.level[count - 1] + 1,
    name: new Uint32Array(count),
    level: new Uint32Array(count),
    parent: new Uint32Array(count),
    skip: new Uint32Array(count),
    total: new Float64Array(count),
    self: new Float64Array(count),
    base: isDiff ? { total: new Float64Array(count), self: new Float64Array(count) } : null,
  };
  const place = new Uint32Array(count);
  const nextChild = new Uint32Array(count);
  for (let i = 0; i < count; i++) {
    const caller = frames.parent[i];
    const at = i === 0 ? 0 : nextChild[caller];
    if (i > 0) nextChild[caller] += size[i];
    place[i] = at;
    nextChild[i] = at + 1;
    columns.name[at] = frames.name[i];
    columns.level[at] = frames.level[i];
    columns.parent[at] = place[caller];
    columns.skip[at] = at + size[i];
    const [total, self, baseTotal, baseSelf] = frames.values[i];
    columns.total[at] = total;
    columns.self[at] = self;
    if (columns.base) {
      columns.base.total[at] = baseTotal;
      columns.base.self[at] = baseSelf;
    }
  }
  return columns;
}
