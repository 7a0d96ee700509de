//! Call frame information, of `.eh_frame` or `.debug_frame`, into a draft.
//!
//! An entry that cannot be understood is counted and costs no more than itself, save for one whose length is broken: what
//! follows it cannot be found. Work is linear in the section's size: each program runs once, and CIEs that were laid over
//! each other to make it more are refused.

use gimli::{
    BaseAddresses, CieOrFde, CommonInformationEntry, FrameDescriptionEntry, UnwindExpression, UnwindOffset,
    UnwindSection,
};
use hashbrown::{HashMap, HashSet};

use crate::convert::{Converter, Slice};
use crate::draft::Draft;
use crate::program::{Broken, Followed, Program, State, initial};
use crate::read::Unreadable;
use crate::table::{Arch, Unsupported};

/// Linkers merge equal CIEs, so that large programs have some hundred.
const MAX_CIES: usize = 1 << 16;

/// A section and how to read it.
pub(crate) struct Source<'a, S> {
    pub(crate) section: &'a S,
    pub(crate) bases: &'a BaseAddresses,
    pub(crate) arch: Arch,
    /// How many bytes the section has.
    pub(crate) bytes: usize,
    /// CIEs at these places are no signal frames, whatever their letters say.
    pub(crate) not_signals: &'a HashSet<usize>,
}

/// What functions of one CIE have in common.
struct Common<'s> {
    cie: CommonInformationEntry<Slice<'s>>,
    initial: Result<State, Broken>,
}

/// Adds the functions of one section.
pub(crate) fn add_section<'s, S>(source: &Source<'_, S>, draft: &mut Draft) -> Result<(), Unreadable>
where
    S: UnwindSection<Slice<'s>>,
    S::Offset: UnwindOffset<usize> + std::hash::Hash,
{
    let mut commons: HashMap<S::Offset, Common<'s>> = HashMap::new();
    let mut cie_bytes_left = source.bytes;
    let mut entries = source.section.entries(source.bases);
    loop {
        let partial = match entries.next() {
            Ok(Some(CieOrFde::Fde(partial))) => partial,
            Ok(Some(CieOrFde::Cie(_))) => continue,
            Ok(None) => return Ok(()),
            Err(_broken) => {
                draft.report.malformed += 1;
                return Ok(());
            }
        };
        let offset = partial.cie_offset();
        let parsed = partial.parse(|section, bases, offset| {
            if let Some(common) = commons.get(&offset) {
                return Ok(common.cie.clone());
            }
            let cie = section.cie_from_offset(bases, offset)?;
            // All CIEs together cannot be longer than the section, unless they overlap.
            if let Some(left) = cie_bytes_left.checked_sub(cie.entry_len())
                && commons.len() < MAX_CIES
            {
                cie_bytes_left = left;
                commons.insert(offset, source.common(cie.clone()));
            }
            Ok(cie)
        });
        match (parsed, commons.get(&offset)) {
            (Ok(fde), Some(common)) => source.add_function(&fde, common, draft)?,
            _ => draft.report.malformed += 1,
        }
    }
}

impl<'s, S: UnwindSection<Slice<'s>>> Source<'_, S> {
    fn followed(&self, cie: &CommonInformationEntry<Slice<'s>>) -> Followed {
        Followed { fp: self.arch.fp(), ra: cie.return_address_register(), sp: self.arch.sp() }
    }

    fn common(&self, cie: CommonInformationEntry<Slice<'s>>) -> Common<'s> {
        let initial = initial(self.section, self.bases, &cie, self.followed(&cie));
        Common { cie, initial }
    }

    fn add_function(
        &self,
        fde: &FrameDescriptionEntry<Slice<'s>>,
        common: &Common<'s>,
        draft: &mut Draft,
    ) -> Result<(), Unreadable> {
        if !draft.begin(fde.initial_address(), fde.end_address()) {
            return Ok(());
        }
        let Ok(initial) = &common.initial else {
            draft.report.malformed += 1;
            return draft.unsupported(fde.initial_address(), Unsupported::Malformed);
        };
        let expression = |expression: &UnwindExpression<usize>| expression.get(self.section).ok();
        let signal = fde.is_signal_trampoline() && !self.not_signals.contains(&fde.cie().offset());
        let converter = Converter { arch: self.arch, signal, expression: &expression };
        let followed = self.followed(&common.cie);
        let mut program = Program::new(self.section, self.bases, fde, initial, followed);
        loop {
            let (start, state) = match program.next() {
                Ok(Some(next)) => next,
                Ok(None) => return Ok(()),
                Err(Broken) => {
                    draft.report.malformed += 1;
                    return draft.unsupported(program.position(), Unsupported::Malformed);
                }
            };
            match converter.convert(state) {
                Ok(found) => {
                    draft.report.fp_lost += u32::from(found.fp_lost);
                    draft.row(start, found.rule)?;
                }
                Err(reason) => draft.unsupported(start, reason)?,
            }
        }
    }
}
