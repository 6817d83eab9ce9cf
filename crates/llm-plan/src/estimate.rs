//! What a model takes where its units are placed.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use llm_arch::{Side, Unit};
use llm_tensor::Bytes;

use crate::needs::Needs;
use crate::staging::Staging;
use crate::weights::{Footprint, Weights};
use crate::{Home, Placement, RunOn};

/// What memory is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Term {
    /// The elements of weights.
    Weights,
    /// What quantized elements are decoded with: scales and tables.
    QuantizationStatistics,
    /// Keys and values.
    KvCache,
    /// Activations and logits.
    Activations,
    /// Scratch memory of a device's operations.
    Workspace,
    /// Where weights lie that rest elsewhere, while they are computed with and while the next ones come: two places for
    /// the largest unit, and a pass's rows of tables that are looked up in.
    Staging,
    /// What a tensor takes on its way, while the model is loaded.
    LoadTransient,
    /// What a GPU takes before anything is asked of it.
    GpuContext,
    /// The program itself: its code, the model's headers, its tokenizer.
    Program,
}

impl Term {
    /// All of them.
    pub const ALL: [Term; 9] = [
        Term::Weights,
        Term::QuantizationStatistics,
        Term::KvCache,
        Term::Activations,
        Term::Workspace,
        Term::Staging,
        Term::LoadTransient,
        Term::GpuContext,
        Term::Program,
    ];

    /// The name that programs read, as `kv_cache`.
    pub const fn name(self) -> &'static str {
        match self {
            Term::Weights => "weights",
            Term::QuantizationStatistics => "quantization_statistics",
            Term::KvCache => "kv_cache",
            Term::Activations => "activations",
            Term::Workspace => "workspace",
            Term::Staging => "staging",
            Term::LoadTransient => "load_transient",
            Term::GpuContext => "gpu_context",
            Term::Program => "program",
        }
    }
}

/// As in a sentence: `KV cache`.
impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Term::Weights => "weights",
            Term::QuantizationStatistics => "quantization statistics",
            Term::KvCache => "KV cache",
            Term::Activations => "activations and logits",
            Term::Workspace => "workspace",
            Term::Staging => "staging of offloaded weights",
            Term::LoadTransient => "tensors on their way at load",
            Term::GpuContext => "GPU context",
            Term::Program => "the program itself",
        })
    }
}

/// Bytes by term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TermBytes([Bytes; Term::ALL.len()]);

/// Adds.
impl Extend<(Term, Bytes)> for TermBytes {
    fn extend<I: IntoIterator<Item = (Term, Bytes)>>(&mut self, terms: I) {
        for (term, bytes) in terms {
            self.0[term as usize] += bytes;
        }
    }
}

impl TermBytes {
    /// Those of one term.
    pub fn get(&self, term: Term) -> Bytes {
        self.0[term as usize]
    }

    /// Terms that take something.
    pub fn iter(&self) -> impl Iterator<Item = (Term, Bytes)> {
        let terms = Term::ALL.into_iter().zip(self.0);
        terms.filter(|(_, bytes)| *bytes > Bytes::ZERO)
    }

    fn add(&mut self, term: Term, n_bytes: u64) {
        self.0[term as usize] += Bytes::new(n_bytes);
    }

    fn raise(&mut self, term: Term, n_bytes: u64) {
        let bytes = &mut self.0[term as usize];
        *bytes = (*bytes).max(Bytes::new(n_bytes));
    }

    fn sum_without(&self, left_out: &[Term]) -> Bytes {
        let counted = |(term, _): &(Term, Bytes)| !left_out.contains(term);
        self.iter().filter(counted).map(|(_, bytes)| bytes).sum()
    }
}

/// What one memory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryUse {
    /// Which.
    pub home: Home,
    /// What for.
    pub terms: TermBytes,
    /// On disk: the part of the weights that is read from the checkpoint itself and takes nothing beside it.
    pub in_place: Bytes,
}

