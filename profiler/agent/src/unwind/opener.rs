//! The thread that opens executables while their processes live. Not the one that makes tables: a table of a million rows
//! takes longer than many a process lives.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

use pyrite_symbolizer::{ExecutableRef, Executables, Miss};
use pyrite_unwind::{Layout, Segment};

use crate::sys;
use crate::unwind::code::{CodeKey, Place};
use crate::unwind::files::{Found, OpenRequest};
use crate::unwind::reports::ReportSender;
use crate::unwind::stats::ThreadCounters;
use crate::unwind::tables::TableIdentity;
use crate::unwind::work::Report;

/// Opens what is asked for until nobody asks any more.
pub(crate) fn run<M>(
    executables: &Executables,
    requests: &Receiver<OpenRequest>,
    reports: &ReportSender<M>,
    counters: &ThreadCounters,
) {
    while let Ok(request) = requests.recv() {
        let outcome = open(executables, &request);
        counters.opener_cpu_ns.store(sys::thread_cpu_ns(), Ordering::Relaxed);
        if !reports.send(Report::Opened { request, outcome }) {
            return;
        }
    }
}

fn open(executables: &Executables, request: &OpenRequest) -> Result<Found, Miss> {
    match (request.key, &request.place) {
        (CodeKey::Vdso, _) => found(Executables::vdso()),
        (CodeKey::File(_), None) => Err(Miss::NotFound),
        (CodeKey::File(key), Some(place)) => {
            let name = Path::new(&*place.file.path);
            found(executables.open(key, name, &candidates(place)))
        }
    }
}

/// Where the file may be: by the mapping itself, which also leads to a file that was deleted; by its path as the process
/// sees it; by its path as we see it, which is all that is left when the process has ended.
pub(crate) fn candidates(place: &Place) -> [PathBuf; 3] {
    let path = &*place.file.path;
    let name = Path::new(path.strip_suffix(" (deleted)").unwrap_or(path));
    let process = PathBuf::from(format!("/proc/{}", place.tgid));
    // The kernel names these links without leading zeros, unlike the lines of /proc/PID/maps.
    let by_mapping = process.join(format!("map_files/{:x}-{:x}", place.start.0, place.end.0));
    let in_root = process.join("root").join(name.strip_prefix("/").unwrap_or(name));
    [by_mapping, in_root, name.to_path_buf()]
}

fn found(executable: ExecutableRef) -> Result<Found, Miss> {
    let reader = executable.reader()?;
    let segments = reader.segments().to_vec();
    let layout = Layout {
        lowest_svma: segments.iter().map(pyrite_symbolizer::Segment::svma).min().unwrap_or_default(),
        segments: segments.iter().map(segment).collect(),
    };
    let identity = TableIdentity {
        id: executable.id().clone(),
        bytes: reader.bytes(),
        segments,
        modified: (!reader.has_build_id()).then(|| reader.modified()),
    };
    Ok(Found { identity: Arc::new(identity), layout: Arc::new(layout), executable, reader })
}

fn segment(segment: &pyrite_symbolizer::Segment) -> Segment {
    Segment {
        offset: segment.offset(),
        svma: segment.svma(),
        file_bytes: segment.file_bytes(),
        executable: segment.is_executable(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use pyrite_model::{Avma, FileKey};
    use pyrite_sampling::MappedFile;

    use super::*;

    /// Some executable: this test's own vDSO.
    pub(crate) fn own_vdso() -> Found {
        open(&Executables::new(1), &OpenRequest { key: CodeKey::Vdso, place: None }).unwrap()
    }

    pub(crate) fn own_identity() -> TableIdentity {
        (*own_vdso().identity).clone()
    }

    #[test]
    fn a_file_is_sought_by_its_mapping_then_in_the_root_of_its_process_then_in_ours() {
        let file = MappedFile { key: FileKey::default(), path: "/usr/bin/app (deleted)".into() };
        let place = Place { tgid: 42, file: Arc::new(file), start: Avma(0x40_0000), end: Avma(0x40_1000) };
        let paths = candidates(&place).map(|path| path.to_string_lossy().into_owned());
        assert_eq!(paths, ["/proc/42/map_files/400000-401000", "/proc/42/root/usr/bin/app", "/usr/bin/app"]);
    }

    #[test]
    fn the_vdso_is_found_without_a_file() {
        assert!(own_vdso().layout.segments.iter().any(|segment| segment.executable));
    }
}
