//! Flags that ask for what a plan suggests.

use llm_plan::{Change, Precision};

/// Flag of a precision.
pub(crate) fn flag(precision: Precision) -> &'static str {
    match precision {
        Precision::AsStored => "--dtype auto",
        Precision::F32 => "--dtype f32",
        Precision::Bf16 => "--dtype bf16",
        Precision::Int8 => "--load-in-8bit",
        Precision::Nf4 => "--load-in-4bit",
        Precision::Nf4Double => "--load-in-4bit --double-quant",
        Precision::Fp4 => "--load-in-4bit --quant-type fp4",
    }
}

/// `quantize to int8 (--load-in-8bit)`.
pub(crate) fn with_flag(change: &Change) -> String {
    let flag = match change {
        Change::Precision(precision) => flag(*precision),
        Change::Context { to, .. } => return format!("{change}: --context {to}"),
        Change::Sequences { to, .. } => return format!("{change}: --batch {to}"),
        Change::Disk(_) => "--offload-folder DIR, --max-memory disk=SIZE",
        Change::Budget { .. } => return change.to_string(),
    };
    format!("{change}: {flag}")
}
