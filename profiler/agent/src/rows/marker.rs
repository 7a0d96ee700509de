//! The frame at the root of a stack whose walk did not reach the end: it says why, and in which executable.

use pyrite_bpf::StackOutcome;
use pyrite_sampling::CodeOrigin;

/// File names are as long as their owners like; a frame's name should be short.
const MAX_NAME_CHARS: usize = 64;

/// The frame's name; `None` where the stack is complete. `code` is where the walk stopped.
pub(super) fn marker(outcome: StackOutcome, code: Option<&CodeOrigin>) -> Option<String> {
    let reason = match outcome {
        StackOutcome::Absent | StackOutcome::Complete | StackOutcome::ChainEnd => return None,
        StackOutcome::TooDeep => "too many frames",
        StackOutcome::Fault => "stack not readable",
        StackOutcome::NoMapping => "address in no mapping",
        StackOutcome::UnknownProcess => "process not known yet",
        StackOutcome::CopyEnded => "stack copy ended",
        StackOutcome::NotTaken => return Some("[no stack: off the CPU for longer than foreseen]".to_owned()),
        StackOutcome::NoUnwindInfo => return Some(with_name("no unwind info", code)),
        StackOutcome::Unsupported => return Some(with_name("unsupported unwind rule", code)),
        StackOutcome::OverBudget => return Some(with_name("unwind info over budget", code)),
        StackOutcome::BadFrame => return Some(with_name("broken frame", code)),
        StackOutcome::StaleMapping => return Some(with_name("mappings changed", code)),
    };
    Some(format!("[truncated: {reason}]"))
}

fn with_name(reason: &str, code: Option<&CodeOrigin>) -> String {
    let Some(code) = code else { return format!("[truncated: {reason}]") };
    let name: String = code.name().chars().filter(|c| !c.is_control()).take(MAX_NAME_CHARS).collect();
    format!("[truncated: {reason} {name}]")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pyrite_model::FileKey;
    use pyrite_sampling::MappedFile;

    use super::*;

    #[test]
    fn every_outcome_but_a_known_end_has_a_marker_of_its_own() {
        let mut markers: Vec<String> =
            StackOutcome::ALL.into_iter().filter_map(|outcome| marker(outcome, None)).collect();
        let ends = StackOutcome::ALL.into_iter().filter(|outcome| outcome.is_known_end()).count();
        markers.sort();
        markers.dedup();
        assert_eq!(markers.len() + ends, StackOutcome::COUNT);
    }

    #[test]
    fn a_hostile_file_name_stays_short_and_on_one_line() {
        let key = FileKey { dev_major: 0, dev_minor: 0, inode: 1 };
        let path = format!("/tmp/a\nb{}", "x".repeat(200)).into();
        let code = CodeOrigin::File(Arc::new(MappedFile { key, path }));
        let marker = marker(StackOutcome::BadFrame, Some(&code)).unwrap();
        assert!(marker.starts_with("[truncated: broken frame abxx") && !marker.contains('\n'));
        assert_eq!(marker.len(), "[truncated: broken frame ]".len() + MAX_NAME_CHARS);
    }
}
