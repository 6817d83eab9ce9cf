//! Plans for requests, or the reasons for none.

mod divide;

use llm_arch::{Role, Side, Skeleton, Slot, Unit};
use llm_tensor::{Bytes, DType};

use self::divide::divide;
use crate::items::PlacementOrder;
use crate::ledger::Ledger;
use crate::needs::Needs;
use crate::placement::Rest;
use crate::strategy::{Placed, Way, place};
use crate::weights::Weights;
use crate::{
    Budgets, Costs, DeviceMap, Encodings, Home, Limits, MemoryEstimate, Offload, Placement, Plan,
    Refusal, Result, RunOn, Shortfall, StepCost, StoredTensor, Strategy, Verdict,
};

/// Everything that a plan depends on.
#[derive(Clone)]
pub struct Request<'a> {
    /// The model.
    pub skeleton: &'a Skeleton,
    /// Stored form of each of the skeleton's slots, in their order.
    pub stored: &'a [StoredTensor],
    /// Encodings of loaded weights.
    pub encodings: Encodings<'a>,
    /// The element type of keys and values; that of the table of tokens unless told.
    pub kv_dtype: Option<DType>,
    /// The largest passes.
    pub limits: Limits,
    /// Size of the loader's pieces of a tensor, counted in its stored and in its final form; larger than any tensor
    /// where it takes them whole.
    pub load_piece: Bytes,
    /// Size of the slices of matrices in which a unit is brought that is larger, as [`DEFAULT_SLICE`](crate::DEFAULT_SLICE);
    /// [`DeviceMap`] hands it on.
    pub slice: Bytes,
    /// Bytes of each memory to use.
    pub budgets: Budgets,
    /// Way to place units.
    pub strategy: Strategy,
    /// Device of weights that no GPU holds.
    pub offload: Offload,
    /// Costs that only devices know.
    pub costs: Costs<'a>,
}

/// Verdict on a request: a plan, or what its memories lack.
///
/// ```
/// use llm_plan::{
///     DEFAULT_SLICE, Encodings, Limits, MaxMemory, Offload, Request, StoredTensor, Strategy, WeightDType, plan,
/// };
/// use llm_quant::Scheme;
/// use llm_tensor::{Bytes, DType};
///
/// # use llm_plan::{Costs, DeviceCosts};
/// # use llm_arch::ExpertsSpec;
/// # use llm_tensor::{KvShape, WorkspaceShape};
/// # struct Free;
/// # impl DeviceCosts for Free {
/// #     fn kv_pool_bytes(&self, _: &KvShape) -> Bytes { Bytes::ZERO }
/// #     fn kv_block_len(&self, _: &KvShape) -> usize { 16 }
/// #     fn routes_bytes(&self, _: &ExpertsSpec, _: usize) -> Bytes { Bytes::ZERO }
/// #     fn workspace_bytes(&self, _: &WorkspaceShape) -> Bytes { Bytes::ZERO }
/// #     fn fixed_bytes(&self) -> Bytes { Bytes::ZERO }
/// # }
/// # let config = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/models/llama/config.json");
/// # let config: serde_json::Map<_, _> = serde_json::from_slice(&std::fs::read(config)?)?;
/// # let skeleton = llm_arch::from_config(&config)?;
/// # let costs = Costs { cpu: &Free, gpu: &Free, program: Bytes::ZERO };
/// let stored = vec![StoredTensor::in_order(Scheme::Dense(DType::F32)); skeleton.slots.len()];
/// let request = Request {
///     skeleton: &skeleton,
///     stored: &stored,
///     encodings: Encodings { dtype: WeightDType::Auto, config_dtype: None, quant: None },
///     kv_dtype: None,
///     limits: Limits { n_sequences: 1, context: 128, n_tokens: 32, n_logits: 1 },
///     load_piece: Bytes::mib(1),
///     slice: DEFAULT_SLICE,
///     budgets: "0=1GB,cpu=1GB".parse::<MaxMemory>()?.over(&Default::default()),
///     strategy: Strategy::Auto,
///     offload: Offload::Stream,
///     costs,
/// };
/// let verdict = plan(&request)?;
/// assert!(verdict.to_string().starts_with("fits, with weights on GPU: "));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// When the request makes no sense: a context beyond the model's, a map that does not fit the model or the devices.
///
/// # Panics
/// When `stored` has not as many elements as the skeleton has slots.
pub fn plan(request: &Request<'_>) -> Result<Verdict> {
    plan_with(request, &request.weights())
}

