//! PyTorch files as `torch.save` writes them, for tests and for models of any size to measure with.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use llm_checkpoint::NewTensor;
use llm_tensor::DType;

use self::zip::ZipWriter;

mod pickle;
mod zip;

/// Place of the elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TorchLayout {
    /// In a zip archive, as since PyTorch 1.6.
    Zip,
    /// Behind a row of pickles, as before.
    Legacy,
}

/// Writes one state dict without holding it: the names first, then the tensors' bytes as they come.
pub struct TorchFile {
    out: Output,
    /// Elements and bytes of the tensors to come.
    ahead: VecDeque<(u64, u64)>,
    /// Bytes that the tensor being written still lacks, if there is one.
    missing: Option<u64>,
    n_begun: usize,
}

enum Output {
    Zip(ZipWriter<BufWriter<File>>),
    Legacy(BufWriter<File>),
}

impl TorchFile {
    /// Begins a file that is to hold `tensors`, each in a storage of its own, in this order.
    ///
    /// # Errors
    /// What the operating system answers.
    ///
    /// # Panics
    /// When a number of bytes exceeds 64 bits.
    pub fn create(path: &Path, layout: TorchLayout, tensors: &[NewTensor]) -> io::Result<Self> {
        let mut out = BufWriter::new(File::create(path)?);
        let out = match layout {
            TorchLayout::Zip => {
                let stem = path.file_stem().unwrap_or_default().to_string_lossy();
                let mut zip = ZipWriter::new(out, &stem);
                zip.entry("data.pkl", &pickle::state_dict(tensors, layout))?;
                zip.entry("byteorder", b"little")?;
                Output::Zip(zip)
            }
            TorchLayout::Legacy => {
                out.write_all(&pickle::legacy_front())?;
                out.write_all(&pickle::state_dict(tensors, layout))?;
                out.write_all(&pickle::keys(tensors.len()))?;
                Output::Legacy(out)
            }
        };
        let size = |tensor: &NewTensor| {
            let n_bytes = tensor.shape.bytes(tensor.dtype).expect("a size of 64 bits");
            let n_elements = match is_untyped(tensor.dtype) {
                true => n_bytes.get(),
                false => tensor.shape.n_elements(),
            };
            (n_elements, n_bytes.get())
        };
        let mut file = TorchFile {
            out,
            ahead: tensors.iter().map(size).collect(),
            missing: None,
            n_begun: 0,
        };
        file.advance()?;
        Ok(file)
    }

    /// Appends little-endian elements. A call may end inside a tensor, or begin in one and end in the next.
    ///
    /// # Errors
    /// What the operating system answers.
    ///
    /// # Panics
    /// When these are more bytes than the tensors have left.
    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let missing = self.missing.as_mut().expect("as many bytes as announced");
            let n = bytes
                .len()
                .min(usize::try_from(*missing).unwrap_or(usize::MAX));
            let (now, later) = bytes.split_at(n);
            match &mut self.out {
                Output::Zip(zip) => zip.write(now)?,
                Output::Legacy(out) => out.write_all(now)?,
            }
            *missing -= n as u64;
            bytes = later;
            self.advance()?;
        }
        Ok(())
    }

    /// Ends the tensor that is complete and begins the next one that has bytes.
    fn advance(&mut self) -> io::Result<()> {
        while self.missing.is_none_or(|missing| missing == 0) {
            if let (Some(_), Output::Zip(zip)) = (self.missing.take(), &mut self.out) {
                zip.end()?;
            }
            let Some((n_elements, n_bytes)) = self.ahead.pop_front() else {
                break;
            };
            match &mut self.out {
                Output::Zip(zip) => zip.begin(&format!("data/{}", self.n_begun), n_bytes)?,
                Output::Legacy(out) => out.write_all(&n_elements.to_le_bytes())?,
            }
            self.n_begun += 1;
            self.missing = Some(n_bytes);
        }
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// What the operating system answers.
    ///
    /// # Panics
    /// When bytes of the tensors are missing.
    pub fn finish(self) -> io::Result<()> {
        assert_eq!(self.missing, None, "bytes that a tensor still lacks");
        match self.out {
            Output::Zip(mut zip) => {
                zip.entry("version", b"3\n")?;
                zip.finish()?.flush()
            }
            Output::Legacy(mut out) => out.flush(),
        }
    }
}

/// True if PyTorch has no class of storages for such elements.
fn is_untyped(dtype: DType) -> bool {
    dtype.is_float8() || matches!(dtype, DType::F8E8M0 | DType::U64 | DType::U32 | DType::U16)
}
