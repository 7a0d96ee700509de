//! The Pyroscope API's messages, generated from `ui/server/proto`.

macro_rules! package {
    ($name:literal) => {
        include!(concat!(env!("OUT_DIR"), "/", $name, ".rs"));
        include!(concat!(env!("OUT_DIR"), "/", $name, ".serde.rs"));
    };
}

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    clippy::map_err_ignore,
    clippy::use_self,
    reason = "generated code"
)]
mod generated {
    pub mod querier {
        pub mod v1 {
            package!("querier.v1");
        }
    }
    pub mod push {
        pub mod v1 {
            package!("push.v1");
        }
    }
    pub mod types {
        pub mod v1 {
            package!("types.v1");
        }
    }
}

pub(crate) use generated::{push::v1 as push, querier::v1 as querier, types::v1 as types};
