//! Inputs to start from: small, valid, each reaching another part of its parser.

use std::mem::offset_of;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;
use pyrite_bpf::abi::{
    PERF_RECORD_COMM, PERF_RECORD_EXIT, PERF_RECORD_FORK, PERF_RECORD_LOST, PERF_RECORD_MMAP2,
    PYRITE_RECORD_OFF_CPU_TAIL, PYRITE_RECORD_SAMPLE, pyrite_sample_header as Header,
};
use pyrite_model::pprof::{gzip, proto};
use pyrite_model::{Batch, LabelSet, ProfileType, Row, SeriesRows, SymbolTable, TimeRange, UnixMs};
use pyrite_store::{Store, StoreConfig, fuzzing};
use pyrite_unwind::{Arch, CHUNK_BYTES, encode, extract};
use tempfile::TempDir;

use crate::elf_file::{LOWEST_SVMA, put};

/// Little programs: with symbols, stripped, of position-dependent code, and an object file.
pub(crate) fn elf() -> Vec<Vec<u8>> {
    let directory = tempfile::tempdir().expect("a directory");
    let source = directory.path().join("a.c");
    let text = "int leaf(int x) { return x + 1; }\nint top(int x) { volatile char room[x + 64]; room[0] = 1; return leaf(room[0]) * leaf(x + 2); }\n";
    std::fs::write(&source, text).expect("written");
    let kinds: [&[&str]; 4] = [
        &["-shared", "-nostdlib", "-Wl,--build-id"],
        &["-shared", "-nostdlib", "-Wl,--build-id", "-s"],
        &["-static", "-nostdlib", "-no-pie", "-Wl,-e,top", "-g"],
        &["-c"],
    ];
    let compile = |flags: &[&str]| {
        let output = directory.path().join("a.out");
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-fPIC", "-Wl,-z,noseparate-code"]).args(flags).arg("-o").arg(&output).arg(&source);
        let status = cc.status().expect("there is a C compiler");
        assert!(status.success(), "{cc:?}");
        std::fs::read(output).expect("just written")
    };
    kinds.into_iter().map(compile).collect()
}

pub(crate) fn unwind_cache() -> Vec<Vec<u8>> {
    let tables = elf().into_iter().filter_map(|file| extract(&file, Arch::X86_64).ok());
    tables.map(|table| encode(&table, "id")).collect()
}

/// A CIE and functions with most of the instructions there are, for both sections and machines.
pub(crate) fn unwind_cfi() -> Vec<Vec<u8>> {
    // def_cfa sp, 8; offset ra, -8
    const X86_64: ([u8; 3], &[u8]) = ([1, 0x78, 16], &[0x0c, 7, 8, 0x90, 1]);
    const AARCH64: ([u8; 3], &[u8]) = ([4, 0x78, 30], &[0x0c, 31, 0]);
    let programs: [&[u8]; 4] = [
        // A push, a frame pointer, an epilogue within.
        &[0x41, 0x0e, 16, 0x86, 2, 0x43, 0x0d, 6, 0x0a, 0x48, 0x0c, 7, 8, 0xc6, 0x41, 0x0b],
        // Expressions: the CFA loaded, FP at an address, FP by value.
        &[0x0f, 5, 0x77, 0x38, 0x06, 0x23, 0x08, 0x41, 0x10, 6, 2, 0x76, 0, 0x41, 0x16, 6, 2, 0x76, 0],
        // The return address nowhere, in a register, signed; SP at the CFA.
        &[0x07, 16, 0x41, 0x09, 16, 5, 0x41, 0x2d, 0x14, 7, 0, 0x41, 0x08, 6],
        // Long advances, signed and extended operands.
        &[
            0x02, 9, 0x13, 0x7e, 0x03, 1, 1, 0x12, 6, 0x7c, 0x04, 1, 0, 1, 0, 0x11, 6, 0x7e, 0x05, 6, 2,
            0x2e, 16,
        ],
    ];
    let mut seeds = Vec::new();
    for (choice, ((factors, initial), debug)) in
        [(X86_64, false), (AARCH64, false), (X86_64, true), (AARCH64, true)].into_iter().enumerate()
    {
        let mut bytes = vec![choice as u8];
        let head: &[u8] = if debug { &[0xff, 0xff, 0xff, 0xff, 4, 0, 8, 0] } else { b"\0\0\0\0\x01zR\0" };
        // Pointers of .eh_frame are absolute words here.
        let augmentation: &[u8] = if debug { &[] } else { &[1, 0] };
        bytes.extend(cfi_entry(&[head, &factors, augmentation, initial]));
        for (number, program) in programs.into_iter().enumerate() {
            // How far back the CIE is, or where it is in its section.
            let cie = if debug { 0 } else { bytes.len() as u32 - 1 + 4 };
            let code = [LOWEST_SVMA + 0x1000 + 0x100 * number as u64, 0x80].map(u64::to_le_bytes).concat();
            bytes.extend(cfi_entry(&[&cie.to_le_bytes(), &code, if debug { &[] } else { &[0] }, program]));
        }
        seeds.push(bytes);
    }
    seeds
}

