//! Choice of experts: a model's descriptor says how, a device does it.

use crate::Weighting;

/// Choice of experts by a router's scores.
///
/// A score becomes a probability. An expert's rank is its probability, plus a correction that the router's bias may have
/// for it; experts of groups that are out have none. The experts that rank first are chosen. Their results are weighed by their
/// probabilities, in which no correction is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Routing {
    /// Experts.
    pub n_experts: usize,
    /// Experts that a row goes to.
    pub n_active: usize,
    /// From scores to probabilities.
    pub scoring: Scoring,
    /// Groups of which some are chosen before experts are.
    pub groups: Option<ExpertGroups>,
    /// Weights of the chosen experts' results.
    pub weighting: Weighting,
    /// Added to the sum that normalised weights are divided by.
    pub eps: f32,
    /// Multiplies the weights.
    pub scale: f32,
}

impl Routing {
    /// The choice of Shazeer et al. 2017: softmax, no groups, weights as they are.
    pub const fn softmax(n_experts: usize, n_active: usize) -> Self {
        Routing {
            n_experts,
            n_active,
            scoring: Scoring::Softmax,
            groups: None,
            weighting: Weighting::Probability,
            eps: 0.0,
            scale: 1.0,
        }
    }

    /// The choice of DeepSeek-V3 (2024) without its groups: sigmoids, weights brought to a sum of one.
    pub const fn sigmoid(n_experts: usize, n_active: usize) -> Self {
        Routing {
            scoring: Scoring::Sigmoid,
            weighting: Weighting::Normalised,
            ..Routing::softmax(n_experts, n_active)
        }
    }
}

/// From a router's scores to probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scoring {
    /// The softmax over all experts.
    Softmax,
    /// Each expert's σ(x).
    Sigmoid,
    /// Each expert's √(ln(1 + eˣ)) (DeepSeek-V4).
    SqrtSoftplus,
    /// The scores as they are.
    Plain,
}

/// Groups of experts, equally large, of which only some are open to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExpertGroups {
    /// Groups; divides the number of experts.
    pub n_groups: usize,
    /// Groups that a row's experts may be of; the first among equals.
    pub n_active: usize,
    /// Rank of a group.
    pub rank: GroupRank,
}

impl ExpertGroups {
    /// Most groups that a device chooses among: several times what models have.
    pub const MOST: usize = 32;
}

/// Rank of a group, by the ranks of its experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GroupRank {
    /// The highest of them (DeepSeek-V2, 2024).
    First,
    /// The sum of the highest two (DeepSeek-V3, 2024).
    FirstTwo,
}
