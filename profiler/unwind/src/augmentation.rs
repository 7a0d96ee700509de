//! Letters of CIEs that gimli does not know, and so refuses with every function of theirs. On aarch64 `B` says that return
//! addresses are signed by the second key, `G` that the frame's memory is tagged: neither moves a register.
//!
//! Each is made an `S`, which comes without data as they do, and who reads on is told which CIEs are no signal frames for all
//! that. Letters: DWARF for the Arm 64-bit Architecture (AADWARF64), section "Common information entries".

use hashbrown::HashSet;

use crate::table::Arch;

/// The id that tells a CIE from an FDE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum CieId {
    EhFrame = 0,
    DebugFrame = u32::MAX,
}

/// Replaces the letters in a section for `arch`. Gives the places of the CIEs that then seem to be signal frames and are not.
pub(crate) fn replace_letters(section: &mut [u8], id: CieId, arch: Arch) -> HashSet<usize> {
    const LENGTH_BYTES: usize = 4;
    const ID_BYTES: usize = 4;
    const VERSION_BYTES: usize = 1;
    let mut not_signals = HashSet::new();
    if arch != Arch::Aarch64 {
        return not_signals;
    }
    let mut at = 0;
    while let Some(length) = word(section, at) {
        let begin = at + LENGTH_BYTES;
        // Entries of more than 4 GiB, and what follows them, are none that this section can hold.
        let Some(end) = begin.checked_add(length as usize).filter(|end| *end <= section.len()) else { break };
        if length == 0 && id == CieId::EhFrame {
            break;
        }
        if word(&section[..end], begin) == Some(id as u32)
            && let Some(letters) = section[..end].get_mut(begin + ID_BYTES + VERSION_BYTES..)
            && replace(letters)
        {
            not_signals.insert(at);
        }
        at = end;
    }
    not_signals
}

/// Whether letters up to the first zero were replaced and none of them was an `S` before.
fn replace(letters: &mut [u8]) -> bool {
    let Some(end) = letters.iter().position(|letter| *letter == 0) else { return false };
    let letters = &mut letters[..end];
    let is_signal = letters.contains(&b'S');
    let mut is_replaced = false;
    for letter in letters.iter_mut().filter(|letter| matches!(letter, b'B' | b'G')) {
        *letter = b'S';
        is_replaced = true;
    }
    is_replaced && !is_signal
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: u32, letters: &[u8]) -> Vec<u8> {
        let body = [&id.to_le_bytes(), &[1][..], letters, &[0, 4, 0x78, 30]].concat();
        [&(body.len() as u32).to_le_bytes(), &body[..]].concat()
    }

    #[test]
    fn letters_are_replaced_in_common_entries_alone() {
        for id in [CieId::EhFrame, CieId::DebugFrame] {
            let entries =
                [(id as u32, "zR"), (id as u32, "zRB"), (7, "zRB"), (id as u32, "zRSGB"), (id as u32, "G")];
            let mut section = entries.map(|(id, letters)| entry(id, letters.as_bytes())).concat();
            let expect =
                [(id as u32, "zR"), (id as u32, "zRS"), (7, "zRB"), (id as u32, "zRSSS"), (id as u32, "S")];
            let expect = expect.map(|(id, letters)| entry(id, letters.as_bytes()));
            let ends: Vec<usize> = (0..5).map(|count| expect[..count].concat().len()).collect();
            assert_eq!(
                replace_letters(&mut section, id, Arch::Aarch64),
                [ends[1], ends[4]].into_iter().collect()
            );
            assert_eq!(section, expect.concat());
        }
    }

    #[test]
    fn torn_sections_are_read_as_far_as_they_go() {
        let whole = [entry(0, b"zRB"), entry(0, b"zRB")].concat();
        for length in 0..whole.len() {
            let found = replace_letters(&mut whole[..length].to_vec(), CieId::EhFrame, Arch::Aarch64);
            assert_eq!(found.len(), length / (whole.len() / 2));
        }
        // A length of zero ends `.eh_frame`, and is nothing in `.debug_frame`.
        for (id, count) in [(CieId::EhFrame, 0), (CieId::DebugFrame, 1)] {
            let mut section = [&[0; 4], &entry(id as u32, b"B")[..]].concat();
            assert_eq!(replace_letters(&mut section, id, Arch::Aarch64).len(), count);
        }
    }
}
