//! The memory of a pass, allocated once and reused by every block.

use llm_arch::ModelSpec;
use llm_backend::{Allocation, Backend};
use llm_plan::{ActivationWidths, Home, Limits, Term};
use llm_tensor::Bytes;

use crate::Result;
use crate::allocated::{Allocated, routing, vec_bytes};
use crate::port::Crossing;

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
    /// An encoder's output for a prompt.
    pub(crate) encoded: B::Buffer,
    /// Tokens of the rows.
    pub(crate) ids: B::Index,
    /// Their rows in a table of positions.
    pub(crate) positions: B::Index,
    /// Rows of the experts, where there are any,
    pub(crate) routes: Option<B::Routes>,
    /// and how many each has, where the host has to know.
    pub(crate) n_rows: Vec<usize>,
    /// `[cos | sin]` of the pass's rotary angles, for each kind of them.
    pub(crate) angles: Vec<B::Buffer>,
}

impl<B: Backend> Activations<B> {
    pub(crate) fn new(backend: &B, spec: &ModelSpec, limits: &Limits) -> Result<Self> {
        let widths = ActivationWidths::of(spec);
        let alloc = |width: usize| backend.alloc(limits.n_tokens * width);
        let angles = widths.angles.iter().map(|&width| alloc(width));
        let mut layers = spec.decoder.layers.iter();
        let experts = layers.find_map(|layer| layer.mlp.experts());
        let routes = |experts| backend.routes(&routing(experts), limits.n_tokens);
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
            encoded: alloc(widths.encoded)?,
            ids: backend.alloc_index(limits.n_tokens)?,
            positions: backend.alloc_index(limits.n_tokens)?,
            routes: experts.map(routes).transpose()?,
            n_rows: vec![0; widths.scores],
            angles: angles.collect::<std::result::Result<_, _>>()?,
        })
    }

    /// Buffer that crosses to another device.
    pub(crate) fn crossing(&self, rows: Crossing) -> &B::Buffer {
        match rows {
            Crossing::Hidden => &self.x,
            Crossing::Encoded => &self.encoded,
            Crossing::ExpertInput => &self.gathered,
            Crossing::ExpertOutput => &self.delta,
        }
    }

    /// Buffer that comes from there.
    pub(crate) fn crossing_mut(&mut self, rows: Crossing) -> &mut B::Buffer {
        match rows {
            Crossing::Hidden => &mut self.x,
            Crossing::Encoded => &mut self.encoded,
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
            encoded,
            ids,
            positions,
            routes,
            n_rows,
            angles,
        } = self;
        let fixed = [
            x, normed, delta, embedded, grouped, qkv, attended, up, gated, scores, gathered,
            encoded,
        ];
        let buffers = fixed.into_iter().chain(angles).map(B::Buffer::bytes);
        let rest = [
            ids.bytes(),
            positions.bytes(),
            routes.as_ref().map_or(Bytes::ZERO, B::Routes::bytes),
        ];
        allocated.add(home, Term::Activations, buffers.chain(rest).sum());
        allocated.add(Home::Ram, Term::Activations, vec_bytes(n_rows));
    }
}
