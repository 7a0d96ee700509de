//! Kernel addresses to names: a compact copy of `/proc/kallsyms` (kernel, modules, BPF programs).
//!
//! Own rather than blazesym's because that one holds 14 MB for a table that needs 4. Line: `address type name [module]`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::time::{Duration, Instant};

use pyrite_model::Avma;

use crate::miss::Miss;

/// Real tables have about 200,000 entries; BPF programs and modules come on top.
const MAX_TABLE_BYTES: u64 = 256 << 20;
const MAX_SYMBOLS: usize = 1_000_000;
/// `kallsyms` gives no sizes. Code further behind its symbol than this belongs to something not in the table.
const MAX_FUNCTION_BYTES: u64 = 1 << 20;
/// Reading the table costs tens of milliseconds, so an unknown address causes it this often at most.
const RELOAD_AFTER: Duration = Duration::from_mins(1);

/// The text symbols of a running kernel, by address.
#[derive(Debug, Default)]
pub(crate) struct Kallsyms {
    starts: Vec<u64>,
    /// For each start where its name begins in `names`; a name ends where the next begins.
    name_ends: Vec<u32>,
    names: String,
}

impl Kallsyms {
    /// Parses the text of `/proc/kallsyms`. Lines it does not understand are skipped.
    pub(crate) fn parse(text: impl Read) -> io::Result<Self> {
        let mut reader = BufReader::new(text.take(MAX_TABLE_BYTES));
        let mut symbols: Vec<(u64, u32, u32)> = Vec::new();
        let (mut names, mut line) = (String::new(), String::new());
        while reader.read_line(&mut line)? > 0 && symbols.len() < MAX_SYMBOLS {
            if let Some((start, name, module)) = parse_line(&line) {
                let at = names.len() as u32;
                names.push_str(name);
                names.push_str(module);
                symbols.push((start, at, names.len() as u32));
            }
            line.clear();
        }
        // Modules and BPF programs come after the kernel and in any order.
        symbols.sort_by_key(|(start, ..)| *start);
        symbols.dedup_by_key(|(start, ..)| *start);
        let mut table = Self::default();
        table.names.reserve_exact(symbols.iter().map(|(_, from, to)| (to - from) as usize).sum());
        for (start, from, to) in symbols {
            table.names.push_str(&names[from as usize..to as usize]);
            table.starts.push(start);
            table.name_ends.push(table.names.len() as u32);
        }
        table.starts.shrink_to_fit();
        table.name_ends.shrink_to_fit();
        Ok(table)
    }

    /// Name and module (`[nf_tables]`, `[bpf]`, or `[kernel]`) of the function that holds `address`.
    pub(crate) fn find(&self, address: Avma) -> Option<(&str, &str)> {
        let index = self.starts.partition_point(|&start| start <= address.0).checked_sub(1)?;
        if address.0 - self.starts[index] > MAX_FUNCTION_BYTES {
            return None;
        }
        let from = index.checked_sub(1).map_or(0, |i| self.name_ends[i] as usize);
        let name = &self.names[from..self.name_ends[index] as usize];
        Some(name.find('[').map_or((name, "[kernel]"), |at| name.split_at(at)))
    }

    fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }
}

fn parse_line(line: &str) -> Option<(u64, &str, &str)> {
    let mut fields = line.split_ascii_whitespace();
    let start = u64::from_str_radix(fields.next()?, 16).ok().filter(|&start| start != 0)?;
    let is_text = matches!(fields.next()?, "t" | "T" | "w" | "W");
    let (name, module) = (fields.next()?, fields.next().unwrap_or_default());
    is_text.then_some((start, name, module))
}

/// The running kernel's table, read when first needed and again when it proves out of date.
#[derive(Debug, Default)]
pub(crate) struct Kernel {
    table: Kallsyms,
    loaded: Option<Instant>,
    /// Grows with each reload: answers of an earlier table may be wrong by then.
    pub(crate) generation: u64,
}

impl Kernel {
    /// Name and module of the function that holds `address`.
    pub(crate) fn find(&mut self, address: Avma) -> Result<(&str, &str), Miss> {
        let stale = self.loaded.is_none_or(|at| at.elapsed() > RELOAD_AFTER);
        if stale && self.table.find(address).is_none() {
            self.loaded = Some(Instant::now());
            self.generation += 1;
            // An unreadable table leaves the last one in place; the first failure shows as an empty one.
            if let Ok(table) = File::open("/proc/kallsyms").and_then(Kallsyms::parse) {
                self.table = table;
            }
        }
        if self.table.is_empty() {
            return Err(Miss::NoKernelSymbols);
        }
        self.table.find(address).ok_or(Miss::NoKernelSymbolHere)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
ffffffff81000000 T _text
ffffffff81000000 T _stext
ffffffff81000100 t do_work
ffffffff81000180 D some_data
ffffffffc0201000 t nft_do_chain\t[nf_tables]
ffffffffc0101000 t bpf_prog_6deef7357e7b4530_probe\t[bpf]
0000000000000000 T hidden
not a line
";

    fn check(address: u64, expect: Option<(&str, &str)>) {
        let table = Kallsyms::parse(TABLE.as_bytes()).unwrap();
        assert_eq!(table.find(Avma(address)), expect, "{address:#x}");
    }

    #[test]
    fn finds_kernel_modules_and_bpf_programs() {
        check(0xffff_ffff_8100_0000, Some(("_text", "[kernel]")));
        check(0xffff_ffff_8100_0190, Some(("do_work", "[kernel]")));
        check(0xffff_ffff_c020_1010, Some(("nft_do_chain", "[nf_tables]")));
        check(0xffff_ffff_c010_1000, Some(("bpf_prog_6deef7357e7b4530_probe", "[bpf]")));
        check(0xffff_ffff_8200_0000, None);
        check(0x1000, None);
    }

    #[test]
    fn a_table_that_hides_its_addresses_is_empty() {
        let table = Kallsyms::parse("0000000000000000 T _text\n".as_bytes()).unwrap();
        assert!(table.is_empty());
        assert_eq!(table.find(Avma(0xffff_ffff_8100_0000)), None);
    }
}
