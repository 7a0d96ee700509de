//! Functions with names as long and as alike as real ones: those of a service and, shared by all services in its
//! language, those of libraries.

use crate::recipe::random::hash;

/// Functions of a service's own code.
const OWN: u16 = 1_200;
/// Functions of libraries in one language.
const LIBRARY: u16 = 720;
/// Threads and requests begin in these ways: each is the language's first function and two more.
pub(super) const ENTRIES: u16 = 4;
const ENTRY_FUNCTIONS: u16 = 1 + 2 * ENTRIES;

const PACKAGES: [&str; 12] =
    ["api", "auth", "billing", "cache", "codec", "db", "events", "index", "jobs", "limits", "queue", "views"];
const TYPES: [&str; 20] = [
    "Order", "Invoice", "Session", "Cart", "Payment", "Catalog", "Shipment", "Customer", "Ledger", "Quote",
    "Token", "Audit", "Search", "Notice", "Price", "Stock", "Report", "Image", "Message", "Route",
];
const METHODS: [&str; 24] = [
    "decode", "validate", "load", "store", "merge", "resolve", "encode", "apply", "fetch", "filter", "sort",
    "digest", "compare", "lookup", "insert", "remove", "refresh", "schedule", "retry", "flush", "parse",
    "render", "sign", "compress",
];

/// A function of a container's program: first its own, then those of libraries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FunctionNo(u16);

impl FunctionNo {
    /// How many functions a program has.
    pub(super) const COUNT: usize = (OWN + LIBRARY) as usize;

    /// All functions of a program.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..OWN + LIBRARY).map(Self)
    }

    /// A function of the service's own code.
    ///
    /// # Panics
    /// Where `n` is not below [`Self::own_count`].
    pub(super) fn own(n: u64) -> Self {
        assert!(n < Self::own_count(), "{n} is no function of the service");
        Self(n as u16)
    }

    pub(super) fn own_count() -> u64 {
        u64::from(OWN)
    }

    /// A function of a library.
    ///
    /// # Panics
    /// Where `n` is not below [`Self::library_count`].
    pub(super) fn library(n: u64) -> Self {
        assert!(n < Self::library_count(), "{n} is no function of a library");
        Self(OWN + ENTRY_FUNCTIONS + n as u16)
    }

    pub(super) fn library_count() -> u64 {
        u64::from(LIBRARY - ENTRY_FUNCTIONS)
    }

    /// The outermost functions of an entry, root first.
    pub(super) fn entry(n: u16) -> [Self; 3] {
        let first = OWN + 1 + 2 * (n % ENTRIES);
        [Self(OWN), Self(first), Self(first + 1)]
    }

    /// The number as an index.
    pub(super) fn index(self) -> usize {
        self.0.into()
    }
}

/// A function as a symbol table knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its full name, unlike that of any other function of the program.
    pub name: String,
    /// The source file.
    pub file: String,
    /// The first line.
    pub first_line: u32,
}

/// What a service is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Language {
    Go,
    Rust,
    Java,
    Python,
}

impl Language {
    /// The languages take turns.
    pub(super) fn of(container: u32) -> Self {
        [Self::Go, Self::Rust, Self::Java, Self::Python][container as usize % 4]
    }

    /// A function of the program of `service`.
    pub(super) fn function(self, service: &str, no: FunctionNo) -> Function {
        let first_line = 11 + (hash(&[no.0.into()]) % 900) as u32;
        let of_library = no.0.checked_sub(OWN);
        if let Some(entry) = of_library.filter(|n| *n < ENTRY_FUNCTIONS) {
            let name = self.entry_functions()[usize::from(entry)].to_owned();
            let file = format!("runtime/entry.{}", self.extension());
            return Function { name, file, first_line };
        }
        let (package, rest) = match of_library {
            None => {
                let package = PACKAGES[usize::from(no.0) % PACKAGES.len()];
                (self.own_package(service, package), usize::from(no.0) / PACKAGES.len())
            }
            Some(n) => {
                let libraries = self.libraries();
                (libraries[usize::from(n) % libraries.len()].to_owned(), usize::from(n) / libraries.len())
            }
        };
        let kind = TYPES[rest % TYPES.len()];
        let method = METHODS[rest / TYPES.len() % METHODS.len()];
        let lower = kind.to_lowercase();
        let (name, file) = match self {
            Self::Go => (format!("{package}.(*{kind}).{method}"), format!("{package}/{lower}.go")),
            Self::Rust => {
                let file = format!("{}/{lower}.rs", package.replace("::", "/"));
                (format!("{package}::{lower}::{kind}::{method}"), file)
            }
            Self::Java => (format!("{package}.{kind}.{method}"), format!("{kind}.java")),
            Self::Python => {
                let file = format!("{}/{lower}.py", package.replace('.', "/"));
                (format!("{package}.{kind}.{method}"), file)
            }
        };
        Function { name, file, first_line }
    }

