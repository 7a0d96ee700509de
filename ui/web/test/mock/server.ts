// Serves the built page and answers its questions about the made-up node, over real HTTP with the real server's CSP.
// `faults` makes chosen routes fail, stall or answer nonsense.
import { readFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { extname } from 'node:path';
import { cpuNanos, FREQUENCY_HZ, type MockService, mockServices, stackNanos } from './node';
import { type Stacks, toWire } from './wire';

const DIST = new URL('../../dist/', import.meta.url);
const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript',
  '.css': 'text/css',
  '.svg': 'image/svg+xml',
};
const CPU = 'process_cpu:cpu:nanoseconds:cpu:nanoseconds';

export interface Fault {
  readonly status?: number;
  readonly body?: string;
  readonly delayMs?: number;
}

type Json = Readonly<Record<string, unknown>>;

export interface MockServer {
  readonly url: string;
  /** By method name, or `services` or `unwind`. */
  readonly faults: Map<string, Fault>;
  /** Every API call: method name and body. */
  readonly calls: { readonly method: string; readonly body: Json }[];
  /** Replaces the stacks of every service; null restores the node's own. */
  stacks: Stacks | null;
  readonly close: () => Promise<void>;
}

export async function startMock(): Promise<MockServer> {
  const server = createServer();
  const mock = {
    url: '',
    faults: new Map<string, Fault>(),
    calls: [] as { method: string; body: Json }[],
    stacks: null as Stacks | null,
    close: () => closeServer(server),
  };
  server.on('request', (request: IncomingMessage, response: ServerResponse) => {
    respond(mock, request, response).catch((error: unknown) => response.writeHead(500).end(String(error)));
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  mock.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return mock;
}

function closeServer(server: Server): Promise<void> {
  server.closeAllConnections();
  return new Promise((done) => server.close(() => done()));
}

async function respond(mock: MockServer, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const url = new URL(request.url ?? '/', 'http://mock');
  response.setHeader('Content-Security-Policy', "default-src 'self'");
  const native = /^\/api\/v1\/(services|unwind)$/.exec(url.pathname)?.[1];
  const method = /^\/querier\.v1\.QuerierService\/(\w+)$/.exec(url.pathname)?.[1] ?? native;
  if (!method) {
    await serveFile(url.pathname, response);
    return;
  }
  const body = native ? Object.fromEntries(url.searchParams) : (JSON.parse(await bodyOf(request)) as Json);
  mock.calls.push({ method, body });
  const fault = mock.faults.get(method);
  if (fault?.delayMs) await new Promise((done) => setTimeout(done, fault.delayMs));
  if (fault?.status !== undefined || fault?.body !== undefined) {
    response.writeHead(fault.status ?? 200, { 'Content-Type': 'application/json' }).end(fault.body ?? '{}');
    return;
  }
  response.setHeader('Content-Type', 'application/json');
  response.end(JSON.stringify(answer(mock, method, body)));
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString('utf8');
}

async function serveFile(path: string, response: ServerResponse): Promise<void> {
  const file = path === '/' ? 'index.html' : path.slice(1);
  try {
    const content = await readFile(new URL(file, DIST));
    response.writeHead(200, { 'Content-Type': TYPES[extname(file)] ?? 'application/octet-stream' }).end(content);
  } catch {
    response.writeHead(404).end('not found');
  }
}

function answer(mock: MockServer, method: string, body: Json): Json {
  const from = Number(body['start'] ?? body['from']);
  const until = Number(body['end'] ?? body['until']);
  switch (method) {
    case 'services':
      return services(from, until);
    case 'unwind':
      return { unwind: UNWIND };
    case 'ProfileTypes':
      return { profileTypes: [{ ID: CPU, name: 'process_cpu', sampleType: 'cpu', sampleUnit: 'nanoseconds', periodType: 'cpu', periodUnit: 'nanoseconds' }] };
    case 'LabelNames':
      return { names: ['__type__', 'image', 'namespace', 'pod', 'service_name'] };
    case 'LabelValues':
      return { names: labelValues(String(body['name'])) };
    case 'SelectSeries':
      return { series: series(body, from, until) };
    case 'SelectMergeStacktraces':
      return { flamegraph: toWire([stacks(mock, body)]) };
    case 'Diff':
      return { flamegraph: toWire([stacks(mock, body['left'] as Json), stacks(mock, body['right'] as Json)]) };
    default:
      throw new Error(`the page asked for ${method}, which it should not know`);
  }
}

const UNWIND: Json = {
  stacks: 11_640,
  complete: 11_612,
  guessed: 140,
  reasons: [{ reason: 'no_unwind_info', help: 'code without unwind information and without a sane frame pointer', stacks: 28 }],
  executables: [{ name: 'libvendor.so', passed: 12, stopped: 28, reason: 'no_unwind_info' }],
  processes: [{ name: 'billing', tgid: 4242, stacks: 400, complete: 372, reason: 'no_unwind_info' }],
  off_cpu: { captured: 1800, shed: 998_200, lost: 3 },
};

function services(from: number, until: number): Json {
  return {
    node: { name: 'node-7', frequency_hz: FREQUENCY_HZ, event: 'cpu-clock' },
    services: mockServices().map((service) => {
      const seconds = cpuNanos(service, from, until) / 1e9;
      return {
        service_name: service.name,
        kind: service.kind,
        cpu_seconds: seconds,
        cpu_cores: seconds / ((until - from) / 1000),
        idle: seconds < 0.2,
        labels: service.labels,
        profile_types: [CPU],
      };
    }),
  };
}

function labelsOf(service: MockService): Readonly<Record<string, string>> {
  return { service_name: service.name, ...service.labels };
}

function labelValues(name: string): string[] {
  const values = mockServices().map((service) => labelsOf(service)[name]);
  return [...new Set(values.filter((value) => value !== undefined))].toSorted();
}

/** Enough of a selector for the mock: `name="value"` and `name=~"regex"`. */
function selected(selector: string): readonly MockService[] {
  const matchers = [...selector.matchAll(/(\w+)(=~?)"([^"]*)"/g)];
  return mockServices().filter((service) =>
    matchers.every(([, name, op, value]) => {
      const actual = labelsOf(service)[name] ?? '';
      return op === '=' ? actual === value : new RegExp(`^(?:${value})$`).test(actual);
    }),
  );
}

function series(body: Json, from: number, until: number): Json[] {
  const step = Number(body['step']) * 1000;
  const chosen = selected(String(body['labelSelector']));
  const grouped = (body['groupBy'] as readonly string[]).length > 0;
  const groups = grouped ? chosen.map((service) => ({ labels: [{ name: 'service_name', value: service.name }], of: [service] })) : [{ labels: [], of: chosen }];
  return groups
    .map(({ labels, of }) => {
      const points: Json[] = [];
      for (let at = from; at <= until; at += step) {
        let value = 0;
        for (const service of of) value += cpuNanos(service, at - step + 1, at);
        if (value > 0) points.push({ value, timestamp: String(at) });
      }
      return { labels, points };
    })
    .filter(({ points }) => points.length > 0);
}

function stacks(mock: MockServer, body: Json): Stacks {
  if (mock.stacks) return mock.stacks;
  const all = new Map<string, number>();
  for (const service of selected(String(body['labelSelector']))) {
    for (const [stack, nanos] of stackNanos(service, Number(body['start']), Number(body['end']))) {
      all.set(stack, (all.get(stack) ?? 0) + nanos);
    }
  }
  return all;
}
