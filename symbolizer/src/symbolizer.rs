//! Addresses to names: cache first, then file by file, so that one file's symbols are read once per batch.
//!
//! Memory: the symbol cache and the symbol indexes each have a bound in bytes; the kernel's table is about 4 MB. Indexes
//! that no batch has used for a while go early: they are large, and programs that ran once would hold theirs for ever.

use std::sync::Arc;

use pyrite_model::{Avma, FileOffset};

use crate::debug_info::DebugInfo;
use crate::executable::{Contents, ExecutableId, ExecutableRef};
use crate::kernel::Kernel;
use crate::lru::Lru;
use crate::miss::Miss;
use crate::names::demangle;
use crate::symbol::{Address, Frame, Symbol};
use crate::symtab::SymbolIndex;

/// Key, slot and reference counts of a cached symbol beside the symbol itself.
const ENTRY_BYTES: usize = 96;
/// Batches between two sweeps of the indexes: a minute or two of a daemon that resolves once a second.
const SWEEP_EVERY: u32 = 60;
/// What it costs to remember that a file has no symbols.
const MISS_BYTES: usize = 128;

/// Bounds and switches of a [`Symbolizer`].
#[derive(Clone, Copy, Debug)]
pub struct SymbolizerConfig {
    /// Bound of the cache of named addresses, in bytes.
    pub cache_bytes: usize,
    /// Bound of the symbol indexes that are kept from batch to batch, in bytes; also of one index. 12 MB is 1,000,000
    /// functions in one file.
    pub index_bytes: usize,
    /// Whether DWARF is read for lines and inlined functions; costs up to hundreds of megabytes.
    pub debug_info: bool,
}

impl Default for SymbolizerConfig {
    fn default() -> Self {
        Self { cache_bytes: 8 << 20, index_bytes: 12 << 20, debug_info: false }
    }
}

/// Counters and gauges of a [`Symbolizer`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SymbolizerStats {
    /// Addresses answered from the cache.
    pub hits: u64,
    /// Addresses that had to be looked up.
    pub lookups: u64,
    /// Named addresses dropped to keep the bound.
    pub evictions: u64,
    /// Lookups without a name, by [`Miss::index`].
    pub unknown: [u64; Miss::ALL.len()],
    /// Named addresses in the cache, and the bytes they take.
    pub cached: usize,
    /// See [`SymbolizerStats::cached`].
    pub cached_bytes: usize,
    /// Bytes that symbol indexes take.
    pub index_bytes: usize,
}

/// Symbolizes; one owner thread.
pub struct Symbolizer {
    cache: Lru<Key, Arc<Symbol>>,
    indexes: Lru<u64, Result<Arc<SymbolIndex>, Miss>>,
    max_index_bytes: usize,
    /// Batches since the indexes were swept.
    unswept: u32,
    kernel: Kernel,
    debug_info: Option<DebugInfo>,
    stats: SymbolizerStats,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    File(ExecutableId, FileOffset),
    Kernel(Avma, u64),
}

impl Symbolizer {
    /// A symbolizer that has read nothing yet.
    pub fn new(config: SymbolizerConfig) -> Self {
        Self {
            cache: Lru::new(config.cache_bytes),
            indexes: Lru::new(config.index_bytes),
            max_index_bytes: config.index_bytes,
            unswept: 0,
            kernel: Kernel::default(),
            debug_info: config.debug_info.then(DebugInfo::default),
            stats: SymbolizerStats::default(),
        }
    }

    /// One symbol for each address, in the same order. Large batches are cheaper: each file is visited once.
    pub fn resolve(&mut self, addresses: &[Address]) -> Vec<Arc<Symbol>> {
        self.unswept += 1;
        if self.unswept == SWEEP_EVERY {
            self.unswept = 0;
            self.indexes.sweep();
        }
        // Stands in for addresses in files until their file's turn comes.
        let pending = Arc::new(Symbol::missing(&Address::Unknown(Miss::Unmapped), Miss::Unmapped));
        let mut symbols: Vec<Arc<Symbol>> = Vec::with_capacity(addresses.len());
        let mut in_files: Vec<(u64, usize)> = Vec::new();
        for (i, address) in addresses.iter().enumerate() {
            symbols.push(self.cached(address).unwrap_or_else(|| match address {
                Address::File { executable, .. } => {
                    in_files.push((executable.serial, i));
                    Arc::clone(&pending)
                }
                Address::Kernel(avma) => self.kernel_symbol(*avma),
                Address::Unknown(miss) => self.missing(address, *miss),
            }));
        }
        in_files.sort_unstable();
        for group in in_files.chunk_by(|a, b| a.0 == b.0) {
            let batch: Vec<&Address> = group.iter().map(|&(_, i)| &addresses[i]).collect();
            for (&(_, i), symbol) in group.iter().zip(self.file_symbols(&batch)) {
                symbols[i] = symbol;
            }
        }
        symbols
    }

