//! Memory of each unit's weights.

use llm_arch::{MlpSpec, Role, Skeleton, Slot, Unit};
use llm_quant::Scheme;
use llm_tensor::Bytes;

use crate::staging::{
    Brought, is_cut, looked_up_row_bytes, resting_bytes, slice_rows, staged_bytes, whole_pages,
};
use crate::units::Units;
use crate::{Encodings, RunOn, StoredTensor, becomes_table};

/// Memory of a unit's weights, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Footprint {
    /// The elements.
    pub(crate) elements: u64,
    /// Their scales and tables.
    pub(crate) statistics: u64,
    /// Part that a pass reads, and that is streamed where it is not resident: all but tables that are only looked up
    /// in.
    pub(crate) per_pass: u64,
    /// Bytes of that part that are read once a prompt: what makes keys and values of an encoder's result.
    pub(crate) of_encoded: u64,
    /// Multiplications of that part with one row.
    pub(crate) products: u64,
    /// Its size in a buffer for what comes from disk.
    pub(crate) staged: Brought,
    /// The same in a staging place of a GPU, and in RAM for a GPU, but for whole pages.
    pub(crate) resting: Brought,
    /// True if that part is too large to be brought at once.
    pub(crate) is_cut: bool,
    /// A row of the table of tokens, of that of positions, and of that of inputs of layers, where they are looked up in.
    pub(crate) looked_up: [u64; 3],
    /// Part that the checkpoint does not hold in its final form: on disk it is written anew.
    pub(crate) unfinished: u64,
    /// The largest piece that is loaded of a tensor whose stored form is not the final one: beside that in RAM.
    pub(crate) source: u64,
    /// The most that a tensor takes in RAM on its way to another home: a piece of both forms, of the final one all where
    /// it is quantized.
    pub(crate) on_its_way: u64,
}

impl Footprint {
    pub(crate) fn total(&self) -> u64 {
        self.elements + self.statistics
    }

    /// Bytes between its weights in RAM where it computes on a GPU.
    pub(crate) fn padding(&self) -> u64 {
        whole_pages(self.resting.all) - self.per_pass
    }

    /// Part that is final in the checkpoint.
    pub(crate) fn in_place(&self) -> u64 {
        self.total() - self.unfinished
    }

    fn add(&mut self, tensor: &Tensor<'_>, loading: Loading) {
        let Tensor {
            slot,
            stored,
            scheme,
        } = *tensor;
        if becomes_table(slot.role) {
            return;
        }
        let (rows, cols) = slot.matrix();
        let bytes = scheme.stored_bytes(rows as u64, cols as u64);
        let total = bytes.total().get();
        self.elements += bytes.elements.get();
        self.statistics += bytes.statistics.get();
        if !is_looked_up(slot.role, loading.is_tied) {
            self.per_pass += total;
            self.of_encoded += if slot.role.reads_encoded() { total } else { 0 };
            self.products += slot.n_elements();
            let slice = slice_rows(slot, scheme, loading.slice).map(|n| (n, cols));
            let staged = |matrix| staged_bytes(matrix, scheme);
            let resting = |matrix| resting_bytes(matrix, scheme);
            self.staged.add(staged((rows, cols)), slice.map(staged));
            self.resting.add(resting((rows, cols)), slice.map(resting));
        }
        let table = match slot.role {
            Role::PositionTable => 1,
            Role::PerLayerTable => 2,
            _ => 0,
        };
        self.looked_up[table] += looked_up_row_bytes(slot, scheme).get();
        let source = if is_final(slot, stored, scheme) {
            0
        } else {
            self.unfinished += total;
            stored_bytes(slot, stored).get()
        };
        let source = source.min(loading.load_piece);
        self.source = self.source.max(source);
        let encoded = match scheme {
            Scheme::Dense(_) | Scheme::Int8PerUse(..) => total.min(loading.load_piece),
            // Whole before it goes anywhere.
            Scheme::Int8(_)
            | Scheme::FourBit(_)
            | Scheme::Ggml(_)
            | Scheme::Fp8(_)
            | Scheme::Grouped(_) => total,
        };
        self.on_its_way = self.on_its_way.max(source + encoded);
    }

