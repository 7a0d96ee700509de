//! The thread that makes tables, and that waits for grace periods so that nobody else has to.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

use pyrite_model::FileOffset;
use pyrite_symbolizer::ExecutableReader;
use pyrite_unwind::{Arch, RawTable, ReadAt, Rule, RuleBook, RuleId, Unreadable, build, extract};

use crate::sys::{self, ChunkMemory};
use crate::unwind::cache::Cache;
use crate::unwind::kernel::SlabMaps;
use crate::unwind::reports::ReportSender;
use crate::unwind::rules::RuleNews;
use crate::unwind::stats::{Absence, ThreadCounters};
use crate::unwind::tables::{TableIdentity, TableRows};
use crate::unwind::work::{BuiltTable, Report, WorkRequest};

const ARCH: Arch = if cfg!(target_arch = "aarch64") { Arch::Aarch64 } else { Arch::X86_64 };

/// What the thread owns.
pub(crate) struct Builder {
    maps: SlabMaps,
    book: RuleBook,
    cache: Option<Cache>,
    counters: Arc<ThreadCounters>,
    /// Rules that the publisher does not know yet.
    unreported: Vec<(RuleId, Rule)>,
    /// Rules that the programs do not know yet, in the order in which they were given their ids.
    unwritten: VecDeque<(RuleId, Rule)>,
}

impl Builder {
    /// Puts the first rules into the kernel. Returns them too.
    pub(crate) fn new(
        maps: SlabMaps,
        cache: Option<Cache>,
        counters: Arc<ThreadCounters>,
    ) -> io::Result<(Self, RuleNews)> {
        let (book, unreported, unwritten) = (RuleBook::new(), Vec::new(), VecDeque::new());
        let mut builder = Self { maps, book, cache, counters, unreported, unwritten };
        builder.write_rules()?;
        let rules = builder.rule_news();
        Ok((builder, rules))
    }

    /// Does what is asked for until nobody asks any more. What others wait for comes before tables.
    pub(crate) fn run(mut self, requests: &Receiver<WorkRequest>, reports: &ReportSender<ChunkMemory>) {
        let mut waiting = VecDeque::new();
        loop {
            if waiting.is_empty() {
                let Ok(request) = requests.recv() else { return };
                waiting.push_back(request);
            }
            waiting.extend(requests.try_iter());
            let is_short = |request: &WorkRequest| !matches!(request, WorkRequest::Build { .. });
            let next = waiting.iter().position(is_short).unwrap_or(0);
            let report = waiting.remove(next).and_then(|request| self.carry_out(request));
            self.counters.builder_cpu_ns.store(sys::thread_cpu_ns(), Ordering::Relaxed);
            if let Some(report) = report
                && !reports.send(report)
            {
                return;
            }
        }
    }

    fn carry_out(&mut self, request: WorkRequest) -> Option<Report<ChunkMemory>> {
        Some(match request {
            WorkRequest::Build { index, identity, reader } => {
                let outcome = self.build(&identity, &reader);
                Report::Built { index, outcome: outcome.map(Box::new), rules: self.rule_news() }
            }
            WorkRequest::MakeSlab { number } => Report::SlabMade { number, outcome: self.maps.make(number) },
            WorkRequest::RemoveSlab { number } => {
                // It can only fail where there is no such slab, which is what is wanted.
                let _ = self.maps.remove(number);
                return None;
            }
            WorkRequest::GracePeriod => Report::GraceEnded { outcome: self.maps.grace_period() },
            WorkRequest::ReleaseRules { ids } => {
                self.release(ids);
                Report::RulesReleased { rules: self.rule_news() }
            }
        })
    }

