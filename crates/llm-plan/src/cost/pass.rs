//! One pass through a model.

use std::collections::BTreeMap;

use llm_arch::{Side, Unit};
use llm_tensor::Bytes;

use super::hand_over::{HandOver, hand_overs};
use crate::estimate::{MemoryEstimate, UnitUse};
use crate::needs::Needs;
use crate::weights::Weights;
use crate::{Home, Placement, RunOn, Speeds};

/// Rows of a pass.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rows {
    /// One of each of so many sequences, after their prompts.
    Step(usize),
    /// A piece of a prompt, so long that a router chooses every expert for some of its rows.
    Prompt,
}

/// Traffic and work of a pass.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pass {
    moved: Vec<(Placement, f64)>,
    pub(super) kv_cache: Vec<(RunOn, Bytes)>,
    pub(super) hand_overs: Vec<HandOver>,
    pub(super) launches: Vec<(RunOn, f64)>,
    /// Multiplications with one row.
    products: Vec<(RunOn, f64)>,
}

impl Pass {
    pub(super) fn of(
        weights: &Weights,
        needs: &Needs,
        estimate: &MemoryEstimate,
        rows: Rows,
    ) -> Self {
        let mut moved: Vec<(Placement, f64)> = Vec::new();
        let mut kv_cache = BTreeMap::<RunOn, Bytes>::new();
        let mut products = BTreeMap::<RunOn, f64>::new();
        let mut launches = BTreeMap::<RunOn, f64>::new();
        let chances = |&experts: &Option<(usize, usize)>| {
            experts.map_or([1.0; 2], |of| [rows.chance(of, 1), share(of)])
        };
        let experts: Vec<[f64; 2]> = weights.experts.iter().map(chances).collect();
        for unit in estimate.units().iter().filter(|unit| rows.read(unit.unit)) {
            let UnitUse {
                placement,
                per_pass,
                of_encoded,
                ..
            } = *unit;
            let run_on = placement.run_on;
            let [used, share] = match unit.unit {
                Unit::Expert { layer, .. } => experts[layer],
                Unit::Embedding
                | Unit::PerLayerTable
                | Unit::Layer(..)
                | Unit::FinalNorm(_)
                | Unit::Head => [1.0; 2],
            };
            let read = match rows {
                Rows::Step(_) => per_pass.get() - of_encoded.get(),
                Rows::Prompt => per_pass.get(),
            };
            let n_bytes = used * read as f64;
            if n_bytes > 0.0 {
                match moved.iter_mut().find(|(path, _)| *path == placement) {
                    Some((_, sum)) => *sum += n_bytes,
                    None => moved.push((placement, n_bytes)),
                }
            }
            let read = match unit.unit {
                Unit::Layer(Side::Decoder, i) => needs.on(run_on).kv_read(i),
                _ => unit.kv_cache.get(),
            };
            if read > 0 {
                *kv_cache.entry(run_on).or_default() += Bytes::new(read);
            }
            if is_of_every_row(unit.unit, weights) {
                *products.entry(run_on).or_default() += share * unit.products as f64;
            }
            if run_on != RunOn::Cpu {
                *launches.entry(run_on).or_default() +=
                    used * needs.on(run_on).launches.of(unit.unit) as f64;
            }
        }
        moved.sort_by_key(|(path, _)| (path.home, path.run_on));
        let chance = |layer: usize, n| weights.experts[layer].map_or(1.0, |of| rows.chance(of, n));
        Pass {
            moved,
            kv_cache: kv_cache.into_iter().collect(),
            hand_overs: hand_overs(
                weights,
                (estimate, &needs.host),
                |unit| rows.read(unit),
                chance,
            ),
            launches: launches.into_iter().collect(),
            products: products.into_iter().collect(),
        }
    }

    /// Weights, from where to where.
    pub(super) fn weights(&self) -> Vec<(Placement, Bytes)> {
        let bytes = |&(path, n_bytes): &(_, f64)| (path, Bytes::new(n_bytes.round() as u64));
        self.moved.iter().map(bytes).collect()
    }

