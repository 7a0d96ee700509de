//! `pyrite run` and `pyrite server`: one process, with and without the agent.

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use pyrite_server::{NodeView, ServerLimits, ServerState};
use pyrite_store::{Limits, QuarantineLimits, Retention, Store, StoreConfig};

use crate::cli::ServeArgs;
use crate::config::Config;
use crate::privilege;
use crate::sys;
use crate::watch::Watch;

/// How long requests under way may take to finish once Pyrite has been asked to end.
const GRACE: Duration = Duration::from_secs(5);

/// Watches this node and serves what it sees, until SIGINT or SIGTERM. Fails when it cannot watch any more, so that whoever
/// started it starts it again.
pub fn run(args: &ServeArgs) -> Result<ExitCode> {
    let config = Config::load(args)?;
    if let Some(refusal) = privilege::refusal() {
        bail!(refusal);
    }
    sys::raise_open_file_limit();
    let listener = listen(config.listen)?;
    let store = open_store(&config, Limits::of_a_node())?;
    let watch = Watch::start(&config, store.clone())?;
    let ended = watch.ended();
    let failed = async move {
        ended.await;
        tracing::error!("sampling ended by itself; shutting down");
    };
    let state = state(&config, &store, Some(watch.node()));
    let served = serve(listener, state, failed);
    // The agent ends first: what it has drained by then must still find the store open.
    let watched = watch.stop();
    store.close().context("failed to close the store")?;
    watched?;
    served
}

/// Serves what others push, until SIGINT or SIGTERM.
pub fn server(args: &ServeArgs) -> Result<ExitCode> {
    let config = Config::load(args)?;
    let listener = listen(config.listen)?;
    let store = open_store(&config, Limits::default())?;
    let served = serve(listener, state(&config, &store, None), std::future::pending());
    store.close().context("failed to close the store")?;
    served
}

/// Takes the port before anything else, so that a second Pyrite ends before it touches the first one's data.
fn listen(address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address)
        .with_context(|| format!("failed to listen on {address}; choose another with --listen"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn open_store(config: &Config, limits: Limits) -> Result<Store> {
    let retention = Retention { max_age: config.max_age, max_bytes: config.max_bytes };
    let quarantine =
        QuarantineLimits { max_age: config.quarantine_max_age, max_bytes: config.quarantine_max_bytes };
    let limits = Limits {
        tenants: config.max_tenants,
        query_bytes: config.queries.bytes,
        queries_bytes: config.queries.total_bytes,
        ..limits
    };
    let commit = config.commit;
    let data = config.data.clone();
    let store_config = StoreConfig { retention, quarantine, commit, limits, ..StoreConfig::new(data) };
    let (store, report) = Store::open(store_config)
        .with_context(|| format!("failed to open the data directory {}", config.data.display()))?;
    for finding in &report.findings {
        tracing::warn!("{finding}");
    }
    Ok(store)
}

fn state(config: &Config, store: &Store, node: Option<Arc<dyn NodeView>>) -> Arc<ServerState> {
    let limits = ServerLimits {
        running_queries: config.queries.running,
        query_wait: config.queries.wait,
        query_timeout: config.queries.timeout,
        ..ServerLimits::default()
    };
    ServerState::new(Arc::new(store.clone()), node, config.tenancy.clone(), limits)
}

/// Serves until it is asked to end or something else has `failed`.
#[expect(clippy::print_stdout, reason = "the address is what the user waits for")]
fn serve(
    listener: TcpListener,
    state: Arc<ServerState>,
    failed: impl Future<Output = ()> + Send + 'static,
) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let address = listener.local_addr()?;
        let shutdown = shutdown_signal()?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        println!("http://{address}");
        let (asked, ending) = tokio::sync::oneshot::channel();
        let shutdown = async move {
            tokio::select! {
                () = shutdown => {}
                () = failed => {}
            }
            // Nobody listens any more where serving has failed meanwhile.
            let _ = asked.send(());
        };
        tokio::select! {
            () = pyrite_server::serve(listener, state, shutdown) => {}
            () = async { drop(ending.await); tokio::time::sleep(GRACE).await } => {
                tracing::warn!("requests that took longer than {GRACE:?} to finish were cut off");
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn shutdown_signal() -> Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!("shutting down");
    })
}

#[cfg(test)]
mod tests {
    use pyrite_server::Tenancy;

    use super::*;

    #[test]
    fn serving_ends_when_what_is_served_has_failed() {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(StoreConfig::new(directory.path().to_path_buf())).unwrap();
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let state =
            ServerState::new(Arc::new(store.clone()), None, Tenancy::default(), ServerLimits::default());
        serve(listener, state, std::future::ready(())).unwrap();
        store.close().unwrap();
    }
}