    /// Adds other tensors of the same unit.
    fn join(&mut self, other: &Footprint) {
        self.elements += other.elements;
        self.statistics += other.statistics;
        self.per_pass += other.per_pass;
        self.of_encoded += other.of_encoded;
        self.products += other.products;
        self.staged.join(&other.staged);
        self.resting.join(&other.resting);
        for (row, other) in self.looked_up.iter_mut().zip(other.looked_up) {
            *row += other;
        }
        self.unfinished += other.unfinished;
        self.source = self.source.max(other.source);
        self.on_its_way = self.on_its_way.max(other.on_its_way);
    }
}

/// Facts common to all of a model's weights.
#[derive(Debug, Clone, Copy)]
struct Loading {
    is_tied: bool,
    load_piece: u64,
    slice: Bytes,
}

/// A tensor, how the checkpoint holds it, and how it is kept.
#[derive(Debug, Clone, Copy)]
struct Tensor<'a> {
    slot: &'a Slot,
    stored: StoredTensor,
    scheme: Scheme,
}

impl Tensor<'_> {
    /// True if it takes what another does.
    fn is_like(&self, other: &Tensor<'_>) -> bool {
        let (slot, like) = (self.slot, other.slot);
        self.scheme == other.scheme
            && self.stored == other.stored
            && (slot.role, slot.stored) == (like.role, like.stored)
            && slot.shape == like.shape
    }
}

/// Memory of each unit's weights. Units that take the same, as most experts do, share an entry.
#[derive(Debug, Clone)]
pub(crate) struct Footprints {
    kinds: Vec<Footprint>,
    /// By unit.
    kind_of: Vec<u32>,
}

