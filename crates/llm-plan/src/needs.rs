//! Memory of passes beside weights.

use std::collections::BTreeMap;

use llm_arch::{ExpertsSpec, LayerSpec, MixerSpec, ModelSpec, StackSpec, Unit};
use llm_tensor::{Bytes, DType, KvShape, WorkspaceShape};

use crate::activation::{F32, HostBuffers};
use crate::{
    ActivationWidths, HeadWidths, Limits, PlanError, PoolShapes, Result, RunOn, bias_elements,
    conv_state_shape, cross_kv_shape, encoder_kv_shape, entry_rates, kv_tables, selected_words,
    state_shapes, workspace_shape,
};

/// Costs that only a kind of device knows.
pub trait DeviceCosts {
    /// Keys and values of all sequences in one layer that attends.
    fn kv_pool_bytes(&self, shape: &KvShape) -> Bytes;

    /// Positions of a block of them.
    fn kv_block_len(&self, shape: &KvShape) -> usize;

    /// A router's choice in passes of `n_tokens`.
    fn routes_bytes(&self, experts: &ExpertsSpec, n_tokens: usize) -> Bytes;

    /// The scratch memory of its operations.
    fn workspace_bytes(&self, shape: &WorkspaceShape) -> Bytes;

    /// Bytes in use before anything is asked of it: a GPU's context and its libraries' own memory.
    fn fixed_bytes(&self) -> Bytes;

    /// Kernels that it starts in a pass; none where it computes by itself.
    fn launches(&self) -> Launches {
        Launches::default()
    }
}

/// Kernels that are started for a unit in a pass, by its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Launches {
    /// A layer without its experts.
    pub layer: u64,
    /// An expert that some row goes to.
    pub expert: u64,
    /// A table, a norm, or the head.
    pub other: u64,
}

impl Launches {
    pub(crate) fn of(self, unit: Unit) -> u64 {
        match unit {
            Unit::Layer(..) => self.layer,
            Unit::Expert { .. } => self.expert,
            Unit::Embedding | Unit::PerLayerTable | Unit::FinalNorm(_) | Unit::Head => self.other,
        }
    }
}

/// Costs of GPUs, which may be unlike each other. Where they are alike, those of one are those of all.
pub trait GpuCosts {
    /// Costs of one of them, by its number.
    fn of(&self, number: u32) -> &dyn DeviceCosts;
}

impl<D: DeviceCosts> GpuCosts for D {
    fn of(&self, _: u32) -> &dyn DeviceCosts {
        self
    }
}

/// Costs of the machine's devices.
#[derive(Clone, Copy)]
pub struct Costs<'a> {
    /// The processor.
    pub cpu: &'a dyn DeviceCosts,
    /// The GPUs.
    pub gpu: &'a dyn GpuCosts,
    /// RAM of the process before it holds weights and buffers: its code, the model's headers, its tokenizer.
    pub program: Bytes,
}

/// Memory of passes beside weights, in bytes.
#[derive(Debug, Clone)]
pub(crate) struct Needs {
    /// Kinds of devices, the CPU first.
    kinds: Vec<DeviceNeeds>,
    /// The kind of each GPU.
    gpus: BTreeMap<u32, usize>,
    /// In RAM, wherever passes compute.
    pub(crate) host: HostBuffers,
    /// The same, of the process itself.
    pub(crate) program: u64,
    /// Rows of the largest pass.
    pub(crate) n_tokens: u64,
}

/// Memory of one device if it computes at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeviceNeeds {
    /// Before anything is asked of it.
    pub(crate) fixed: u64,
    pub(crate) workspace: u64,
    pub(crate) activations: u64,
    /// Beside, where logits are made.
    pub(crate) head: u64,
    /// Beside, where blocks of an encoder are: the keys and values of one of them at a time,
    pub(crate) encoder_kv: u64,
    /// and the tables of its biases by distance and of their blocks.
    pub(crate) encoder_bias: u64,
    /// By decoder layer: keys and values, or states, of all sequences; none of a layer that sees another's.
    pub(crate) kv: Vec<u64>,
    /// Layers whose keys and values others see too.
    pub(crate) lent: Lent,
    pub(crate) launches: Launches,
}

