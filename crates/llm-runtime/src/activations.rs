//! The memory of a pass, allocated once and reused by every block.

use llm_arch::{ExpertsSpec, ModelSpec};
use llm_backend::{Allocation, Backend, Selected, Streams};
use llm_plan::{ActivationWidths, ActivationsOf, Home, Limits, Term, selected_words};
use llm_tensor::Bytes;

use crate::allocated::{Allocated, vec_bytes};
use crate::port::Crossing;
use crate::{Result, RuntimeError};

/// The activations of a pass, as wide as [`ActivationWidths`] says.
pub(crate) struct Activations<B: Backend> {
    /// Elements of the residual stream.
    pub(crate) hidden: usize,
    /// Streams of the residual, where it has several.
    streams: Option<Streams>,
    /// Its rows on their way through a block, and what becomes of them.
    pub(crate) rows: ActivationsOf<B::Buffer>,
    /// Tokens of the rows.
    pub(crate) ids: B::Index,
    /// Their rows in a table of positions.
    pub(crate) positions: B::Index,
    /// Positions that rows attend to, where they are selected.
    pub(crate) selected: Option<Selecting<B>>,
    /// Rows of the experts, where there are any,
    pub(crate) routes: Option<B::Routes>,
    /// and how many each has, where the host has to know.
    pub(crate) n_rows: Vec<usize>,
}

/// Positions that are selected, by a layer for itself and those behind it that select none.
pub(crate) struct Selecting<B: Backend> {
    /// `[n_tokens, row_words]`.
    pub(crate) bits: B::Buffer,
    /// Words of a row.
    pub(crate) row_words: usize,
}

impl<B: Backend> Selecting<B> {
    /// The same, as attention reads them.
    pub(crate) fn of(&self) -> Selected<'_, B> {
        Selected {
            bits: &self.bits,
            row_words: self.row_words,
        }
    }
}

impl<B: Backend> Activations<B> {
    pub(crate) fn new(backend: &B, spec: &ModelSpec, limits: &Limits) -> Result<Self> {
        let widths = ActivationWidths::of(spec);
        let mut layers = spec.decoder.layers.iter();
        let experts = layers.find_map(|layer| layer.mlp.experts());
        let routes = |experts: &ExpertsSpec| backend.routes(&experts.routing, limits.n_tokens);
        let selecting = |row_words| {
            Ok::<_, RuntimeError>(Selecting {
                bits: backend.alloc(limits.n_tokens * row_words)?,
                row_words,
            })
        };
        Ok(Activations {
            hidden: spec.hidden,
            streams: (spec.decoder.streams).map(|of| Streams {
                n: of.n,
                width: spec.hidden,
            }),
            rows: widths.try_map(|width| backend.alloc(limits.n_tokens * width))?,
            ids: backend.alloc_index(limits.n_tokens)?,
            positions: backend.alloc_index(limits.n_tokens)?,
            selected: selected_words(spec, limits).map(selecting).transpose()?,
            routes: experts.map(routes).transpose()?,
            n_rows: vec![0; widths.scores],
        })
    }

    /// Streams of the residual.
    ///
    /// # Panics
    /// When it has not several.
    pub(crate) fn streams(&self) -> Streams {
        self.streams.expect("a residual of several streams")
    }

    /// What is left by a block, and elements of a row of it.
    pub(crate) fn residual(&self) -> (&B::Buffer, usize) {
        match self.streams {
            Some(streams) => (&self.rows.streams, streams.row_width()),
            None => (&self.rows.x, self.hidden),
        }
    }

    /// Buffer that crosses to another device.
    pub(crate) fn crossing(&self, rows: Crossing) -> &B::Buffer {
        match rows {
            Crossing::Hidden => &self.rows.x,
            Crossing::Streams => &self.rows.streams,
            Crossing::Inputs => &self.rows.inputs,
            Crossing::Lent => &self.rows.lent,
            Crossing::Selected => &self.selected.as_ref().expect(SELECTS).bits,
            Crossing::Encoded => &self.rows.encoded,
            Crossing::ExpertInput => &self.rows.gathered,
            Crossing::ExpertOutput => &self.rows.delta,
        }
    }

    /// Buffer that comes from there.
    pub(crate) fn crossing_mut(&mut self, rows: Crossing) -> &mut B::Buffer {
        match rows {
            Crossing::Hidden => &mut self.rows.x,
            Crossing::Streams => &mut self.rows.streams,
            Crossing::Inputs => &mut self.rows.inputs,
            Crossing::Lent => &mut self.rows.lent,
            Crossing::Selected => &mut self.selected.as_mut().expect(SELECTS).bits,
            Crossing::Encoded => &mut self.rows.encoded,
            Crossing::ExpertInput => &mut self.rows.gathered,
            Crossing::ExpertOutput => &mut self.rows.delta,
        }
    }

    /// Counts what lies in the device's memory, `home`, and in the machine's.
    pub(crate) fn count(&self, home: Home, allocated: &mut Allocated) {
        let buffers = self.rows.iter().map(B::Buffer::bytes);
        let rest = [
            self.ids.bytes(),
            self.positions.bytes(),
            (self.selected.as_ref()).map_or(Bytes::ZERO, |of| of.bits.bytes()),
            self.routes.as_ref().map_or(Bytes::ZERO, B::Routes::bytes),
        ];
        allocated.add(home, Term::Activations, buffers.chain(rest).sum());
        allocated.add(Home::Ram, Term::Activations, vec_bytes(&self.n_rows));
    }
}

/// Selections cross only where layers share them.
const SELECTS: &str = "bits of a model whose layers select positions";
