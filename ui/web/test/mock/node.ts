// A made-up node whose past is a function of time, so that every answer about any window agrees with every other. One
// service spikes, in one function, from SPIKE.from to SPIKE.until.

/** The instant the browser's clock is set to. */
export const NOW = Date.parse('2026-03-04T15:30:00Z');
export const RECORDED_FROM = NOW - 40 * 60_000;
export const SPIKE = { from: NOW - 6 * 60_000, until: NOW - 4 * 60_000 };
export const FREQUENCY_HZ = 97;

/** A stack, root first, and its part of the service's CPU. */
type Weighted = readonly [stack: string, calm: number, spiking: number];

export interface MockService {
  readonly name: string;
  readonly kind: string;
  readonly labels: Readonly<Record<string, string>>;
  /** Mean cores. */
  readonly cores: number;
  readonly stacks: readonly Weighted[];
}

const SYSCALL = 'entry_SYSCALL_64_after_hwframe;do_syscall_64';
const GO_HTTP = 'net/http.(*conn).serve;net/http.serverHandler.ServeHTTP;net/http.(*ServeMux).ServeHTTP';
const POSTGRES = '_start;__libc_start_main_impl;main;PostmasterMain;ServerLoop;BackendStartup;PostgresMain;exec_simple_query';
const RUST =
  'clone3;start_thread;std::sys::pal::unix::thread::Thread::new::thread_start;tokio::runtime::scheduler::multi_thread::worker::run;tokio::runtime::task::harness::Harness<T,S>::poll';
const NODE = '_start;node::Start;node::SpinEventLoop;uv_run;uv__io_poll;node::InternalMakeCallback;v8::Function::Call';

function stacks(prefix: string, rest: readonly Weighted[]): Weighted[] {
  return rest.map(([stack, calm, spiking]) => [prefix === '' ? stack : `${prefix};${stack}`, calm, spiking]);
}

const CHECKOUT: readonly Weighted[] = [
  ...stacks(GO_HTTP, [
    ['shop/checkout.(*Handler).Place;shop/checkout.(*Cart).Total;shop/money.(*Amount).Add', 8, 8],
    ['shop/checkout.(*Handler).Place;shop/checkout.(*Cart).Total', 3, 3],
    ['shop/checkout.(*Handler).Place;shop/checkout.validateCoupon;regexp.(*Regexp).MatchString;regexp.(*Regexp).backtrack;regexp.(*bitState).push', 2, 46],
    ['shop/checkout.(*Handler).Place;shop/checkout.validateCoupon;regexp.(*Regexp).MatchString;regexp.(*Regexp).backtrack', 4, 120],
    ['shop/checkout.(*Handler).Place;shop/checkout.validateCoupon;regexp.Compile;regexp/syntax.Parse', 0, 14],
    ['shop/checkout.(*Handler).Place;encoding/json.Marshal;encoding/json.(*encodeState).reflectValue;encoding/json.structEncoder.encode;encoding/json.stringEncoder', 9, 9],
    ['shop/checkout.(*Handler).Place;encoding/json.Unmarshal;encoding/json.(*decodeState).object;encoding/json.(*decodeState).literalStore', 7, 7],
    ['shop/checkout.(*Handler).Place;database/sql.(*DB).QueryContext;github.com/jackc/pgx/v5.(*Conn).Query;github.com/jackc/pgx/v5/pgconn.(*PgConn).execExtended', 6, 6],
    ['shop/checkout.(*Handler).Place;shop/checkout.warmCache;shop/cache.(*LRU).Add', 5, 0],
    [`net.(*conn).Write;syscall.write;${SYSCALL};__x64_sys_write;ksys_write;vfs_write;sock_write_iter;tcp_sendmsg;tcp_sendmsg_locked;tcp_push;tcp_write_xmit`, 6, 7],
  ]),
  ...stacks('runtime.mcall;runtime.park_m;runtime.schedule', [
    ['runtime.findRunnable;runtime.stealWork', 3, 3],
    [`runtime.findRunnable;runtime.netpoll;${SYSCALL};__x64_sys_epoll_pwait;do_epoll_wait`, 3, 2],
  ]),
  ['runtime.gcBgMarkWorker;runtime.systemstack;runtime.gcDrain;runtime.scanobject;runtime.greyobject', 4, 8],
  ['runtime.gcBgMarkWorker;runtime.systemstack;runtime.gcDrain;runtime.scanobject', 7, 13],
];

const POSTGRES_STACKS = stacks(POSTGRES, [
  ['pg_plan_queries;planner;standard_planner;subquery_planner;query_planner;make_one_rel', 8, 9],
  ['PortalRun;PortalRunSelect;standard_ExecutorRun;ExecProcNode;ExecHashJoin;ExecScanHashBucket', 14, 14],
  ['PortalRun;PortalRunSelect;standard_ExecutorRun;ExecProcNode;ExecSeqScan;heap_getnextslot;heapgettup_pagemode', 19, 20],
  ['PortalRun;PortalRunSelect;standard_ExecutorRun;ExecProcNode;ExecAgg;advance_aggregates;float8_accum', 9, 9],
  ['pg_parse_query;raw_parser;base_yyparse;core_yylex', 6, 6],
  [`PortalRun;FillPortalStore;smgrread;mdread;FileRead;${SYSCALL};__x64_sys_pread64;vfs_read;ext4_file_read_iter;filemap_read;copy_page_to_iter`, 11, 11],
  ['finish_xact_command;CommitTransaction;RecordTransactionCommit;XLogFlush;XLogWrite;pg_pwrite', 5, 5],
]);

