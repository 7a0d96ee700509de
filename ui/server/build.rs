//! Compiles the API's schemas and embeds the page.
//!
//! The page is what `ui/web` builds into its `dist`. Each file goes into the binary packed with gzip; a table of
//! names, media types and bytes is generated into `OUT_DIR`. `PYRITE_PAGE=none` builds without a page.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write as _;
use std::path::{Path, PathBuf};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let out_dir = PathBuf::from(std::env::var("OUT_DIR")?);
    schemas(&out_dir)?;
    page(&out_dir)
}

fn schemas(out_dir: &Path) -> Outcome<()> {
    let pprof = "../../store/model/proto";
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed={pprof}");
    let mut compiler = protox::Compiler::new(["proto", pprof])?;
    compiler.include_imports(true);
    for file in ["querier/v1/querier.proto", "push/v1/push.proto", "types/v1/types.proto"] {
        compiler.open_file(file)?;
    }
    prost_build::Config::new()
        // Pushed profiles are not copied out of the body that brought them.
        .bytes([".push.v1.RawSample.raw_profile"])
        .extern_path(".google.v1", "::pyrite_model::pprof::proto")
        .compile_fds(compiler.file_descriptor_set())?;
    pbjson_build::Builder::new()
        .out_dir(out_dir)
        .extern_path(".google.v1", "::pyrite_model::pprof::proto")
        .register_descriptors(&compiler.encode_file_descriptor_set())?
        .ignore_unknown_fields()
        .ignore_unknown_enum_variants()
        .build(&[".querier.v1", ".push.v1", ".types.v1"])?;
    Ok(())
}

fn page(out_dir: &Path) -> Outcome<()> {
    println!("cargo::rerun-if-env-changed=PYRITE_PAGE");
    let dist = Path::new("../web/dist");
    let mut files = Vec::new();
    if std::env::var("PYRITE_PAGE").as_deref() != Ok("none") {
        println!("cargo::rerun-if-changed={}", dist.display());
        if !dist.join("index.html").is_file() {
            return Err(
                "the page is not built: run `make page`, or set PYRITE_PAGE=none to build without it".into(),
            );
        }
        walk(dist, &mut files)?;
        files.sort();
    }
    let mut table = String::from("pub(super) static FILES: &[File] = &[\n");
    for (index, file) in files.iter().enumerate() {
        let content = fs::read(file)?;
        let target = out_dir.join(format!("page-{index}.gz"));
        let mut packer =
            flate2::write::GzEncoder::new(fs::File::create(&target)?, flate2::Compression::best());
        packer.write_all(&content)?;
        packer.finish()?;
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        let not_utf8 = "a file name of the page or of the build directory is not UTF-8";
        let path = file.strip_prefix(dist)?.to_str().ok_or(not_utf8)?;
        let target = target.to_str().ok_or(not_utf8)?;
        writeln!(
            table,
            "    File {{ path: {path:?}, etag: \"\\\"{:016x}\\\"\", gzip: include_bytes!({target:?}) }},",
            hasher.finish()
        )?;
    }
    table.push_str("];\n");
    fs::write(out_dir.join("page.rs"), table)?;
    Ok(())
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) -> Outcome<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() { walk(&path, files)? } else { files.push(path) }
    }
    Ok(())
}
