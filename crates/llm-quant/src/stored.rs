//! Weights in the encoding in which they rest.

use std::ops::Range;

use llm_tensor::{DType, HostBytes};

use crate::parts::{Part, Parts, StoredBytes};
use crate::scheme::Scheme;
use crate::{QuantError, Result};

/// A matrix `[rows, cols]`, or a vector as one row, in a [`Scheme`]: the one carrier of weights, from a file to a device.
///
/// Its parts are bytes in host memory, at any alignment; or whatever stands for them elsewhere, as ranges of a staging
/// place, from which [`StoredWeight::map`] makes it.
///
/// ```
/// use llm_quant::{Scheme, StoredWeight};
/// use llm_tensor::{DType, HostBytes};
///
/// let ones = HostBytes::new([0, 0, 128, 63].repeat(6));
/// let weight = StoredWeight::dense(DType::F32, (2, 3), ones);
/// assert_eq!(weight.scheme, Scheme::Dense(DType::F32));
/// assert_eq!(weight.stored_bytes().total().get(), 24);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct StoredWeight<T = HostBytes> {
    /// The encoding.
    pub scheme: Scheme,
    /// Output features; 1 for a vector.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Those of [`Scheme::parts`].
    pub parts: Parts<T>,
}

impl<T> StoredWeight<T> {
    /// The same weight with what `f` makes of each of its parts.
    pub fn map<U>(self, f: impl FnMut(Part, T) -> U) -> StoredWeight<U> {
        StoredWeight {
            scheme: self.scheme,
            rows: self.rows,
            cols: self.cols,
            parts: self.parts.map(f),
        }
    }

    /// The same weight with what `f` makes of each of its parts, or its first error.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn try_map<U, E>(
        self,
        f: impl FnMut(Part, T) -> std::result::Result<U, E>,
    ) -> std::result::Result<StoredWeight<U>, E> {
        Ok(StoredWeight {
            scheme: self.scheme,
            rows: self.rows,
            cols: self.cols,
            parts: self.parts.try_map(f)?,
        })
    }

    /// Some elements of a weight that is not quantized, as a vector; `cut` makes some bytes of what stands for all of them.
    ///
    /// # Panics
    /// When it has not so many, or is quantized.
    pub fn elements(
        &self,
        range: Range<usize>,
        cut: impl FnOnce(&T, Range<usize>) -> T,
    ) -> StoredWeight<T> {
        let Scheme::Dense(dtype) = self.scheme else {
            panic!("elements of a weight in {}", self.scheme)
        };
        let n_elements = self.rows * self.cols;
        assert!(
            range.start <= range.end && range.end <= n_elements,
            "elements {range:?} of {n_elements}"
        );
        let bytes = range.start * dtype.size()..range.end * dtype.size();
        StoredWeight {
            scheme: self.scheme,
            rows: 1,
            cols: range.len(),
            parts: Parts::weight(cut(self.part(Part::Weight), bytes)),
        }
    }

    /// A part.
    ///
    /// # Panics
    /// When the weight lacks it.
    pub fn part(&self, part: Part) -> &T {
        let found = self.parts.get(part);
        found.unwrap_or_else(|| panic!("a weight in {} without {part:?}", self.scheme))
    }
}

impl StoredWeight {
    /// A weight of elements one after the other, little-endian.
    pub fn dense(dtype: DType, (rows, cols): (usize, usize), elements: HostBytes) -> Self {
        StoredWeight {
            scheme: Scheme::Dense(dtype),
            rows,
            cols,
            parts: Parts::weight(elements),
        }
    }

    /// The weight, if it has the parts of its scheme, each of the length that its shape gives.
    ///
    /// # Errors
    /// [`QuantError::Length`].
    pub fn checked(self) -> Result<Self> {
        for (part, info) in self.scheme.parts(self.rows as u64, self.cols as u64) {
            let found = self.parts.get(part).map_or(0, |bytes| bytes.len() as u64);
            if info.bytes != found {
                return Err(QuantError::Length {
                    what: what(part),
                    rows: self.rows,
                    cols: self.cols,
                    scheme: self.scheme.to_string(),
                    expected: info.bytes,
                    found,
                });
            }
        }
        Ok(self)
    }

    /// Size of the parts that are there; what [`Scheme::stored_bytes`] says.
    pub fn stored_bytes(&self) -> StoredBytes {
        StoredBytes::sum(self.parts.as_ref().map(|_, bytes| bytes.len() as u64))
    }
}

/// A part in words.
fn what(part: Part) -> &'static str {
    match part {
        Part::Weight => "the elements",
        Part::Absmax | Part::Scb | Part::Scales => "the scales",
        Part::QuantMap => "the values of codes",
        Part::NestedAbsmax => "the scales of scales",
        Part::NestedQuantMap => "the values of scales' codes",
        Part::NestedOffset => "the offset of scales",
        Part::Zeros => "the zeros",
        Part::GlobalScale => "the scale of all",
        Part::Order => "the order of columns",
        Part::State(_) => "the state",
        Part::WeightFormat => "the order of elements",
    }
}

#[cfg(test)]
mod tests {
    use crate::{BlockSize, Code, FourBit};

    use super::*;

    fn double_quantized() -> Scheme {
        Scheme::FourBit(FourBit {
            code: Code::Nf4,
            block_size: BlockSize::DEFAULT,
            double_quant: true,
        })
    }

    #[test]
    fn a_weight_in_a_place_becomes_one_of_bytes() {
        let scheme = double_quantized();
        let mut at = 0;
        let ranges = scheme.parts(5, 100).map(|_, info| {
            let start = at;
            at += info.bytes as usize;
            start..at
        });
        let placed = StoredWeight {
            scheme,
            rows: 5,
            cols: 100,
            parts: ranges,
        };
        let place = HostBytes::new((0..at).map(|i| i as u8).collect::<Vec<_>>());
        let weight = placed.map(|_, range| place.slice(range)).checked().unwrap();
        assert_eq!(weight.stored_bytes(), scheme.stored_bytes(5, 100));
        assert_eq!(weight.part(Part::Weight).len(), 250);
        assert_eq!(
            **weight.part(Part::Absmax),
            [250, 251, 252, 253, 254, 255, 0, 1]
        );
        let order: Vec<Part> = weight.parts.iter().map(|(part, _)| part).collect();
        assert_eq!(order[1..3], [Part::Absmax, Part::QuantMap]);
        assert_eq!(order.len(), 6);
    }

    #[test]
    fn parts_that_are_missing_or_of_another_length_are_refused() {
        let scheme = double_quantized();
        let whole = StoredWeight {
            scheme,
            rows: 2,
            cols: 64,
            parts: scheme
                .parts(2, 64)
                .map(|_, info| HostBytes::new(vec![0; info.bytes as usize])),
        };
        assert!(whole.clone().checked().is_ok());
        for (part, _) in scheme.parts(2, 64) {
            let others = whole.parts.iter().filter(|(has, _)| *has != part);
            let others = others.map(|(has, bytes)| (has, bytes.clone()));
            let mut parts = Parts::from_iter(others);
            let lacking = StoredWeight {
                parts: parts.clone(),
                ..whole.clone()
            };
            assert!(lacking.checked().is_err(), "{part:?}");
            let longer = vec![0; whole.part(part).len() + 1];
            parts.insert(part, HostBytes::new(longer));
            let other = StoredWeight {
                parts,
                ..whole.clone()
            };
            let error = other.checked().unwrap_err().to_string();
            assert!(error.contains("[2, 64] in nf4 double"), "{error}");
        }
    }
}
