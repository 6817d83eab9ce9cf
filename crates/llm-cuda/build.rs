//! Compresses the kernels' PTX for embedding: as text they are a fifth of the program.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use miniz_oxide::deflate::compress_to_vec_zlib;

/// Writes each file of `ptx/` to the folder of outputs as `src/module/ptx.rs` reads it: the length of the text, and a
/// zlib stream.
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=ptx");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for entry in fs::read_dir("ptx")? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "ptx") {
            pack(&path, &out)?;
        }
    }
    Ok(())
}

fn pack(path: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let text = fs::read(path)?;
    if text.contains(&0) {
        return Err(format!("{} has a zero within its text", path.display()).into());
    }
    let mut packed = u32::try_from(text.len())?.to_le_bytes().to_vec();
    packed.extend(compress_to_vec_zlib(&text, LEVEL));
    let name = path.file_name().ok_or("a file without a name")?;
    fs::write(out.join(name), packed)?;
    Ok(())
}

/// zlib's own choice: the kernels are a fifth of their text, after a second of work.
const LEVEL: u8 = 6;
