//! The way back from the threads to the publisher.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::sys::Alarm;
use crate::unwind::work::Report;

/// A thread that is so far ahead waits; what it holds back is its own.
const MAX_REPORTS: usize = 64;

/// The threads' end.
#[derive(Debug)]
pub(crate) struct ReportSender<M> {
    reports: SyncSender<Report<M>>,
    alarm: Arc<Alarm>,
}

// Not derived: a report's memory need not be Clone for its sender to be.
impl<M> Clone for ReportSender<M> {
    fn clone(&self) -> Self {
        Self { reports: self.reports.clone(), alarm: Arc::clone(&self.alarm) }
    }
}

impl<M> ReportSender<M> {
    /// Sends and wakes the publisher. Returns false where it is gone.
    pub(crate) fn send(&self, report: Report<M>) -> bool {
        let is_sent = self.reports.send(report).is_ok();
        self.alarm.set_off();
        is_sent
    }
}

/// Both ends; `alarm` is set off with every report.
pub(crate) fn channel<M>(alarm: Arc<Alarm>) -> (ReportSender<M>, Receiver<Report<M>>) {
    let (reports, receiver) = sync_channel(MAX_REPORTS);
    (ReportSender { reports, alarm }, receiver)
}