fn cfi_entry(parts: &[&[u8]]) -> Vec<u8> {
    let mut body = parts.concat();
    body.resize(body.len().next_multiple_of(4), 0);
    [&(body.len() as u32).to_le_bytes()[..], &body].concat()
}

/// Three functions of Go: one that pushes and pops, one that ends stacks, one in assembly.
pub(crate) fn unwind_go() -> Vec<Vec<u8>> {
    const NAMES: usize = 0x60;
    const PCSP: usize = 0x80;
    const FUNCTAB: usize = 0xa0;
    const BYTES: usize = 0x180;
    let table = |magic: u32| {
        let absolute = magic == 0xffff_fffa;
        let text = LOWEST_SVMA + 0x1000;
        let mut bytes = Vec::new();
        put(&mut bytes, 4, &[magic.into(), 0x0801_0000]);
        put(&mut bytes, 8, &[3, 0]);
        if !absolute {
            put(&mut bytes, 8, &[text]);
        }
        put(&mut bytes, 8, &[NAMES as u64, 0, 0, PCSP as u64, FUNCTAB as u64]);
        bytes.resize(NAMES, 0);
        bytes.extend_from_slice(b"main.f\0runtime.goexit\0");
        bytes.resize(PCSP, 0);
        // The delta is 0 for 5 bytes, 8 for 27, 0 for the rest.
        bytes.extend_from_slice(&[0, 2, 5, 16, 0x1b, 15, 0x20, 0]);
        bytes.resize(FUNCTAB, 0);
        let (width, base) = if absolute { (8, text) } else { (4, 0) };
        let records = [(0, 1), (7, 1), (0, 0)].map(|(name, pcsp)| [name, 0, 0, pcsp, 0, 0, 0, 0, 0, 0]);
        for number in 0..3 {
            put(&mut bytes, width, &[base + 0x40 * number, 0x40 + 0x30 * number]);
        }
        put(&mut bytes, width, &[base + 0xc0]);
        for (number, record) in records.iter().enumerate() {
            bytes.resize(FUNCTAB + 0x40 + 0x30 * number, 0);
            put(&mut bytes, width, &[base + 0x40 * number as u64]);
            put(&mut bytes, 4, record);
        }
        bytes.resize(BYTES, 0);
        bytes
    };
    let machines = [0, 1].into_iter();
    machines
        .flat_map(|machine| {
            [0xffff_fffa, 0xffff_fff0, 0xffff_fff1].map(|magic| [vec![machine], table(magic)].concat())
        })
        .collect()
}

/// Registers within the program's code and at its stack, which is full of return addresses and of places in itself.
pub(crate) fn unwind_walk() -> Vec<Vec<u8>> {
    // Its linkage table and both functions, as compilers of today place them.
    let (code, code_bytes, sp) = (0x5000_0290_u64, 0x66, 0x7fff_0000_u64);
    let seed = |step: u64| {
        let mut words = vec![sp + 64; 16];
        (words[7], words[6]) = (sp, sp + 16);
        words.push(code + step);
        let word = |at: u64| {
            if (at + step).is_multiple_of(2) { sp + 8 * at + 16 } else { code + step * at % code_bytes }
        };
        words.extend((0..32).map(word));
        words.into_iter().flat_map(u64::to_le_bytes).collect()
    };
    [1, 2, 20, 37, 43, 90].map(seed).into()
}

/// A leaf by itself, and a node above it.
pub(crate) fn unwind_lookup() -> Vec<Vec<u8>> {
    let head = |root: u32, depth: u32| [root, 0, depth, 0x40].map(u32::to_le_bytes).concat();
    let leaf: Vec<u8> =
        (0..CHUNK_BYTES as u32 / 4).flat_map(|row| ((row * 16) | (1 << 16)).to_le_bytes()).collect();
    let node: Vec<u8> = [0_u32, 0, 0x1000, 0].map(u32::to_le_bytes).concat();
    vec![[head(0, 0), leaf.clone()].concat(), [head(1, 1), leaf, node].concat()]
}

pub(crate) fn maps() -> Vec<Vec<u8>> {
    let own = std::fs::read("/proc/self/maps").expect("/proc is mounted");
    let odd = "7f00-7f10 r-xp 00001000 fd:01 12345  /a b (deleted)\n7f10-7f20 r-xp 00000000 00:00 0 \n\
               ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0  [vsyscall]\n";
    vec![own[..own.len().min(2000)].to_vec(), odd.into()]
}

