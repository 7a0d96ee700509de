//! From an ELF file to its table.

use gimli::{BaseAddresses, DebugFrame, EhFrame, LittleEndian};

use crate::augmentation::{CieId, replace_letters};
use crate::cfi::{self, Source};
use crate::draft::Draft;
use crate::elf::Elf;
use crate::flow;
use crate::go::{GoRefusal, go_functions};
use crate::read::{ReadAt, Unreadable};
use crate::synthetic;
use crate::table::{Arch, RawTable};

/// Makes the unwind table of an ELF file for `arch`.
///
/// Reads headers and the sections that matter, nothing else. Memory is bounded by the size of those sections, 64 MiB
/// each, and by [`RawTable::MAX_ROWS`].
pub fn extract(file: &(impl ReadAt + ?Sized), arch: Arch) -> Result<RawTable, Unreadable> {
    let elf = Elf::read(file)?;
    if elf.arch != arch {
        return Err(Unreadable::OtherArchitecture);
    }
    let mut draft = Draft::new(arch, elf.layout.clone());
    add_eh_frame(&elf, &mut draft)?;
    add_go(file, arch, &mut draft)?;
    add_debug_frame(&elf, &mut draft)?;
    synthetic::add_linkage_tables(&elf, &mut draft)?;
    synthetic::add_signal_trampoline(&elf, &mut draft)?;
    flow::add_functions(&elf, &mut draft)?;
    draft.finish()
}

fn add_eh_frame<F: ReadAt + ?Sized>(elf: &Elf<'_, F>, draft: &mut Draft) -> Result<(), Unreadable> {
    let Some(mut section) = elf.eh_frame()? else { return Ok(()) };
    let not_signals = replace_letters(&mut section.bytes, CieId::EhFrame, elf.arch);
    let mut eh_frame = EhFrame::new(&section.bytes, LittleEndian);
    eh_frame.set_address_size(8);
    eh_frame.set_vendor(vendor(elf.arch));
    let text = elf.section_heads().iter().find(|head| head.name == b".text").map_or(0, |head| head.svma);
    let bases = BaseAddresses::default().set_eh_frame(section.svma).set_text(text);
    draft.reserve(section.bytes.len());
    let source = Source {
        section: &eh_frame,
        bases: &bases,
        arch: elf.arch,
        bytes: section.bytes.len(),
        not_signals: &not_signals,
    };
    cfi::add_section(&source, draft)?;
    draft.end_source();
    Ok(())
}

/// Go code has no `.eh_frame`, and its `.debug_frame` says less than Go's own table, which is in every Go program.
fn add_go(file: &(impl ReadAt + ?Sized), arch: Arch, draft: &mut Draft) -> Result<(), Unreadable> {
    let layout = draft.layout().clone();
    let mut full = Ok(());
    let met = go_functions(file, arch, &layout, &mut |function| {
        if full.is_ok() && draft.begin(function.code.start, function.code.end) {
            full = function.rows.iter().try_for_each(|(svma, rule)| draft.row(*svma, *rule));
        }
    });
    full?;
    match met {
        Ok(report) => draft.report.malformed += report.malformed,
        Err(GoRefusal::NotGo) => {}
        Err(GoRefusal::TooManyRows) => return Err(Unreadable::TooManyRows),
        Err(GoRefusal::Unreadable(Unreadable::Io { source })) => return Err(Unreadable::Io { source }),
        Err(_) => draft.report.malformed += 1,
    }
    draft.end_source();
    Ok(())
}

/// What `.eh_frame` does not cover may be in `.debug_frame`, as in programs built without unwind tables but with symbols.
fn add_debug_frame<F: ReadAt + ?Sized>(elf: &Elf<'_, F>, draft: &mut Draft) -> Result<(), Unreadable> {
    let section = match elf.section(b".debug_frame") {
        Ok(None) => elf.section(b".zdebug_frame"),
        other => other,
    };
    // It only adds to what is there already, so a broken one is counted like any entry that cannot be understood.
    let Ok(section) = section else {
        draft.report.malformed += 1;
        return Ok(());
    };
    let Some(mut section) = section else { return Ok(()) };
    let not_signals = replace_letters(&mut section.bytes, CieId::DebugFrame, elf.arch);
    let mut debug_frame = DebugFrame::new(&section.bytes, LittleEndian);
    debug_frame.set_address_size(8);
    debug_frame.set_vendor(vendor(elf.arch));
    let source = Source {
        section: &debug_frame,
        bases: &BaseAddresses::default(),
        arch: elf.arch,
        bytes: section.bytes.len(),
        not_signals: &not_signals,
    };
    cfi::add_section(&source, draft)?;
    draft.end_source();
    Ok(())
}

fn vendor(arch: Arch) -> gimli::Vendor {
    match arch {
        Arch::X86_64 => gimli::Vendor::Default,
        Arch::Aarch64 => gimli::Vendor::AArch64,
    }
}
