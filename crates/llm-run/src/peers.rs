//! Other readers of a quantized checkpoint.

use llm_arch::Module;
use llm_runtime::{BeyondPeers, BoundModel, Unread, WhyUnread};
use serde::Serialize;

/// Verdict on loading a quantized checkpoint in transformers (5.24).
#[derive(Debug, Serialize)]
pub(crate) struct Transformers {
    loads: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    why_not: Option<String>,
}

/// Of a checkpoint with a configuration that both are understood, what becomes of it there.
pub(crate) fn transformers(model: &BoundModel) -> Option<Transformers> {
    if !model.is_quantized() {
        return None;
    }
    let why_not = model.unread_by_transformers().map(|unread| why(&unread));
    Some(Transformers {
        loads: why_not.is_none(),
        why_not,
    })
}

impl Transformers {
    pub(crate) fn text(&self) -> String {
        match &self.why_not {
            None => "loads in transformers: yes".to_owned(),
            Some(why) => format!("loads in transformers: no, {why}"),
        }
    }
}

/// Matrices that a quantization asks for and transformers (5.24) leaves as they are, without a word.
#[derive(Debug, Serialize)]
pub(crate) struct LeftDense {
    n_tensors: usize,
    of: usize,
    why: String,
}

impl LeftDense {
    pub(crate) fn new(beyond: BeyondPeers) -> Self {
        LeftDense {
            n_tensors: beyond.n_tensors,
            of: beyond.of,
            why: in_transformers(beyond.module),
        }
    }

    pub(crate) fn text(&self) -> String {
        let LeftDense { n_tensors, of, why } = self;
        format!("in transformers {n_tensors} of these {of} matrices would stay dense: {why}")
    }
}

fn why(unread: &Unread) -> String {
    let Unread {
        tensor,
        n_tensors,
        why,
    } = unread;
    let such = match n_tensors {
        1 => format!("`{tensor}` is quantized"),
        n => format!("{n} matrices are quantized as `{tensor}` is"),
    };
    let because = match why {
        WhyUnread::Module(module) => in_transformers(*module),
        WhyUnread::Skipped => "the configuration says that it is not".to_owned(),
        WhyUnread::Tied => "in transformers it is the table of tokens".to_owned(),
    };
    format!("{such}: {because}")
}

/// Class of transformers that has matrices which it does not quantize, in words.
pub(crate) fn in_transformers(module: Module) -> String {
    match module {
        Module::Linear => "transformers has them in linear layers".to_owned(),
        Module::Custom(class) => format!(
            "transformers has them in a class of their own, {class}, which it does not quantize"
        ),
        Module::Experts => {
            "transformers has a layer's experts in one parameter, which it does not quantize"
                .to_owned()
        }
    }
}
