// Flame graphs drawn as text, for fixtures: one stack per line, root first, then its value; a second value is the
// comparison's side of a diff.
//
//   a;b 3
//   a   1
import { diffColumns, type FlameColumns, singleColumns } from '../../src/logic/flame/columns';
import type { Flamebearer } from '../../src/types/api';
import { toWire } from '../mock/wire';

function parse(picture: string): { stack: string; values: number[] }[] {
  return picture
    .trim()
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .map(([stack, ...values]) => ({ stack, values: values.map(Number) }));
}

function side(lines: ReturnType<typeof parse>, at: number): Map<string, number> {
  return new Map(lines.filter((line) => line.values[at] > 0).map((line) => [line.stack, line.values[at]]));
}

export function fromWire(wire: ReturnType<typeof toWire>): Flamebearer {
  return { names: wire.names, levels: wire.levels.map((level) => level.values.map(Number)) };
}

export function single(picture: string): FlameColumns {
  return singleColumns(fromWire(toWire([side(parse(picture), 0)])));
}

/** Per line baseline, then comparison. */
export function diff(picture: string): FlameColumns {
  const lines = parse(picture);
  return diffColumns(fromWire(toWire([side(lines, 0), side(lines, 1)])));
}

export function frameNamed(columns: FlameColumns, name: string): number {
  return columns.name.findIndex((index) => columns.names[index] === name);
}

/** The graph as indented text, to compare whole graphs at once. */
export function drawn(columns: FlameColumns): string[] {
  return Array.from({ length: columns.count }, (_, i) => {
    const sides = columns.base ? ` a=${columns.base.total[i]}/${columns.base.self[i]}` : '';
    return `${'.'.repeat(columns.level[i])}${columns.names[columns.name[i]]} ${columns.total[i]}/${columns.self[i]}${sides}`;
  });
}
