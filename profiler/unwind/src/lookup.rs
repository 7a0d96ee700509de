//! Finding the row of a code position in the tree of chunks. Everybody who reads tables in user space comes through
//! here; the BPF walker does the same in C (`bpf/include/unwind.h` draws the tree).

use pyrite_bpf::abi::{self, pyrite_executable};

use crate::rule::{Rule, RuleId};

/// How many bytes a chunk has.
pub const CHUNK_BYTES: usize = abi::PYRITE_CHUNK_BYTES as usize;

/// One chunk: a leaf of rows, a node, or a part of a mapping set.
pub type Chunk = [u8; CHUNK_BYTES];

/// Where the chunks, executables and rules are: in the kernel's maps, or in memory.
pub trait Tables {
    /// The chunk of this id.
    fn chunk(&self, id: u32) -> Option<&Chunk>;
    /// The executable of this index.
    fn executable(&self, index: u32) -> Option<pyrite_executable>;
    /// The rule of this id.
    fn rule(&self, id: u16) -> Option<Rule>;
}

/// Which rule holds at a code position, and how far behind its row's start that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// To be read with [`Rule::at`].
    pub rule: RuleId,
    /// In bytes, at most 65,535.
    pub behind: u16,
}

/// Why there is no rule to look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoTable {
    /// Not made yet.
    Pending,
    /// The file has no unwind information, or the executable is not known.
    Absent,
    /// Left out to keep the memory budget.
    OverBudget,
    /// A chunk that the tree leads to is not there.
    Broken,
}

/// The row of `executable` that covers `pc` (avma - bias).
pub fn lookup(tables: &impl Tables, executable: u32, pc: u64) -> Result<Position, NoTable> {
    let entry = tables.executable(executable).ok_or(NoTable::Absent)?;
    match u32::from(entry.state) {
        abi::PYRITE_TABLE_READY => {}
        abi::PYRITE_TABLE_PENDING => return Err(NoTable::Pending),
        abi::PYRITE_TABLE_OVER_BUDGET => return Err(NoTable::OverBudget),
        _ => return Err(NoTable::Absent),
    }
    search(tables, &entry, pc)
}

/// The same for an executable whose entry is at hand and ready.
pub fn search(tables: &impl Tables, entry: &pyrite_executable, pc: u64) -> Result<Position, NoTable> {
    const NO_ROW: Position = Position { rule: RuleId::NONE, behind: 0 };
    let Ok(pc) = u32::try_from(pc) else { return Ok(NO_ROW) };
    let (mut chunk, mut first_pc) = (entry.root, entry.first_pc);
    for _level in 0..entry.depth {
        let node = tables.chunk(chunk).ok_or(NoTable::Broken)?;
        let Some(found) = last_not_above::<8>(node, |bytes| word(bytes, 0) <= pc) else { return Ok(NO_ROW) };
        (first_pc, chunk) = (word(found, 0), word(found, 4));
    }
    let Some(within) = pc.checked_sub(first_pc) else { return Ok(NO_ROW) };
    let leaf = tables.chunk(chunk).ok_or(NoTable::Broken)?;
    // Unused entries have the highest pc there is, so the position searched for stays below it.
    let key = within.min(u32::from(NO_ROW_PC) - 1) as u16;
    let Some(row) = last_not_above::<4>(leaf, |bytes| half(bytes, 0) <= key) else { return Ok(NO_ROW) };
    let behind = within - u32::from(half(row, 0));
    Ok(Position { rule: RuleId(half(row, 2)), behind: behind.min(u32::from(u16::MAX)) as u16 })
}

/// The pc of unused entries of a leaf.
pub(crate) const NO_ROW_PC: u16 = abi::PYRITE_NO_ROW_PC as u16;

/// The last of the sorted entries of `BYTES` bytes for which `not_above` holds.
fn last_not_above<const BYTES: usize>(chunk: &Chunk, not_above: impl Fn(&[u8]) -> bool) -> Option<&[u8]> {
    let (mut low, mut high) = (0, CHUNK_BYTES / BYTES);
    while low < high {
        let middle = usize::midpoint(low, high);
        if not_above(&chunk[middle * BYTES..(middle + 1) * BYTES]) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    let last = low.checked_sub(1)?;
    Some(&chunk[last * BYTES..low * BYTES])
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
