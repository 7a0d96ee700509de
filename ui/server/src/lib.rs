//! HTTP on one port: the Pyroscope-compatible API, the native API, operations and the embedded page.
//!
//! ```text
//! serve, app                                          connections, routes
//! connect ─▶ querier, profiles, exemplars, push      Connect RPC: Protobuf or JSON in, the same out
//!            ingest, render                          the REST API that came before it
//! params ──▶ functions, compare, services            what only Pyrite has
//!            ops, page
//! ```
//!
//! Handlers parse, call and encode. What they call is a [`ProfileStore`], for data, and a [`NodeView`], for what runs
//! on this node now; both are given to [`ServerState::new`]. [`app`] is the whole server without a socket.

#![forbid(unsafe_code)]

mod accept;
mod app;
mod app_name;
mod attime;
mod compare;
mod connect;
mod counters;
mod error;
mod exemplars;
mod folded;
mod functions;
mod ingest;
mod multipart;
mod node;
mod ops;
mod page;
mod params;
mod profiles;
mod proto;
mod push;
mod querier;
mod render;
mod serve;
mod services;
mod state;
mod store;
mod tenancy;
mod timeline;
mod window;

pub use app::app;
pub use error::ApiError;
pub use node::{
    KnownService, NodeInfo, NodeView, OffCpuScore, ServiceKind, UnwindAnswer, UnwindExecutable,
    UnwindProcess, UnwindReason, UnwindScore,
};
pub use serve::serve;
pub use state::{ServerLimits, ServerState};
pub use store::{Appending, ProfileStore};
pub use tenancy::Tenancy;
