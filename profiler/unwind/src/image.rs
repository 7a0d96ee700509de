//! The chunks of one executable's table, in the form that `bpf/include/unwind.h` draws: leaves of rows, and nodes above
//! them where there is more than one leaf.

use hashbrown::HashSet;
use pyrite_bpf::abi::{self, pyrite_executable};
use thiserror::Error;

use crate::book::RuleBook;
use crate::fold::unfold;
use crate::lookup::{CHUNK_BYTES, Chunk, NO_ROW_PC};
use crate::rule::{Rule, RuleId};
use crate::table::RawTable;

const LEAF_ROWS: usize = abi::PYRITE_LEAF_ROWS as usize;
const NODE_ENTRIES: usize = abi::PYRITE_NODE_ENTRIES as usize;
const MAX_DEPTH: u8 = 2;

/// The table needs more chunks than a tree of depth 2 reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a table of {leaves} leaves, more than a tree can hold")]
pub struct TooManyLeaves {
    /// How many it would have.
    pub leaves: usize,
}

/// A table whose chunks have no place yet.
#[derive(Clone, Debug)]
pub struct TableImage {
    chunks: Vec<Chunk>,
    /// The chunks from here on are nodes, whose entries are indexes into `chunks`.
    leaves: usize,
    depth: u8,
    first_pc: u32,
    rules: Vec<RuleId>,
    rules_refused: u32,
}

/// A table whose chunks know each other's ids.
#[derive(Clone, Debug)]
pub struct PlacedTable {
    /// In the order of the ids that were given.
    pub chunks: Vec<Chunk>,
    /// To be published once all chunks are written.
    pub executable: pyrite_executable,
    /// The rules that its rows name, each once: to be released when the table has gone.
    pub rules: Vec<RuleId>,
}

/// Makes the chunks of `raw`, with rules that `book` knows or takes in.
///
/// # Errors
/// Where the code is so far apart that a tree cannot hold its leaves. Nothing is taken in then.
pub fn build(raw: &RawTable, book: &mut RuleBook) -> Result<TableImage, TooManyLeaves> {
    let mut rules = TableRules { book, used: HashSet::new(), refused: 0 };
    let ids: Vec<Option<RuleId>> = raw.rules.iter().map(|rule| rules.intern(*rule)).collect();
    let mut leaves =
        Leaves { chunks: Vec::with_capacity(raw.rows.len() / LEAF_ROWS + 1), ..Leaves::default() };
    for (index, row) in raw.rows.iter().enumerate() {
        if let Some(id) = ids[row.rule as usize] {
            leaves.push(row.pc, id);
            continue;
        }
        // The book is full. A run can still be said by rows of plain rules, which are few and mostly known. What it says
        // of code behind its own does not count.
        let next_pc = raw.rows.get(index + 1).map_or(u64::MAX, |next| next.pc.into());
        for (behind, rule) in unfold(raw.rules[row.rule as usize]) {
            if u64::from(row.pc) + u64::from(behind) >= next_pc {
                break;
            }
            let id = rules.intern(rule).unwrap_or(RuleId::UNSUPPORTED);
            leaves.push(row.pc.saturating_add(behind), id);
        }
    }
    leaves.with_nodes(rules)
}

/// What a table needs of the book: each rule counts as used once, however many rows name it.
struct TableRules<'a> {
    book: &'a mut RuleBook,
    used: HashSet<RuleId>,
    refused: u32,
}

impl TableRules<'_> {
    fn intern(&mut self, rule: Rule) -> Option<RuleId> {
        let id = self.book.intern(rule);
        match id {
            Some(id) if self.used.insert(id) => {}
            Some(id) => self.book.release(id),
            None => self.refused += 1,
        }
        id
    }

    fn release(self) {
        for id in self.used {
            self.book.release(id);
        }
    }
}

#[derive(Default)]
struct Leaves {
    chunks: Vec<Chunk>,
    /// Of each chunk, the pc that its rows are relative to.
    first_pcs: Vec<u32>,
    rows_in_last: usize,
}

