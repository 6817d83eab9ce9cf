//! Memory of a model whose units are placed.

use llm_arch::Unit;
use llm_tensor::Bytes;

use crate::ledger::{Ledger, Tally, rests_in_ram};
use crate::needs::Needs;
use crate::weights::Weights;
use crate::{Home, MemoryUse, Placement, Term};

/// Memory of one unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitUse {
    /// The unit.
    pub unit: Unit,
    /// Its home and device.
    pub placement: Placement,
    /// The elements of its weights, with what lies between them where it rests in RAM and computes on a GPU.
    pub weights: Bytes,
    /// Their scales and tables.
    pub quantization_statistics: Bytes,
    /// Its keys and values, or states, of all sequences, where it computes.
    pub kv_cache: Bytes,
    /// Bytes of its weights that a pass reads: all but tables that are only looked up in.
    pub per_pass: Bytes,
    /// Bytes of these that only the first pass after a prompt reads: what makes keys and values of an encoder's result.
    pub of_encoded: Bytes,
    /// Multiplications of these with one row.
    pub products: u64,
    /// Bytes of its weights that the checkpoint holds in their final form.
    pub in_place: Bytes,
}

/// Memory of a model, to the byte: by home, and by unit as far as it is the unit's own.
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
        let mut ledger = Ledger::new(needs);
        let units = weights.units.list().iter().zip(placements).enumerate();
        let units = units
            .map(|(idx, (&unit, &placement))| {
                let footprint = weights.on(placement.run_on).of_unit(idx);
                let tally = Tally::of(unit, footprint, needs.on(placement.run_on));
                ledger.add(placement, &tally);
                let padding = match rests_in_ram(placement) {
                    true => footprint.padding(),
                    false => 0,
                };
                UnitUse {
                    unit,
                    placement,
                    weights: Bytes::new(footprint.elements + padding),
                    quantization_statistics: Bytes::new(footprint.statistics),
                    kv_cache: Bytes::new(tally.totals.kv),
                    per_pass: Bytes::new(footprint.per_pass),
                    of_encoded: Bytes::new(footprint.of_encoded),
                    products: footprint.products,
                    in_place: Bytes::new(footprint.in_place()),
                }
            })
            .collect();
        MemoryEstimate {
            encoder_kv: ledger.encoder_kv(),
            memories: ledger.memories(),
            units,
        }
    }
}
