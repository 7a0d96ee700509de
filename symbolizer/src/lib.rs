//! Addresses to names, and files to executable ids.
//!
//! * [`Executables`] keeps the files open that processes have mapped, so that code of an exited process still has names.
//! * [`Symbolizer`] names code in those files and in the kernel, each (executable id, offset) once, in bounded memory.
//! * A name that cannot be had is a value with a reason ([`Miss`]), shown as `[libfoo.so+0x1234]` and counted.
//!
//! Symbol tables are read by `pread`, by our own reader: a mapped file that someone truncates kills its reader by SIGBUS.
//! Debug information (lines, inlined functions) is read by blazesym and off by default.

#![forbid(unsafe_code)]

mod debug_info;
mod elf;
mod executable;
#[cfg(fuzzing)]
pub mod fuzzing;
mod image;
mod kernel;
mod lru;
mod miss;
mod names;
mod registry;
mod symbol;
mod symbolizer;
mod symtab;

pub use elf::Segment;
pub use executable::{Executable, ExecutableId, ExecutableReader, ExecutableRef};
pub use miss::Miss;
pub use registry::{Executables, ExecutablesStats};
pub use symbol::{Address, Frame, Symbol};
pub use symbolizer::{Symbolizer, SymbolizerConfig, SymbolizerStats};
