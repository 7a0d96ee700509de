//! Compiles the pprof schema into Rust types with Protobuf and Protobuf-JSON codecs.

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).open_file("google/v1/profile.proto")?;
    prost_build::Config::new().compile_fds(compiler.file_descriptor_set())?;
    let out_dir = PathBuf::from(std::env::var("OUT_DIR")?);
    pbjson_build::Builder::new()
        .out_dir(out_dir)
        .register_descriptors(&compiler.encode_file_descriptor_set())?
        .ignore_unknown_fields()
        .build(&[".google.v1"])?;
    Ok(())
}
