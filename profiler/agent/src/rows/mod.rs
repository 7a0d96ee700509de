//! From the sampler's events to rows with names and labels; the daemon stores them, `record` writes them to a file.

mod maker;
mod marker;
mod stream;

pub use maker::RowMaker;
pub use stream::{Ready, RowStats, RowStream};

/// A sample without a frame.
#[cfg(test)]
fn empty_stack(process: pyrite_sampling::ProcessKey, comm: &[u8]) -> pyrite_sampling::SampledStack {
    pyrite_sampling::SampledStack {
        process,
        comm: pyrite_sampling::Comm::new(comm),
        cgroup_id: 1,
        is_kernel_thread: false,
        has_guessed_frames: false,
        kernel_outcome: pyrite_bpf::StackOutcome::Absent,
        user_outcome: pyrite_bpf::StackOutcome::Absent,
        kernel: vec![],
        user: vec![],
    }
}
