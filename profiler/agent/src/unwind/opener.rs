//! The thread that opens executables while their processes live. Not the one that makes tables: a table of a million rows
//! takes longer than many a process lives.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

use pyrite_symbolizer::{ExecutableRef, Executables, Miss};
use pyrite_unwind::{Layout, Segment};

use crate::mapped_file;
use crate::sys;
use crate::unwind::code::CodeKey;
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
            let paths = mapped_file::candidates(place.tgid, &place.file.path, place.start, place.end);
            found(executables.open(key, name, &paths))
        }
    }
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
    use super::*;

    /// Some executable: this test's own vDSO.
    pub(crate) fn own_vdso() -> Found {
        open(&Executables::new(1), &OpenRequest { key: CodeKey::Vdso, place: None }).unwrap()
    }

    pub(crate) fn own_identity() -> TableIdentity {
        (*own_vdso().identity).clone()
    }

    #[test]
    fn the_vdso_is_found_without_a_file() {
        assert!(own_vdso().layout.segments.iter().any(|segment| segment.executable));
    }
}