impl MemoryUse {
    /// The most while the model is loaded.
    pub fn peak_at_load(&self) -> Bytes {
        let later = [
            Term::KvCache,
            Term::Activations,
            Term::Workspace,
            Term::Staging,
        ];
        self.terms.sum_without(&later)
    }

    /// What stays allocated while it runs.
    pub fn peak_in_generation(&self) -> Bytes {
        self.terms.sum_without(&[Term::LoadTransient])
    }

    /// What a budget has to hold: the greater of both; on disk what is written.
    pub fn needed(&self) -> Bytes {
        let peak = self.peak_at_load().max(self.peak_in_generation());
        peak.saturating_sub(self.in_place)
    }
}

/// What one unit takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitUse {
    /// Which.
    pub unit: Unit,
    /// Where it rests and computes.
    pub placement: Placement,
    /// The elements of its weights.
    pub weights: Bytes,
    /// What they are decoded with.
    pub quantization_statistics: Bytes,
    /// Its keys and values, of all sequences, where it computes.
    pub kv_cache: Bytes,
    /// What a pass that uses the unit reads of its weights: all but tables that are only looked up in.
    pub per_pass: Bytes,
    /// What of its weights the checkpoint holds as they are computed with.
    pub in_place: Bytes,
}

/// What a model takes, to the byte: by memory, and by unit as far as it is the unit's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryEstimate {
    memories: Vec<MemoryUse>,
    units: Vec<UnitUse>,
    encoder_kv: Bytes,
}

impl MemoryEstimate {
    /// Every memory that is used: GPUs by number, RAM, disk.
    pub fn memories(&self) -> &[MemoryUse] {
        &self.memories
    }

    /// One of them.
    pub fn memory(&self, home: Home) -> Option<&MemoryUse> {
        self.memories.iter().find(|memory| memory.home == home)
    }

    /// Every unit, in the order of [`Unit`].
    pub fn units(&self) -> &[UnitUse] {
        &self.units
    }

    /// Keys and values of an encoder's blocks, which share one cache a device, and so are no unit's own.
    pub fn encoder_kv_cache(&self) -> Bytes {
        self.encoder_kv
    }

    /// A term over all memories.
    pub fn total(&self, term: Term) -> Bytes {
        let of_memory = |memory: &MemoryUse| memory.terms.get(term);
        self.memories.iter().map(of_memory).sum()
    }

    /// `placements` is parallel to the units.
    pub(crate) fn of(weights: &Weights, needs: &Needs, placements: &[Placement]) -> Self {
        let mut sums = Sums::default();
        let list = weights.units.list();
        let units = list.iter().zip(placements).enumerate();
        let units = units
            .map(|(idx, (&unit, &placement))| {
                let footprint = weights.on(placement.run_on)[idx];
                sums.unit(unit, placement, &footprint, needs)
            })
            .collect();
        sums.host(needs);
        MemoryEstimate {
            encoder_kv: Bytes::new(sums.encoder_kv),
            memories: sums.finish(needs),
            units,
        }
    }
}

#[derive(Default)]
struct Sums {
    memories: BTreeMap<Home, (TermBytes, u64)>,
    /// Devices that compute, and whether with blocks of an encoder.
    devices: BTreeMap<RunOn, bool>,
    encoder_kv: u64,
    /// By memory that weights come to.
    staging: BTreeMap<Home, Staging>,
}

