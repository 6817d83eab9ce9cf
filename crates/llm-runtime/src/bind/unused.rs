//! Tensors that no slot asks for.

use std::collections::HashSet;

use llm_arch::{Side, Skeleton};
use llm_checkpoint::{Checkpoint, Format};
use llm_quant::Part;

use super::Misfit;
use crate::{Notice, Unused};

/// Sorts what is not `used` into what `misfit` is to refuse and what is left out with a notice.
///
/// The rule is the references': transformers leaves out what a model has no use for. It does so with a LoRA adapter, or
/// the scales of quantized weights, as well; then the answers are those of another model, and here it is an error.
/// llama.cpp takes nothing that it does not know, and of what it knows the presence alone means use.
pub(super) fn sort(
    checkpoint: &Checkpoint,
    skeleton: &Skeleton,
    used: &HashSet<String>,
    misfit: &mut Misfit,
    notices: &mut Vec<Notice>,
) {
    let (mut foreign, mut of_layers) = (Unused::default(), Unused::default());
    let unused = checkpoint.tensors().filter(|t| !used.contains(&t.name));
    // A copy of a table comes with the parts of its encoding.
    let is_harmless = |name: &str| {
        skeleton.is_harmless(name)
            || Part::of_name(name).is_some_and(|(weight, _)| skeleton.is_harmless(&weight))
    };
    for tensor in unused.filter(|t| !is_harmless(&t.name)) {
        let name = &tensor.name;
        let is_of_layers = is_of_layers(skeleton, name);
        let refused = if is_of_adapter(name) {
            Some(&mut misfit.adapter)
        } else if is_of_quantized(name) {
            Some(&mut misfit.quantized)
        } else if checkpoint.format() == Format::Gguf
            && match skeleton.layer_of(name) {
                // Layers beyond the model's own are nobody's, as they are in other formats.
                Some(_) => is_of_layers,
                None => skeleton.is_a_name(name) || name.starts_with("rope_"),
            }
        {
            Some(&mut misfit.extra)
        } else {
            None
        };
        match refused {
            Some(kind) => kind.push(format!("`{name}`")),
            None if is_of_layers => of_layers.add(tensor),
            None => foreign.add(tensor),
        }
    }
    let drafting = |name: &str| skeleton.is_of_drafting_layer(name);
    let n_drafting = checkpoint.tensors().filter(|t| drafting(&t.name)).count();
    if n_drafting > 0 {
        let first = skeleton.spec.decoder.n_layers();
        notices.push(Notice::Configuration(format!(
            "left out {n_drafting} tensors of layers from {first} on, which only guess tokens ahead of the model"
        )));
    }
    let some = |unused: Unused| (unused.n > 0).then_some(unused);
    notices.extend(some(of_layers).map(Notice::LeftOutOfLayers));
    notices.extend(some(foreign).map(Notice::LeftOut));
}

/// True if a tensor lies in a layer that the model has.
fn is_of_layers(skeleton: &Skeleton, name: &str) -> bool {
    let spec = &skeleton.spec;
    match skeleton.layer_of(name) {
        Some((Side::Decoder, layer)) => layer < spec.decoder.n_layers(),
        Some((Side::Encoder, layer)) => {
            let encoder = spec.encoder.as_ref();
            encoder.is_some_and(|encoder| layer < encoder.stack.n_layers())
        }
        None => false,
    }
}

/// True of names that PEFT gives the matrices of its adapters, and the weights that they wrap.
fn is_of_adapter(name: &str) -> bool {
    name.split('.').any(|part| {
        part.starts_with("lora_")
            || part.starts_with("hada_w")
            || part.starts_with("ia3_")
            || part.starts_with("oft_")
            || part.starts_with("vera_lambda")
            || matches!(part, "base_layer" | "modules_to_save" | "prompt_embeddings")
    })
}

/// True of parts of quantized weights, and of what they are decoded with.
fn is_of_quantized(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let is_part = Part::of_name(name).is_some_and(|(_, part)| part != Part::Weight);
    is_part || OF_QUANTIZED.contains(&last)
}

/// Endings of their names: of GPTQ and AWQ, compressed-tensors and FP8, MXFP4, AQLM, HQQ and EETQ.
const OF_QUANTIZED: &[&str] = &[
    "qweight",
    "qzeros",
    "scales",
    "g_idx",
    "weight_packed",
    "weight_scale",
    "weight_scale_inv",
    "weight_scale_2",
    "weight_scales",
    "weight_global_scale",
    "weight_zero_point",
    "weight_shape",
    "weight_g_idx",
    "gate_up_proj_blocks",
    "gate_up_proj_scales",
    "down_proj_blocks",
    "down_proj_scales",
    "codebooks",
    "W_q",
];
