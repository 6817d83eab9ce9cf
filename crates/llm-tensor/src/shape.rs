use std::fmt;
use std::ops::Deref;

use crate::{Bytes, DType, TensorError};

/// The extents of a tensor, outermost first; a scalar has none.
///
/// Its number of elements is known to fit 64 bits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: Vec<u64>,
    n_elements: u64,
}

impl Shape {
    /// # Errors
    /// [`TensorError::TooManyElements`] when the product of the extents exceeds 64 bits.
    pub fn new(dims: &[u64]) -> Result<Self, TensorError> {
        // An extent of zero makes the tensor empty, whatever the others claim.
        let n_elements = if dims.contains(&0) {
            Some(0)
        } else {
            dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d))
        };
        match n_elements {
            Some(n_elements) => Ok(Shape {
                dims: dims.to_vec(),
                n_elements,
            }),
            None => Err(TensorError::TooManyElements {
                shape: format!("{dims:?}"),
            }),
        }
    }

    /// The product of the extents; 1 for a scalar.
    pub fn n_elements(&self) -> u64 {
        self.n_elements
    }

    /// The size in bytes as elements of `dtype`.
    ///
    /// # Errors
    /// [`TensorError::TooManyBytes`] when that exceeds 64 bits.
    pub fn bytes(&self, dtype: DType) -> Result<Bytes, TensorError> {
        let too_many = TensorError::TooManyBytes {
            n_elements: self.n_elements,
            dtype: dtype.name(),
        };
        self.n_elements
            .checked_mul(dtype.size() as u64)
            .map(Bytes::new)
            .ok_or(too_many)
    }
}

impl Deref for Shape {
    type Target = [u64];

    fn deref(&self) -> &[u64] {
        &self.dims
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:?}", self.dims))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_elements_and_bytes() {
        let shape = Shape::new(&[3, 5, 7]).unwrap();
        assert_eq!(shape.n_elements(), 105);
        assert_eq!(shape.bytes(DType::BF16), Ok(Bytes::new(210)));
        assert_eq!(shape.to_string(), "[3, 5, 7]");
        assert_eq!(Shape::new(&[]).unwrap().n_elements(), 1);
    }

    #[test]
    fn refuses_what_64_bits_cannot_count() {
        assert!(Shape::new(&[1 << 33, 1 << 33]).is_err());
        assert_eq!(Shape::new(&[1 << 33, 1 << 33, 0]).unwrap().n_elements(), 0);
        let huge = Shape::new(&[1 << 62]).unwrap();
        assert!(huge.bytes(DType::U8).is_ok() && huge.bytes(DType::F32).is_err());
    }
}