impl Sums {
    fn unit(
        &mut self,
        unit: Unit,
        placement: Placement,
        footprint: &Footprint,
        needs: &Needs,
    ) -> UnitUse {
        let Placement { home, run_on } = placement;
        self.weights(home, footprint);
        self.device(unit, run_on, needs);
        if !placement.is_resident() {
            self.staging
                .entry(run_on.memory())
                .or_default()
                .add(footprint);
            if home == Home::Disk && run_on != RunOn::Cpu {
                // It comes through RAM wherever it goes.
                self.staging.entry(Home::Ram).or_default().add(footprint);
            }
        }
        let kv_cache = match unit {
            Unit::Layer(Side::Decoder, i) => needs.on(run_on).kv[i],
            Unit::Embedding
            | Unit::Layer(Side::Encoder, _)
            | Unit::Expert { .. }
            | Unit::FinalNorm(_)
            | Unit::Head => 0,
        };
        self.terms(run_on.memory()).add(Term::KvCache, kv_cache);
        UnitUse {
            unit,
            placement,
            weights: Bytes::new(footprint.elements),
            quantization_statistics: Bytes::new(footprint.statistics),
            kv_cache: Bytes::new(kv_cache),
            per_pass: Bytes::new(footprint.per_pass),
            in_place: Bytes::new(footprint.in_place()),
        }
    }

    fn weights(&mut self, home: Home, footprint: &Footprint) {
        let (terms, in_place) = self.memories.entry(home).or_default();
        terms.add(Term::Weights, footprint.elements);
        terms.add(Term::QuantizationStatistics, footprint.statistics);
        if home == Home::Disk {
            *in_place += footprint.in_place();
        }
        let transient = match home {
            Home::Ram => footprint.source,
            Home::Gpu(_) | Home::Disk => footprint.on_its_way,
        };
        self.terms(Home::Ram).raise(Term::LoadTransient, transient);
    }

    /// What the device of a unit takes, once.
    fn device(&mut self, unit: Unit, run_on: RunOn, needs: &Needs) {
        let memory = run_on.memory();
        let needs = needs.on(run_on);
        if let Entry::Vacant(device) = self.devices.entry(run_on) {
            device.insert(false);
            let terms = self.terms(memory);
            terms.add(Term::GpuContext, needs.fixed);
            terms.add(Term::Activations, needs.activations);
            terms.add(Term::Workspace, needs.workspace);
        }
        match unit {
            Unit::Head => self.terms(memory).add(Term::Activations, needs.head),
            Unit::Layer(Side::Encoder, _) => {
                if self.devices.insert(run_on, true) == Some(false) {
                    self.encoder_kv += needs.encoder_kv;
                    let terms = self.terms(memory);
                    terms.add(Term::KvCache, needs.encoder_kv);
                    terms.add(Term::Activations, needs.encoder_bias);
                }
            }
            Unit::Embedding
            | Unit::Layer(Side::Decoder, _)
            | Unit::Expert { .. }
            | Unit::FinalNorm(_) => {}
        }
    }

    /// What the process keeps in RAM wherever it computes.
    fn host(&mut self, needs: &Needs) {
        let n_bytes = host_bytes(needs, self.devices.len());
        let terms = self.terms(Home::Ram);
        terms.add(Term::Activations, n_bytes);
        terms.add(Term::Program, needs.program);
    }

    fn terms(&mut self, home: Home) -> &mut TermBytes {
        &mut self.memories.entry(home).or_default().0
    }

    fn finish(mut self, needs: &Needs) -> Vec<MemoryUse> {
        for (memory, staging) in std::mem::take(&mut self.staging) {
            let n_bytes = staging.bytes(needs);
            self.terms(memory).add(Term::Staging, n_bytes);
        }
        let memories = self.memories.into_iter();
        memories
            .map(|(home, (terms, in_place))| MemoryUse {
                home,
                terms,
                in_place: Bytes::new(in_place),
            })
            .collect()
    }
}

/// What the process keeps in RAM for passes over `n_devices`.
pub(crate) fn host_bytes(needs: &Needs, n_devices: usize) -> u64 {
    let host = &needs.host;
    let crosses = n_devices > 1 || host.always_crosses;
    let hidden = if crosses { host.hidden } else { 0 };
    host.logits + host.history + hidden + n_devices as u64 * host.per_device
}
