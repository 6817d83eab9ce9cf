use llm_tensor::{Bytes, HostBytes};

use crate::double::DoubleAbsmax;
use crate::{FourBit, QuantError, Result, Scheme, StoredBytes, Table};

/// A matrix in NF4 or FP4, in host memory; bytes may have any alignment.
///
/// The matrix is cut into blocks row by row, across the rows' ends. Element `i` is the code in the high nibble of byte
/// `i / 2` when `i` is even, in the low one when it is odd; its value is `table[code] · absmax[i / block size]`.
#[derive(Debug, Clone)]
pub struct Weight4Bit {
    rows: usize,
    cols: usize,
    format: FourBit,
    table: Table,
    packed: HostBytes,
    absmax: Absmax,
}

/// The largest magnitude of each block.
#[derive(Debug, Clone)]
pub enum Absmax {
    /// f32, little-endian.
    Plain(HostBytes),
    /// 8-bit codes with scales of their own.
    Double(DoubleAbsmax),
}

impl Weight4Bit {
    /// A matrix whose bytes are there. `table` is the one that a file brings, else that of the format's code.
    ///
    /// # Errors
    /// [`QuantError::Length`] when there are not as many bytes of each kind as the matrix has elements and blocks.
    ///
    /// # Panics
    /// When `absmax` is not of the kind that the format names.
    pub fn new(
        (rows, cols): (usize, usize),
        format: FourBit,
        table: Table,
        packed: HostBytes,
        absmax: Absmax,
    ) -> Result<Self> {
        let n = rows as u64 * cols as u64;
        let check = |what, expected: u64, found: usize| {
            if expected == found as u64 {
                return Ok(());
            }
            Err(QuantError::Length {
                what,
                rows,
                cols,
                scheme: format.to_string(),
                expected,
                found: found as u64,
            })
        };
        check("the codes", n.div_ceil(2), packed.len())?;
        let n_blocks = format.n_blocks(n);
        match (&absmax, format.double_quant) {
            (Absmax::Plain(scales), false) => check("the scales", n_blocks * 4, scales.len())?,
            (Absmax::Double(double), true) => {
                check("the scales", n_blocks, double.codes().len())?;
            }
            _ => panic!("scales that are not as {format} has them"),
        }
        Ok(Weight4Bit {
            rows,
            cols,
            format,
            table,
            packed,
            absmax,
        })
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The encoding.
    pub fn format(&self) -> FourBit {
        self.format
    }

    /// The value of each code, as the matrix was encoded with.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The codes, two a byte.
    pub fn packed(&self) -> &HostBytes {
        &self.packed
    }

    /// The scales.
    pub fn absmax(&self) -> &Absmax {
        &self.absmax
    }

    /// What the matrix takes; what [`Scheme::stored_bytes`] says.
    pub fn stored_bytes(&self) -> StoredBytes {
        let scales = match &self.absmax {
            Absmax::Plain(scales) => scales.len(),
            Absmax::Double(double) => double.n_bytes(),
        };
        StoredBytes {
            elements: Bytes::new(self.packed.len() as u64),
            statistics: Bytes::new((scales + size_of::<Table>()) as u64),
        }
    }

    /// The scheme that the matrix is in.
    pub fn scheme(&self) -> Scheme {
        Scheme::FourBit(self.format)
    }

    /// The scale of a block.
    ///
    /// # Panics
    /// When there is no such block.
    pub fn scale(&self, block: usize) -> f32 {
        match &self.absmax {
            Absmax::Plain(scales) => f32_at(scales, block),
            Absmax::Double(double) => double.decode(block),
        }
    }

    /// The value of element `i` of all, row by row: the product in f32, not rounded to what the weights once were.
    ///
    /// # Panics
    /// When there is no such element.
    pub fn element(&self, i: usize) -> f32 {
        let byte = self.packed[i / 2];
        let code = if i.is_multiple_of(2) {
            byte >> 4
        } else {
            byte & 15
        };
        self.table[usize::from(code)] * self.scale(i / self.format.block_size.get())
    }
}

/// Element `i` of little-endian f32 at any alignment.
pub(crate) fn f32_at(bytes: &[u8], i: usize) -> f32 {
    let word = bytes[4 * i..][..4].try_into().expect("a word is 4 bytes");
    f32::from_le_bytes(word)
}