pub(crate) fn stat() -> Vec<Vec<u8>> {
    let own = std::fs::read("/proc/self/stat").expect("/proc is mounted");
    vec![own, b"1 (a) (b) c) S 0 1 1 0 -1 2097152 0 0 0 0 0 0 0 0 20 0 1 0 17 0 0".into()]
}

pub(crate) fn sample() -> Vec<Vec<u8>> {
    let of_kind = |kind: u32, flags: u8| {
        let (kernel, user) = (2_u16, 3_u16);
        let mut bytes = vec![0; size_of::<Header>()];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(offset_of!(Header, kind), &kind.to_ne_bytes());
        put(offset_of!(Header, kernel_frames), &kernel.to_ne_bytes());
        put(offset_of!(Header, user_frames), &user.to_ne_bytes());
        put(offset_of!(Header, kernel_stack), &[1, 1, flags]);
        put(offset_of!(Header, comm), b"worker");
        bytes.extend((0..u64::from(kernel + user)).flat_map(u64::to_ne_bytes));
        // Room for what may follow the frames.
        bytes.extend([0; 512]);
        bytes
    };
    let kinds = PYRITE_RECORD_SAMPLE..=PYRITE_RECORD_OFF_CPU_TAIL;
    kinds.flat_map(|kind| (0..16).map(move |flags| of_kind(kind, flags))).collect()
}

pub(crate) fn sideband() -> Vec<Vec<u8>> {
    let record = |kind: u32, misc: u16, body: &[u8]| {
        let size = (8 + body.len() + 8) as u16;
        [&kind.to_ne_bytes()[..], &misc.to_ne_bytes(), &size.to_ne_bytes(), body, &7_u64.to_ne_bytes()]
            .concat()
    };
    let ids = [42_u32, 43].map(u32::to_ne_bytes).concat();
    let task = [ids.clone(), ids.clone(), 5_u64.to_ne_bytes().to_vec()].concat();
    let mapping = [
        ids.clone(),
        [0x1000_u64, 0x2000, 0].map(u64::to_ne_bytes).concat(),
        [8_u32, 1].map(u32::to_ne_bytes).concat(),
        [99_u64, 0].map(u64::to_ne_bytes).concat(),
        [5_u32, 2].map(u32::to_ne_bytes).concat(),
        b"/bin/true\0\0\0\0\0\0\0".to_vec(),
    ];
    vec![
        record(PERF_RECORD_MMAP2, 2, &mapping.concat()),
        record(PERF_RECORD_COMM, 1 << 13, &[&ids[..], b"name\0\0\0\0"].concat()),
        record(PERF_RECORD_FORK, 0, &task),
        record(PERF_RECORD_EXIT, 0, &task),
        record(PERF_RECORD_LOST, 0, &[1_u64, 2].map(u64::to_ne_bytes).concat()),
    ]
}

