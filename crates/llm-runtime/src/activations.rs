//! The memory of a pass, allocated once and reused by every block.

use llm_arch::{MlpSpec, ModelSpec, Positions, StackSpec};
use llm_backend::{Backend, WorkspaceShape};

use crate::Result;
use crate::block::mlp_widths;
use crate::mlp::Routing;
use crate::stage::Limits;

/// The activations of a pass. Widths are per token.
pub(crate) struct Activations<B: Backend> {
    /// Elements of the residual stream.
    pub(crate) hidden: usize,
    /// The residual stream.
    pub(crate) x: B::Buffer,
    /// A normalised copy of it.
    pub(crate) normed: B::Buffer,
    /// A result that is yet to be normalised or weighed, `hidden` wide.
    pub(crate) delta: B::Buffer,
    /// Token vectors that are yet to be projected to `hidden`.
    pub(crate) embedded: B::Buffer,
    /// Heads in groups, before they are brought into order.
    pub(crate) grouped: B::Buffer,
    /// `[q | k | v]`.
    pub(crate) qkv: B::Buffer,
    /// Heads' results.
    pub(crate) attended: B::Buffer,
    /// `[gate | up]`, or just `up`.
    pub(crate) up: B::Buffer,
    /// The product of both.
    pub(crate) gated: B::Buffer,
    /// The router's, one an expert.
    pub(crate) scores: B::Buffer,
    /// An expert's rows, `hidden` wide.
    pub(crate) gathered: B::Buffer,
    pub(crate) routing: Routing,
    /// `[cos | sin]` of the pass's rotary angles, for each kind of them.
    pub(crate) angles: Vec<B::Buffer>,
    /// Scratch memory of the operations.
    pub(crate) workspace: B::Workspace,
}

impl<B: Backend> Activations<B> {
    pub(crate) fn new(backend: &B, spec: &ModelSpec, limits: &Limits) -> Result<Self> {
        let stacks = || {
            spec.encoder
                .iter()
                .map(|encoder| &encoder.stack)
                .chain([&spec.decoder])
        };
        let widest = |width: &dyn Fn(&StackSpec) -> usize| stacks().map(width).max().unwrap_or(0);
        let attention = &spec.decoder.block.attention;
        let q = widest(&|stack| stack.block.attention.q_width());
        let qkv =
            widest(&|stack| stack.block.attention.q_width() + 2 * stack.block.attention.kv_width());
        let grouped = match attention.grouped() {
            Some(_) => qkv,
            None => 0,
        };
        let up = widest(&|stack| mlp_widths(stack).0);
        let gated = widest(&|stack| mlp_widths(stack).1);
        let n_experts = widest(&n_experts);
        let embedded = if spec.embedding.width == spec.hidden {
            0
        } else {
            spec.embedding.width
        };
        let angles = match &spec.decoder.positions {
            Positions::Rotary(kinds) => kinds.iter().map(|rotary| rotary.dim).collect(),
            Positions::Learned { .. } | Positions::Alibi { .. } | Positions::Buckets { .. } => {
                Vec::new()
            }
        };
        let alloc = |width: usize| backend.alloc(limits.n_tokens * width);
        let workspace = WorkspaceShape {
            n_tokens: limits.n_tokens,
            cols: spec.hidden.max(q).max(up).max(spec.embedding.width),
            rows: qkv.max(up).max(spec.hidden).max(spec.vocab).max(n_experts),
            context: limits.context,
            n_heads: attention.n_heads,
            n_kv_heads: attention.n_kv_heads,
            head_dim: attention.head_dim,
        };
        Ok(Activations {
            hidden: spec.hidden,
            x: alloc(spec.hidden)?,
            normed: alloc(spec.hidden)?,
            delta: alloc(spec.hidden)?,
            embedded: alloc(embedded)?,
            grouped: alloc(grouped)?,
            qkv: alloc(qkv)?,
            attended: alloc(q)?,
            up: alloc(up)?,
            gated: alloc(gated)?,
            scores: alloc(n_experts)?,
            gathered: alloc(if n_experts > 0 { spec.hidden } else { 0 })?,
            routing: Routing::new(n_experts, limits.n_tokens),
            angles: angles
                .into_iter()
                .map(alloc)
                .collect::<std::result::Result<_, _>>()?,
            workspace: backend.workspace(&workspace)?,
        })
    }
}

fn n_experts(stack: &StackSpec) -> usize {
    let of_layer = |mlp: &MlpSpec| match mlp {
        MlpSpec::Dense(_) => 0,
        MlpSpec::Experts(experts) => experts.n_experts,
    };
    stack
        .layers
        .iter()
        .map(|layer| of_layer(&layer.mlp))
        .max()
        .unwrap_or(0)
}
