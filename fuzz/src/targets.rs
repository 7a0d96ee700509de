//! What is done with the bytes of each target. Where there is a way back from what was read, it must lead to the same.

use std::hint::black_box;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use pyrite_bpf::abi::{PYRITE_TABLE_READY, pyrite_executable};
use pyrite_model::pprof::{PushContext, PushLimits, append};
use pyrite_model::{
    Avma, Batch, Exposition, FlameTree, LabelSet, ProfileType, Selector, SeriesKey, StackProfile, Tenants,
    TimeRange, UnixMs,
};
use pyrite_sampling::{
    BootNs, Filter, Limits, LoadFailure, Sampling, WallClock, decode_change, decode_sample, parse_maps,
    parse_stat,
};
use pyrite_server::{ApiError, Appending, ProfileStore, ServerLimits, ServerState, Tenancy, app};
use pyrite_store::{
    GroupSeries, QueryStatus, SeriesProfiles, SeriesQuery, StackQuery, Stop, Store, StoreConfig, fuzzing,
};
use pyrite_unwind::{
    Arch, CHUNK_BYTES, Chunk, Machine, MappedCode, NoTable, PlacedTable, RawTable, Registers, Rule, RuleBook,
    RuleId, StackCopy, Start, Tables, Walker, build, decode, encode, extract, lookup,
};
use tempfile::TempDir;
use tower::ServiceExt;

use crate::{elf_file, seeds};

/// A moment in 2025; profiles far from it are refused.
const NOW: UnixMs = UnixMs(1_750_000_000_000);
const MAX_MAPPINGS: usize = 1000;

/// The symbolizer's ELF reader and symbol index.
pub(crate) fn elf(data: &[u8]) {
    pyrite_symbolizer::fuzzing::read_elf(data);
}

/// An executable's unwind information, and what becomes of it: the cached bytes, the chunks, a search in them.
pub(crate) fn unwind_elf(data: &[u8]) {
    [Arch::X86_64, Arch::Aarch64].into_iter().for_each(|arch| make_table(data, arch));
}

/// Call frame information in an executable that has nothing else; the first byte chooses section and machine.
pub(crate) fn unwind_cfi(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else { return };
    let arch = if choice & 1 == 0 { Arch::X86_64 } else { Arch::Aarch64 };
    let name = if choice & 2 == 0 { ".eh_frame" } else { ".debug_frame" };
    make_table(&elf_file::with_section(arch, name, bytes), arch);
}

/// A table of Go's functions in an executable that has nothing else; the first byte chooses the machine.
pub(crate) fn unwind_go(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else { return };
    let arch = if choice & 1 == 0 { Arch::X86_64 } else { Arch::Aarch64 };
    make_table(&elf_file::with_section(arch, ".gopclntab", bytes), arch);
}

fn make_table(file: &[u8], arch: Arch) {
    let Ok(table) = extract(file, arch) else { return };
    assert!(table.rows.is_sorted_by(|one, next| one.pc < next.pc && one.rule != next.rule));
    assert_eq!(decode(&encode(&table, "id"), "id", arch).expect("what was written can be read"), table);
    search_all(&table);
}

/// A walk from any registers over any stack, with the tables of a little program: it ends, and within its bound.
pub(crate) fn unwind_walk(data: &[u8]) {
    const LIMIT: usize = 100;
    const BIAS: u64 = 0x5000_0000;
    static TABLE: LazyLock<(Placed, RuleBook)> = LazyLock::new(|| {
        let mut book = RuleBook::new();
        let program = seeds::elf().swap_remove(0);
        let table = extract(program.as_slice(), Arch::X86_64).expect("compilers write unwind information");
        (Placed::new(&table, &mut book).expect("a small table"), book)
    });
    let (table, book) = &*TABLE;
    let Some((head, stack)) = data.split_first_chunk::<{ 8 * 17 }>() else { return };
    let word = |at: usize| u64::from_le_bytes(head[8 * at..8 * at + 8].try_into().expect("eight bytes"));
    let mut all = [0; Registers::COUNT];
    all[..16].iter_mut().enumerate().for_each(|(number, register)| *register = word(number));
    let registers = Registers { ip: word(16), sp: all[7], fp: all[6], lr: 0 };
    let memory = StackCopy::new(Avma(registers.sp), stack);
    let mappings =
        |avma: Avma| (avma.0 >> 28 == BIAS >> 28).then_some(MappedCode { executable: 1, bias: BIAS });
    let tables = WithRules { placed: table, book };
    let walker = Walker {
        machine: Machine::X86_64,
        tables: &tables,
        mappings: &mappings,
        memory: &memory,
        limit: LIMIT,
    };
    let mut frames = Vec::new();
    walker.walk(&Start { all: Some(all), ..Start::leaf(registers) }, &mut frames);
    assert!((1..=LIMIT).contains(&frames.len()));
}

