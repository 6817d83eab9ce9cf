//! The memory of a pass, allocated once and reused by every block.

use llm_arch::ModelSpec;
use llm_backend::{Allocation, Backend};
use llm_plan::{ActivationWidths, Home, Limits, Term, workspace_shape};

use crate::Result;
use crate::link::Crossing;
use crate::memory::Allocated;
use crate::mlp::Routing;

/// The activations of a pass, as wide as [`ActivationWidths`] says.
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
    /// What an encoder made of a prompt.
    pub(crate) memory: B::Buffer,
    pub(crate) routing: Routing,
    /// `[cos | sin]` of the pass's rotary angles, for each kind of them.
    pub(crate) angles: Vec<B::Buffer>,
    /// Scratch memory of the operations.
    pub(crate) workspace: B::Workspace,
}

impl<B: Backend> Activations<B> {
    pub(crate) fn new(backend: &B, spec: &ModelSpec, limits: &Limits) -> Result<Self> {
        let widths = ActivationWidths::of(spec);
        let alloc = |width: usize| backend.alloc(limits.n_tokens * width);
        let angles = widths.angles.iter().map(|&width| alloc(width));
        let scratch = workspace_shape(spec, limits);
        Ok(Activations {
            hidden: spec.hidden,
            x: alloc(widths.x)?,
            normed: alloc(widths.normed)?,
            delta: alloc(widths.delta)?,
            embedded: alloc(widths.embedded)?,
            grouped: alloc(widths.grouped)?,
            qkv: alloc(widths.qkv)?,
            attended: alloc(widths.attended)?,
            up: alloc(widths.up)?,
            gated: alloc(widths.gated)?,
            scores: alloc(widths.scores)?,
            gathered: alloc(widths.gathered)?,
            memory: alloc(widths.memory)?,
            routing: Routing::new(widths.scores, limits.n_tokens),
            angles: angles.collect::<std::result::Result<_, _>>()?,
            workspace: backend.workspace(&scratch)?,
        })
    }

    /// What crosses to another device.
    pub(crate) fn crossing(&self, rows: Crossing) -> &B::Buffer {
        match rows {
            Crossing::Hidden => &self.x,
            Crossing::Memory => &self.memory,
            Crossing::ExpertInput => &self.gathered,
            Crossing::ExpertOutput => &self.delta,
        }
    }

    /// What comes from there.
    pub(crate) fn crossing_mut(&mut self, rows: Crossing) -> &mut B::Buffer {
        match rows {
            Crossing::Hidden => &mut self.x,
            Crossing::Memory => &mut self.memory,
            Crossing::ExpertInput => &mut self.gathered,
            Crossing::ExpertOutput => &mut self.delta,
        }
    }

    /// Counts what lies in the device's memory, `home`, and in the machine's.
    pub(crate) fn count(&self, home: Home, allocated: &mut Allocated) {
        let Activations {
            hidden: _,
            x,
            normed,
            delta,
            embedded,
            grouped,
            qkv,
            attended,
            up,
            gated,
            scores,
            gathered,
            memory,
            routing,
            angles,
            workspace,
        } = self;
        let fixed = [
            x, normed, delta, embedded, grouped, qkv, attended, up, gated, scores, gathered, memory,
        ];
        let buffers = fixed.into_iter().chain(angles).map(B::Buffer::bytes).sum();
        allocated.add(home, Term::Activations, buffers);
        allocated.add(Home::Ram, Term::Activations, routing.bytes());
        allocated.add(home, Term::Workspace, workspace.bytes());
    }
}
