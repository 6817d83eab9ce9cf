//! Units in the order in which they are filled in, and what runs of them take.

use std::cell::OnceCell;
use std::ops::Range;

use llm_arch::{Side, Unit};

use crate::ledger::{Ledger, Runs, Tally};
use crate::needs::Needs;
use crate::placement::Division;
use crate::weights::Weights;
use crate::{Home, Placement, RunOn};

/// PlacementOrder and portions in which units are filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PlacementOrder {
    /// As they compute, each layer with its experts.
    Layers,
    /// As they compute, but experts one by one after all that every token needs.
    ExpertsLast,
    /// By how much of them a token reads: experts after what every token needs, then an encoder, a table that is looked up in
    /// last.
    MostReadFirst,
}

/// The head's place among what every token reads, in the order in which RAM takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadAmong {
    /// Before the layers: it is often the largest, and what room it leaves is smaller than a layer.
    First,
    /// After them, where there is no room for it.
    Last,
}

/// Share of a unit that a token reads: the more, the faster the memory that it belongs into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum ReadBy {
    /// All of it.
    EveryToken,
    /// All of it, if a router chooses it.
    SomeTokens,
    /// Nothing: an encoder reads the prompt, once.
    Prompt,
    /// A row.
    Rows,
}

/// Portions of units that are placed together, one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Portions {
    /// Indices of units; portion `i` is those from `starts[i]` to `starts[i + 1]`.
    units: Vec<usize>,
    starts: Vec<usize>,
}

/// Portions in the order in which they are filled in, and what runs of them take.
pub(crate) struct Items<'a> {
    weights: &'a Weights,
    needs: &'a Needs,
    portions: Portions,
    /// Those that read the prompt alone: an encoder, which is in one piece in every order.
    prompt: Range<usize>,
    /// By kind of device.
    runs: Vec<OnceCell<Runs>>,
}

impl Portions {
    pub(crate) fn new() -> Self {
        Portions {
            units: Vec::new(),
            starts: vec![0],
        }
    }

    /// All units of a model: the norm before the head with it, a tied head with its table.
    pub(crate) fn of(weights: &Weights, order: PlacementOrder) -> Self {
        let units = &weights.units;
        let is_last = |&idx: &usize| match units.list()[idx] {
            Unit::FinalNorm(Side::Decoder) | Unit::Head => true,
            Unit::Embedding
            | Unit::PerLayerTable
            | Unit::Layer(..)
            | Unit::Expert { .. }
            | Unit::FinalNorm(Side::Encoder) => false,
        };
        let is_expert = |idx: usize| matches!(units.list()[idx], Unit::Expert { .. });
        let last: Vec<usize> = units.in_order_of_computing().filter(is_last).collect();
        let mut portions = Portions::new();
        for idx in units.in_order_of_computing().filter(|idx| !is_last(idx)) {
            match (is_expert(idx), order) {
                (true, PlacementOrder::ExpertsLast | PlacementOrder::MostReadFirst) => {}
                (true, PlacementOrder::Layers) => portions.extend(&[idx]),
                (false, _) => portions.push(&[idx]),
            }
            if idx == 0 && weights.is_tied {
                portions.extend(&last);
            }
        }
        if !weights.is_tied {
            portions.push(&last);
        }
        match order {
            PlacementOrder::Layers => {}
            PlacementOrder::ExpertsLast | PlacementOrder::MostReadFirst => {
                let experts = units.in_order_of_computing().filter(|&idx| is_expert(idx));
                experts.for_each(|idx| portions.push(&[idx]));
            }
        }
        match order {
            PlacementOrder::Layers | PlacementOrder::ExpertsLast => portions,
            PlacementOrder::MostReadFirst => portions.most_read_first(weights),
        }
    }

    /// The same by [`ReadBy`]; of what is read alike as it was.
    fn most_read_first(&self, weights: &Weights) -> Self {
        let read_by = |portion: &usize| {
            let unit = weights.units.list()[self.units(*portion..portion + 1)[0]];
            read_by(unit, weights.is_tied)
        };
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_by_key(read_by);
        self.reordered(order)
    }

