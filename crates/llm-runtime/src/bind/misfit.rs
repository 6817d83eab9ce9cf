//! Differences that keep a checkpoint from being the model of a configuration.

use std::fmt;
use std::path::PathBuf;

use llm_arch::{Role, Skeleton, Slot};
use llm_checkpoint::{Checkpoint, Encoding, Format, TensorInfo};
use llm_tensor::{DType, Shape};

/// Every way in which a checkpoint does not fit a configuration, all at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// The checkpoint.
    pub path: PathBuf,
    /// The family that the configuration names.
    pub family: &'static str,
    /// Tensors that are not there, with the shape expected.
    pub missing: Vec<String>,
    /// Tensors of another shape, with expected and found.
    pub misshapen: Vec<String>,
    /// Tensors whose elements are no weights.
    pub no_weights: Vec<String>,
    /// Tensors of an adapter that is not merged.
    pub adapter: Vec<String>,
    /// Tensors of quantized weights, in a form that is not supported.
    pub quantized: Vec<String>,
    /// Tensors that would change what the model computes, and nothing says how.
    pub extra: Vec<String>,
    /// True if the head is missing, of a model that is not tied.
    lacks_head: bool,
}

impl Misfit {
    pub(super) fn new(checkpoint: &Checkpoint, skeleton: &Skeleton) -> Self {
        Misfit {
            path: checkpoint.path().to_owned(),
            family: skeleton.spec.family,
            missing: Vec::new(),
            misshapen: Vec::new(),
            no_weights: Vec::new(),
            adapter: Vec::new(),
            quantized: Vec::new(),
            extra: Vec::new(),
            lacks_head: false,
        }
    }

    pub(super) fn missing(&mut self, slot: &Slot) {
        self.lacks_head |= slot.role == Role::Head;
        let (name, shape) = (&slot.name, slot.stored_shape());
        self.missing.push(format!("`{name}` {shape:?}"));
    }

    pub(super) fn misshapen(&mut self, name: &str, found: &Shape, expected: &[usize]) {
        let line = format!("`{name}` is {found}, expected {expected:?}");
        // Many slots may be parts of one tensor.
        if self.misshapen.last() != Some(&line) {
            self.misshapen.push(line);
        }
    }

    pub(super) fn compare(&mut self, slot: &Slot, tensor: &TensorInfo, format: Format) {
        let expected = slot.stored_shape();
        let (found, wanted) = (
            tensor.shape.iter().copied(),
            expected.iter().map(|&d| d as u64),
        );
        // GGML knows no difference between a vector and a matrix of one row, and its converter has written both.
        let fits = match format == Format::Gguf {
            true => found.skip_while(is_one).eq(wanted.skip_while(is_one)),
            false => found.eq(wanted),
        };
        if !fits {
            self.misshapen(&tensor.name, &tensor.shape, &expected);
        }
        let is_computable = match tensor.encoding {
            Encoding::Plain(dtype) if slot.role == Role::RouterTokens => {
                matches!(dtype, DType::I64 | DType::I32)
            }
            Encoding::Plain(dtype) => dtype.is_float(),
            Encoding::Block(_) => true,
            Encoding::Opaque(_) => false,
        };
        if !is_computable {
            self.no_weights
                .push(format!("`{}` of {}", tensor.name, tensor.encoding));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kinds().iter().all(|(_, tensors)| tensors.is_empty())
    }

    fn kinds(&self) -> [(&'static str, &Vec<String>); 6] {
        [
            (
                "of a quantization that the configuration does not tell of, or that is not supported (GPTQ, AWQ, FP8 and others)",
                &self.quantized,
            ),
            (
                "of an adapter (LoRA) that has to be merged into the model first",
                &self.adapter,
            ),
            ("missing", &self.missing),
            ("of another shape", &self.misshapen),
            ("of elements that are not computed with", &self.no_weights),
            ("not understood", &self.extra),
        ]
    }
}

impl std::error::Error for Misfit {}

/// One line, each kind with its count and its first few tensors.
impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} does not hold the {} model of its configuration",
            self.path.display(),
            self.family
        )?;
        for (kind, tensors) in self
            .kinds()
            .into_iter()
            .filter(|(_, tensors)| !tensors.is_empty())
        {
            let (shown, rest) = tensors.split_at(tensors.len().min(SHOWN));
            write!(f, "; {} {kind}: {}", tensors.len(), shown.join(", "))?;
            if !rest.is_empty() {
                write!(f, " and {} more", rest.len())?;
            }
        }
        if self.lacks_head && self.missing.len() == 1 {
            let hint = "without a matrix that makes logits; if that is the table of tokens, `tie_word_embeddings` has to be true in the configuration";
            write!(f, " – {hint}")?;
        }
        Ok(())
    }
}

/// True of an extent that changes nothing where it is the outermost.
fn is_one(extent: &u64) -> bool {
    *extent == 1
}

/// Tensors of a kind that a message lists; the error itself holds all.
const SHOWN: usize = 8;