impl Request<'_> {
    /// Memory of weights, which limits and budgets do not change.
    pub(crate) fn weights(&self) -> Weights {
        let Request {
            skeleton, stored, ..
        } = *self;
        assert_eq!(
            skeleton.slots.len(),
            stored.len(),
            "how each slot is stored"
        );
        let sizes = (self.load_piece, self.slice);
        Weights::of(skeleton, &self.encodings, stored, sizes)
    }

    /// Device that as much as fits computes on.
    pub(crate) fn first_device(&self) -> RunOn {
        match self.budgets.gpus.keys().next() {
            Some(&gpu) if self.strategy != Strategy::Cpu => RunOn::Gpu(gpu),
            Some(_) | None => RunOn::Cpu,
        }
    }

    /// True if something is stored in a format that its first device computes with as it is.
    pub(crate) fn may_stay_packed(&self) -> bool {
        let stays = |stored: &StoredTensor| match self.first_device() {
            RunOn::Cpu => stored.is_packed(),
            RunOn::Gpu(_) => stored.is_packed_on_gpu(),
        };
        self.stored.iter().any(stays)
    }

    /// The element type of keys and values.
    pub fn kv_dtype(&self) -> DType {
        let is_table =
            |(slot, _): &(&Slot, _)| (slot.unit, slot.role) == (Unit::Embedding, Role::TokenTable);
        let mut slots = self.skeleton.slots.iter().zip(self.stored);
        let table = slots.find(is_table).map(|(_, &stored)| stored);
        let own = table.map_or(DType::F32, |table| self.encodings.kv_dtype(table));
        self.kv_dtype.unwrap_or(own)
    }
}

pub(crate) fn plan_with(request: &Request<'_>, weights: &Weights) -> Result<Verdict> {
    let ways = request.ways(weights);
    let (&first, others) = ways.split_first().expect("there is always one");
    let (mut best, mut best_way) = (one_way(request, weights, first), first);
    for &way in others {
        let is_better = match (&best, one_way(request, weights, way)) {
            (Ok(first), Ok(other)) if is_faster(first, &other, &request.offload) => Some(Ok(other)),
            // A map of the user's may be an error for one of them alone.
            (Err(_), other) => Some(other),
            (Ok(_), _) => None,
        };
        if let Some(better) = is_better {
            (best, best_way) = (better, way);
        }
    }
    best.map(|best| divide(request, weights, best, best_way.order))
}

impl Request<'_> {
    /// Ways to place units that the request leaves open.
    fn ways(&self, weights: &Weights) -> Vec<Way> {
        let way = |rest, order| Way { rest, order };
        let usual = |rest| way(rest, PlacementOrder::ExpertsLast);
        let (streamed, on_cpu) = (usual(Rest::Streamed), usual(Rest::OnCpu));
        let mut ways = match &self.offload {
            // What is kept in 32 bits for the CPU computes there.
            _ if self.encodings.keeps_cpu_in_f32() => vec![on_cpu],
            Offload::Stream => return vec![streamed],
            Offload::Compute => return vec![on_cpu],
            Offload::Fastest { .. } if self.budgets.gpus.is_empty() => return vec![streamed],
            Offload::Fastest { only, .. } => match only {
                None if weights.has_encoder => {
                    vec![streamed, usual(Rest::PromptStreamed), on_cpu]
                }
                None => vec![streamed, on_cpu],
                Some(Rest::PromptStreamed) => vec![usual(Rest::PromptStreamed)],
                Some(Rest::Streamed) => vec![streamed],
                Some(Rest::OnCpu) => vec![on_cpu],
                Some(Rest::Divided(division)) => vec![usual(Rest::Divided(*division))],
            },
        };
        let is_fastest = matches!(self.offload, Offload::Fastest { .. });
        if !is_fastest || self.strategy != Strategy::Auto {
            return ways;
        }
        let is_read_less = |unit: &Unit| match unit {
            Unit::Layer(Side::Encoder, _) => true,
            Unit::PerLayerTable => true,
            Unit::Embedding => !weights.is_tied,
            Unit::Layer(Side::Decoder, _) | Unit::Expert { .. } => false,
            Unit::FinalNorm(_) | Unit::Head => false,
        };
        let has_experts = weights.experts.iter().any(Option::is_some);
        // An expert is on its layer's GPU, or on none.
        let may_be_apart = self.budgets.gpus.len() == 1 || !has_experts;
        if may_be_apart && weights.units.list().iter().any(is_read_less) {
            let most_read_first = |of: &Way| way(of.rest, PlacementOrder::MostReadFirst);
            ways.extend_from_slice(&ways.iter().map(most_read_first).collect::<Vec<_>>());
        }
        if has_experts && ways.contains(&on_cpu) {
            // Whole layers beside the GPU hand rows over less often.
            ways.push(way(Rest::OnCpu, PlacementOrder::Layers));
        }
        ways
    }
}