/// A cached table; its checksum is made right first.
pub(crate) fn unwind_cache(data: &[u8]) {
    const CHECKSUM_AT: usize = 8;
    const BODY_AT: usize = 12;
    let mut bytes = data.to_vec();
    if bytes.len() >= BODY_AT {
        let checksum = crc32c::crc32c(&bytes[BODY_AT..]);
        bytes[CHECKSUM_AT..BODY_AT].copy_from_slice(&checksum.to_le_bytes());
    }
    if let Ok(table) = decode(&bytes, "id", Arch::X86_64) {
        search_all(&table);
    }
}

/// A search in chunks of any content: the entry that leads to them, the pc, then the chunks.
pub(crate) fn unwind_lookup(data: &[u8]) {
    let Some((head, chunks)) = data.split_first_chunk::<16>() else { return };
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let executable = pyrite_executable {
        root: word(0),
        first_pc: word(4),
        depth: head[8],
        state: PYRITE_TABLE_READY as u8,
        ..pyrite_executable::default()
    };
    let chunks = chunks.chunks(CHUNK_BYTES).map(|bytes| {
        let mut chunk = [0xff; CHUNK_BYTES];
        chunk[..bytes.len()].copy_from_slice(bytes);
        chunk
    });
    let placed = Placed { chunks: chunks.collect(), executable };
    let _ = black_box(lookup(&placed, 0, u64::from(word(12))));
}

/// Places a table and looks up every row's start and end.
fn search_all(table: &RawTable) {
    const MAX_ROWS: usize = 4096;
    let Some(placed) = Placed::new(table, &mut RuleBook::new()) else { return };
    for row in table.rows.iter().take(MAX_ROWS) {
        for pc in [row.pc, row.pc.wrapping_sub(1)] {
            assert_ne!(lookup(&placed, 0, u64::from(pc)), Err(NoTable::Broken), "{pc:#x}");
        }
    }
}

/// One executable's table in memory.
struct Placed {
    chunks: Vec<Chunk>,
    executable: pyrite_executable,
}

impl Placed {
    /// `None` where the table is too wide, or empty.
    fn new(table: &RawTable, book: &mut RuleBook) -> Option<Self> {
        let image = build(table, book).ok()?;
        let ids: Vec<u32> = (0..image.chunk_count() as u32).collect();
        let PlacedTable { chunks, executable, .. } = image.place(&ids).ok()?;
        Some(Self { chunks, executable })
    }
}

impl Tables for Placed {
    fn chunk(&self, id: u32) -> Option<&Chunk> {
        self.chunks.get(id as usize)
    }

    fn executable(&self, index: u32) -> Option<pyrite_executable> {
        (index == 0).then_some(self.executable)
    }

    fn rule(&self, _: u16) -> Option<Rule> {
        None
    }
}

/// A placed table with what its rows mean. The executable at index 0 is taken for code without a file, so it has 1 here.
struct WithRules<'a> {
    placed: &'a Placed,
    book: &'a RuleBook,
}

impl Tables for WithRules<'_> {
    fn chunk(&self, id: u32) -> Option<&Chunk> {
        self.placed.chunk(id)
    }

    fn executable(&self, index: u32) -> Option<pyrite_executable> {
        self.placed.executable(index.checked_sub(1)?)
    }

    fn rule(&self, id: u16) -> Option<Rule> {
        self.book.get(RuleId(id))
    }
}

/// `/proc/PID/maps`.
pub(crate) fn maps(data: &[u8]) {
    let ranges = parse_maps(data, MAX_MAPPINGS).unwrap_or_default();
    assert!(ranges.len() <= MAX_MAPPINGS);
}

/// `/proc/PID/stat`.
pub(crate) fn stat(data: &[u8]) {
    black_box(parse_stat(data, 100));
    black_box(parse_stat(data, 0));
}

/// Records of the BPF programs, of every kind, and what sampling makes of one: neither a tick nor a copied stack of it is left.
pub(crate) fn sample(data: &[u8]) {
    if let Ok(sample) = decode_sample(data) {
        assert!(8 * (sample.kernel.len() + sample.user.len()) <= data.len());
    }
    let mut sampling = Sampling::new(Filter::default(), Limits::default());
    sampling.on_record(data);
    // Its process is asked for, and nothing is found of it.
    for tgid in sampling.advance(BootNs::MAX, WallClock::default()) {
        sampling.process_loaded(tgid, Err(LoadFailure::Gone));
    }
    black_box(sampling.finish());
    assert_eq!((sampling.held(), sampling.copy_bytes()), (0, 0));
}

/// Records of the perf sideband.
pub(crate) fn sideband(data: &[u8]) {
    let _ = black_box(decode_change(data));
}

/// A profile as it is pushed, plain or packed.
pub(crate) fn pprof(data: &[u8]) {
    let labels = LabelSet::from_pairs([("service_name", "fuzzed"), ("__name__", "process_cpu")]);
    let context =
        PushContext { labels: &labels, display_names: None, now: NOW, limits: &PushLimits::default() };
    let mut batch = Batch::default();
    if let Ok(appended) = append(&mut batch, data, &context) {
        let rows: usize = batch.series.iter().map(|series| series.rows.len()).sum();
        assert_eq!(rows, appended.rows);
    }
}

