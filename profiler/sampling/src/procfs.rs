//! The text of `/proc/PID/stat` and `/proc/PID/maps`, parsed. Reading the files is the agent's business.

use pyrite_model::{Avma, FileKey, FileOffset};

use crate::{BootNs, Comm, MappedRange};

/// `PF_KTHREAD` of `task_struct.flags`.
const PF_KTHREAD: u32 = 0x0020_0000;

/// What `/proc/PID/stat` says that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcStat {
    /// The leader's name.
    pub comm: Comm,
    /// Its parent's thread group id.
    pub parent_tgid: u32,
    /// Whether it is a kernel thread.
    pub is_kernel_thread: bool,
    /// How many threads it has.
    pub threads: u32,
    /// When it started, to the clock tick below.
    pub start: BootNs,
}

/// Parses `/proc/PID/stat`; `clock_ticks_hz` is `sysconf(_SC_CLK_TCK)`. `None` where the text has another shape.
pub fn parse_stat(text: &[u8], clock_ticks_hz: u64) -> Option<ProcStat> {
    // The name may itself contain blanks and parentheses.
    let open = text.iter().position(|byte| *byte == b'(')?;
    let close = text.iter().rposition(|byte| *byte == b')').filter(|close| *close > open)?;
    let rest = std::str::from_utf8(&text[close + 1..]).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).copied();
    let start_ticks: u64 = field(22)?.parse().ok()?;
    let start_ns = u128::from(start_ticks) * 1_000_000_000 / u128::from(clock_ticks_hz.max(1));
    Some(ProcStat {
        comm: Comm::new(&text[open + 1..close]),
        parent_tgid: field(4)?.parse().ok()?,
        is_kernel_thread: field(9)?.parse::<u32>().ok()? & PF_KTHREAD != 0,
        threads: field(20)?.parse().ok()?,
        start: BootNs(u64::try_from(start_ns).ok()?),
    })
}

/// The executable mappings in `/proc/PID/maps`, at most `limit`. `None` where a line has another shape.
pub fn parse_maps(text: &[u8], limit: usize) -> Option<Vec<MappedRange>> {
    let mut ranges = Vec::new();
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let (range, is_executable) = parse_line(&String::from_utf8_lossy(line))?;
        if is_executable && ranges.len() < limit {
            ranges.push(range);
        }
    }
    Some(ranges)
}

/// `start-end perms offset major:minor inode   name`, and whether it is executable.
fn parse_line(line: &str) -> Option<(MappedRange, bool)> {
    let mut rest = line;
    let mut field = || {
        let trimmed = rest.trim_start_matches(' ');
        let (field, tail) = trimmed.split_once(' ').unwrap_or((trimmed, ""));
        rest = tail;
        (!field.is_empty()).then_some(field)
    };
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let (start, end) = field()?.split_once('-')?;
    let perms = field()?;
    let file_offset = hex(field()?)?;
    let (major, minor) = field()?.split_once(':')?;
    let inode = field()?.parse().ok()?;
    let range = MappedRange {
        start: Avma(hex(start)?),
        end: Avma(hex(end)?),
        file_offset: FileOffset(file_offset),
        file: FileKey {
            dev_major: u32::from_str_radix(major, 16).ok()?,
            dev_minor: u32::from_str_radix(minor, 16).ok()?,
            inode,
        },
        name: rest.trim_start_matches(' ').into(),
    };
    (range.start < range.end).then_some((range, perms.contains('x')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, proptest};

    #[test]
    fn stat_with_a_hostile_name() {
        let text = b"812 (a) S (b) R 77 812 812 0 -1 4194304 1 0 0 0 5 6 0 0 20 0 9 0 12345 1 2 3\n";
        let stat = parse_stat(text, 100).unwrap();
        assert_eq!(stat.comm.to_string(), "a) S (b");
        assert_eq!((stat.parent_tgid, stat.threads, stat.is_kernel_thread), (77, 9, false));
        assert_eq!(stat.start, BootNs(123_450_000_000));
        let kernel = b"2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 3 0 0\n";
        assert!(parse_stat(kernel, 100).unwrap().is_kernel_thread);
        assert_eq!(parse_stat(b"812 (cut) R 77", 100), None);
        assert_eq!(parse_stat(b")(", 100), None);
    }

    #[test]
    fn only_executable_lines_of_maps_are_taken() {
        let text = b"\
00400000-00452000 r-xp 00001000 08:02 173521      /usr/bin/with blank (deleted)
00651000-00652000 r--p 00051000 08:02 173521      /usr/bin/with blank (deleted)
7fff0000-7fff2000 r-xp 00000000 00:00 0                          [vdso]
7f0000000000-7f0000001000 rwxp 00000000 00:00 0
";
        let ranges = parse_maps(text, 10).unwrap();
        assert_eq!(
            ranges.iter().map(|r| &*r.name).collect::<Vec<_>>(),
            ["/usr/bin/with blank (deleted)", "[vdso]", ""]
        );
        assert_eq!(ranges[0].file, FileKey { dev_major: 8, dev_minor: 2, inode: 173_521 });
        assert_eq!((ranges[0].start, ranges[0].end), (Avma(0x40_0000), Avma(0x45_2000)));
        assert_eq!(ranges[0].file_offset, FileOffset(0x1000));
        assert_eq!(parse_maps(text, 1).unwrap().len(), 1);
        assert_eq!(parse_maps(b"nonsense\n", 10), None);
    }

    proptest! {
        #[test]
        fn no_text_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), line in "[0-9a-f]{1,17}-[0-9a-f]{1,17} r.x. [0-9a-f ]{1,20}:[0-9 ]{1,20}.{0,10}") {
            let _ = (parse_stat(&bytes, 100), parse_maps(&bytes, 5), parse_maps(line.as_bytes(), 5));
        }
    }
}
