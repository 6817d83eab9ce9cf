use std::sync::Arc;

use llm_tensor::HostBytes;

use crate::double::DoubleAbsmax;
use crate::floats::{f32_at, f32s, le_bytes};
use crate::parts::{Part, Parts};
use crate::stored::StoredWeight;
use crate::{FourBit, Result, Scheme, Table};

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
    /// The meaning of a stored weight's parts; `None` where it is in another scheme.
    ///
    /// # Panics
    /// When its parts are not as [`StoredWeight::checked`] has them.
    pub fn of(weight: &StoredWeight) -> Option<Self> {
        let Scheme::FourBit(format) = weight.scheme else {
            return None;
        };
        let bytes = |part: Part| weight.part(part).clone();
        let absmax = match format.double_quant {
            false => Ok(Absmax::Plain(bytes(Part::Absmax))),
            true => {
                let map = Arc::new(f32s(weight.part(Part::NestedQuantMap)));
                let offset = f32_at(weight.part(Part::NestedOffset), 0);
                let (codes, scales) = (bytes(Part::Absmax), bytes(Part::NestedAbsmax));
                DoubleAbsmax::new(codes, scales, map, offset).map(Absmax::Double)
            }
        };
        let table = f32s(weight.part(Part::QuantMap));
        let shape = (weight.rows, weight.cols);
        let packed = bytes(Part::Weight);
        let weight = absmax.and_then(|absmax| Self::new(shape, format, table, packed, absmax));
        Some(weight.unwrap_or_else(|flaw| panic!("{flaw}")))
    }

    /// A matrix whose bytes are there. `table` is the one that a file brings, else that of the format's code.
    ///
    /// # Errors
    /// [`QuantError::Length`](crate::QuantError::Length) when there are not as many bytes of each kind as the matrix has elements and blocks.
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
        let is_double = matches!(absmax, Absmax::Double(_));
        assert_eq!(
            is_double, format.double_quant,
            "scales as {format} has them"
        );
        let weight = Weight4Bit {
            rows,
            cols,
            format,
            table,
            packed,
            absmax,
        };
        StoredWeight::from(weight.clone()).checked()?;
        Ok(weight)
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

impl From<Weight4Bit> for StoredWeight {
    fn from(weight: Weight4Bit) -> Self {
        let mut parts = Parts::weight(weight.packed);
        let table = HostBytes::new(le_bytes(&weight.table));
        match weight.absmax {
            Absmax::Plain(absmax) => {
                parts.insert(Part::Absmax, absmax);
                parts.insert(Part::QuantMap, table);
            }
            Absmax::Double(double) => {
                parts.insert(Part::Absmax, double.codes().clone());
                parts.insert(Part::QuantMap, table);
                parts.insert(Part::NestedAbsmax, double.absmax().clone());
                parts.insert(Part::NestedQuantMap, HostBytes::new(le_bytes(double.map())));
                let offset = double.offset().to_le_bytes();
                parts.insert(Part::NestedOffset, HostBytes::new(offset));
            }
        }
        StoredWeight {
            scheme: Scheme::FourBit(weight.format),
            rows: weight.rows,
            cols: weight.cols,
            parts,
        }
    }
}
