//! Source lines and inlined functions from DWARF, by blazesym. Off by default: 100 MB for one large debug build.
//!
//! blazesym maps the files it reads, so unlike the symbol tables this path may not meet files that others truncate.

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{CodeInfo, Input, Sym, Symbolizer as Blazesym};

use crate::executable::Executable;
use crate::symbol::Frame;

/// After this many files blazesym starts afresh: its caches only grow.
const MAX_FILES: usize = 8;

/// A blazesym that is thrown away now and then.
#[derive(Default)]
pub(crate) struct DebugInfo {
    blazesym: Option<Blazesym>,
    files: usize,
}

impl DebugInfo {
    /// Frames for each of `offsets`; empty where debug information says nothing.
    pub(crate) fn frames(&mut self, executable: &Executable, offsets: &[u64]) -> Vec<Vec<Frame>> {
        let nothing = || vec![Vec::new(); offsets.len()];
        let Some(path) = executable.readable_path() else { return nothing() };
        if self.files == MAX_FILES {
            *self = Self::default();
        }
        self.files += 1;
        let blazesym = self.blazesym.get_or_insert_with(Blazesym::new);
        let source = Source::Elf(Elf::new(path));
        match blazesym.symbolize(&source, Input::FileOffset(offsets)) {
            Ok(symbols) => {
                symbols.iter().map(|symbol| symbol.as_sym().map_or_else(Vec::new, frames)).collect()
            }
            Err(error) => {
                tracing::debug!(path = %executable.path(), %error, "debug information is not usable");
                nothing()
            }
        }
    }
}

fn frames(symbol: &Sym<'_>) -> Vec<Frame> {
    let frame = |name: &str, code: Option<&CodeInfo<'_>>| Frame {
        name: name.into(),
        system_name: "".into(),
        file: code.map_or_else(Box::default, |code| code.to_path().to_string_lossy().into()),
        line: code.and_then(|code| code.line).unwrap_or(0),
    };
    let outer = frame(&symbol.name, symbol.code_info.as_deref());
    let inlined = symbol.inlined.iter().rev().map(|f| frame(&f.name, f.code_info.as_ref()));
    inlined.chain([outer]).collect()
}
