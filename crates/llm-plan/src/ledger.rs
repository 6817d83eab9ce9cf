//! Use of each memory: the one place that adds up what units take there. Filling asks it, the estimate prints it.

mod runs;
mod tally;

use std::collections::BTreeSet;

use llm_tensor::Bytes;

pub(crate) use self::runs::{Runs, largest};
pub(crate) use self::tally::Tally;
use self::tally::{Maxima, Totals};
use crate::needs::Needs;
use crate::staging::{staging_slots, whole_pages};
use crate::weights::Weights;
use crate::{Home, MemoryUse, Placement, RunOn, Term, TermBytes};

/// Units by their placement.
#[derive(Debug, Clone)]
pub(crate) struct Ledger<'a> {
    needs: &'a Needs,
    /// A few: what lies where has few answers.
    tallies: Vec<(Placement, Tally)>,
}

impl<'a> Ledger<'a> {
    /// One without units.
    pub(crate) fn new(needs: &'a Needs) -> Self {
        Ledger {
            needs,
            tallies: Vec::with_capacity(4),
        }
    }

    /// Ledger of all units; `placements` is parallel to them.
    pub(crate) fn of(weights: &Weights, needs: &'a Needs, placements: &[Placement]) -> Self {
        let mut ledger = Ledger::new(needs);
        let units = weights.units.list().iter().zip(placements).enumerate();
        for (idx, (&unit, &placement)) in units {
            let footprint = weights.on(placement.run_on).of_unit(idx);
            ledger.add(
                placement,
                &Tally::of(unit, footprint, needs.on(placement.run_on)),
            );
        }
        ledger
    }

    /// Adds units to those of a placement.
    pub(crate) fn add(&mut self, placement: Placement, units: &Tally) {
        let mut tallies = self.tallies.iter_mut();
        match tallies.find(|(at, _)| *at == placement) {
            Some((_, tally)) => tally.add(units),
            None => self.tallies.push((placement, *units)),
        }
    }

    /// Every memory that is used: GPUs by number, RAM, disk.
    pub(crate) fn memories(&self) -> Vec<MemoryUse> {
        let of_units =
            |&(placement, _): &(Placement, _)| [placement.home, placement.run_on.memory()];
        let used = self.used().flat_map(of_units);
        let homes: BTreeSet<Home> = used.chain([Home::Ram]).collect();
        homes.into_iter().map(|home| self.memory(home)).collect()
    }

    /// Use of a memory.
    pub(crate) fn memory(&self, home: Home) -> MemoryUse {
        let mut terms = TermBytes::default();
        let held = self.totals(|placement| placement.home == home);
        terms.add(Term::Weights, held.elements);
        terms.add(Term::QuantizationStatistics, held.statistics);
        terms.add(Term::Staging, self.staging(home));
        match home {
            Home::Gpu(number) => self.add_device(RunOn::Gpu(number), &mut terms),
            Home::Ram => {
                terms.add(Term::Weights, self.totals(rests_in_ram).padding);
                self.add_device(RunOn::Cpu, &mut terms);
                terms.add(Term::Activations, self.host());
                terms.add(Term::LoadTransient, self.load_transient());
                terms.add(Term::Program, self.needs.program);
            }
            Home::Disk => {}
        }
        let in_place = match home {
            Home::Disk => held.weights() - held.unfinished,
            Home::Gpu(_) | Home::Ram => 0,
        };
        MemoryUse {
            home,
            terms,
            in_place: Bytes::new(in_place),
        }
    }

    /// Keys and values of an encoder's blocks, over all devices that compute with some.
    pub(crate) fn encoder_kv(&self) -> Bytes {
        let of_device = |&run_on: &RunOn| match self.computed(run_on).n_encoder_layers {
            0 => 0,
            _ => self.needs.on(run_on).encoder_kv,
        };
        Bytes::new(self.devices().iter().map(of_device).sum())
    }

    /// Adds what a device that computes takes beside weights.
    fn add_device(&self, run_on: RunOn, terms: &mut TermBytes) {
        let computed = self.computed(run_on);
        if computed.n_units == 0 {
            return;
        }
        let needs = self.needs.on(run_on);
        terms.add(Term::GpuContext, needs.fixed);
        terms.add(Term::Workspace, needs.workspace);
        terms.add(
            Term::Activations,
            needs.activations + computed.n_heads * needs.head,
        );
        terms.add(
            Term::KvCache,
            computed.kv + needs.borrowed(computed.kv_uses),
        );
        if computed.n_encoder_layers > 0 {
            // One for all of them.
            terms.add(Term::KvCache, needs.encoder_kv);
            terms.add(Term::Activations, needs.encoder_bias);
        }
    }

    /// Memory for weights that come to a device and rest elsewhere. What is on disk comes through RAM wherever it goes, and so do
    /// rows that are looked up.
    fn staging(&self, memory: Home) -> u64 {
        let of_device = |&run_on: &RunOn| {
            let comes = |at: Placement| at.run_on == run_on && !at.is_resident();
            let from_disk = |at: Placement| comes(at) && at.home == Home::Disk;
            let (largest, are_cut) = match memory {
                Home::Ram => {
                    let maxima = self.maxima(from_disk);
                    (maxima.staged, maxima.are_cut)
                }
                Home::Gpu(_) if run_on.memory() == memory => {
                    let maxima = self.maxima(comes);
                    (maxima.resting, maxima.are_cut)
                }
                Home::Gpu(_) | Home::Disk => return 0,
            };
            let tables = self.totals(comes).looked_up;
            let rows = tables.map(|row| whole_pages(self.needs.n_tokens * row));
            staging_slots(are_cut) * whole_pages(largest) + rows.iter().sum::<u64>()
        };
        self.devices().iter().map(of_device).sum()
    }

    /// RAM of a tensor on its way, at most.
    fn load_transient(&self) -> u64 {
        let stays = |at: Placement| at.home == Home::Ram && !rests_in_ram(at);
        let in_ram = self.maxima(stays);
        let elsewhere = self.maxima(|at| !stays(at));
        in_ram.source.max(elsewhere.on_its_way)
    }

    /// RAM of the process for passes, wherever they compute.
    fn host(&self) -> u64 {
        let host = &self.needs.host;
        let n_devices = self.devices().len();
        let crosses = n_devices > 1 || host.always_crosses;
        let hidden = if crosses { host.hidden } else { 0 };
        host.logits + host.history + hidden + n_devices as u64 * host.per_device
    }

    fn devices(&self) -> BTreeSet<RunOn> {
        self.used().map(|(placement, _)| placement.run_on).collect()
    }

    /// Placements that some units have.
    fn used(&self) -> impl Iterator<Item = &(Placement, Tally)> {
        let tallies = self.tallies.iter();
        tallies.filter(|(_, tally)| tally.totals.n_units > 0)
    }

    fn computed(&self, run_on: RunOn) -> Totals {
        self.totals(|placement| placement.run_on == run_on)
    }

    fn totals(&self, of: impl Fn(Placement) -> bool) -> Totals {
        let tallies = self.used().filter(|(placement, _)| of(*placement));
        tallies.fold(Totals::default(), |sum, (_, tally)| sum.plus(tally.totals))
    }

    fn maxima(&self, of: impl Fn(Placement) -> bool) -> Maxima {
        let tallies = self.used().filter(|(placement, _)| of(*placement));
        tallies.fold(Maxima::default(), |max, (_, tally)| max.max(tally.maxima))
    }
}

/// True of what rests in RAM and computes on a GPU.
pub(crate) fn rests_in_ram(at: Placement) -> bool {
    at.home == Home::Ram && !at.is_resident()
}
