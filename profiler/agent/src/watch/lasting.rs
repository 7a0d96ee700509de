//! A thread that lasts until it is asked to end. One that ends before that has failed, whether it panicked or ran out of
//! input: whoever goes on serving without it would show a node at rest.

use std::future::Future;
use std::io;
use std::thread::{Builder, JoinHandle};

use anyhow::{Result, ensure};
use tokio::sync::watch;

/// A running thread.
pub(super) struct Lasting {
    thread: JoinHandle<()>,
    /// Nothing is ever sent: its other end is dropped with the thread's work, by a panic as well.
    alive: watch::Receiver<()>,
}

impl Lasting {
    /// Starts `work` on a thread of this name.
    pub(super) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (lives, alive) = watch::channel(());
        let thread = Builder::new().name(name.to_owned()).spawn(move || {
            let _lives = lives;
            work();
        })?;
        Ok(Self { thread, alive })
    }

    /// Resolves when the work is over.
    pub(super) fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut alive = self.alive.clone();
        async move { while alive.changed().await.is_ok() {} }
    }

    /// Asks the thread to end by `ask` and waits until it has.
    ///
    /// # Errors
    /// When it had ended before it was asked, or panicked.
    pub(super) fn end(self, ask: impl FnOnce()) -> Result<()> {
        let was_over = self.alive.has_changed().is_err();
        ask();
        let joined = self.thread.join();
        ensure!(!was_over, "sampling ended by itself; the lines above say why");
        ensure!(joined.is_ok(), "the rows thread panicked; its last rows are lost");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    fn wait_for_end(thread: &Lasting) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(thread.ended());
    }

    #[test]
    fn a_thread_that_ends_when_it_is_asked_has_not_failed() {
        let (ask, asked) = channel::<()>();
        let thread = Lasting::spawn("asked", move || assert!(asked.recv().is_err())).unwrap();
        assert!(thread.end(|| drop(ask)).is_ok());
    }

    #[test]
    fn a_thread_that_runs_out_of_input_has_failed_and_says_so() {
        let (input, inputs) = channel::<()>();
        let thread = Lasting::spawn("starved", move || assert!(inputs.recv().is_err())).unwrap();
        drop(input);
        wait_for_end(&thread);
        assert!(thread.end(|| {}).is_err());
    }

    #[test]
    fn a_thread_that_panics_has_failed_whenever_it_does() {
        let thread = Lasting::spawn("panics", || panic!("on purpose")).unwrap();
        wait_for_end(&thread);
        assert!(thread.end(|| {}).is_err());
        let (ask, asked) = channel::<()>();
        let thread = Lasting::spawn("panics last", move || asked.recv().expect("nothing comes")).unwrap();
        assert!(thread.end(|| drop(ask)).is_err());
    }
}
