//! What goes into symbolization and what comes out of it.

use std::sync::Arc;

use pyrite_model::{Avma, FileOffset, Function, Line, Location, LocationId, Mapping, SymbolTable};

use crate::executable::{ExecutableId, ExecutableRef};
use crate::miss::Miss;

/// A code address to be named. For a caller's frame this is the return address minus one: the call itself.
#[derive(Clone, Debug)]
pub enum Address {
    /// Code in a mapped file; the vDSO counts as one.
    File {
        /// The file, which may be one that could not be opened.
        executable: ExecutableRef,
        /// Where in the file: address in the process − start of its mapping + offset of the mapping.
        offset: FileOffset,
    },
    /// Code of the running kernel, its modules and BPF programs.
    Kernel(Avma),
    /// Code that no file is known for: [`Miss::Anonymous`], [`Miss::Unmapped`], …
    Unknown(Miss),
}

/// One function at an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Demangled name, or `[libfoo.so+0x1234]` where there is none.
    pub name: Box<str>,
    /// Name as the symbol table has it; empty where it equals `name`.
    pub system_name: Box<str>,
    /// Source file; empty where unknown.
    pub file: Box<str>,
    /// Line in `file`; 0 where unknown.
    pub line: u32,
}

/// What is known about an address. There is always at least one frame to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Id of the executable; empty where unknown.
    pub executable: ExecutableId,
    /// Path of the executable, or `[kernel]`, `[nf_tables]`, `[vdso]`; empty where unknown.
    pub path: Arc<str>,
    /// File offset, or the kernel's address; 0 where unknown.
    pub address: u64,
    /// Inlined functions first, the function that really holds the address last.
    pub frames: Vec<Frame>,
    /// Why `frames` holds no real name, if so.
    pub miss: Option<Miss>,
}

impl Symbol {
    /// A symbol without a real name.
    pub(crate) fn missing(address: &Address, miss: Miss) -> Self {
        let (executable, path, at, name): (_, Arc<str>, _, _) = match address {
            Address::File { executable, offset } => (
                executable.id().clone(),
                Arc::clone(executable.path()),
                offset.0,
                executable.offset_name(*offset),
            ),
            // The address itself stays out of the name: it differs at each boot.
            Address::Kernel(avma) => {
                (ExecutableId::default(), "[kernel]".into(), avma.0, "[kernel]".to_owned())
            }
            Address::Unknown(_) => (ExecutableId::default(), "".into(), 0, format!("[{}]", miss.name())),
        };
        let frame = Frame { name: name.into(), ..Frame::default() };
        Self { executable, path, address: at, frames: vec![frame], miss: Some(miss) }
    }

    /// Adds this symbol to `table`.
    pub fn intern(&self, table: &mut SymbolTable) -> LocationId {
        let mapping = (!self.path.is_empty()).then(|| {
            let (build_id, path) = (table.intern_str(self.executable.as_str()), table.intern_str(&self.path));
            table.intern_mapping(Mapping { build_id, path })
        });
        let lines = self.frames.iter().map(|frame| {
            let function = Function {
                name: table.intern_str(&frame.name),
                system_name: table.intern_str(&frame.system_name),
                filename: table.intern_str(&frame.file),
                start_line: 0,
            };
            Line { function: table.intern_function(function), line: frame.line }
        });
        let lines = lines.collect();
        table.intern_location(Location { mapping, address: self.address, lines })
    }

    /// About what this symbol holds in memory.
    pub(crate) fn bytes(&self) -> usize {
        let frame = |f: &Frame| size_of::<Frame>() + f.name.len() + f.system_name.len() + f.file.len();
        size_of::<Self>() + self.frames.iter().map(frame).sum::<usize>()
    }
}
