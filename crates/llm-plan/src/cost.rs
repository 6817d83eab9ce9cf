//! Cost of a step: the bytes that it moves over the bandwidths.

use std::collections::BTreeMap;

use llm_arch::{Side, Unit};
use llm_tensor::Bytes;

use crate::estimate::UnitUse;
use crate::weights::Weights;
use crate::{Home, MemoryEstimate, Placement, RunOn};

/// Bytes a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bandwidths {
    /// Of a GPU's memory.
    pub gpu: f64,
    /// From RAM to a GPU.
    pub pcie: f64,
    /// Of RAM, all processors together.
    pub ram: f64,
    /// From disk to RAM.
    pub disk: f64,
}

impl Bandwidths {
    /// Bytes a second from where a weight rests through all that lies between there and what computes with it: its
    /// narrowest part.
    pub fn of(&self, placement: Placement) -> f64 {
        let from_disk = match placement.home {
            Home::Disk => self.disk,
            Home::Gpu(_) | Home::Ram => f64::INFINITY,
        };
        let through = match (placement.home, placement.run_on) {
            (Home::Gpu(home), RunOn::Gpu(run_on)) if home == run_on => self.gpu,
            (_, RunOn::Gpu(_)) => self.gpu.min(self.pcie).min(self.ram),
            (_, RunOn::Cpu) => self.ram,
        };
        through.min(from_disk)
    }
}

/// Traffic of one step: a token for each sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct StepCost {
    /// Weights, from where to where. Of experts the share that is expected to be used.
    pub weights: Vec<(Placement, Bytes)>,
    /// Keys and values, once the context is full, by the device that reads them.
    pub kv_cache: Vec<(RunOn, Bytes)>,
    /// Tokens that a step makes.
    pub n_sequences: usize,
}

impl StepCost {
    pub(crate) fn of(weights: &Weights, estimate: &MemoryEstimate, n_sequences: usize) -> Self {
        let mut moved: Vec<(Placement, f64)> = Vec::new();
        let mut kv_cache = BTreeMap::<_, Bytes>::new();
        let used = |&experts: &Option<_>| experts.map_or(1.0, |of| used_by_step(of, n_sequences));
        let used: Vec<f64> = weights.experts.iter().map(used).collect();
        for unit in estimate.units() {
            let placement = unit.placement;
            let n_bytes = read_by_step(unit, &used);
            if n_bytes > 0.0 {
                match moved.iter_mut().find(|(path, _)| *path == placement) {
                    Some((_, sum)) => *sum += n_bytes,
                    None => moved.push((placement, n_bytes)),
                }
            }
            if unit.kv_cache > Bytes::ZERO {
                *kv_cache.entry(placement.run_on).or_default() += unit.kv_cache;
            }
        }
        moved.sort_by_key(|(path, _)| (path.home, path.run_on));
        let bytes = |(path, n_bytes): (_, f64)| (path, Bytes::new(n_bytes.round() as u64));
        StepCost {
            weights: moved.into_iter().map(bytes).collect(),
            kv_cache: kv_cache.into_iter().collect(),
            n_sequences,
        }
    }

    /// Seconds of a step at the beginning of a sequence, when weights are all that is read.
    ///
    /// Weights are brought to a device while it computes with others: it takes as long as what lasts longest. Devices wait
    /// for each other.
    pub fn seconds(&self, bandwidths: &Bandwidths) -> f64 {
        self.seconds_with(&[], bandwidths)
    }

    /// Seconds of a step when the context is full.
    pub fn seconds_at_full_context(&self, bandwidths: &Bandwidths) -> f64 {
        self.seconds_with(&self.kv_cache, bandwidths)
    }

    fn seconds_with(&self, kv_cache: &[(RunOn, Bytes)], bandwidths: &Bandwidths) -> f64 {
        let kv_cache = kv_cache.iter().map(|&(run_on, bytes)| {
            let home = run_on.memory();
            (Placement { home, run_on }, bytes)
        });
        let mut devices = BTreeMap::<RunOn, Traffic>::new();
        for (path, bytes) in self.weights.iter().copied().chain(kv_cache) {
            let traffic = devices.entry(path.run_on).or_default();
            traffic.add(path, bytes.get() as f64);
        }
        let devices = devices.iter();
        devices
            .map(|(&run_on, traffic)| traffic.seconds(run_on, bandwidths))
            .sum()
    }

    /// Tokens a second, of all sequences together: when the context is full, and at the beginning.
    pub fn tokens_per_second(&self, bandwidths: &Bandwidths) -> [f64; 2] {
        let n = self.n_sequences as f64;
        [
            n / self.seconds_at_full_context(bandwidths),
            n / self.seconds(bandwidths),
        ]
    }
}

/// Bytes that a device reads, and those of them that come from where it cannot read them.
#[derive(Debug, Default)]
struct Traffic {
    all: f64,
    from_disk: f64,
    to_gpu: f64,
}

impl Traffic {
    fn add(&mut self, path: Placement, n_bytes: f64) {
        self.all += n_bytes;
        if path.home == Home::Disk {
            self.from_disk += n_bytes;
        }
        if path.run_on != RunOn::Cpu && path.home != path.run_on.memory() {
            self.to_gpu += n_bytes;
        }
    }

    fn seconds(&self, run_on: RunOn, bandwidths: &Bandwidths) -> f64 {
        let memory = match run_on {
            RunOn::Gpu(_) => bandwidths.gpu,
            RunOn::Cpu => bandwidths.ram,
        };
        let to_gpu = self.to_gpu / bandwidths.pcie.min(bandwidths.ram);
        let from_disk = self.from_disk / bandwidths.disk;
        (self.all / memory).max(to_gpu).max(from_disk)
    }
}

/// Bytes that a step reads of a unit's weights. `used` is the share of each layer's experts that it uses.
fn read_by_step(unit: &UnitUse, used: &[f64]) -> f64 {
    let share = match unit.unit {
        // Once a prompt.
        Unit::Layer(Side::Encoder, _) | Unit::FinalNorm(Side::Encoder) => 0.0,
        Unit::Expert { layer, .. } => used[layer],
        Unit::Embedding
        | Unit::Layer(Side::Decoder, _)
        | Unit::FinalNorm(Side::Decoder)
        | Unit::Head => 1.0,
    };
    share * unit.per_pass.get() as f64
}

/// The chance that one of the sequences chooses an expert, if all experts are equally liked.
fn used_by_step((n_experts, n_active): (usize, usize), n_sequences: usize) -> f64 {
    let unused = 1.0 - n_active as f64 / n_experts as f64;
    1.0 - unused.powf(n_sequences as f64)
}
