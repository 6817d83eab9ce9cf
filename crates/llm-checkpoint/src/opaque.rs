use std::collections::HashMap;
use std::fmt;

use llm_tensor::{Bytes, Shape, TensorError};

use crate::error::TensorFlaw;

/// An element type that nothing here computes with: less than a byte wide, or not known. Such tensors are listed, copied
/// and summed, as bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Opaque {
    name: [u8; MAX_NAME],
    len: u8,
    /// Bits of an element, where that is known.
    bits: Option<u8>,
}

/// Element types that are not [`DType`](llm_tensor::DType)s, and shapes, by the names of tensors.
pub(crate) type Opaques = HashMap<String, (Opaque, Shape)>;

/// Bytes that a name may have.
const MAX_NAME: usize = 24;

impl Opaque {
    /// The type `name`, if that may be one: a short word of letters, digits and underscores.
    pub(crate) fn new(name: &str, bits: Option<u8>) -> Option<Self> {
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(is_word) {
            return None;
        }
        let mut bytes = [0; MAX_NAME];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Some(Opaque {
            name: bytes,
            len: name.len() as u8,
            bits,
        })
    }

    /// Its name in the file: `F4`.
    pub fn name(&self) -> &str {
        std::str::from_utf8(&self.name[..usize::from(self.len)]).expect("checked to be ASCII")
    }

    /// Bytes of a tensor of `shape`, where the type's width is known.
    ///
    /// # Errors
    /// [`TensorFlaw::PartialByte`] when its last byte is not whole, [`TensorFlaw::Value`] when 64 bits cannot count the
    /// bits.
    pub(crate) fn stored_bytes(self, shape: &Shape) -> Result<Option<Bytes>, TensorFlaw> {
        let Some(bits) = self.bits else {
            return Ok(None);
        };
        let too_many = || TensorError::TooManyElements {
            shape: shape.to_string(),
        };
        let n_bits = shape.n_elements().checked_mul(bits.into());
        let n_bits = n_bits.ok_or_else(too_many)?;
        if !n_bits.is_multiple_of(8) {
            return Err(TensorFlaw::PartialByte {
                shape: shape.clone(),
                name: self.name().to_owned(),
            });
        }
        Ok(Some(Bytes::new(n_bits / 8)))
    }
}

impl fmt::Display for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Debug for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opaque({})", self.name())
    }
}
