//! Pushes as a client makes them: `push.v1.PushRequest` in Protobuf, with a pprof of one sample in it.

use prost::Message as _;
use pyrite_model::pprof::{ExportMeta, encode, gzip};
use pyrite_model::{ProfileType, StackProfile, SymbolTable};

use crate::pyrite::now_ms;
use crate::support::message;

/// Where to post.
pub(crate) const PATH: &str = "/push.v1.PusherService/Push";
/// As what.
pub(crate) const PROTOBUF: &str = "application/proto";
/// The CPU time of the one sample.
pub(crate) const VALUE: i64 = 1_000_000;

/// One profile of one sample under these labels.
pub(crate) fn push(labels: &[(&str, &str)]) -> Vec<u8> {
    message(1, &series(labels, &profile("work")))
}

/// A series with one profile, which may be anything.
pub(crate) fn series(labels: &[(&str, &str)], profile: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in labels.iter().chain(&[("__name__", "process_cpu")]) {
        let pair = [message(1, name.as_bytes()), message(2, value.as_bytes())].concat();
        out.extend(message(1, &pair));
    }
    out.extend(message(2, &message(1, profile)));
    out
}

/// A gzipped pprof: [`VALUE`] nanoseconds in a function of this name, now.
pub(crate) fn profile(function: &str) -> Vec<u8> {
    let mut symbols = SymbolTable::new();
    let location = symbols.intern_named_location(function);
    let stack = symbols.intern_stack(&[location]).expect("a stack of one frame");
    let meta = ExportMeta {
        profile_type: ProfileType::cpu_time(),
        time_ns: now_ms() * 1_000_000,
        duration_ns: 1_000_000_000,
        period: VALUE,
    };
    gzip(&encode(&StackProfile { symbols, values: vec![(stack, VALUE)] }, &meta).encode_to_vec())
}