impl Footprints {
    fn of(
        skeleton: &Skeleton,
        stored: &[StoredTensor],
        units: &Units,
        scheme: impl Fn(&Slot, StoredTensor) -> Scheme,
        loading: Loading,
    ) -> Self {
        let mut footprints = Footprints {
            kinds: vec![Footprint::default()],
            kind_of: vec![0; units.list().len()],
        };
        // The last expert's tensors, and what they take: the next one's are mostly like them.
        let (mut expert, mut kind_of_expert) = (Vec::new(), 0);
        let (mut tensors, mut stored) = (Vec::new(), stored.iter());
        for slots in skeleton.slots.chunk_by(|a, b| a.unit == b.unit) {
            tensors.clear();
            tensors.extend(slots.iter().zip(&mut stored).map(|(slot, &stored)| Tensor {
                slot,
                stored,
                scheme: scheme(slot, stored),
            }));
            let unit = slots[0].unit;
            let is_expert = matches!(unit, Unit::Expert { .. });
            let mut pairs = tensors.iter().zip(&expert);
            if is_expert
                && tensors.len() == expert.len()
                && pairs.all(|(tensor, like): (&Tensor<'_>, _)| tensor.is_like(like))
            {
                footprints.kind_of[units.idx(unit)] = kind_of_expert;
                continue;
            }
            let mut footprint = Footprint::default();
            for tensor in &tensors {
                footprint.add(tensor, loading);
            }
            footprints.join(units.idx(unit), &footprint, loading.slice);
            if is_expert {
                kind_of_expert = footprints.kind(units.idx(unit));
                std::mem::swap(&mut expert, &mut tensors);
            }
        }
        footprints
    }

    /// Adds tensors to those of a unit.
    fn join(&mut self, idx: usize, tensors: &Footprint, slice: Bytes) {
        let mut footprint = *self.of_unit(idx);
        footprint.join(tensors);
        footprint.is_cut = is_cut(Bytes::new(footprint.per_pass), slice);
        self.kinds.push(footprint);
        self.kind_of[idx] = self.kinds.len() as u32 - 1;
    }

    /// Units of one kind take the same.
    pub(crate) fn kind(&self, idx: usize) -> u32 {
        self.kind_of[idx]
    }

    /// Memory of a unit's weights.
    pub(crate) fn of_unit(&self, idx: usize) -> &Footprint {
        &self.kinds[self.kind_of[idx] as usize]
    }
}

/// Memory of all units' weights: by unit, once as GPUs and once as the CPU compute with them.
#[derive(Debug, Clone)]
pub(crate) struct Weights {
    pub(crate) units: Units,
    on_gpu: Footprints,
    /// `None` where it is the same.
    on_cpu: Option<Footprints>,
    /// The table of tokens makes the logits too.
    pub(crate) is_tied: bool,
    /// By decoder layer: experts, and how many of them a token goes to.
    pub(crate) experts: Vec<Option<(usize, usize)>>,
    /// Elements of a row of the residual stream.
    pub(crate) hidden: usize,
    /// The same of all its streams together.
    pub(crate) streams: usize,
    /// True if some units read the prompt alone. Every unit's cost depends on it, so that it is not looked for among all.
    pub(crate) has_encoder: bool,
}

impl Weights {
    /// `stored` is parallel to the skeleton's slots.
    pub(crate) fn of(
        skeleton: &Skeleton,
        encodings: &Encodings<'_>,
        stored: &[StoredTensor],
        (load_piece, slice): (Bytes, Bytes),
    ) -> Self {
        let (spec, units) = (&skeleton.spec, Units::of(&skeleton.spec));
        let is_tied = spec.is_tied();
        let loading = Loading {
            is_tied,
            load_piece: load_piece.get(),
            slice,
        };
        let sum = |run_on| {
            let scheme = |slot: &Slot, stored| encodings.scheme(slot, stored, run_on);
            Footprints::of(skeleton, stored, &units, scheme, loading)
        };
        let experts = spec.decoder.layers.iter().map(|layer| match layer.mlp {
            MlpSpec::Dense(_) | MlpSpec::Absent => None,
            MlpSpec::Experts(experts) => {
                Some((experts.routing.n_experts, experts.routing.n_active))
            }
        });
        Weights {
            on_gpu: sum(RunOn::Gpu(0)),
            on_cpu: encodings.differ_by_device(stored).then(|| sum(RunOn::Cpu)),
            is_tied,
            experts: experts.collect(),
            hidden: spec.hidden,
            streams: (spec.decoder.streams).map_or(spec.hidden, |of| of.row_width(spec.hidden)),
            has_encoder: spec.encoder.is_some(),
            units,
        }
    }

    /// Memory of the units' weights as a device computes with them.
    pub(crate) fn on(&self, run_on: RunOn) -> &Footprints {
        match (run_on, &self.on_cpu) {
            (RunOn::Cpu, Some(on_cpu)) => on_cpu,
            (RunOn::Cpu, None) | (RunOn::Gpu(_), _) => &self.on_gpu,
        }
    }

    /// Memory of all of them, as a device computes with them.
    pub(crate) fn total(&self, run_on: RunOn) -> Bytes {
        let units = 0..self.units.list().len();
        Bytes::new(units.map(|idx| self.on(run_on).of_unit(idx).total()).sum())
    }
}

/// Tables of which a pass reads a few rows.
pub fn is_looked_up(role: Role, is_tied: bool) -> bool {
    match role {
        Role::TokenTable => !is_tied,
        role => role.table_of().is_some(),
    }
}

/// True if the checkpoint's bytes are those that are computed with, in one run for each part.
pub fn is_final(slot: &Slot, stored: StoredTensor, scheme: Scheme) -> bool {
    stored == StoredTensor::in_order(scheme)
        // Codes lie `[out, in]` whatever the dense matrix does.
        && (stored.stays_in(scheme) || slot.stored.is_in_order())
}

/// Bytes of a tensor in the checkpoint.
fn stored_bytes(slot: &Slot, stored: StoredTensor) -> Bytes {
    let (rows, cols) = slot.matrix();
    stored.scheme.stored_bytes(rows as u64, cols as u64).total()
}