    /// The same portions in another order.
    fn reordered(&self, order: impl IntoIterator<Item = usize>) -> Self {
        let mut portions = Portions {
            units: Vec::with_capacity(self.units.len()),
            starts: Vec::with_capacity(self.starts.len()),
        };
        portions.starts.push(0);
        for portion in order {
            portions.push(self.units(portion..portion + 1));
        }
        portions
    }

    /// The same with portions from `first` on in another order: by [`ReadBy`], the head before all layers or after them, and
    /// these so that any number of the first of them lie among the others at equal distances. Where they rest in faster memory
    /// than the others, these are brought while those compute. Where they are divided between devices, part by part.
    fn evenly(
        &self,
        (first, head): (usize, HeadAmong),
        division: Option<Division>,
        weights: &Weights,
    ) -> Self {
        let list = weights.units.list();
        let rank = |portion: usize| {
            let units = self.units(portion..portion + 1);
            let has_head = units.contains(&(list.len() - 1));
            let unit = list[units[0]];
            let distributed = match unit {
                _ if has_head => match head {
                    HeadAmong::First => 0,
                    HeadAmong::Last => u64::MAX,
                },
                Unit::Layer(_, i) | Unit::Expert { layer: i, .. } => 1 + evenly_distributed(i),
                Unit::Embedding | Unit::PerLayerTable | Unit::FinalNorm(_) | Unit::Head => 0,
            };
            let is_second = division.is_some_and(|of| of.is_second(portion, self.len()));
            (is_second, read_by(unit, weights.is_tied), distributed)
        };
        // A layer's experts have one rank, and are sorted as one.
        let mut rest: Vec<(_, Range<usize>)> = Vec::new();
        for portion in first..self.len() {
            let rank = rank(portion);
            match rest.last_mut() {
                Some((last, portions)) if *last == rank => portions.end += 1,
                _ => rest.push((rank, portion..portion + 1)),
            }
        }
        rest.sort_by_key(|&(rank, _)| rank);
        self.reordered((0..first).chain(rest.into_iter().flat_map(|(_, portions)| portions)))
    }

    /// The same with portions from `first` on in the order in which RAM takes the parts of a division.
    fn divided(&self, first: usize, division: Division) -> Self {
        let mut order: Vec<usize> = (0..self.len()).collect();
        order[first..].sort_by_key(|&portion| division.is_second(portion, self.len()));
        self.reordered(order)
    }

    /// Adds a portion.
    pub(crate) fn push(&mut self, units: &[usize]) {
        self.units.extend_from_slice(units);
        self.starts.push(self.units.len());
    }

    /// Adds to the last portion.
    fn extend(&mut self, units: &[usize]) {
        self.starts.pop();
        self.push(units);
    }

    pub(crate) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// The units of some portions.
    pub(crate) fn units(&self, portions: Range<usize>) -> &[usize] {
        &self.units[self.starts[portions.start]..self.starts[portions.end]]
    }
}

