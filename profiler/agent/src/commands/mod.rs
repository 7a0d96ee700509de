//! One file per subcommand.

mod doctor;
mod doctor_unwind;
mod output;
mod record;
mod serve;
mod store;
mod workload;

pub use doctor::doctor;
pub use record::record;
pub use serve::{run, server};
pub use store::store;
