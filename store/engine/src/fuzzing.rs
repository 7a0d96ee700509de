//! Doors for the fuzz targets, under `--cfg fuzzing` alone: parsers of files, given their bytes.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use pyrite_model::{TimeRange, UnixMs};

use crate::dictionary::{EpochLimits, Epochs, Size};
use crate::files::{FileLayer, ReadFile, RealFiles, WriteFile};
use crate::segment::manifest;
use crate::segment::read::{Grid, IdSet, SegmentReader, Wanted};
use crate::segment::rollup::Shape;
use crate::segment::series::read_series;
use crate::wal;

const GENERATION: u64 = 1;
const LIMITS: EpochLimits =
    EpochLimits { turn_at: usize::MAX, full: Size { stacks: usize::MAX, bytes: usize::MAX }, kept_bytes: 0 };

/// Replays a log of these bytes.
pub fn replay(bytes: &[u8]) {
    let files: Arc<dyn FileLayer> = Arc::new(Overlaid { name: "wal", bytes: bytes.to_vec() });
    // A directory in which no name is that of an epoch.
    let Ok((epochs, _)) = Epochs::open(&files, Path::new("/proc/self/map_files"), LIMITS, &BTreeMap::new())
    else {
        return;
    };
    if let Ok(replayed) = wal::replay(&files, Path::new("wal"), GENERATION, &epochs) {
        assert!(replayed.len as usize <= bytes.len());
    }
}

/// A log of one record with this payload, its checksums right.
pub fn seal_record(payload: &[u8]) -> Vec<u8> {
    wal::sealed(GENERATION, payload)
}

/// The payloads of a whole log's records.
pub fn payloads(log: &[u8]) -> Vec<Vec<u8>> {
    wal::payloads(log).map(<[u8]>::to_vec).collect()
}

/// Reads all of the segment in `dir` by this manifest, whose checksum is made right first.
pub fn read_segment(dir: &Path, manifest: &[u8]) {
    let bytes = match std::str::from_utf8(manifest).ok().and_then(|text| text.lines().next()) {
        Some(line) => format!("{line}\n{:08x}\n", crc32c::crc32c(line.as_bytes())).into_bytes(),
        None => return,
    };
    let files = Overlaid { name: manifest::FILE, bytes };
    let Ok(reader) = SegmentReader::open(&files, dir) else { return };
    let layer: Arc<dyn FileLayer> = Arc::new(RealFiles);
    let dictionaries = dir.parent().and_then(Path::parent).unwrap_or(dir).join("dictionaries");
    let Ok((epochs, _)) = Epochs::open(&layer, &dictionaries, LIMITS, &BTreeMap::new()) else { return };
    let all: IdSet = (0..8).collect();
    // Each may fail with its reason; what they read is of no interest.
    let _ = read_series(&files, dir, reader.manifest());
    let _ = reader.stacks(&files, &epochs);
    let window = TimeRange::new(UnixMs(i64::MIN), UnixMs(i64::MAX));
    let wanted = Wanted { series: &all, window, grid: Grid::Window, shape: Shape::Stacks };
    for group in reader.plan(&files, wanted).into_iter().flatten() {
        let _ = group.run(|_| {});
    }
    let _ = reader.scan_all(&files, |_| Ok(()));
}

/// The real files, but for one name.
struct Overlaid {
    name: &'static str,
    bytes: Vec<u8>,
}

impl FileLayer for Overlaid {
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn ReadFile>> {
        if path.ends_with(self.name) {
            return Ok(Box::new(Bytes(self.bytes.clone())));
        }
        RealFiles.open_read(path)
    }

    fn create(&self, _: &Path) -> io::Result<Box<dyn WriteFile>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn open_append(&self, _: &Path) -> io::Result<Box<dyn WriteFile>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealFiles.list(dir)
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn remove_file(&self, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn remove_dir(&self, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

struct Bytes(Vec<u8>);

impl ReadFile for Bytes {
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = self.0.get(at..).and_then(|rest| rest.get(..len));
        bytes.map(<[u8]>::to_vec).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }
}