const GATEWAY = stacks(RUST, [
  ['hyper::proto::h1::dispatch::Dispatcher<D,Bs,I,T>::poll_catch;hyper::proto::h1::conn::Conn<I,B,T>::poll_read_head;httparse::Request::parse', 9, 11],
  ['hyper::proto::h1::dispatch::Dispatcher<D,Bs,I,T>::poll_catch;tower_http::trace::service::Trace<S,M>::call;gateway::route::match_route;core::str::pattern::TwoWaySearcher::next', 12, 13],
  ['hyper::proto::h1::dispatch::Dispatcher<D,Bs,I,T>::poll_catch;rustls::conn::ConnectionCommon<Data>::write_vectored;ring::aead::aes_gcm::seal;aes_gcm_encrypt_update', 21, 22],
  ['serde_json::de::from_slice;<gateway::api::Claims as serde::Deserialize>::deserialize;core::str::from_utf8', 7, 8],
  [`mio::poll::Poll::poll;epoll_wait;${SYSCALL};__x64_sys_epoll_wait;ep_poll;schedule_hrtimeout_range`, 6, 6],
]);

const SERVICES: readonly MockService[] = [
  { name: 'checkout', kind: 'container', cores: 0.42, stacks: CHECKOUT, labels: { image: 'registry.example/shop/checkout:2.8.1', pod: 'checkout-7c9d-x2x', namespace: 'shop' } },
  { name: 'postgres', kind: 'container', cores: 0.36, stacks: POSTGRES_STACKS, labels: { image: 'docker.io/library/postgres:16.4' } },
  { name: 'gateway', kind: 'container', cores: 0.21, stacks: GATEWAY, labels: { image: 'registry.example/shop/gateway:1.14.0', pod: 'gateway-5f6b-9kq', namespace: 'shop' } },
  {
    name: 'storefront', kind: 'container', cores: 0.14, labels: { image: 'registry.example/shop/storefront:5.0.2', pod: 'storefront-6d8-p1', namespace: 'shop' },
    stacks: stacks(NODE, [
      ['~renderToString react-dom-server.js;~renderElement react-dom-server.js;~escapeTextForBrowser react-dom-server.js', 22, 22],
      ['~handle /srv/app/router.js;~match /srv/app/router.js;Builtins_RegExpPrototypeExec', 9, 9],
      ['v8::internal::Heap::CollectGarbage;v8::internal::MarkCompactCollector::MarkLiveObjects', 6, 6],
    ]),
  },
  {
    name: 'kernel', kind: 'kernel', cores: 0.07, labels: {},
    stacks: [
      ['ret_from_fork_asm;ret_from_fork;kthread;worker_thread;process_one_work;wb_workfn;wb_writeback;ext4_writepages', 7, 7],
      ['ret_from_fork_asm;ret_from_fork;kthread;smpboot_thread_fn;run_ksoftirqd;handle_softirqs;net_rx_action;napi_poll;tcp_v4_rcv', 9, 12],
      ['ret_from_fork_asm;ret_from_fork;kthread;kswapd;balance_pgdat;shrink_node', 3, 3],
    ],
  },
  { name: 'redis', kind: 'container', cores: 0.045, labels: { image: 'docker.io/library/redis:7.2' }, stacks: [['_start;main;aeMain;aeProcessEvents;readQueryFromClient;processCommand;call;getCommand;lookupKey;dictFind', 8, 8], ['_start;main;aeMain;aeApiPoll;epoll_wait', 3, 3]] },
  { name: 'containerd.service', kind: 'unit', cores: 0.018, labels: {}, stacks: [['runtime.goexit;github.com/containerd/ttrpc.(*Server).Serve;github.com/containerd/containerd/v2/core/metrics.Collect', 5, 5]] },
  { name: 'ssh.service', kind: 'unit', cores: 0, labels: {}, stacks: [] },
  { name: 'cron.service', kind: 'unit', cores: 0, labels: {}, stacks: [] },
];

export function mockServices(): readonly MockService[] {
  return SERVICES;
}

function isSpiking(atMs: number): boolean {
  return atMs > SPIKE.from && atMs <= SPIKE.until;
}

function ripple(name: string, atMs: number): number {
  const phase = [...name].reduce((sum, char) => sum + char.charCodeAt(0), 0);
  const minutes = atMs / 60_000;
  const noise = Math.abs(Math.sin((atMs / 1000 + phase) * 12.9898) * 43_758.5453) % 1;
  return 1 + 0.16 * Math.sin(minutes / 3 + phase) + 0.09 * Math.sin(minutes * 1.7 + phase * 2) + 0.14 * (noise - 0.5);
}

function weightsAt(service: MockService, spiking: boolean): number[] {
  return service.stacks.map(([, calm, hot]) => (spiking ? hot : calm));
}

const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);

/** Nanoseconds of CPU per stack in the one-second rows stamped `from` to `until`, both included. */
export function stackNanos(service: MockService, from: number, until: number): Map<string, number> {
  const calm = sum(weightsAt(service, false));
  const seconds = { calm: 0, hot: 0 };
  const first = Math.max(Math.ceil(from / 1000) * 1000, RECORDED_FROM);
  for (let at = first; at <= Math.min(until, NOW + 3_600_000); at += 1000) {
    seconds[isSpiking(at) ? 'hot' : 'calm'] += ripple(service.name, at);
  }
  const nanos = new Map<string, number>();
  for (const [stack, calmPart, hotPart] of service.stacks) {
    const value = (service.cores * (seconds.calm * calmPart + seconds.hot * hotPart)) / calm;
    const samples = Math.round(value * FREQUENCY_HZ);
    if (samples > 0) nanos.set(stack, samples * Math.round(1e9 / FREQUENCY_HZ));
  }
  return nanos;
}

export function cpuNanos(service: MockService, from: number, until: number): number {
  return sum([...stackNanos(service, from, until).values()]);
}
