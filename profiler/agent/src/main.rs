//! The `pyrite` binary: parse the command line, run the subcommand, turn its outcome into an exit code.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use pyrite::cli::{Cli, Command};
use pyrite::commands;

/// jemalloc returns freed memory to the kernel; glibc's arenas kept twice the live heap resident.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("PYRITE_LOG");
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
    let outcome = match &cli.command {
        Command::Run(args) => commands::run(args),
        Command::Server(args) => commands::server(args),
        Command::Record(args) => commands::record(args),
        Command::Doctor(args) => commands::doctor(args),
        Command::Store(command) => commands::store(command),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("pyrite: {error:#}");
        ExitCode::FAILURE
    })
}