/// True if the second of two verdicts fits and the first does not, or the workload takes less time with it.
fn is_faster(first: &Verdict, second: &Verdict, offload: &Offload) -> bool {
    match (seconds(first, offload), seconds(second, offload)) {
        (Some(first), Some(second)) => second < first,
        (None, Some(_)) => true,
        (_, None) => false,
    }
}

/// Seconds of the workload, if the model fits.
fn seconds(verdict: &Verdict, offload: &Offload) -> Option<f64> {
    let plan = verdict.plan()?;
    match offload {
        Offload::Fastest {
            speeds, workload, ..
        } => Some(plan.step.seconds_of(*workload, speeds)),
        Offload::Stream | Offload::Compute => Some(0.0),
    }
}

fn one_way(request: &Request<'_>, weights: &Weights, way: Way) -> Result<Verdict> {
    let (needs, placed) = placed(request, weights, way)?;
    let estimate = |placements: &[Placement]| MemoryEstimate::of(weights, &needs, placements);
    let lacking = |estimate: &MemoryEstimate| Shortfall::all(estimate.memories(), &request.budgets);
    let refusal = match placed {
        Placed::As(placements) => {
            let estimate = estimate(&placements);
            let shortfalls = lacking(&estimate);
            if shortfalls.is_empty() {
                let map = DeviceMap::new(&weights.units, weights.is_tied, &placements)
                    .in_slices(request.slice);
                map.stages()?;
                return Ok(Verdict::Fits(Box::new(Plan {
                    map,
                    step: StepCost::of(weights, &needs, &estimate, &request.limits),
                    kv_dtype: request.kv_dtype(),
                    estimate,
                })));
            }
            Refusal {
                shortfalls,
                on_cpu: Vec::new(),
            }
        }
        Placed::Nowhere {
            attempt,
            on_cpu: None,
        } => Refusal {
            shortfalls: lacking(&estimate(&attempt)),
            on_cpu: Vec::new(),
        },
        Placed::Nowhere {
            attempt,
            on_cpu: Some(on_cpu),
        } => {
            let mut shortfalls = lacking(&estimate(&attempt));
            // What RAM would lack as well matters little where the GPU does not serve.
            shortfalls.retain(|s| matches!(s.memory.home, Home::Gpu(_)));
            Refusal {
                shortfalls,
                on_cpu: lacking(&estimate(&on_cpu)),
            }
        }
    };
    Ok(Verdict::DoesNotFit(refusal))
}

/// True if it fits, without the plan.
pub(crate) fn fits(request: &Request<'_>, weights: &Weights) -> Result<bool> {
    let ways = request.ways(weights).into_iter();
    let mut ways = ways.map(|way| fits_one_way(request, weights, way));
    let mut fits = ways.next().expect("there is always one");
    for other in ways {
        fits = match (fits, other) {
            (Ok(true), _) => return Ok(true),
            (Ok(false), other) => Ok(other.unwrap_or(false)),
            (Err(_), other) => other,
        };
    }
    fits
}

fn fits_one_way(request: &Request<'_>, weights: &Weights, way: Way) -> Result<bool> {
    let (needs, placed) = placed(request, weights, way)?;
    Ok(match placed {
        Placed::As(placements) => {
            let memories = Ledger::of(weights, &needs, &placements).memories();
            Shortfall::all(&memories, &request.budgets).is_empty()
        }
        Placed::Nowhere { .. } => false,
    })
}

fn placed(request: &Request<'_>, weights: &Weights, way: Way) -> Result<(Needs, Placed)> {
    let Request {
        skeleton,
        limits,
        budgets,
        strategy,
        costs,
        ..
    } = request;
    limits.check(&skeleton.spec)?;
    let gpus = budgets.gpus.keys().copied();
    let needs = Needs::of(&skeleton.spec, limits, request.kv_dtype(), costs, gpus)?;
    let placed = place(strategy, way, skeleton, weights, &needs, budgets)?;
    Ok((needs, placed))
}