impl Leaves {
    fn push(&mut self, pc: u32, rule: RuleId) {
        let fits = self.first_pcs.last().is_some_and(|first| pc - first < u32::from(NO_ROW_PC));
        if !fits || self.rows_in_last == LEAF_ROWS {
            self.chunks.push(filled(NO_ROW_PC.to_le_bytes(), RuleId::NONE.0.to_le_bytes()));
            self.first_pcs.push(pc);
            self.rows_in_last = 0;
        }
        let (Some(chunk), Some(first)) = (self.chunks.last_mut(), self.first_pcs.last()) else { return };
        let at = self.rows_in_last * 4;
        chunk[at..at + 2].copy_from_slice(&((pc - first) as u16).to_le_bytes());
        chunk[at + 2..at + 4].copy_from_slice(&rule.0.to_le_bytes());
        self.rows_in_last += 1;
    }

    fn with_nodes(self, rules: TableRules<'_>) -> Result<TableImage, TooManyLeaves> {
        let Self { mut chunks, first_pcs, .. } = self;
        let leaves = chunks.len();
        let first_pc = first_pcs.first().copied().unwrap_or_default();
        let mut level: Vec<(u32, u32)> = first_pcs.into_iter().zip(0..).collect();
        let mut depth = 0;
        while level.len() > 1 {
            if depth == MAX_DEPTH {
                rules.release();
                return Err(TooManyLeaves { leaves });
            }
            depth += 1;
            let nodes = level.chunks(NODE_ENTRIES).map(|entries| {
                chunks.push(node(entries));
                (entries[0].0, chunks.len() as u32 - 1)
            });
            level = nodes.collect();
        }
        let (rules_refused, rules) = (rules.refused, rules.used.into_iter().collect());
        Ok(TableImage { chunks, leaves, depth, first_pc, rules, rules_refused })
    }
}

fn node(entries: &[(u32, u32)]) -> Chunk {
    let mut chunk = filled(u32::MAX.to_le_bytes(), 0_u32.to_le_bytes());
    for (slot, (pc, child)) in chunk.chunks_exact_mut(8).zip(entries) {
        slot[..4].copy_from_slice(&pc.to_le_bytes());
        slot[4..].copy_from_slice(&child.to_le_bytes());
    }
    chunk
}

/// A chunk of unused entries.
fn filled<const HALF: usize>(key: [u8; HALF], value: [u8; HALF]) -> Chunk {
    let mut chunk = [0; CHUNK_BYTES];
    for slot in chunk.chunks_exact_mut(2 * HALF) {
        slot[..HALF].copy_from_slice(&key);
        slot[HALF..].copy_from_slice(&value);
    }
    chunk
}

impl TableImage {
    /// How many chunks the table needs.
    pub fn chunk_count(&self) -> usize {
        self.chunks.len()
    }

    /// The rules that its rows name, each once: to be released where the table is not placed.
    pub fn into_rules(self) -> Vec<RuleId> {
        self.rules
    }

    /// How many rules found the book full; their rows say "unsupported".
    pub fn rules_refused(&self) -> u32 {
        self.rules_refused
    }