/// Keys and values that several layers see: a device that computes one of them has them, whether it computes the layer that
/// makes them or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lent {
    /// Layers that make such.
    lenders: [Option<usize>; Lent::MOST],
    /// By decoder layer: the one whose keys and values it sees.
    of: Vec<usize>,
}

impl Lent {
    /// Layers that may lend: one of each kind of attention.
    pub(crate) const MOST: usize = 2;

    /// # Panics
    /// When more layers lend.
    fn of(stack: &StackSpec) -> Self {
        let found = stack.lenders();
        assert!(
            found.len() <= Lent::MOST,
            "{} layers lend keys",
            found.len()
        );
        Lent {
            lenders: std::array::from_fn(|i| found.get(i).map(|&(layer, _)| layer)),
            of: (0..stack.n_layers()).map(|i| stack.state_of(i)).collect(),
        }
    }

    /// For each lender how often a layer lends, and how often it borrows.
    pub(crate) fn uses(&self, layer: usize) -> [Use; Lent::MOST] {
        self.lenders.map(|lender| {
            let is_of = lender == Some(self.of[layer]);
            Use {
                lends: u64::from(is_of && self.of[layer] == layer),
                borrows: u64::from(is_of && self.of[layer] != layer),
            }
        })
    }
}

/// Layers that have keys and values of a lender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Use {
    /// The lender itself.
    pub(crate) lends: u64,
    /// Others.
    pub(crate) borrows: u64,
}

impl Needs {
    /// # Errors
    /// [`PlanError::TooLarge`] where sums would not fit 64 bits by far.
    pub(crate) fn of(
        spec: &ModelSpec,
        limits: &Limits,
        kv_dtype: DType,
        costs: &Costs<'_>,
        gpus: impl IntoIterator<Item = u32>,
    ) -> Result<Self> {
        let program = costs.program.get();
        if u128::from(program) > MAX {
            return Err(PlanError::TooLarge {
                n_bytes: program.into(),
            });
        }
        let of_device = |costs| DeviceNeeds::of(spec, limits, kv_dtype, costs);
        let mut kinds = vec![of_device(costs.cpu)?];
        let mut kind_of = BTreeMap::new();
        for number in gpus {
            let needs = of_device(costs.gpu.of(number))?;
            let like_it = kinds.iter().skip(1).position(|kind| *kind == needs);
            let kind = like_it.map_or(kinds.len(), |i| 1 + i);
            if kind == kinds.len() {
                kinds.push(needs);
            }
            kind_of.insert(number, kind);
        }
        Ok(Needs {
            kinds,
            gpus: kind_of,
            host: HostBuffers::of(spec, limits),
            program,
            n_tokens: limits.n_tokens as u64,
        })
    }

    /// Kinds of devices: those of one take the same for the same.
    pub(crate) fn n_kinds(&self) -> usize {
        self.kinds.len()
    }

    /// The kind of a device.
    ///
    /// # Panics
    /// When it is a GPU that no budget names.
    pub(crate) fn kind(&self, run_on: RunOn) -> usize {
        match run_on {
            RunOn::Gpu(number) => self.gpus[&number],
            RunOn::Cpu => 0,
        }
    }

    pub(crate) fn on(&self, run_on: RunOn) -> &DeviceNeeds {
        &self.kinds[self.kind(run_on)]
    }
}

impl DeviceNeeds {
    /// Keys and values that a decoder's layer reads.
    pub(crate) fn kv_read(&self, layer: usize) -> u64 {
        self.kv[self.lent.of[layer]]
    }

    /// Keys and values of lenders that compute elsewhere, for layers that compute here.
    pub(crate) fn borrowed(&self, uses: [Use; Lent::MOST]) -> u64 {
        let pairs = self.lent.lenders.iter().zip(uses);
        let here = pairs.filter(|(_, uses)| uses.borrows > 0 && uses.lends == 0);
        here.filter_map(|(&lender, _)| Some(self.kv[lender?])).sum()
    }