/// A selector; what it is written as must read as the same selector.
pub(crate) fn selector(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(selector) = text.parse::<Selector>() {
        let written = selector.to_string();
        let again: Selector = written.parse().unwrap_or_else(|error| panic!("{written:?}: {error}"));
        assert_eq!(again.to_string(), written);
    }
}

/// A WAL file as it is.
pub(crate) fn wal_file(data: &[u8]) {
    fuzzing::replay(data);
}

/// The payload of one WAL record, in a file whose checksums are right.
pub(crate) fn wal_record(data: &[u8]) {
    fuzzing::replay(&fuzzing::seal_record(data));
}

/// A segment's manifest, its checksum right, before the tables of a real segment.
pub(crate) fn segment(data: &[u8]) {
    fuzzing::read_segment(seeds::segment_directory(), data);
}

/// An archive of segments, taken in by a store.
pub(crate) fn archive(data: &[u8]) {
    static STORE: LazyLock<(TempDir, Store)> = LazyLock::new(|| {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, _) = Store::open(StoreConfig::new(dir.path())).expect("a new store opens");
        (dir, store)
    });
    // It is refused with its reason, or its rows are taken.
    let _ = STORE.1.import_archive(data, &mut |_| {});
}

/// The body of a push; its first byte chooses between Protobuf and JSON, and whether it is packed.
pub(crate) fn push(data: &[u8]) {
    let Some((choice, body)) = data.split_first() else { return };
    let media_type = if choice & 1 == 0 { "application/proto" } else { "application/json" };
    let mut request = Request::post("/push.v1.PusherService/Push").header("content-type", media_type);
    if choice & 2 != 0 {
        request = request.header("content-encoding", "gzip");
    }
    send(request.body(Body::from(body.to_vec())).expect("the parts are fixed"));
}

/// The body of `/ingest`; its first byte chooses the format.
pub(crate) fn ingest(data: &[u8]) {
    const FORMS: [(&str, &str); 6] = [
        ("pprof", "application/octet-stream"),
        ("", "multipart/form-data; boundary=x"),
        ("groups", "text/plain"),
        ("lines", "text/plain"),
        ("trie", "binary/octet-stream+trie"),
        ("tree", "binary/octet-stream+tree"),
    ];
    let Some((choice, body)) = data.split_first() else { return };
    let (format, media_type) = FORMS[usize::from(*choice) % FORMS.len()];
    let uri = format!("/ingest?name=app.cpu%7Ba%3Db%7D&from=1750000000&format={format}&sampleRate=100");
    let request = Request::post(uri).header("content-type", media_type);
    send(request.body(Body::from(body.to_vec())).expect("the parts are fixed"));
}

fn send(request: Request<Body>) {
    static SERVER: LazyLock<(tokio::runtime::Runtime, Router)> = LazyLock::new(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let state = ServerState::new(Arc::new(Nowhere), None, Tenancy::default(), ServerLimits::default());
        (runtime.expect("a runtime of one thread"), app(state))
    });
    let (runtime, router) = &*SERVER;
    let response = runtime.block_on(router.clone().oneshot(request)).expect("infallible");
    assert_ne!(response.status().as_u16(), 500, "only a fault of ours answers so");
}

/// A store that takes everything and keeps nothing.
struct Nowhere;

impl ProfileStore for Nowhere {
    fn append(&self, _: Batch) -> Appending<'_> {
        Box::pin(async { Ok(()) })
    }

    fn on_behalf(self: Arc<Self>, _: Stop) -> Arc<dyn ProfileStore> {
        self
    }

    fn queries(&self) -> Vec<QueryStatus> {
        Vec::new()
    }

    fn profile_types(&self, _: &Tenants, _: TimeRange) -> Result<Vec<ProfileType>, ApiError> {
        Ok(Vec::new())
    }

    fn label_names(&self, _: &Tenants, _: &Selector, _: TimeRange) -> Result<Vec<String>, ApiError> {
        Ok(Vec::new())
    }

    fn label_values(
        &self,
        _: &Tenants,
        _: &str,
        _: &Selector,
        _: TimeRange,
    ) -> Result<Vec<String>, ApiError> {
        Ok(Vec::new())
    }

    fn series(&self, _: &Tenants, _: &Selector, _: TimeRange) -> Result<Vec<SeriesKey>, ApiError> {
        Ok(Vec::new())
    }

    fn merge_stacks(&self, _: &StackQuery) -> Result<StackProfile, ApiError> {
        Ok(StackProfile::default())
    }

    fn flame_tree(&self, _: &StackQuery, _: usize) -> Result<FlameTree, ApiError> {
        Ok(FlameTree::default())
    }

    fn flame_diff(&self, _: [Option<&StackQuery>; 2], _: usize) -> Result<FlameTree<2>, ApiError> {
        Ok(FlameTree::default())
    }

    fn select_series(&self, _: &SeriesQuery) -> Result<Vec<GroupSeries>, ApiError> {
        Ok(Vec::new())
    }

    fn profiles(&self, _: &StackQuery) -> Result<Vec<SeriesProfiles>, ApiError> {
        Ok(Vec::new())
    }

    fn extent(&self, _: &Tenants) -> Option<TimeRange> {
        None
    }

    fn metrics(&self, _: &mut Exposition) {}
}
