//! Tables of real executables against direct evaluations of their call frame information, tables of call frame information
//! written by hand, and files that mean harm.

#![allow(clippy::print_stdout, reason = "figures are what a person runs the large comparison for")]

mod assembler;
mod differential;
mod files;
mod flow;
mod go;
mod golden;
mod hostile;
mod live;
mod process;
mod sections;
mod truth;