pub(crate) fn selector() -> Vec<Vec<u8>> {
    [
        "{}",
        r#"{service_name="web", pod!~"a.*|b", "odd name"=`raw`}"#,
        r#"process_cpu:cpu:nanoseconds:cpu:nanoseconds{a="\n\x41\u00e9\"", b!=''}"#,
        r#"{__name__=~"(?i)x[a-z]{2,5}$",}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}

fn profile() -> Vec<u8> {
    let strings = ["", "cpu", "nanoseconds", "main", "work", "a.c", "key", "value", "/bin/a", "abcdef"];
    let function = |id, name| proto::Function { id, name, system_name: name, filename: 5, start_line: 3 };
    let line = |function_id| proto::Line { function_id, line: 7 };
    let location = |id, lines: &[u64]| proto::Location {
        id,
        mapping_id: 1,
        address: 0x1000 + id,
        line: lines.iter().map(|function| line(*function)).collect(),
        is_folded: false,
    };
    let label = proto::Label { key: 6, str: 7, ..Default::default() };
    proto::Profile {
        sample_type: vec![proto::ValueType { r#type: 1, unit: 2 }],
        period_type: Some(proto::ValueType { r#type: 1, unit: 2 }),
        period: 10_000_000,
        time_nanos: 1_750_000_000_000_000_000,
        string_table: strings.map(str::to_owned).into(),
        function: vec![function(1, 3), function(2, 4)],
        location: vec![location(1, &[1]), location(2, &[2, 1]), location(3, &[])],
        mapping: vec![proto::Mapping {
            id: 1,
            memory_limit: 0x9000,
            filename: 8,
            build_id: 9,
            ..Default::default()
        }],
        sample: vec![
            proto::Sample { location_id: vec![2, 1], value: vec![5], label: vec![label] },
            proto::Sample { location_id: vec![3, 2, 1], value: vec![-1], label: vec![] },
        ],
        ..Default::default()
    }
    .encode_to_vec()
}

pub(crate) fn pprof() -> Vec<Vec<u8>> {
    vec![profile(), gzip(&profile())]
}

/// A length-delimited Protobuf field.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    prost::encode_length_delimiter(value.len(), &mut bytes).expect("a vector grows");
    bytes.extend(value);
    bytes
}

pub(crate) fn push() -> Vec<Vec<u8>> {
    let label = [field(1, b"service_name"), field(2, b"fuzzed")].concat();
    let name = [field(1, b"__name__"), field(2, b"process_cpu")].concat();
    let samples = [field(1, &profile()), field(2, b"id")].concat();
    let message = field(1, &[field(1, &label), field(1, &name), field(2, &samples)].concat());
    let json = br#"{"series":[{"labels":[{"name":"__name__","value":"process_cpu"}],"samples":[{"rawProfile":"H4sIAA==","ID":"x"}]}]}"#;
    vec![
        [&[0][..], &message].concat(),
        [&[1][..], json].concat(),
        [&[2][..], &gzip(&message)].concat(),
        [&[3][..], &gzip(json)].concat(),
    ]
}

pub(crate) fn ingest() -> Vec<Vec<u8>> {
    let form = [
        &b"--x\r\nContent-Disposition: form-data; name=\"profile\"; filename=\"p\"\r\n\r\n"[..],
        &profile(),
        b"\r\n--x\r\nContent-Disposition: form-data; name=\"sample_type_config\"\r\n\r\n{\"cpu\":{\"units\":\"samples\"}}\r\n--x--\r\n",
    ];
    vec![
        [&[0][..], &profile()].concat(),
        [&[1][..], &form.concat()].concat(),
        b"\x02main;work 3\nmain 1\n".into(),
        b"\x03main;work\nmain;work\n".into(),
        b"\x04\0\x01\x04main\x05".into(),
        b"\x05\0\0\x01\x04main\x05\0".into(),
    ]
}

pub(crate) fn wal_file() -> Vec<Vec<u8>> {
    wal_record().iter().map(|payload| fuzzing::seal_record(payload)).collect()
}

pub(crate) fn wal_record() -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = Store::open(StoreConfig::new(dir.path())).expect("a new store opens");
    (1..4).for_each(|n| store.append_blocking(batch(n)).expect("a small batch is taken"));
    drop(store);
    fuzzing::payloads(&std::fs::read(dir.path().join("wal/0000000000000001.wal")).expect("the store made it"))
}

pub(crate) fn segment() -> Vec<Vec<u8>> {
    let whole = std::fs::read(segment_directory().join("segment.json")).expect("it has one");
    // The line behind it is the checksum, which the target makes anew.
    vec![whole.split(|byte| *byte == b'\n').next().unwrap_or_default().to_vec()]
}

pub(crate) fn archive() -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = Store::open(StoreConfig::new(dir.path())).expect("a new store opens");
    (1..4).for_each(|n| store.append_blocking(batch(n)).expect("a small batch is taken"));
    let mut archive = Vec::new();
    let ever = TimeRange::new(UnixMs(i64::MIN), UnixMs(i64::MAX));
    store.export_archive(ever, &mut archive, &mut |_| {}).expect("what was just written is sound");
    vec![archive]
}

/// A segment as a store makes it.
pub(crate) fn segment_directory() -> &'static Path {
    static SEGMENT: LazyLock<TempDir> = LazyLock::new(|| {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, _) = Store::open(StoreConfig::new(dir.path())).expect("a new store opens");
        (1..4).for_each(|n| store.append_blocking(batch(n)).expect("a small batch is taken"));
        store.flush().expect("there is room for a segment");
        let mut segments =
            std::fs::read_dir(dir.path().join("segments")).expect("the store made it").flatten();
        let segment = segments.find(|entry| entry.path().join("segment.json").exists());
        let segment = segment.expect("rows were flushed").path();
        // A copy: the store may merge its own away.
        let kept = tempfile::tempdir().expect("a directory");
        for file in std::fs::read_dir(segment).expect("it is there").flatten() {
            std::fs::copy(file.path(), kept.path().join(file.file_name())).expect("copied");
        }
        kept
    });
    SEGMENT.path()
}

fn batch(n: i64) -> Batch {
    let mut symbols = SymbolTable::new();
    let leaf = format!("leaf{n}");
    let locations = [leaf.as_str(), "main"].map(|name| symbols.intern_named_location(name));
    let stack = symbols.intern_stack(&locations).expect("it has frames");
    // Older rows would be deleted as soon as they are flushed.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64;
    let rows = vec![Row { time: UnixMs(now + n), stack, value: n }];
    let labels = LabelSet::from_pairs([("service_name", "fuzzed")]);
    let series = vec![SeriesRows { labels, profile_type: ProfileType::cpu_time(), rows }];
    Batch { symbols, series, ..Batch::default() }
}