    /// Seconds of a pass of so many rows.
    pub(super) fn seconds(&self, n_rows: f64, speeds: &Speeds) -> f64 {
        let products = self
            .products
            .iter()
            .map(|&(run_on, n)| (run_on, n_rows * n));
        let products: Vec<_> = products.collect();
        let moved = self.moved.iter().copied();
        let devices = seconds(moved, &self.launches, &products, speeds);
        let waits = self.hand_overs.iter().map(|of| of.seconds(n_rows, speeds));
        devices + waits.sum::<f64>()
    }
}

impl Rows {
    /// True if a unit's weights are read.
    fn read(self, unit: Unit) -> bool {
        match (unit, self) {
            // Once a prompt.
            (Unit::Layer(Side::Encoder, _) | Unit::FinalNorm(Side::Encoder), Rows::Step(_)) => {
                false
            }
            (
                Unit::Embedding
                | Unit::PerLayerTable
                | Unit::Layer(..)
                | Unit::Expert { .. }
                | Unit::FinalNorm(_)
                | Unit::Head,
                Rows::Step(_) | Rows::Prompt,
            ) => true,
        }
    }

    /// The chance that some row goes to one of `n` experts, if all are equally liked.
    fn chance(self, experts: (usize, usize), n: usize) -> f64 {
        match self {
            Rows::Prompt => 1.0,
            Rows::Step(n_rows) => {
                let (n_experts, n_active) = experts;
                // A row's choices are different experts.
                let unused = (0..n_active).map(|i| {
                    let (left, others) = (n_experts - i, (n_experts - n).saturating_sub(i));
                    others as f64 / left as f64
                });
                1.0 - unused.product::<f64>().powf(n_rows as f64)
            }
        }
    }
}

/// Seconds in which devices, one after the other, read what they read, start their kernels and compute.
pub(super) fn seconds(
    moved: impl Iterator<Item = (Placement, f64)>,
    launches: &[(RunOn, f64)],
    products: &[(RunOn, f64)],
    speeds: &Speeds,
) -> f64 {
    let mut devices = BTreeMap::<RunOn, Work>::new();
    for (path, n_bytes) in moved {
        devices.entry(path.run_on).or_default().add(path, n_bytes);
    }
    for &(run_on, n) in launches {
        devices.entry(run_on).or_default().launches += n;
    }
    for &(run_on, n) in products {
        devices.entry(run_on).or_default().products += n;
    }
    let devices = devices.iter();
    devices
        .map(|(&run_on, work)| work.seconds(run_on, speeds))
        .sum()
}

/// Work of a device: bytes that it reads, those of them that come from where it cannot read them, and what it does.
#[derive(Debug, Default)]
struct Work {
    all: f64,
    from_disk: f64,
    to_gpu: f64,
    launches: f64,
    products: f64,
}

impl Work {
    fn add(&mut self, path: Placement, n_bytes: f64) {
        self.all += n_bytes;
        if path.home == Home::Disk {
            self.from_disk += n_bytes;
        }
        if path.run_on != RunOn::Cpu && path.home != path.run_on.memory() {
            self.to_gpu += n_bytes;
        }
    }

    /// Copies run beside what computes.
    fn seconds(&self, run_on: RunOn, speeds: &Speeds) -> f64 {
        let (launches, to_gpu) = match run_on {
            RunOn::Gpu(number) => (
                self.launches * speeds.of_gpu(number).launch,
                self.to_gpu / speeds.to_gpu(number),
            ),
            RunOn::Cpu => (0.0, 0.0),
        };
        let read = self.all / speeds.memory(run_on);
        let computed = self.products / speeds.products(run_on);
        let busy = read.max(computed) + launches;
        busy.max(to_gpu).max(self.from_disk / speeds.disk)
    }
}

/// True of what a prompt's rows all go through: logits are made of the last one, and a decoder with an encoder begins with
/// one.
fn is_of_every_row(unit: Unit, weights: &Weights) -> bool {
    match unit {
        Unit::Layer(Side::Encoder, _) => true,
        Unit::Layer(Side::Decoder, _) | Unit::Expert { .. } => !weights.has_encoder,
        Unit::Embedding | Unit::PerLayerTable | Unit::FinalNorm(_) | Unit::Head => false,
    }
}

/// Share of an expert's layer's rows that go to it.
fn share((n_experts, n_active): (usize, usize)) -> f64 {
    n_active as f64 / n_experts as f64
}
