//! Weights on the GPU, in the encoding in which they rest.

use std::ops::Range;
use std::sync::Arc;

use llm_backend::{BackendError, Result};
use llm_quant::{Part, Scheme, StoredWeight};
use llm_tensor::{DType, HostBytes};

use crate::card::Card;
use crate::formats;
use crate::memory::{Memory, Span};

/// A weight, its parts in memory of their own or in a place; each is as long as the scheme has it.
#[derive(Debug)]
pub struct CudaWeight(StoredWeight<Piece>);

/// Some bytes of an allocation that several share.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    memory: Arc<Memory>,
    range: Range<usize>,
}

impl Piece {
    /// # Panics
    /// When the memory has not so many bytes.
    pub(crate) fn of(memory: &Arc<Memory>, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= memory.n_bytes(),
            "bytes {range:?} of a place of {}",
            memory.n_bytes()
        );
        Piece {
            memory: Arc::clone(memory),
            range,
        }
    }
}

impl Piece {
    fn fetch(&self) -> Result<HostBytes> {
        let mut bytes = vec![0; self.range.len()];
        self.memory.fetch(self.range.start, &mut bytes)?;
        Ok(HostBytes::new(bytes))
    }
}

impl CudaWeight {
    /// A weight with these parts. Their lengths are looked at here, once for all products.
    ///
    /// # Panics
    /// When a part is missing, or shorter than the scheme has it.
    pub(crate) fn new(weight: StoredWeight<Piece>) -> Self {
        let StoredWeight {
            scheme, rows, cols, ..
        } = weight;
        for (part, info) in scheme.parts(rows as u64, cols as u64) {
            let n_bytes = weight.part(part).range.len();
            assert!(
                n_bytes as u64 >= info.bytes,
                "{n_bytes} bytes for {part:?} of [{rows}, {cols}] in {scheme}, which has {}",
                info.bytes
            );
        }
        CudaWeight(weight)
    }

    /// Copies a weight to the GPU, and waits for it.
    pub(crate) fn load(card: &Arc<Card>, weight: StoredWeight) -> Result<Self> {
        check(card, &weight)?;
        let copied = weight.try_map(|_, bytes| {
            let memory = Arc::new(Memory::holding(card, &bytes, "weights")?);
            let n = memory.n_bytes();
            Ok(Piece::of(&memory, 0..n))
        });
        copied.map(CudaWeight::new)
    }

    /// A weight whose parts are on the GPU, or will be when it is put to use.
    pub(crate) fn placed(card: &Card, weight: StoredWeight<Piece>) -> Result<Self> {
        check(card, &weight)?;
        Ok(CudaWeight::new(weight))
    }

    /// Some elements of a vector.
    pub(crate) fn elements(&self, range: Range<usize>) -> Self {
        CudaWeight::new(self.0.elements(range, |Piece { memory, range }, bytes| {
            Piece::of(memory, range.start + bytes.start..range.start + bytes.end)
        }))
    }

    /// A copy in host memory, of what was there when all queues' work on it was done: the caller has waited for that.
    ///
    /// # Errors
    /// The driver's.
    pub fn fetch(&self) -> Result<StoredWeight> {
        self.0.clone().try_map(|_, piece| piece.fetch())
    }

    pub(crate) fn scheme(&self) -> Scheme {
        self.0.scheme
    }

    pub(crate) fn rows(&self) -> usize {
        self.0.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.0.cols
    }

    /// A part, as long as the scheme has it.
    ///
    /// # Panics
    /// When the weight has no such part.
    pub(crate) fn part(&self, part: Part) -> Span<'_> {
        let Piece { memory, range } = self.0.part(part);
        memory.span(range.clone())
    }

    /// The type of its elements where it is dense.
    ///
    /// # Panics
    /// When it is not: vectors are.
    pub(crate) fn dense(&self) -> DType {
        match self.0.scheme {
            Scheme::Dense(dtype) => dtype,
            other @ (Scheme::Int8(_)
            | Scheme::Int8PerUse(..)
            | Scheme::FourBit(_)
            | Scheme::Ggml(_)
            | Scheme::Fp8(_)
            | Scheme::Grouped(_)) => panic!("a vector in {other}"),
        }
    }
}

fn check<T>(card: &Card, weight: &StoredWeight<T>) -> Result<()> {
    if computes_with(weight.scheme, weight.cols) {
        return Ok(());
    }
    Err(BackendError::UnsupportedWeight {
        device: card.name.clone(),
        scheme: weight.scheme,
        rows: weight.rows,
        cols: weight.cols,
    })
}

/// True of matrices with rows of `cols` that there are kernels for.
pub fn computes_with(scheme: Scheme, cols: usize) -> bool {
    match scheme {
        Scheme::Dense(dtype) | Scheme::Int8PerUse(dtype, _) => dtype.is_weight(),
        Scheme::Int8(_) | Scheme::FourBit(_) => true,
        Scheme::Ggml(_) | Scheme::Fp8(_) | Scheme::Grouped(_) => {
            formats::is_supported(scheme, cols)
        }
    }
}