    /// Gives the chunks their ids.
    ///
    /// # Errors
    /// The image as it was, where there are not as many ids as chunks, or no chunks at all.
    pub fn place(mut self, ids: &[u32]) -> Result<PlacedTable, Self> {
        let Some(root) = ids.last().copied().filter(|_| ids.len() == self.chunks.len()) else {
            return Err(self);
        };
        for chunk in &mut self.chunks[self.leaves..] {
            for slot in chunk.chunks_exact_mut(8).filter(|slot| slot[..4] != u32::MAX.to_le_bytes()) {
                let index = u32::from_le_bytes([slot[4], slot[5], slot[6], slot[7]]);
                slot[4..].copy_from_slice(&ids[index as usize].to_le_bytes());
            }
        }
        let executable = pyrite_executable {
            root,
            first_pc: self.first_pc,
            depth: self.depth,
            state: abi::PYRITE_TABLE_READY as u8,
            ..pyrite_executable::default()
        };
        Ok(PlacedTable { chunks: self.chunks, executable, rules: self.rules })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup::{NoTable, Position, Tables, lookup};
    use crate::rule::{Cfa, Run, Saved};
    use crate::table::{Arch, Layout, RawRow, Report};
    use proptest::prelude::*;

    fn rule(number: u32) -> Rule {
        Rule::new(Cfa::Sp(number as i32 * 8), Saved::Same, Saved::AtCfa(-8))
    }

    fn raw(rows: Vec<RawRow>, rules: Vec<Rule>) -> RawTable {
        RawTable { arch: Arch::X86_64, layout: Layout::default(), rows, rules, report: Report::default() }
    }

    struct Placed {
        table: PlacedTable,
        ids: Vec<u32>,
    }

    impl Tables for Placed {
        fn chunk(&self, id: u32) -> Option<&Chunk> {
            self.table.chunks.get(self.ids.iter().position(|known| *known == id)?)
        }

        fn executable(&self, index: u32) -> Option<pyrite_executable> {
            (index == 7).then_some(self.table.executable)
        }

        fn rule(&self, _id: u16) -> Option<Rule> {
            None
        }
    }

    /// Places the chunks in descending order, so that an index that was taken for an id would show.
    fn placed(raw: &RawTable, book: &mut RuleBook) -> Placed {
        let image = build(raw, book).unwrap();
        let ids: Vec<u32> = (0..image.chunk_count() as u32).map(|index| 900_000 - index).collect();
        Placed { table: image.place(&ids).unwrap(), ids }
    }

    fn naive(raw: &RawTable, book: &mut RuleBook, pc: u32) -> Position {
        match raw.rows.iter().rev().find(|row| row.pc <= pc) {
            None => Position { rule: RuleId::NONE, behind: 0 },
            Some(row) => Position {
                rule: book.intern(raw.rules[row.rule as usize]).unwrap(),
                behind: u16::try_from(pc - row.pc).unwrap_or(u16::MAX),
            },
        }
    }

    /// Tables of every depth: many rows close together, or few so far apart that each needs a leaf.
    fn any_table() -> impl Strategy<Value = RawTable> {
        let steps = prop_oneof![
            proptest::collection::vec(1..40_u32, 0..2000),
            proptest::collection::vec(
                prop_oneof![1..300_u32, 65_533..65_538_u32, 100_000..900_000_u32],
                0..600
            ),
            proptest::collection::vec(1..4_u32, 32_000..34_000),
        ];
        (any::<u16>(), steps).prop_map(|(first, steps)| {
            let mut pc = u32::from(first);
            let rows = steps.iter().map(|step| {
                pc += step;
                RawRow { pc, rule: (pc / 7) % 50 }
            });
            raw(rows.collect(), (0..50).map(rule).collect())
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_tree_finds_what_a_linear_search_finds(raw in any_table(), pcs in proptest::collection::vec(any::<u32>(), 40)) {
            prop_assume!(!raw.rows.is_empty());
            let mut book = RuleBook::new();
            let placed = placed(&raw, &mut book);
            let end = raw.rows.last().map_or(0, |row| row.pc).saturating_add(200_000);
            let near = |pc: u32| {
                let row = raw.rows[pc as usize % raw.rows.len()].pc;
                [row - 1, row, row + 1, pc % end]
            };
            for pc in pcs.into_iter().flat_map(near) {
                let found = lookup(&placed, 7, u64::from(pc));
                prop_assert_eq!(found, Ok(naive(&raw, &mut book, pc)), "{:#x}", pc);
            }
        }
    }

    fn rows_apart(count: u32, step: u32) -> RawTable {
        let rows = (0..count).map(|n| RawRow { pc: n * step, rule: n % 2 }).collect();
        raw(rows, vec![rule(1), rule(2)])
    }

    #[test]
    fn depth_grows_with_the_number_of_leaves() {
        let depth = |count, step| {
            let image = build(&rows_apart(count, step), &mut RuleBook::new()).unwrap();
            (image.depth, image.chunk_count())
        };
        assert_eq!(depth(256, 1), (0, 1));
        assert_eq!(depth(257, 1), (1, 3));
        assert_eq!(depth(256 * 128, 1), (1, 129));
        assert_eq!(depth(256 * 128 + 1, 1), (2, 132));
        // The highest pc within a leaf is 0xfffe.
        assert_eq!(depth(2, 0xfffe), (0, 1));
        assert_eq!(depth(2, 0xffff), (1, 3));
        assert_eq!(depth(129, 0xffff), (2, 132));
    }

    #[test]
    fn a_table_beyond_depth_two_is_refused() {
        let leaves = 128 * 128 + 1;
        let mut book = RuleBook::new();
        let refused = build(&rows_apart(leaves, 0xffff), &mut book);
        assert_eq!(refused.err(), Some(TooManyLeaves { leaves: leaves as usize }));
        assert_eq!(book.count(), RuleBook::new().count(), "its rules have gone with it");
        assert!(build(&rows_apart(leaves - 1, 0xffff), &mut book).is_ok());
    }

    #[test]
    fn a_table_uses_each_of_its_rules_once() {
        let mut book = RuleBook::new();
        let raw = RawTable { rules: vec![rule(1), rule(2), rule(1), Rule::NONE], ..rows_apart(3, 1) };
        let first = build(&raw, &mut book).unwrap().into_rules();
        let second = build(&raw, &mut book).unwrap();
        assert_eq!((first.len(), book.count()), (3, 4));
        for id in first {
            book.release(id);
        }
        assert_eq!(book.count(), 4, "the second table still uses them");
        for id in second.place(&[1]).unwrap().rules {
            book.release(id);
        }
        assert_eq!(book.count(), 2);
    }

    #[test]
    fn chunks_need_as_many_ids() {
        let image = build(&rows_apart(300, 1), &mut RuleBook::new()).unwrap();
        let image = image.place(&[1, 2]).unwrap_err();
        assert!(image.place(&[1, 2, 3]).is_ok());
        let empty = build(&raw(vec![], vec![]), &mut RuleBook::new()).unwrap();
        assert!(empty.place(&[]).is_err());
    }

    #[test]
    fn executables_without_a_table_say_why() {
        let mut placed = placed(&rows_apart(300, 1), &mut RuleBook::new());
        let mut expect = |state, expected| {
            placed.table.executable.state = state as u8;
            assert_eq!(lookup(&placed, 7, 5).err(), expected);
        };
        expect(abi::PYRITE_TABLE_PENDING, Some(NoTable::Pending));
        expect(abi::PYRITE_TABLE_ABSENT, Some(NoTable::Absent));
        expect(abi::PYRITE_TABLE_OVER_BUDGET, Some(NoTable::OverBudget));
        expect(abi::PYRITE_TABLE_READY, None);
        assert_eq!(lookup(&placed, 8, 5), Err(NoTable::Absent));
        placed.table.chunks.pop();
        assert_eq!(lookup(&placed, 7, 5), Err(NoTable::Broken));
    }

    #[test]
    fn a_full_book_costs_runs_their_row_and_new_rules_their_meaning() {
        let mut book = RuleBook::new();
        let known = rule(1);
        book.intern(known).unwrap();
        book.intern(rule(2)).unwrap();
        for filler in 0.. {
            if book.intern(Rule::new(Cfa::Fp(filler), Saved::Same, Saved::AtCfa(-8))).is_none() {
                break;
            }
        }
        // push %rax, folded; a rule that nobody knows; a run that would reach over the row behind it.
        let folded = |pushes| Rule { run: Run { pushes, pop: false, fp_from: 0 }, ..known };
        let rows = [(100, 0), (120, 1), (130, 2), (135, 3)].map(|(pc, rule)| RawRow { pc, rule });
        let raw = raw(rows.into(), vec![folded(1), rule(3), folded(1 << 9), rule(2)]);
        let image = build(&raw, &mut book).unwrap();
        // Three rules of the table, and the plain form of the second.
        assert_eq!(image.rules_refused(), 4);
        let placed = placed(&raw, &mut book);
        let found = |pc| book.get(lookup(&placed, 7, pc).unwrap().rule).unwrap();
        assert_eq!(found(100), known);
        assert_eq!(found(101), rule(2));
        assert_eq!(found(120), Rule::UNSUPPORTED);
        assert_eq!((found(134), found(137)), (known, rule(2)));
    }
}
