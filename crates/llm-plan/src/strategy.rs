//! Ways to place units.

use std::str::FromStr;

use llm_arch::Skeleton;

use crate::fill::{BesideGpus, Filling, Spared, Streamed};
use crate::items::{Items, PlacementOrder, Portions};
use crate::needs::Needs;
use crate::placement::Rest;
use crate::spread::spread;
use crate::weights::Weights;
use crate::{Budgets, HfMap, Placement, PlanError, Result, Speeds, Workload};

/// Way to place units.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Strategy {
    /// The fastest memory first, each as far as it holds; where a GPU does not hold all, experts leave it first.
    #[default]
    Auto,
    /// The same units on GPUs, spread so that the fullest is as empty as it can be.
    Balanced,
    /// Before that, the first GPU as empty as it can be.
    BalancedLow0,
    /// As they compute, each layer with its experts.
    Sequential,
    /// No GPU.
    Cpu,
    /// As the user says.
    Map(HfMap),
}

impl FromStr for Strategy {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Strategy::Auto),
            "balanced" => Ok(Strategy::Balanced),
            "balanced_low_0" => Ok(Strategy::BalancedLow0),
            "sequential" => Ok(Strategy::Sequential),
            "cpu" => Ok(Strategy::Cpu),
            json if json.trim_start().starts_with('{') => json.parse().map(Strategy::Map),
            name => Err(PlanError::NotAStrategy {
                name: name.to_owned(),
            }),
        }
    }
}

/// Device of weights that no GPU holds, where there is a GPU.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Offload {
    /// A GPU, to which they are streamed.
    #[default]
    Stream,
    /// The CPU.
    Compute,
    /// The one of both with which a workload takes less time at these speeds, a GPU where both take the same. GPUs are
    /// filled in the order that is faster, too: as units compute, or first with what every token reads; with single
    /// experts, or with whole layers.
    Fastest {
        /// Speeds of the machine.
        speeds: Speeds,
        /// Prompt and tokens.
        workload: Workload,
        /// The one way to compute with what no GPU holds; `None` where both may be taken.
        only: Option<Rest>,
    },
}

/// Way to place what the request leaves open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way {
    /// Device of units that no GPU holds.
    pub(crate) rest: Rest,
    /// Order of filling, for [`Strategy::Auto`].
    pub(crate) order: PlacementOrder,
}

/// Units placed: by unit.
pub(crate) enum Placed {
    /// So that every budget is kept, unless the user said how.
    As(Vec<Placement>),
    /// No way keeps the budgets.
    Nowhere {
        /// The way that lacks least.
        attempt: Vec<Placement>,
        /// The same of the CPU alone, where no GPU can even be streamed to.
        on_cpu: Option<Vec<Placement>>,
    },
}

/// Places the units.
///
/// # Errors
/// When a map of the user's does not fit the model or the devices.
pub(crate) fn place(
    strategy: &Strategy,
    way: Way,
    skeleton: &Skeleton,
    weights: &Weights,
    needs: &Needs,
    budgets: &Budgets,
) -> Result<Placed> {
    let several = budgets.gpus.len() > 1;
    let rest = way.rest;
    let (order, spared) = match strategy {
        Strategy::Map(map) => {
            let placements = map.placements(skeleton, weights, budgets, rest)?;
            return Ok(Placed::As(placements));
        }
        // An expert computes where its layer does: on one of several GPUs it is filled in with it.
        Strategy::Auto if several && way.order == PlacementOrder::ExpertsLast => {
            (PlacementOrder::Layers, None)
        }
        Strategy::Auto => (way.order, None),
        Strategy::Cpu => (PlacementOrder::ExpertsLast, None),
        Strategy::Sequential => (PlacementOrder::Layers, None),
        Strategy::Balanced => (PlacementOrder::Layers, Some(Spared::None)),
        Strategy::BalancedLow0 => (PlacementOrder::Layers, Some(Spared::First)),
    };
    let items = Items::new(weights, needs, Portions::of(weights, order));
    let filling = Filling {
        items: &items,
        budgets,
        beside_gpus: match strategy {
            Strategy::Sequential => BesideGpus::InOrder,
            _ => BesideGpus::Evenly,
        },
    };
    let filled = match (strategy, rest) {
        (Strategy::Cpu, _) => filling.cpu(),
        (_, Rest::OnCpu) => filling.shared_with_cpu(),
        // What cannot be streamed for lack of room, the CPU computes.
        (_, Rest::Divided(division)) => match filling.streamed(Streamed::Part(division)) {
            Some(filled) => filled,
            None => filling.shared_with_cpu(),
        },
        (_, Rest::PromptStreamed) => match filling.streamed(Streamed::Prompt) {
            Some(filled) => filled,
            None => filling.shared_with_cpu(),
        },
        (_, Rest::Streamed) => match filling.streamed(Streamed::All) {
            // What rests in RAM for a GPU takes a little more there than for the CPU.
            Some(filled) => filled.or_else(|cut| filling.cpu().map_err(|_| cut)),
            None => match (filling.cpu(), filling.least_streamed()) {
                (Err(cut), Some(least)) => {
                    return Ok(Placed::Nowhere {
                        attempt: least.placements(&items),
                        on_cpu: Some(cut.placements(&items)),
                    });
                }
                (filled, _) => filled,
            },
        },
    };
    let all_on_gpus = filled.as_ref().is_ok_and(|cut| cut.n_gpu() == items.len());
    let has_experts = weights.experts.iter().any(Option::is_some);
    if strategy == &Strategy::Auto
        && way.order == PlacementOrder::ExpertsLast
        && several
        && has_experts
        && !all_on_gpus
        && let Some(spread) = spread(weights, needs, budgets, rest)
    {
        return Ok(Placed::As(spread));
    }
    Ok(match (filled, spared) {
        (Ok(cut), None) => Placed::As(cut.placements(&items)),
        (Ok(cut), Some(spared)) => Placed::As(filling.balanced(&cut, spared).placements(&items)),
        (Err(cut), _) => Placed::Nowhere {
            attempt: cut.placements(&items),
            on_cpu: None,
        },
    })
}
