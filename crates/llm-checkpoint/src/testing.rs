//! Helpers of several modules' tests.

use std::error::Error;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use llm_tensor::DType;
use tempfile::TempDir;

use crate::{Checkpoint, CheckpointError, Encoding, TensorInfo};

/// A file of `tests/fixtures/gguf`.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/gguf")
        .join(name)
}

/// A folder for one test, with files in it.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

/// An error as it is printed, with its causes.
pub(crate) fn message<T>(result: Result<T, CheckpointError>) -> String {
    let error = result.err().expect("an error");
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    assert!(!text.contains('\n'), "one line: {text}");
    text
}

/// The type that reads `tensor` without loss: its own if it is plain.
pub(crate) fn natural_dtype(tensor: &TensorInfo) -> DType {
    match tensor.encoding {
        Encoding::Plain(dtype) => dtype,
        Encoding::Block(_) => DType::F32,
        Encoding::Opaque(_) => DType::U8,
    }
}

/// All elements of a tensor as `dtype`, or its bytes if they are not understood.
pub(crate) fn read_all(checkpoint: &Checkpoint, name: &str, dtype: DType) -> Vec<u8> {
    let tensor = checkpoint.get(name).unwrap();
    if let Encoding::Opaque(_) = tensor.encoding {
        let n_bytes = tensor.contiguous_bytes();
        let mut out = vec![0; n_bytes as usize];
        checkpoint.read_stored(name, 0..n_bytes, &mut out).unwrap();
        return out;
    }
    let n_elements = tensor.shape.n_elements();
    let mut out = vec![0; n_elements as usize * dtype.size()];
    checkpoint
        .read_into(name, 0..n_elements, dtype, &mut out)
        .unwrap();
    out
}

/// Sets each of the first `header` bytes of `file` to several other values. Whatever still opens must be readable;
/// nothing may panic.
pub(crate) fn flip_every_byte(file: &[u8], header: usize, name: &str) {
    let folder = Folder::new();
    let path = folder.write(name, file);
    // Changed in place: file systems may flush a file that is written anew.
    let on_disk = File::options().write(true).open(&path).unwrap();
    let mut n_opened = 0;
    for (at, &byte) in file[..header].iter().enumerate() {
        for new in [
            0,
            1,
            9,
            0x22,
            0x7F,
            0x80,
            0xFF,
            byte ^ 1,
            byte ^ 0x20,
            !byte,
        ] {
            on_disk.write_all_at(&[new], at as u64).unwrap();
            let Ok(checkpoint) = Checkpoint::open(&path) else {
                continue;
            };
            n_opened += 1;
            for tensor in checkpoint.tensors() {
                assert!(tensor.bytes.end <= file.len() as u64, "byte {at} = {new}");
                let dtype = natural_dtype(tensor);
                let elements = read_all(&checkpoint, &tensor.name, dtype);
                if let Some(view) = checkpoint.view(&tensor.name).unwrap() {
                    assert!(*view == elements, "byte {at} = {new}");
                }
            }
        }
        on_disk.write_all_at(&[byte], at as u64).unwrap();
    }
    assert!(n_opened > 0, "some flips, as in names, are harmless");
}

/// Every shorter version of `file` must be refused.
pub(crate) fn cut_everywhere(file: &[u8], name: &str) {
    let folder = Folder::new();
    let path = folder.write(name, file);
    Checkpoint::open(&path).unwrap();
    let on_disk = File::options().write(true).open(&path).unwrap();
    for len in (0..file.len()).rev() {
        on_disk.set_len(len as u64).unwrap();
        let text = message(Checkpoint::open(&path));
        assert!(text.contains(name), "cut to {len} bytes: {text}");
    }
}
