// What the server sends, as the page uses it. Connect JSON writes int64 as strings; the api/ folder makes them numbers.

/** `{name, value}` labels of one series. */
export type Labels = Readonly<Record<string, string>>;

export interface ProfileType {
  readonly id: string;
  /** For example `process_cpu`. */
  readonly name: string;
  readonly sampleType: string;
  readonly sampleUnit: string;
  readonly periodType: string;
}

/** One value of a series: what was measured in the step that ends at `atMs`. */
export interface Point {
  readonly atMs: number;
  readonly value: number;
}

export interface Series {
  readonly labels: Labels;
  readonly points: readonly Point[];
}

/** A flame graph as the wire has it: per level a flat array, see logic/flame/columns.ts. */
export interface Flamebearer {
  readonly names: readonly string[];
  readonly levels: readonly (readonly number[])[];
  /** Of a diff: the whole of each side. */
  readonly leftTotal?: number;
  readonly rightTotal?: number;
}

export type ServiceKind = 'container' | 'unit' | 'process' | 'kernel' | 'pushed';

export interface Service {
  readonly name: string;
  readonly kind: ServiceKind;
  readonly cpuSeconds: number;
  readonly idle: boolean;
  readonly labels: Labels;
  readonly profileTypes: readonly string[];
}

export interface NodeInfo {
  readonly name: string;
  readonly frequencyHz: number;
  /** The perf event the profiler samples on, for example `cpu-clock`. */
  readonly event: string;
}

export interface ServicesAnswer {
  readonly node: NodeInfo;
  readonly services: readonly Service[];
}

/** How many of the node's sampled stacks of the last minute came to the thread's outermost frame, and why others did not. */
export interface UnwindScore {
  readonly stacks: number;
  readonly complete: number;
  /** Stacks with frames that were found by the frame pointer for want of unwind information. */
  readonly guessed: number;
  readonly reasons: readonly { readonly reason: string; readonly help: string; readonly stacks: number }[];
  readonly executables: readonly { readonly name: string; readonly passed: number; readonly stopped: number; readonly reason: string }[];
  readonly processes: readonly {
    readonly name: string;
    readonly tgid: number;
    readonly stacks: number;
    readonly complete: number;
    readonly reason: string;
  }[];
  /** What became of the times that threads left a CPU, since the agent's start; null where that is not recorded. */
  readonly offCpu: { readonly captured: number; readonly shed: number; readonly lost: number } | null;
}
