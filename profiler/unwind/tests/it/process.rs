//! A running process as the unwinder sees it: its mappings with real tables, its memory, and its threads' registers, taken
//! while they are stopped.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use object::{Object, ObjectSymbol};
use pyrite_bpf::abi::pyrite_executable;
use pyrite_model::{Avma, FileOffset};
use pyrite_unwind::{
    Arch, Chunk, Machine, MappedCode, Registers, Rule, RuleBook, RuleId, StackMemory, Start, Tables, Walked,
    Walker, build, extract,
};

/// A child that is killed when the test is over.
pub(crate) struct Running {
    child: Child,
    memory: File,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let child = command.stdout(Stdio::null()).spawn().expect("the program can be started");
        let memory = File::open(format!("/proc/{}/mem", child.id())).expect("its memory can be opened");
        Self { child, memory }
    }

    pub(crate) fn threads(&self) -> Vec<i32> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("the child runs");
        tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok()).collect()
    }

    /// Stops the thread, takes its registers, gives both to `look`, lets it run again. Nothing if it has ended meanwhile.
    pub(crate) fn stopped<T>(&self, tid: i32, look: impl FnOnce(&Start, &Self) -> T) -> Option<T> {
        let tid = Pid::from_raw(tid);
        ptrace::attach(tid).ok()?;
        waitpid(tid, Some(WaitPidFlag::__WALL)).ok()?;
        let seen = ptrace::getregs(tid).ok().map(|r| {
            let mut all = [0; Registers::COUNT];
            let by_number = [
                r.rax, r.rdx, r.rcx, r.rbx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11, r.r12,
                r.r13, r.r14, r.r15,
            ];
            all[..16].copy_from_slice(&by_number);
            let registers = Registers { ip: r.rip, sp: r.rsp, fp: r.rbp, lr: 0 };
            look(&Start { all: Some(all), ..Start::leaf(registers) }, self)
        });
        ptrace::detach(tid, None).ok()?;
        seen
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl StackMemory for Running {
    fn read_u64(&self, avma: Avma) -> Option<u64> {
        let mut bytes = [0; 8];
        self.memory.read_exact_at(&mut bytes, avma.0).ok()?;
        Some(u64::from_le_bytes(bytes))
    }
}

struct Mapping {
    start: u64,
    end: u64,
    code: MappedCode,
}

/// Tables and symbols of all that a process has mapped.
pub(crate) struct Code {
    mappings: Vec<Mapping>,
    executables: Vec<pyrite_executable>,
    chunks: Vec<Chunk>,
    book: RuleBook,
    /// By executable, then by pc behind the first byte of a symbol: its end and name.
    symbols: Vec<BTreeMap<u64, (u64, String)>>,
}

impl Code {
    pub(crate) fn of(process: &Running) -> Self {
        let mut code = Self {
            mappings: Vec::new(),
            executables: vec![pyrite_executable::default()],
            chunks: Vec::new(),
            book: RuleBook::new(),
            symbols: vec![BTreeMap::new()],
        };
        let maps = fs::read_to_string(format!("/proc/{}/maps", process.child.id())).expect("the child runs");
        for line in maps.lines().filter(|line| line.contains("r-xp")) {
            code.add(line, process);
        }
        code
    }

    fn add(&mut self, line: &str, process: &Running) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |text: &str| u64::from_str_radix(text, 16).expect("a hexadecimal number");
        let (start, end) = fields[0].split_once('-').expect("a range");
        let (start, end) = (number(start), number(end));
        let (file, offset) = match fields.get(5) {
            Some(&"[vdso]") => {
                let mut image = vec![0; (end - start) as usize];
                process.memory.read_exact_at(&mut image, start).expect("the vDSO can be read");
                (image, 0)
            }
            Some(path) if path.starts_with('/') => {
                (fs::read(path).expect("the file can be read"), number(fields[2]))
            }
            _ => return,
        };
        let Ok(raw) = extract(&file, Arch::X86_64) else { return };
        let image = build(&raw, &mut self.book).expect("the table fits");
        let first = self.chunks.len() as u32;
        let ids: Vec<u32> = (0..image.chunk_count() as u32).map(|index| first + index).collect();
        let placed = image.place(&ids).expect("as many ids as chunks");
        self.chunks.extend(placed.chunks);
        let bias = raw.layout.bias(Avma(start), FileOffset(offset), end - start).expect("code");
        let executable = self.executables.len() as u32;
        self.executables.push(placed.executable);
        self.symbols.push(symbols(&file, raw.layout.lowest_svma));
        self.mappings.push(Mapping { start, end, code: MappedCode { executable, bias } });
    }

    fn find(&self, avma: Avma) -> Option<MappedCode> {
        let mapping = self.mappings.iter().find(|mapping| (mapping.start..mapping.end).contains(&avma.0));
        mapping.map(|mapping| mapping.code)
    }

    /// The names of the frames of a stack, leaf first, and how the walk ended.
    pub(crate) fn walk(&self, start: &Start, memory: &Running) -> (Vec<String>, Walked) {
        let mappings = |avma| self.find(avma);
        let unwinder =
            Walker { machine: Machine::X86_64, tables: self, mappings: &mappings, memory, limit: 1023 };
        let mut frames = Vec::new();
        let walked = unwinder.walk(start, &mut frames);
        let names =
            frames.iter().enumerate().map(|(index, frame)| self.name(Avma(frame.0 - u64::from(index > 0))));
        (names.collect(), walked)
    }

    fn name(&self, avma: Avma) -> String {
        let named = self.find(avma).and_then(|code| {
            let pc = avma.0 - code.bias;
            let (_, (end, name)) = self.symbols[code.executable as usize].range(..=pc).next_back()?;
            (pc < *end).then(|| name.clone())
        });
        named.unwrap_or_else(|| format!("{:#x}", avma.0))
    }
}

impl Tables for Code {
    fn chunk(&self, id: u32) -> Option<&Chunk> {
        self.chunks.get(id as usize)
    }

    fn executable(&self, index: u32) -> Option<pyrite_executable> {
        self.executables.get(index as usize).copied()
    }

    fn rule(&self, id: u16) -> Option<Rule> {
        self.book.get(RuleId(id))
    }
}

fn symbols(file: &[u8], lowest_svma: u64) -> BTreeMap<u64, (u64, String)> {
    let Ok(parsed) = object::File::parse(file) else { return BTreeMap::new() };
    let all = parsed.dynamic_symbols().chain(parsed.symbols());
    let code = all.filter(|symbol| symbol.kind() == object::SymbolKind::Text && symbol.is_definition());
    let named = code.filter_map(|symbol| {
        let start = symbol.address().checked_sub(lowest_svma)?;
        Some((start, (start + symbol.size().max(1), symbol.name().ok()?.to_owned())))
    });
    named.collect()
}
