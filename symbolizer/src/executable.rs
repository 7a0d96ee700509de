//! One executable: what identifies it and the open file that answers for it after its processes are gone.

use std::fmt::{self, Write};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pyrite_model::FileOffset;
use sha2::{Digest, Sha256};

use crate::elf::{ElfLayout, Segment};
use crate::image::{Image, Version};
use crate::miss::Miss;

/// How much of each end of a file is hashed where no build id identifies it.
const HASHED_BYTES: usize = 4096;
/// Orders uses of executables among all registries; only comparisons matter.
static CLOCK: AtomicU64 = AtomicU64::new(1);

/// What identifies an executable wherever it is copied to, in hex: its GNU build id, else a hash of its Go build id,
/// else the hash that the OpenTelemetry profiler uses as file id (SHA-256 of first and last 4 KiB and size, 16 bytes).
///
/// Empty where the executable could not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExecutableId(Arc<str>);

impl ExecutableId {
    /// The id in hex.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        let mut hex = String::with_capacity(bytes.len() * 2);
        for byte in bytes {
            write!(hex, "{byte:02x}").expect("writing to a string cannot fail");
        }
        Self(hex.into())
    }

    pub(crate) fn of(image: &Image, layout: &ElfLayout, bytes: u64) -> Result<Self, Miss> {
        if let Some(id) = &layout.gnu_build_id {
            return Ok(Self::from_bytes(id));
        }
        let mut hasher = Sha256::new();
        if let Some(id) = &layout.go_build_id {
            hasher.update(id);
        } else {
            hasher.update(image.read_up_to(0, HASHED_BYTES)?);
            hasher.update(image.read_up_to(bytes.saturating_sub(HASHED_BYTES as u64), HASHED_BYTES)?);
            hasher.update(bytes.to_be_bytes());
        }
        Ok(Self::from_bytes(&hasher.finalize()[..16]))
    }
}

impl fmt::Display for ExecutableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A shared handle to an executable. It stays valid when the registry closes the file: names are then a counted miss.
pub type ExecutableRef = Arc<Executable>;

/// An executable that some process mapped.
#[derive(Debug)]
pub struct Executable {
    id: ExecutableId,
    path: Arc<str>,
    /// Distinguishes two openings of equal id, such as a stripped file and one with symbols.
    pub(crate) serial: u64,
    last_use: AtomicU64,
    contents: Mutex<Result<Arc<Contents>, Miss>>,
}

/// The contents of an executable.
#[derive(Clone, Debug)]
pub struct ExecutableReader(Arc<Contents>);

impl ExecutableReader {
    /// Fills `buf` from `offset` and says how much there was: less than asked for only at the end.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read_at(&self, offset: FileOffset, buf: &mut [u8]) -> io::Result<usize> {
        self.0.image.read_into(offset.0, buf)
    }

    /// How many bytes there were when it was opened.
    pub fn bytes(&self) -> u64 {
        self.0.version.bytes
    }

    /// Whether it is still the file that was opened, as far as its size and the time of its last change tell.
    pub fn is_unchanged(&self) -> bool {
        self.0.check_unchanged().is_ok()
    }

    /// When the file was last changed: seconds and nanoseconds since 1970.
    pub fn modified(&self) -> (i64, i64) {
        self.0.version.modified
    }

    /// Whether the executable names its own contents, so that equal ids mean equal contents.
    pub fn has_build_id(&self) -> bool {
        self.0.layout.gnu_build_id.is_some() || self.0.layout.go_build_id.is_some()
    }

    /// Its loadable segments.
    pub fn segments(&self) -> &[Segment] {
        &self.0.layout.segments
    }
}

/// What an open executable holds.
#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) image: Image,
    pub(crate) layout: ElfLayout,
    version: Version,
}

impl Contents {
    pub(crate) fn read(image: Image) -> Result<Self, Miss> {
        let version = image.version()?;
        let layout = ElfLayout::read(&image)?;
        Ok(Self { image, layout, version })
    }

    /// Whether the file still has the bytes it was opened with.
    pub(crate) fn check_unchanged(&self) -> Result<(), Miss> {
        if self.image.version()? == self.version { Ok(()) } else { Err(Miss::Changed) }
    }
}

impl Executable {
    /// Identifies `image`, or keeps the reason why it cannot be.
    pub(crate) fn new(path: &Path, image: Result<Image, Miss>) -> Self {
        let identified = image.and_then(Contents::read).and_then(|contents| {
            let id = ExecutableId::of(&contents.image, &contents.layout, contents.version.bytes)?;
            Ok((id, Arc::new(contents)))
        });
        let (id, contents) = match identified {
            Ok((id, contents)) => (id, Ok(contents)),
            Err(miss) => (ExecutableId::default(), Err(miss)),
        };
        let serial = CLOCK.fetch_add(1, Ordering::Relaxed);
        Self {
            id,
            path: path.to_string_lossy().into(),
            serial,
            last_use: AtomicU64::new(serial),
            contents: Mutex::new(contents),
        }
    }

    /// The id, empty where the file could not be read.
    pub fn id(&self) -> &ExecutableId {
        &self.id
    }

    /// The path as the first process that mapped it saw it.
    pub fn path(&self) -> &Arc<str> {
        &self.path
    }

    /// Why the file cannot be read, if it cannot.
    pub fn miss(&self) -> Option<Miss> {
        self.lock().as_ref().err().copied()
    }

    /// The path by which this very file can be read again, whatever has become of its name; `None` once it is closed.
    pub fn readable_path(&self) -> Option<PathBuf> {
        use std::os::fd::AsRawFd;
        match &self.lock().as_ref().ok()?.image {
            Image::File(file) => Some(PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))),
            Image::Memory(_) => None,
        }
    }

    /// The address the file itself states for the byte at `offset`: what unwind tables and symbols are written in.
    pub fn svma(&self, offset: FileOffset) -> Option<u64> {
        Some(self.lock().as_ref().ok()?.layout.svma_of(offset.0)?.0)
    }

    /// The file's contents, readable for as long as the reader lives, whatever the registry closes meanwhile.
    ///
    /// # Errors
    /// Why the file cannot be read.
    pub fn reader(&self) -> Result<ExecutableReader, Miss> {
        Ok(ExecutableReader(self.contents()?))
    }

    /// The file's basename and `offset`, the convention for code without a name: `[libfoo.so+0x1234]`.
    pub(crate) fn offset_name(&self, offset: FileOffset) -> String {
        let basename = self.path.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("unknown");
        let basename = basename.trim_start_matches('[').trim_end_matches(']');
        format!("[{basename}+{:#x}]", offset.0)
    }

    pub(crate) fn contents(&self) -> Result<Arc<Contents>, Miss> {
        self.last_use.store(CLOCK.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        self.lock().clone()
    }

    pub(crate) fn last_use(&self) -> u64 {
        self.last_use.load(Ordering::Relaxed)
    }

    /// Closes the file; whoever still holds the handle sees [`Miss::Closed`].
    pub(crate) fn close(&self) {
        *self.lock() = Err(Miss::Closed);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Result<Arc<Contents>, Miss>> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
