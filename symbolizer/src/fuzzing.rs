//! A door for the fuzz targets, under `--cfg fuzzing` alone: the ELF reader and the symbol index, given a file's bytes.

use std::sync::Arc;

use crate::elf::Svma;
use crate::executable::{Contents, ExecutableId};
use crate::image::Image;
use crate::symtab::SymbolIndex;

const MAX_INDEX_BYTES: usize = 1 << 20;

/// Reads everything that is read of an executable, and names some of its addresses.
pub fn read_elf(bytes: &[u8]) {
    let Ok(contents) = Contents::read(Image::Memory(bytes.to_vec())) else { return };
    // Any of these may be a miss; they only may not panic.
    let _ = ExecutableId::of(&contents.image, &contents.layout, bytes.len() as u64);
    let contents = Arc::new(contents);
    let svmas = (0..bytes.len() as u64).step_by(64).filter_map(|offset| contents.layout.svma_of(offset));
    let svmas: Vec<Svma> = svmas.chain([Svma(0), Svma(u64::MAX)]).collect();
    if let Ok(index) = SymbolIndex::build(&contents, MAX_INDEX_BYTES) {
        assert!(index.bytes() <= MAX_INDEX_BYTES);
        for svma in svmas {
            let _ = index.find(&contents, svma);
        }
    }
}
