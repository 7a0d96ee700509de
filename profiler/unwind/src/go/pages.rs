//! Small reads at scattered places of a file, of which a bounded part is kept in memory.

use crate::read::{ReadAt, Unreadable, read_exact};

const PAGE_BYTES: usize = 16 << 10;
/// With this many pages, 1 MiB, a table of a hundred thousand functions is read about once.
const PAGES: u64 = 64;

/// The file, and the pages of it that were read last. Page n can only be kept in slot n % 64.
pub(super) struct Pages<'a, F: ?Sized> {
    file: &'a F,
    slots: Vec<Option<Page>>,
}

struct Page {
    number: u64,
    bytes: Vec<u8>,
}

impl<'a, F: ReadAt + ?Sized> Pages<'a, F> {
    pub(super) fn new(file: &'a F) -> Self {
        Self { file, slots: (0..PAGES).map(|_| None).collect() }
    }

    pub(super) fn byte_count(&self) -> u64 {
        self.file.byte_count()
    }

    pub(super) fn u8(&mut self, offset: u64) -> Result<u8, Unreadable> {
        let page = self.page(offset / PAGE_BYTES as u64)?;
        page.get((offset % PAGE_BYTES as u64) as usize).copied().ok_or(Unreadable::Truncated)
    }

    pub(super) fn u32(&mut self, offset: u64) -> Result<u32, Unreadable> {
        Ok(u32::from_le_bytes(self.array(offset)?))
    }

    pub(super) fn u64(&mut self, offset: u64) -> Result<u64, Unreadable> {
        Ok(u64::from_le_bytes(self.array(offset)?))
    }

    pub(super) fn array<const N: usize>(&mut self, offset: u64) -> Result<[u8; N], Unreadable> {
        let mut bytes = [0; N];
        if self.prefix(offset, &mut bytes)? == N { Ok(bytes) } else { Err(Unreadable::Truncated) }
    }

    /// Reads as much of `buffer` as the file has from `offset` on.
    pub(super) fn prefix(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, Unreadable> {
        let mut filled = 0;
        while filled < buffer.len() {
            let Some(at) = offset.checked_add(filled as u64) else { break };
            let page = self.page(at / PAGE_BYTES as u64)?;
            let rest = page.get((at % PAGE_BYTES as u64) as usize..).unwrap_or_default();
            let count = rest.len().min(buffer.len() - filled);
            if count == 0 {
                break;
            }
            buffer[filled..filled + count].copy_from_slice(&rest[..count]);
            filled += count;
        }
        Ok(filled)
    }

    /// The bytes of a page: fewer than a whole one where the file ends.
    fn page(&mut self, number: u64) -> Result<&[u8], Unreadable> {
        let slot = &mut self.slots[(number % PAGES) as usize];
        let page = match slot.take() {
            Some(page) if page.number == number => page,
            other => {
                let mut bytes = other.map(|page| page.bytes).unwrap_or_default();
                let start = number.saturating_mul(PAGE_BYTES as u64);
                let rest = self.file.byte_count().saturating_sub(start);
                bytes.resize(rest.min(PAGE_BYTES as u64) as usize, 0);
                read_exact(self.file, start, &mut bytes)?;
                Page { number, bytes }
            }
        };
        Ok(&slot.insert(page).bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_cross_pages_and_stop_at_the_end() {
        let file: Vec<u8> = (0..40_000_u32).map(|at| (at / 7) as u8).collect();
        let mut pages = Pages::new(&file);
        let at = PAGE_BYTES as u64 - 3;
        assert_eq!(pages.array::<8>(at).unwrap(), file[at as usize..at as usize + 8]);
        assert_eq!(pages.u8(39_999).unwrap(), file[39_999]);
        assert!(matches!(pages.u8(40_000), Err(Unreadable::Truncated)));
        assert!(matches!(pages.u64(39_993), Err(Unreadable::Truncated)));
        assert!(matches!(pages.u32(u64::MAX), Err(Unreadable::Truncated)));
        assert_eq!(pages.prefix(39_990, &mut [0; 100]).unwrap(), 10);
        assert_eq!(pages.prefix(u64::MAX, &mut [0; 100]).unwrap(), 0);
    }

    #[test]
    fn pages_that_share_a_slot_do_not_mix() {
        let file: Vec<u8> = (0..3 * PAGES as usize * PAGE_BYTES).map(|at| (at / PAGE_BYTES) as u8).collect();
        let mut pages = Pages::new(&file);
        for number in [5, 5 + PAGES, 5, 5 + 2 * PAGES] {
            assert_eq!(pages.u8(number * PAGE_BYTES as u64 + 9).unwrap(), number as u8);
        }
    }
}
