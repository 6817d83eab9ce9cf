//! Names of the text half of a larger model.

use std::borrow::Cow;

use super::Slot;

/// Name prefixes of a text half and its head in a larger model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    /// In place of `model.`.
    body: &'static str,
    /// Before `lm_head.`.
    head: &'static str,
}

/// As later versions of the reference library hold it.
pub(super) const NEWEST: Layout = Layout {
    body: BODIES[0],
    head: HEADS[0],
};

/// All that have been in use, those of bare base models last.
const BODIES: [&str; 6] = [
    "model.language_model.",
    "language_model.model.",
    "model.text_model.",
    "model.",
    "language_model.",
    "text_model.",
];
const HEADS: [&str; 2] = ["", "language_model."];

/// Gives slots of the text half alone the names that they have in a larger model.
pub(super) fn rename(slots: &mut [Slot], layout: Layout) {
    for slot in slots {
        slot.name = layout.outer_name(&slot.name);
        slot.base_prefix = "";
    }
}

impl Layout {
    /// The name in a larger model of what is called `name` alone.
    pub(super) fn outer_name(self, name: &str) -> String {
        match name.strip_prefix(ALONE) {
            Some(rest) => format!("{}{rest}", self.body),
            None => format!("{}{name}", self.head),
        }
    }

    /// The inverse.
    pub(super) fn inner_name(self, name: &str) -> Cow<'_, str> {
        match name.strip_prefix(self.body) {
            Some(rest) => Cow::Owned(format!("{ALONE}{rest}")),
            // A head that was not found says nothing of how it would be called.
            None => Cow::Borrowed(name.strip_prefix(HEADS[1]).unwrap_or(name)),
        }
    }
}

/// Chooses among the layouts that of the checkpoint, by its first tensors that are there.
pub(super) fn settle(slots: &mut [Slot], has_tensor: impl Fn(&str) -> bool) -> Layout {
    let body = |body: &&&str| {
        let names = slots
            .iter()
            .filter_map(|slot| slot.name.strip_prefix(NEWEST.body));
        names
            .take(TRIED)
            .any(|rest| has_tensor(&format!("{body}{rest}")))
    };
    let head = |head: &&&str| has_tensor(&format!("{head}lm_head.weight"));
    let layout = Layout {
        body: BODIES.iter().find(body).copied().unwrap_or(NEWEST.body),
        head: HEADS.iter().find(head).copied().unwrap_or(NEWEST.head),
    };
    for slot in slots {
        if let Some(rest) = slot.name.strip_prefix(NEWEST.body) {
            slot.name = format!("{}{rest}", layout.body);
        } else {
            slot.name = format!("{}{}", layout.head, slot.name);
        }
    }
    layout
}

/// True if a tensor belongs to what a larger model has beside its text half.
pub(super) fn is_of_other_part(name: &str) -> bool {
    let name = name.strip_prefix("model.").unwrap_or(name);
    let module = name.split('.').next().unwrap_or(name);
    OTHER_PARTS.contains(&module)
}

/// Modules beside the text half.
const OTHER_PARTS: [&str; 20] = [
    "audio_tower",
    "connector",
    "embed_audio",
    "embed_vision",
    "image_newline",
    "image_tower",
    "mm_projector",
    "mtp",
    "multi_modal_projector",
    "perceiver_resampler",
    "video_tower",
    "vision_embed_tokens",
    "vision_encoder",
    "vision_model",
    "vision_projection",
    "vision_tower",
    "visual",
    "visual_embeddings_table",
    "vit",
    "vision_backbone",
];

/// Prefix of the text half's names where it is the whole model, but for the head's.
const ALONE: &str = "model.";
/// Slots whose names are tried; some may be missing.
const TRIED: usize = 8;