    fn build(&mut self, identity: &TableIdentity, reader: &ExecutableReader) -> Result<BuiltTable, Absence> {
        let raw = match self.cached(identity) {
            Some(raw) => raw,
            None => self.extract(identity, reader)?,
        };
        let lowest = identity.segments.iter().map(pyrite_symbolizer::Segment::svma).min();
        if Some(raw.layout.lowest_svma) != lowest {
            return Err(Absence::OtherLayout);
        }
        let rows = TableRows { input: raw.report.input_rows, kept: raw.rows.len() as u32 };
        let image = build(&raw, &mut self.book).map_err(|_too_many| Absence::TooManyLeaves)?;
        if self.write_rules().is_err() {
            // A table whose rules the programs do not know is never placed.
            self.release(image.into_rules());
            return Err(Absence::RulesRefused);
        }
        Ok(BuiltTable { image, rows })
    }

    fn release(&mut self, ids: Vec<RuleId>) {
        for id in ids {
            self.book.release(id);
        }
    }

    /// Lets the programs know the rules that are new.
    fn write_rules(&mut self) -> io::Result<()> {
        let new = self.book.take_new();
        self.unreported.extend(&new);
        self.unwritten.extend(new);
        while let Some((id, rule)) = self.unwritten.front() {
            self.maps.set_rule(*id, rule)?;
            self.unwritten.pop_front();
        }
        Ok(())
    }

    fn rule_news(&mut self) -> RuleNews {
        RuleNews { new: std::mem::take(&mut self.unreported), count: self.book.count() }
    }

    fn cached(&mut self, identity: &TableIdentity) -> Option<RawTable> {
        self.cache.as_mut()?.load(identity, ARCH, &self.counters)
    }

    fn extract(&mut self, identity: &TableIdentity, reader: &ExecutableReader) -> Result<RawTable, Absence> {
        let raw = extract_whole(reader)?;
        if let Some(cache) = &mut self.cache {
            cache.store(identity, &raw, &self.counters);
        }
        Ok(raw)
    }
}

/// The table of a file that is the same behind the reading as before it. Of one that is written to meanwhile, parts of two
/// executables may have been read, and the cache would keep the mixture under the name of the first.
fn extract_whole(reader: &ExecutableReader) -> Result<RawTable, Absence> {
    let extracted = extract(&Contents(reader), ARCH);
    if !reader.is_unchanged() {
        return Err(Absence::Changed);
    }
    extracted.map_err(|unreadable| absence(&unreadable))
}

/// An executable as pyrite-unwind reads files.
struct Contents<'a>(&'a ExecutableReader);

impl ReadAt for Contents<'_> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(FileOffset(offset), buffer)
    }

    fn byte_count(&self) -> u64 {
        self.0.bytes()
    }
}

fn absence(unreadable: &Unreadable) -> Absence {
    match unreadable {
        Unreadable::Io { .. } => Absence::Io,
        Unreadable::Truncated => Absence::Truncated,
        Unreadable::Malformed => Absence::Malformed,
        Unreadable::OtherArchitecture => Absence::OtherArchitecture,
        Unreadable::NotExecutable => Absence::NotExecutable,
        Unreadable::TooLarge { .. } => Absence::TooLarge,
        Unreadable::TooManyRows => Absence::TooManyRows,
        Unreadable::NoUnwindInfo => Absence::NoUnwindInfo,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;

    use pyrite_model::FileKey;
    use pyrite_symbolizer::Executables;

    use super::*;
    use crate::unwind::opener::tests::own_vdso;

    #[test]
    fn a_file_that_is_written_to_while_it_is_read_has_no_table() {
        let vdso = own_vdso().reader;
        let mut contents = vec![0; vdso.bytes() as usize];
        vdso.read_at(FileOffset(0), &mut contents).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), &contents).unwrap();
        let meta = file.as_file().metadata().unwrap();
        let (dev_major, dev_minor) = (libc::major(meta.dev()), libc::minor(meta.dev()));
        let key = FileKey { dev_major, dev_minor, inode: meta.ino() };
        let executable = Executables::new(1).open(key, file.path(), &[file.path().to_path_buf()]);
        let reader = executable.reader().unwrap();
        assert!(!extract_whole(&reader).unwrap().rows.is_empty());
        contents.push(0);
        fs::write(file.path(), contents).unwrap();
        assert_eq!(extract_whole(&reader).err(), Some(Absence::Changed));
    }
}
