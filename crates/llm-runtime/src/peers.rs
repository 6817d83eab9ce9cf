//! Quantized checkpoints as transformers reads them.

use llm_arch::{Module, Role, TensorKind};

use crate::{BoundModel, BoundTensor};

/// Quantized matrices that transformers (5.24) does not read, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// The first of them.
    pub tensor: String,
    /// Number of those of the same kind.
    pub n_tensors: usize,
    /// Reason for not reading them.
    pub why: WhyUnread,
}

/// Reason of transformers for not reading a quantized matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhyUnread {
    /// Module of the matrix, which transformers does not quantize.
    Module(Module),
    /// The configuration, which says that it is not quantized.
    Skipped,
    /// The table of tokens, which it shares.
    Tied,
}

impl BoundModel {
    /// True if the checkpoint holds matrices in bitsandbytes' encodings.
    pub fn is_quantized(&self) -> bool {
        self.tensors().any(|bound| is_quantized(&bound))
    }

    /// Those of the quantized matrices that transformers does not read; then it loads the checkpoint not at all, or
    /// computes nothing with it.
    pub fn unread_by_transformers(&self) -> Option<Unread> {
        let quantized = self.tensors().filter(is_quantized);
        let unread = quantized.filter_map(|bound| Some((bound.slot, self.why_unread(&bound)?)));
        let unread: Vec<_> = unread.collect();
        let &(slot, why) = unread.first()?;
        Some(Unread {
            tensor: slot.name.clone(),
            n_tensors: unread.iter().filter(|(_, other)| *other == why).count(),
            why,
        })
    }

    fn why_unread(&self, bound: &BoundTensor<'_>) -> Option<WhyUnread> {
        let slot = bound.slot;
        match slot.module {
            Module::Linear => {}
            Module::Custom(_) | Module::Experts => return Some(WhyUnread::Module(slot.module)),
        }
        if slot.role == Role::Head && self.skeleton().shares_head_in_transformers() {
            return Some(WhyUnread::Tied);
        }
        let module = slot.name.strip_suffix(".weight").unwrap_or(&slot.name);
        let skips = self.quantization().and_then(|quant| quant.skips(module));
        let is_converted = match slot.kind {
            TensorKind::Projection | TensorKind::Both => skips != Some(true),
            TensorKind::Head => skips == Some(false),
            TensorKind::WideProjection | TensorKind::Other | TensorKind::Single => false,
        };
        (!is_converted).then_some(WhyUnread::Skipped)
    }
}

fn is_quantized(bound: &BoundTensor<'_>) -> bool {
    bound.stored().quantized().is_some()
}