impl<'a> Items<'a> {
    pub(crate) fn new(weights: &'a Weights, needs: &'a Needs, portions: Portions) -> Self {
        let is_prompt = |portion: &usize| {
            let units = portions.units(*portion..portion + 1);
            units
                .iter()
                .all(|&idx| reads_prompt(weights.units.list()[idx]))
        };
        let first = (0..portions.len())
            .find(is_prompt)
            .unwrap_or(portions.len());
        let n_prompt = (first..portions.len()).take_while(is_prompt).count();
        Items {
            prompt: first..first + n_prompt,
            weights,
            needs,
            portions,
            runs: (0..needs.n_kinds()).map(|_| OnceCell::new()).collect(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.portions.len()
    }

    /// The units of some items.
    pub(crate) fn units(&self, items: Range<usize>) -> &[usize] {
        self.portions.units(items)
    }

    /// Those of some items that read the prompt alone.
    pub(crate) fn prompt(&self, items: Range<usize>) -> Range<usize> {
        let start = self.prompt.start.clamp(items.start, items.end);
        start..self.prompt.end.clamp(start, items.end)
    }

    /// True if a unit reads the prompt alone.
    pub(crate) fn reads_prompt(&self, idx: usize) -> bool {
        reads_prompt(self.weights.units.list()[idx])
    }

    /// Memory of passes beside weights.
    pub(crate) fn needs(&self) -> &'a Needs {
        self.needs
    }

    /// The same with items from `first` on in the order in which RAM takes them before the disk does.
    pub(crate) fn evenly(&self, from: (usize, HeadAmong), division: Option<Division>) -> Self {
        let portions = self.portions.evenly(from, division, self.weights);
        Items::new(self.weights, self.needs, portions)
    }

    /// The same, but as they are filled in within a part of a division.
    pub(crate) fn divided(&self, first: usize, division: Division) -> Self {
        let portions = self.portions.divided(first, division);
        Items::new(self.weights, self.needs, portions)
    }

    /// Tally of some items as a device computes with them.
    pub(crate) fn tally(&self, run_on: RunOn, items: Range<usize>) -> Tally {
        self.runs(run_on).tally(items)
    }

    /// Bytes on a GPU that holds some items and to which others are streamed.
    pub(crate) fn on_gpu(&self, run_on: RunOn, held: Range<usize>, streamed: Range<usize>) -> u64 {
        let mut ledger = Ledger::new(self.needs);
        for (home, items) in [(run_on.memory(), held), (Home::Ram, streamed)] {
            ledger.add(Placement { home, run_on }, &self.tally(run_on, items));
        }
        ledger.memory(run_on.memory()).needed().get()
    }

    /// All items in runs of equal ones, as a device computes with them.
    pub(crate) fn runs(&self, run_on: RunOn) -> &Runs {
        self.runs[self.needs.kind(run_on)].get_or_init(|| {
            let (footprints, list) = (self.weights.on(run_on), self.weights.units.list());
            let needs = self.needs.on(run_on);
            // Of two experts only the weights may differ.
            let expert = |i: usize| match *self.units(i..i + 1) {
                [idx] if matches!(list[idx], Unit::Expert { .. }) => Some(footprints.kind(idx)),
                _ => None,
            };
            let is_same = |i: usize| expert(i).is_some() && expert(i) == expert(i - 1);
            let item = |i: usize| {
                let mut tally = Tally::default();
                for &idx in self.units(i..i + 1) {
                    tally.add(&Tally::of(list[idx], footprints.of_unit(idx), needs));
                }
                tally
            };
            Runs::of(self.len(), is_same, item)
        })
    }
}

/// True of an encoder's units.
pub(crate) fn reads_prompt(unit: Unit) -> bool {
    read_by(unit, false) == ReadBy::Prompt
}

fn read_by(unit: Unit, is_tied: bool) -> ReadBy {
    match unit {
        Unit::PerLayerTable => ReadBy::Rows,
        Unit::Embedding if !is_tied => ReadBy::Rows,
        Unit::Embedding | Unit::Layer(Side::Decoder, _) => ReadBy::EveryToken,
        Unit::FinalNorm(Side::Decoder) | Unit::Head => ReadBy::EveryToken,
        Unit::Expert { .. } => ReadBy::SomeTokens,
        Unit::Layer(Side::Encoder, _) | Unit::FinalNorm(Side::Encoder) => ReadBy::Prompt,
    }
}

/// A layer's place in an order any beginning of which is spread evenly over all layers: its multiple of the golden ratio,
/// but for whole numbers, in units of 2⁻⁶³. Multiples of that ratio fall into the largest gaps that those before them
/// leave (the three-distance theorem).
fn evenly_distributed(layer: usize) -> u64 {
    const RATIO: u64 = 0x9e37_79b9_7f4a_7c15;
    (layer as u64).wrapping_mul(RATIO) >> 1
}
