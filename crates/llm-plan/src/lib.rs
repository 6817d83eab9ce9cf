//! Memory and placement of a model, before a byte of it is loaded. Pure functions: no files, devices or clocks.
//!
//! A [`Request`] joins a model's skeleton with how its weights are to be kept, the largest passes and a budget for each
//! memory. [`plan()`] makes a [`Verdict`] of it: a [`Plan`], which is a [`DeviceMap`] and the [`MemoryEstimate`] that
//! it comes to, or the [`Shortfall`]s that no placing avoids. [`advice`] finds the smallest single changes that would do,
//! [`alternatives`] what other precisions would come to, and [`recommend()`] which of them to take.
//!
//! The estimate is what is allocated: widths of buffers are [`ActivationWidths`] and [`HeadWidths`], bytes of weights
//! [`Scheme::stored_bytes`](llm_quant::Scheme::stored_bytes), and what only a device knows it is asked for through
//! [`DeviceCosts`].

mod activation;
mod advice;
mod budget;
mod cost;
mod encoding;
mod error;
mod estimate;
mod fill;
mod hf_map;
mod items;
mod kv;
mod ledger;
mod limits;
mod load_peak;
mod map;
mod needs;
mod parts;
mod placement;
mod plan;
mod recommend;
mod speeds;
mod spread;
mod stages;
mod staging;
mod strategy;
mod term;
mod units;
mod verdict;
mod weights;

pub use activation::{
    ActivationWidths, ActivationsOf, HeadWidths, bias_elements, selected_words, workspace_shape,
};
pub use advice::{Alternative, Change, Precision, Way, advice, alternatives};
pub use budget::{Budgets, MaxMemory};
pub use cost::{HandOver, StepCost, Workload};
pub use encoding::{Encodings, Order, StoredTensor, WeightDType, becomes_table, gpus_compute_with};
pub use error::PlanError;
pub use estimate::{MemoryEstimate, UnitUse};
pub use hf_map::HfMap;
pub use kv::{
    EntryShapes, KvTable, PoolShapes, conv_state_shape, cross_kv_shape, encoder_kv_shape,
    entry_rates, kv_tables, state_shapes,
};
pub use limits::Limits;
pub use load_peak::whole_shards_peak;
pub use map::{DeviceMap, Tiers};
pub use needs::{Costs, DeviceCosts, GpuCosts, Launches};
pub use parts::{Part, PartsCosts, PartsPlan, PartsVerdict, place_parts};
pub use placement::{DividedPart, Division, Home, Placement, Rest, RunOn};
pub use plan::{Request, plan};
pub use recommend::{COMFORTABLE, Choice, Reason, Recommendation, recommend};
pub use speeds::{GpuSpeed, LinkSpeed, Speeds};
pub use stages::StagePlan;
pub use staging::{
    Brought, DEFAULT_SLICE, PART_BORDER, SLOT_PADDING, is_cut, looked_up_row_bytes, resting_bytes,
    slice_rows, staged_bytes, staging_slots,
};
pub use strategy::{Offload, Strategy};
pub use term::{MemoryUse, Term, TermBytes};
pub use verdict::{Plan, Refusal, Shortfall, Verdict};
pub use weights::{is_final, is_looked_up};

/// Result of everything that can fail here.
pub type Result<T> = std::result::Result<T, PlanError>;

#[cfg(test)]
mod tests;
