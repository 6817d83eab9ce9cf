use llm_arch::{Side, Unit};

use crate::needs::{DeviceNeeds, Lent, Use};
use crate::weights::Footprint;

/// Memory of some units, in bytes, as one kind of device computes with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    pub(crate) totals: Totals,
    pub(crate) maxima: Maxima,
}

/// Sums over units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Totals {
    pub(crate) n_units: u64,
    pub(crate) n_encoder_layers: u64,
    pub(crate) n_heads: u64,
    pub(crate) elements: u64,
    pub(crate) statistics: u64,
    pub(crate) unfinished: u64,
    pub(crate) padding: u64,
    pub(crate) looked_up: [u64; 3],
    pub(crate) kv: u64,
    /// Of layers whose keys and values others see.
    pub(crate) kv_uses: [Use; Lent::MOST],
}

/// Maxima over units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Maxima {
    pub(crate) staged: u64,
    pub(crate) resting: u64,
    pub(crate) source: u64,
    pub(crate) on_its_way: u64,
    /// True if some are.
    pub(crate) are_cut: bool,
}

impl Tally {
    /// Tally of one unit.
    pub(crate) fn of(unit: Unit, footprint: &Footprint, needs: &DeviceNeeds) -> Self {
        let (kv, n_encoder_layers, n_heads) = match unit {
            Unit::Layer(Side::Decoder, i) => (needs.kv[i], 0, 0),
            Unit::Layer(Side::Encoder, _) => (0, 1, 0),
            Unit::Head => (0, 0, 1),
            Unit::Embedding | Unit::PerLayerTable | Unit::Expert { .. } | Unit::FinalNorm(_) => {
                (0, 0, 0)
            }
        };
        let kv_uses = match unit {
            Unit::Layer(Side::Decoder, i) => needs.lent.uses(i),
            _ => Default::default(),
        };
        Tally {
            totals: Totals {
                n_units: 1,
                n_encoder_layers,
                n_heads,
                elements: footprint.elements,
                statistics: footprint.statistics,
                unfinished: footprint.unfinished,
                padding: footprint.padding(),
                looked_up: footprint.looked_up,
                kv,
                kv_uses,
            },
            maxima: Maxima {
                staged: footprint.staged.at_once(footprint.is_cut),
                resting: footprint.resting.at_once(footprint.is_cut),
                are_cut: footprint.is_cut,
                source: footprint.source,
                on_its_way: footprint.on_its_way,
            },
        }
    }

    /// Adds units.
    pub(crate) fn add(&mut self, units: &Tally) {
        self.totals = self.totals.plus(units.totals);
        self.maxima = self.maxima.max(units.maxima);
    }
}

impl Totals {
    /// Elements, and what they are decoded with.
    pub(crate) fn weights(self) -> u64 {
        self.elements + self.statistics
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        self.with(other, |a, b| a + b)
    }

    pub(crate) fn minus(self, other: Self) -> Self {
        self.with(other, |a, b| a - b)
    }

    pub(crate) fn times(self, n: usize) -> Self {
        self.with(self, |a, _| a * n as u64)
    }

    fn with(self, other: Self, join: impl Fn(u64, u64) -> u64) -> Self {
        Totals {
            n_units: join(self.n_units, other.n_units),
            n_encoder_layers: join(self.n_encoder_layers, other.n_encoder_layers),
            n_heads: join(self.n_heads, other.n_heads),
            elements: join(self.elements, other.elements),
            statistics: join(self.statistics, other.statistics),
            unfinished: join(self.unfinished, other.unfinished),
            padding: join(self.padding, other.padding),
            looked_up: [0, 1, 2].map(|i| join(self.looked_up[i], other.looked_up[i])),
            kv: join(self.kv, other.kv),
            kv_uses: std::array::from_fn(|i| {
                let (own, other) = (self.kv_uses[i], other.kv_uses[i]);
                Use {
                    lends: join(own.lends, other.lends),
                    borrows: join(own.borrows, other.borrows),
                }
            }),
        }
    }
}

impl Maxima {
    pub(crate) fn max(self, other: Self) -> Self {
        Maxima {
            staged: self.staged.max(other.staged),
            resting: self.resting.max(other.resting),
            source: self.source.max(other.source),
            on_its_way: self.on_its_way.max(other.on_its_way),
            are_cut: self.are_cut || other.are_cut,
        }
    }
}
