//! Who a process is: the container, unit or executable that its CPU time belongs to.
//!
//! * [`cgroup`]: cgroup paths to owners, pure
//! * [`process`]: what `/proc/PID` says
//! * [`runtime`]: what container runtimes know, asked on a thread of its own
//! * [`inventory`]: all containers and units of this node with their CPU time
//! * [`Identity`]: puts them together into label sets

pub mod cardinality;
pub mod cgroup;
mod containers;
mod front;
pub mod inventory;
pub mod process;
pub mod runtime;

pub use front::{Certainty, Identity, IdentityConfig, IdentityStats, Labels, Service, Subject};
