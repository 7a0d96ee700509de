// Stacks to the wire's flame graphs: level arrays of 4 (single) or 7 (diff) numbers per frame, children by name.

interface Node {
  readonly name: string;
  readonly children: Map<string, Node>;
  readonly total: number[];
  readonly self: number[];
}

export type Stacks = ReadonlyMap<string, number>;

export interface WireGraph {
  readonly names: string[];
  readonly levels: { readonly values: string[] }[];
  readonly total: string;
  readonly maxSelf: string;
  readonly leftTicks?: string;
  readonly rightTicks?: string;
}

function newNode(name: string, sides: number): Node {
  const zeros = (): number[] => Array.from({ length: sides }, () => 0);
  return { name, children: new Map(), total: zeros(), self: zeros() };
}

function treeOf(sides: readonly Stacks[]): Node {
  const root = newNode('total', sides.length);
  sides.forEach((stacks, side) => {
    for (const [stack, value] of stacks) {
      let node = root;
      node.total[side] += value;
      for (const name of stack.split(';')) {
        let child = node.children.get(name);
        if (!child) node.children.set(name, (child = newNode(name, sides.length)));
        node = child;
        node.total[side] += value;
      }
      node.self[side] += value;
    }
  });
  return root;
}

/** One side gives a single flame graph, two give a diff. */
export function toWire(sides: readonly Stacks[]): WireGraph {
  const root = treeOf(sides);
  const names: string[] = [];
  const indexes = new Map<string, number>();
  const indexOf = (name: string): number => {
    const known = indexes.get(name);
    if (known !== undefined) return known;
    indexes.set(name, names.length);
    return names.push(name) - 1;
  };
  const levels: { values: string[] }[] = [];
  let row: { node: Node; at: number[] }[] = [{ node: root, at: sides.map(() => 0) }];
  while (row.length > 0) {
    const ends = sides.map(() => 0);
    const values: string[] = [];
    const next: typeof row = [];
    for (const { node, at } of row) {
      sides.forEach((_, side) => {
        values.push(String(at[side] - ends[side]), String(node.total[side]), String(node.self[side]));
        ends[side] = at[side] + node.total[side];
      });
      values.push(String(indexOf(node.name)));
      const cursor = at.map((left, side) => left + node.self[side]);
      for (const child of [...node.children.values()].toSorted((a, b) => (a.name < b.name ? -1 : 1))) {
        next.push({ node: child, at: [...cursor] });
        child.total.forEach((total, side) => (cursor[side] += total));
      }
    }
    levels.push({ values });
    row = next;
  }
  const graph = { names, levels, total: String(root.total.reduce((a, b) => a + b)), maxSelf: '0' };
  return sides.length === 1 ? graph : { ...graph, leftTicks: String(root.total[0]), rightTicks: String(root.total[1]) };
}
