// Stack ids: a hash of the function names from root to frame. A link to a zoomed frame so survives newer data, in which
// the frame has another index. Two 32-bit FNV-1a lanes, because 32 bits alone collide at a hundred thousand frames.
import type { FlameColumns } from './columns';

const PRIME = 0x01000193;
const SEEDS: readonly [number, number] = [0x811c9dc5, 0x9747b28c];

function mix(seed: number, text: string): number {
  let hash = seed;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), PRIME);
  return Math.imul(hash ^ 0x3b, PRIME) >>> 0;
}

function hex(lane: number): string {
  return (lane >>> 0).toString(16).padStart(8, '0');
}

/** The id of one frame's stack; '' for the root. */
export function stackId(columns: FlameColumns, frame: number): string {
  if (frame === 0) return '';
  const path: number[] = [];
  for (let i = frame; i !== 0; i = columns.parent[i]) path.push(i);
  let [a, b] = SEEDS;
  for (const i of path.toReversed()) {
    const name = columns.names[columns.name[i]];
    [a, b] = [mix(a, name), mix(b, name)];
  }
  return hex(a) + hex(b);
}

/** The frame whose stack has this id, or -1. */
export function findStack(columns: FlameColumns, id: string): number {
  if (id === '') return 0;
  const [wantedA, wantedB] = [Number.parseInt(id.slice(0, 8), 16), Number.parseInt(id.slice(8), 16)];
  const a = new Uint32Array(columns.count);
  const b = new Uint32Array(columns.count);
  [a[0], b[0]] = SEEDS;
  for (let i = 1; i < columns.count; i++) {
    const name = columns.names[columns.name[i]];
    a[i] = mix(a[columns.parent[i]], name);
    b[i] = mix(b[columns.parent[i]], name);
    if (a[i] === wantedA && b[i] === wantedB) return i;
  }
  return -1;
}
