//! One file per subcommand.

mod doctor;

pub use doctor::doctor;