    /// Counters and gauges.
    pub fn stats(&self) -> SymbolizerStats {
        SymbolizerStats {
            evictions: self.cache.evictions(),
            cached: self.cache.len(),
            cached_bytes: self.cache.weight(),
            index_bytes: self.indexes.weight(),
            ..self.stats
        }
    }

    fn cached(&mut self, address: &Address) -> Option<Arc<Symbol>> {
        let found = self.cache.get(&self.key(address)?).map(Arc::clone);
        match found {
            Some(_) => self.stats.hits += 1,
            None => self.stats.lookups += 1,
        }
        found
    }

    fn key(&self, address: &Address) -> Option<Key> {
        match address {
            Address::File { executable, offset } if !executable.id().as_str().is_empty() => {
                Some(Key::File(executable.id().clone(), *offset))
            }
            Address::Kernel(avma) => Some(Key::Kernel(*avma, self.kernel.generation)),
            Address::File { .. } | Address::Unknown(_) => None,
        }
    }

    fn keep(&mut self, address: &Address, symbol: Symbol) -> Arc<Symbol> {
        let bytes = symbol.bytes() + ENTRY_BYTES;
        let symbol = Arc::new(symbol);
        if let Some(key) = self.key(address) {
            self.cache.insert(key, Arc::clone(&symbol), bytes);
        }
        symbol
    }

    fn missing(&mut self, address: &Address, miss: Miss) -> Arc<Symbol> {
        self.stats.unknown[miss.index()] += 1;
        let symbol = Symbol::missing(address, miss);
        // Only what the bytes of the file say holds for every file of this id and for all time.
        let lasting = matches!(miss, Miss::NoSymbolHere | Miss::OutsideSegments | Miss::NoKernelSymbolHere);
        if lasting { self.keep(address, symbol) } else { Arc::new(symbol) }
    }

    fn kernel_symbol(&mut self, avma: Avma) -> Arc<Symbol> {
        let address = Address::Kernel(avma);
        match self.kernel.find(avma) {
            Ok((name, module)) => {
                let symbol = Symbol {
                    executable: ExecutableId::default(),
                    path: module.into(),
                    address: avma.0,
                    frames: vec![named(name.to_owned())],
                    miss: None,
                };
                self.keep(&address, symbol)
            }
            Err(miss) => self.missing(&address, miss),
        }
    }

    /// Symbols for addresses that all lie in one file.
    fn file_symbols(&mut self, batch: &[&Address]) -> Vec<Arc<Symbol>> {
        let places: Vec<_> = batch.iter().filter_map(|address| place(address)).collect();
        let Some((executable, _)) = places.first().copied() else { return Vec::new() };
        let index = executable.contents().and_then(|contents| {
            contents.check_unchanged()?;
            let index = self.index(executable.serial, &contents)?;
            Ok((contents, index))
        });
        let offsets: Vec<u64> = places.iter().map(|(_, offset)| offset.0).collect();
        let debug_info = self.debug_info.as_mut().filter(|_| index.is_ok());
        let mut inlined = debug_info.map_or_else(Vec::new, |d| d.frames(executable, &offsets)).into_iter();
        let mut symbols = Vec::with_capacity(batch.len());
        for (address, (_, offset)) in batch.iter().zip(&places) {
            let frames = match inlined.next().filter(|frames| !frames.is_empty()) {
                Some(frames) => Ok(frames),
                None => {
                    index.as_ref().map_err(|miss| *miss).and_then(|(c, i)| Ok(vec![name_at(c, i, *offset)?]))
                }
            };
            symbols.push(match frames {
                Ok(frames) => {
                    let (id, path) = (executable.id().clone(), Arc::clone(executable.path()));
                    let symbol = Symbol { executable: id, path, address: offset.0, frames, miss: None };
                    self.keep(address, symbol)
                }
                Err(miss) => self.missing(address, miss),
            });
        }
        symbols
    }

    fn index(&mut self, serial: u64, contents: &Contents) -> Result<Arc<SymbolIndex>, Miss> {
        if let Some(index) = self.indexes.get(&serial) {
            return index.clone();
        }
        let index = SymbolIndex::build(contents, self.max_index_bytes).map(Arc::new);
        let bytes = index.as_ref().map_or(MISS_BYTES, |index| index.bytes());
        self.indexes.insert(serial, index.clone(), bytes);
        index
    }
}

fn place(address: &Address) -> Option<(&ExecutableRef, FileOffset)> {
    match address {
        Address::File { executable, offset } => Some((executable, *offset)),
        Address::Kernel(_) | Address::Unknown(_) => None,
    }
}

fn name_at(contents: &Arc<Contents>, index: &SymbolIndex, offset: FileOffset) -> Result<Frame, Miss> {
    let svma = contents.layout.svma_of(offset.0).ok_or(Miss::OutsideSegments)?;
    Ok(named(index.find(contents, svma)?.name))
}

fn named(system_name: String) -> Frame {
    match demangle(&system_name) {
        Some(name) => Frame { name: name.into(), system_name: system_name.into(), ..Frame::default() },
        None => Frame { name: system_name.into(), ..Frame::default() },
    }
}
