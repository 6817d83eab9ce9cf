use llm_tensor::{Bytes, TensorError};

/// Fault of a request or of one of its parts. A model that does not fit is no error but a [`Verdict`](crate::Verdict).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// More positions than the model was made for.
    #[error(
        "a context of {context} positions is more than the model was made for; ask for {model_context} or fewer"
    )]
    Context {
        /// Asked for.
        context: usize,
        /// The model's own.
        model_context: usize,
    },
    /// A number of something that no machine serves, or none at all.
    #[error("{found} {what}; give a number from 1 to {max}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// Asked for.
        found: usize,
        /// The most that is taken.
        max: usize,
    },
    /// Limits that are possible each, and together take more than any machine has.
    #[error(
        "the passes asked for take {n_bytes} bytes; ask for a shorter context or fewer sequences"
    )]
    TooLarge {
        /// About how many.
        n_bytes: u128,
    },
    /// No device and size.
    #[error(
        "`{text}` is not a budget; write a device and a size, as `0=15GB`, `cpu=12.7GB` or `disk=100GB`"
    )]
    NotABudget {
        /// The part as given.
        text: String,
    },
    /// A device's budget that is no size.
    #[error("the budget of `{device}`: {flaw}")]
    Size {
        /// The device.
        device: String,
        /// Flaw of the size.
        flaw: TensorError,
    },
    /// A device that is named twice.
    #[error("`{device}` has two budgets; give one")]
    BudgetTwice {
        /// The device.
        device: String,
    },
    /// A name that is no device's.
    #[error("`{name}` is no device; write a GPU's number, `cpu` or `disk`")]
    NotADevice {
        /// The name as given.
        name: String,
    },
    /// A name that is no strategy's.
    #[error(
        "`{name}` is no device map; write auto, balanced, balanced_low_0, sequential or cpu, or JSON from modules to devices"
    )]
    NotAStrategy {
        /// The name as given.
        name: String,
    },
    /// A device map that is no JSON object.
    #[error("the device map is not JSON from modules to devices: {reason}")]
    NotJson {
        /// The parser's reason.
        reason: String,
    },
    /// A GPU that has no budget.
    #[error("the device map puts `{module}` on GPU {number}, which has no budget; {known}")]
    NoSuchGpu {
        /// The module.
        module: String,
        /// The GPU.
        number: u32,
        /// List of the GPUs.
        known: String,
    },
    /// A module on disk where nothing may rest on disk.
    #[error(
        "the device map puts `{module}` on disk; name an offload folder, or a budget as `disk=100GB`"
    )]
    NoOffload {
        /// The module.
        module: String,
    },
    /// A module that the model does not have.
    #[error("the device map names `{module}`, which the model does not have; {known}")]
    UnknownModule {
        /// The name.
        module: String,
        /// List of modules nearby.
        known: String,
    },
    /// Two entries for the same tensors.
    #[error("the device map names `{outer}` and `{inner}` inside it; keep one of them")]
    Overlap {
        /// The larger module.
        outer: String,
        /// The smaller one.
        inner: String,
    },
    /// Tensors that no entry covers.
    #[error(
        "the device map says nothing of `{module}`{more}; add it, or `\"\"` for the whole model"
    )]
    Gap {
        /// The first module that is missing.
        module: String,
        /// Number of others, in words.
        more: String,
    },
    /// A part that cannot be placed on two devices.
    #[error("the device map takes {unit} apart, `{a}` and `{b}`; put both on one device")]
    Apart {
        /// The part.
        unit: String,
        /// One module of it,
        a: String,
        /// and another elsewhere.
        b: String,
    },
    /// A head away from the table that it is tied to.
    #[error(
        "the device map parts `{head}` from `{table}`, whose table it uses; put both on one device"
    )]
    TiedApart {
        /// The head.
        head: String,
        /// The embedding.
        table: String,
    },
}

/// A plan's own needs as messages print them, which never round down.
pub(crate) fn rounded_up(bytes: Bytes, step: u64) -> Bytes {
    Bytes::new(bytes.get().div_ceil(step).saturating_mul(step))
}