    fn of(
        spec: &ModelSpec,
        limits: &Limits,
        kv_dtype: DType,
        costs: &dyn DeviceCosts,
    ) -> Result<Self> {
        let stack = &spec.decoder;
        let encoder = spec.encoder.as_ref().map(|encoder| &encoder.stack);
        let pool = |shape| costs.kv_pool_bytes(&shape).get();
        let kv = |layer: &LayerSpec| {
            let states = |elements| -> u64 {
                let shapes = state_shapes(elements, limits);
                shapes.iter().map(|shape| shape.bytes().get()).sum()
            };
            let beside = match &layer.mixer {
                // What an encoder made of the prompt, as this layer sees it.
                MixerSpec::Attention(attention) => {
                    encoder.map_or(0, |_| pool(cross_kv_shape(attention, limits, kv_dtype)))
                }
                MixerSpec::Conv(conv) => conv_state_shape(conv, limits).bytes().get(),
                MixerSpec::Delta(delta) => states(delta.elements()),
                MixerSpec::StateSpace(space) => states(space.elements()),
                MixerSpec::Hybrid(hybrid) => states(hybrid.space.elements()),
                MixerSpec::Latent(_) | MixerSpec::SharedKey(_) | MixerSpec::Absent => 0,
            };
            let own = PoolShapes::of(&layer.mixer, limits, kv_dtype);
            let pools = own.iter().map(|(shape, _)| pool(shape));
            pools.fold(beside, u64::saturating_add)
        };
        let encoder_kv = encoder.iter().flat_map(|stack| stack.attentions());
        let encoder_kv = encoder_kv.map(|a| pool(encoder_kv_shape(a, limits, kv_dtype)));
        let bias = bias_elements(stack, limits.context) as u64;
        let encoder_bias = encoder.map_or(0, |stack| bias_elements(stack, limits.n_tokens) as u64);
        let row = ActivationWidths::of(spec).total() as u64;
        let block_len = |shape: &KvShape| costs.kv_block_len(shape);
        let n_sequences = limits.n_sequences as u64;
        // Tokens, positions, for each kind of block tables the rows of each sequence and its blocks, and the slot of its states.
        let tables = kv_tables(spec, limits, kv_dtype, block_len);
        let blocks: u64 = tables.iter().map(|table| table.table_len() as u64).sum();
        let encoded = encoder.and_then(|stack| {
            let shape = encoder_kv_shape(stack.attentions().next()?, limits, kv_dtype);
            Some(shape.table_len(block_len(&shape)) as u64)
        });
        let encoded = encoded.map_or(0, |n_blocks| n_blocks + ROWS_WORDS);
        let slot = u64::from(stack.is_recurrent());
        // Of entries each rate has rows of its own.
        let rows = ROWS_WORDS * (1 + entry_rates(&tables).len() as u64);
        let of_sequence = rows + blocks + encoded + slot;
        // And the bits of the positions that rows attend to, where they are selected.
        let of_row = 2 + selected_words(spec, limits).unwrap_or(0) as u64;
        let n_words = limits.n_tokens as u64 * of_row + n_sequences * of_sequence;
        let experts = stack.layers.iter().find_map(|layer| layer.mlp.experts());
        let routes = experts.map_or(0, |experts| {
            costs.routes_bytes(experts, limits.n_tokens).get()
        });
        let needs = DeviceNeeds {
            fixed: costs.fixed_bytes().get(),
            workspace: costs.workspace_bytes(&workspace_shape(spec, limits)).get(),
            activations: (limits.n_tokens as u64 * row + bias + n_words) * F32 + routes,
            // Rows, and which they are.
            head: limits.n_logits as u64 * (HeadWidths::of(spec).total() as u64 + 1) * F32,
            encoder_kv: encoder_kv.max().unwrap_or(0),
            encoder_bias: (encoder_bias + encoded) * F32,
            kv: stack.layers.iter().map(kv).collect(),
            lent: Lent::of(stack),
            launches: costs.launches(),
        };
        let rest = [
            needs.fixed,
            needs.workspace,
            needs.activations,
            needs.head,
            needs.encoder_kv,
            needs.encoder_bias,
        ];
        let total: u128 = needs.kv.iter().chain(&rest).map(|&n| u128::from(n)).sum();
        if total > MAX {
            return Err(PlanError::TooLarge { n_bytes: total });
        }
        Ok(needs)
    }
}

/// Words that tell a device of a sequence's rows.
const ROWS_WORDS: u64 = 4;

/// An exabyte: sums of a few such, and the weights of any skeleton, fit 64 bits.
const MAX: u128 = 1_000_000_000_000_000_000;
