//! Connections: so many at a time, each held to deadlines, so that clients that are slow on purpose cannot take the port
//! from others.
//!
//! ```text
//! accept ─▶ a request must begin within `header_timeout`, and its headers be there
//!           its body has `body_timeout`
//!           its answer must be taken: a client that reads nothing for `write_timeout` is cut off
//! ```

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Sleep, sleep};

use crate::app::InFlight;
use crate::state::{ServerState, Shared};
use crate::{ServerLimits, app};

/// How often a client of HTTP/2 with nothing to say is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Requests that one connection of HTTP/2 may have under way.
const MAX_STREAMS: u32 = 128;

/// Serves until `shutdown` is done; then finishes the requests under way.
pub async fn serve(
    mut listener: TcpListener,
    state: Arc<ServerState>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    let app = app(Arc::clone(&state));
    let places = Arc::new(Semaphore::new(state.limits.connections));
    let ending = GracefulShutdown::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accept = async {
            // Whoever comes when all places are taken waits in the kernel.
            let place = Arc::clone(&places).acquire_owned().await;
            // Axum's way of accepting waits out what passes, such as a lack of descriptors.
            (place, Listener::accept(&mut listener).await.0)
        };
        let (place, stream) = tokio::select! {
            accepted = accept => accepted,
            () = &mut shutdown => break,
        };
        let connection = connection(Arc::clone(&state), app.clone(), stream, ending.watcher());
        tokio::spawn(async move {
            connection.await;
            drop(place);
        });
    }
    drop(listener);
    ending.shutdown().await;
}

/// Serves one connection until its end.
async fn connection(state: Shared, app: Router, stream: TcpStream, ending: Watcher) {
    let _here = InFlight::enter(&state.connections);
    let ServerLimits { header_timeout, write_timeout, .. } = state.limits;
    let has_asked = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&has_asked);
    let app = TowerToHyperService::new(app);
    let service = service_fn(move |request: Request<Incoming>| {
        asked.store(true, Ordering::Relaxed);
        app.call(request)
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(header_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .max_concurrent_streams(MAX_STREAMS);
    let stream = TokioIo::new(Patient { stream, patience: write_timeout, stalled: None });
    let served = ending.watch(builder.serve_connection(stream, service));
    // The timeout for headers begins with the first byte that tells which protocol they are of, and may never come.
    let silence = async {
        sleep(header_timeout).await;
        if has_asked.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        served = served => match served {
            Err(error) if is_timeout(&*error) => state.counters.connection_timed_out(),
            // It left, or spoke something else.
            Err(error) => tracing::debug!(%error, "connection failed"),
            Ok(()) => {}
        },
        () = silence => state.counters.connection_timed_out(),
    }
}

/// Whether a deadline ended the connection: that for headers, or that for taking an answer.
fn is_timeout(error: &(dyn std::error::Error + 'static)) -> bool {
    let of_headers = error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_timeout);
    let of_stream = error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::TimedOut);
    of_headers || of_stream || error.source().is_some_and(is_timeout)
}

/// A stream whose other end must take what is written to it.
struct Patient {
    stream: TcpStream,
    patience: Duration,
    /// Since nothing more could be written.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn in_time<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(patience)));
        stalled.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.in_time(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.in_time(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