    fn extension(self) -> &'static str {
        match self {
            Self::Go => "go",
            Self::Rust => "rs",
            Self::Java => "java",
            Self::Python => "py",
        }
    }

    fn own_package(self, service: &str, package: &str) -> String {
        let word = service.replace('-', "_");
        match self {
            Self::Go => format!("github.com/example/{service}/internal/{package}"),
            Self::Rust => format!("{word}::{package}"),
            Self::Java => format!("com.example.{word}.{package}"),
            Self::Python => format!("{word}.{package}"),
        }
    }

    fn libraries(self) -> [&'static str; 8] {
        match self {
            Self::Go => [
                "encoding/json",
                "net/http",
                "database/sql",
                "compress/flate",
                "crypto/tls",
                "google.golang.org/grpc/internal/transport",
                "runtime",
                "google.golang.org/protobuf/internal/impl",
            ],
            Self::Rust => [
                "serde_json::de",
                "hyper::proto::h1",
                "tokio::runtime::task",
                "alloc::collections::btree",
                "rustls::record_layer",
                "hashbrown::raw",
                "core::iter::adapters",
                "regex_automata::hybrid",
            ],
            Self::Java => [
                "com.fasterxml.jackson.databind.ser",
                "io.netty.handler.codec.http",
                "java.util.concurrent",
                "org.hibernate.engine.internal",
                "sun.security.ssl",
                "org.springframework.web.servlet",
                "java.util.regex",
                "com.google.protobuf",
            ],
            Self::Python => [
                "json.decoder",
                "urllib3.connectionpool",
                "sqlalchemy.orm.loading",
                "django.template.base",
                "asyncio.base_events",
                "pandas.core.internals.managers",
                "re",
                "logging",
            ],
        }
    }

    fn entry_functions(self) -> [&'static str; ENTRY_FUNCTIONS as usize] {
        match self {
            Self::Go => [
                "runtime.goexit",
                "net/http.(*conn).serve",
                "net/http.serverHandler.ServeHTTP",
                "google.golang.org/grpc.(*Server).handleStream",
                "google.golang.org/grpc.(*Server).processUnaryRPC",
                "runtime.main",
                "main.main",
                "runtime.gcBgMarkWorker",
                "runtime.gcDrain",
            ],
            Self::Rust => [
                "start_thread",
                "tokio::runtime::scheduler::multi_thread::worker::run",
                "tokio::runtime::scheduler::multi_thread::worker::Context::run_task",
                "tokio::runtime::blocking::pool::Inner::run",
                "tokio::runtime::blocking::task::BlockingTask::poll",
                "std::rt::lang_start_internal",
                "std::sys::backtrace::__rust_begin_short_backtrace",
                "rayon_core::registry::main_loop",
                "rayon_core::registry::WorkerThread::wait_until_cold",
            ],
            Self::Java => [
                "java.lang.Thread.run",
                "java.util.concurrent.ThreadPoolExecutor$Worker.run",
                "java.util.concurrent.FutureTask.run",
                "org.apache.tomcat.util.net.NioEndpoint$SocketProcessor.doRun",
                "org.apache.coyote.http11.Http11Processor.service",
                "io.netty.channel.nio.NioEventLoop.run",
                "io.netty.channel.nio.NioEventLoop.processSelectedKeys",
                "java.util.concurrent.ForkJoinWorkerThread.run",
                "java.util.concurrent.ForkJoinPool.runWorker",
            ],
            Self::Python => [
                "<module>",
                "threading.Thread._bootstrap",
                "threading.Thread.run",
                "concurrent.futures.thread._worker",
                "concurrent.futures.thread._WorkItem.run",
                "asyncio.runners.run",
                "asyncio.base_events.BaseEventLoop.run_forever",
                "gunicorn.workers.sync.SyncWorker.handle",
                "gunicorn.workers.sync.SyncWorker.handle_request",
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_function_of_a_program_has_a_name_of_its_own() {
        for container in 0..4 {
            let language = Language::of(container);
            let name = |no| language.function("cart-api", no).name;
            let names: HashSet<String> = FunctionNo::all().map(name).collect();
            assert_eq!(names.len(), FunctionNo::COUNT, "{language:?}");
        }
    }

    #[test]
    fn libraries_are_shared_and_services_are_not() {
        let name = |service, no| Language::Rust.function(service, no).name;
        for no in [FunctionNo::library(0), FunctionNo::library(310), FunctionNo::entry(3)[2]] {
            assert_eq!(name("cart-api", no), name("search-worker", no));
        }
        let own = FunctionNo::own(FunctionNo::own_count() - 1);
        assert_ne!(name("cart-api", own), name("search-worker", own));
        assert_eq!(name("cart-api", own), "cart_api::views::route::Route::merge");
    }
}
