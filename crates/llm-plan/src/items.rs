//! Units in the order in which they are filled in, and what runs of them take.

use std::cell::OnceCell;
use std::ops::Range;

use llm_arch::{Side, Unit};

use crate::RunOn;
use crate::needs::Needs;
use crate::staging::Staging;
use crate::weights::Weights;

/// In which order, and in what portions, units are filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// As they compute, each layer with its experts.
    Layers,
    /// As they compute, but experts one by one after all that every token needs.
    ExpertsLast,
}

/// How much of a unit a token reads: the more, the faster the memory that it belongs into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
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

/// Portions in the order in which they are filled in, and sums over runs of them.
pub(crate) struct Items<'a> {
    weights: &'a Weights,
    needs: &'a Needs,
    portions: Portions,
    /// Encoder layers in the first items.
    n_encoder: Vec<usize>,
    /// The item that has the head, if one has.
    head: Option<usize>,
    gpu: OnceCell<Sums>,
    cpu: OnceCell<Sums>,
}

/// Sums and maxima over the first items, and over the last: one more of them than items.
struct Sums {
    weights: Vec<u64>,
    kv: Vec<u64>,
    staging_of_last: Vec<u64>,
    unfinished_of_last: Vec<u64>,
    source_of_last: Vec<u64>,
    on_its_way_of_first: Vec<u64>,
    on_its_way_of_last: Vec<u64>,
}

impl Portions {
    pub(crate) fn new() -> Self {
        Portions {
            units: Vec::new(),
            starts: vec![0],
        }
    }

    /// All units of a model: the norm before the head with it, a tied head with its table.
    pub(crate) fn of(weights: &Weights, order: Order) -> Self {
        let units = &weights.units;
        let is_last = |&idx: &usize| match units.list()[idx] {
            Unit::FinalNorm(Side::Decoder) | Unit::Head => true,
            Unit::Embedding
            | Unit::Layer(..)
            | Unit::Expert { .. }
            | Unit::FinalNorm(Side::Encoder) => false,
        };
        let is_expert = |idx: usize| matches!(units.list()[idx], Unit::Expert { .. });
        let last: Vec<usize> = units.in_order_of_computing().filter(is_last).collect();
        let mut portions = Portions::new();
        for idx in units.in_order_of_computing().filter(|idx| !is_last(idx)) {
            match (is_expert(idx), order) {
                (true, Order::ExpertsLast) => {}
                (true, Order::Layers) => portions.extend(&[idx]),
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
            Order::Layers => {}
            Order::ExpertsLast => {
                let experts = units.in_order_of_computing().filter(|&idx| is_expert(idx));
                experts.for_each(|idx| portions.push(&[idx]));
            }
        }
        portions
    }

    /// The same with portions from `first` on in another order: by [`Use`], the head before all layers, and these so that
    /// any number of the first of them lie among the others at equal distances. Where they rest in faster memory than
    /// the others, these are brought while those compute; and where the head does, which is often the largest, it takes
    /// no staging place.
    fn evenly(&self, first: usize, weights: &Weights) -> Self {
        let list = weights.units.list();
        let mut rest: Vec<usize> = (first..self.len()).collect();
        rest.sort_by_cached_key(|&portion| {
            let units = self.units(portion..portion + 1);
            let has_head = units.contains(&(list.len() - 1));
            let unit = list[units[0]];
            let distributed = match unit {
                _ if has_head => 0,
                Unit::Layer(_, i) | Unit::Expert { layer: i, .. } => 1 + evenly_distributed(i),
                Unit::Embedding | Unit::FinalNorm(_) | Unit::Head => 0,
            };
            (use_of(unit, weights.is_tied), distributed)
        });
        let mut portions = Portions::new();
        for portion in (0..first).chain(rest) {
            portions.push(self.units(portion..portion + 1));
        }
        portions
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
        let list = weights.units.list();
        let is_encoder = |&&idx: &&usize| matches!(list[idx], Unit::Layer(Side::Encoder, _));
        let mut n_encoder = vec![0];
        let mut head = None;
        for item in 0..portions.len() {
            let units = portions.units(item..item + 1);
            n_encoder.push(n_encoder[item] + units.iter().filter(is_encoder).count());
            if units.contains(&(list.len() - 1)) {
                head = Some(item);
            }
        }
        Items {
            weights,
            needs,
            portions,
            n_encoder,
            head,
            gpu: OnceCell::new(),
            cpu: OnceCell::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.portions.len()
    }

    /// The units of some items.
    pub(crate) fn units(&self, items: Range<usize>) -> &[usize] {
        self.portions.units(items)
    }

    /// What passes take beside weights.
    pub(crate) fn needs(&self) -> &'a Needs {
        self.needs
    }

    /// The same with items from `first` on in the order in which RAM takes them before the disk does.
    pub(crate) fn evenly(&self, first: usize) -> Self {
        let portions = self.portions.evenly(first, self.weights);
        Items::new(self.weights, self.needs, portions)
    }

    fn on(&self, run_on: RunOn) -> &Sums {
        match run_on {
            RunOn::Gpu(_) => self.gpu.get_or_init(|| self.sums(run_on)),
            RunOn::Cpu => self.cpu.get_or_init(|| self.sums(run_on)),
        }
    }

    /// The weights of some items.
    pub(crate) fn weights(&self, run_on: RunOn, items: Range<usize>) -> u64 {
        let sums = &self.on(run_on).weights;
        sums[items.end] - sums[items.start]
    }

    /// What a device takes beside weights that computes with some items.
    pub(crate) fn device(&self, run_on: RunOn, items: [Range<usize>; 2]) -> u64 {
        if items.iter().all(Range::is_empty) {
            return 0;
        }
        let (needs, kv) = (self.needs.on(run_on), &self.on(run_on).kv);
        let mut n_bytes = needs.fixed + needs.workspace + needs.activations;
        n_bytes += items
            .iter()
            .map(|items| kv[items.end] - kv[items.start])
            .sum::<u64>();
        let has_head = |head| items.iter().any(|items| items.contains(&head));
        if self.head.is_some_and(has_head) {
            n_bytes += needs.head;
        }
        let has_encoder =
            |items: &Range<usize>| self.n_encoder[items.end] > self.n_encoder[items.start];
        if items.iter().any(has_encoder) {
            n_bytes += needs.encoder_kv + needs.encoder_bias;
        }
        n_bytes
    }

    /// What a memory takes that the items from `first` on are streamed to.
    pub(crate) fn staging(&self, run_on: RunOn, first: usize) -> u64 {
        self.on(run_on).staging_of_last[first]
    }

    /// What has to be written for the items from `first` on to rest on disk.
    pub(crate) fn unfinished(&self, run_on: RunOn, first: usize) -> u64 {
        self.on(run_on).unfinished_of_last[first]
    }

    /// What a tensor takes on its way at most: the first `n_gpu` items to GPUs, those from `first_disk` on, for `tail`,
    /// to disk, those between, for the same, to RAM.
    pub(crate) fn load_transient(&self, n_gpu: usize, first_disk: usize, tail: RunOn) -> u64 {
        let tail = self.on(tail);
        let first = match n_gpu {
            0 => 0,
            _ => self.on(RunOn::Gpu(0)).on_its_way_of_first[n_gpu],
        };
        first
            .max(tail.source_of_last[n_gpu])
            .max(tail.on_its_way_of_last[first_disk])
    }

    fn sums(&self, run_on: RunOn) -> Sums {
        let (footprints, list) = (self.weights.on(run_on), self.weights.units.list());
        let needs = self.needs.on(run_on);
        let kv = |idx: usize| match list[idx] {
            Unit::Layer(Side::Decoder, i) => needs.kv[i],
            _ => 0,
        };
        let n = self.len();
        let item = |i: usize| self.units(i..i + 1).iter();
        let sum = |of: &dyn Fn(usize) -> u64| -> Vec<u64> {
            let mut sums = vec![0; n + 1];
            for i in 0..n {
                sums[i + 1] = sums[i] + item(i).map(|&idx| of(idx)).sum::<u64>();
            }
            sums
        };
        let max_of_first = |of: &dyn Fn(usize) -> u64| -> Vec<u64> {
            let mut maxima = vec![0; n + 1];
            for i in 0..n {
                maxima[i + 1] = item(i).fold(maxima[i], |max, &idx| max.max(of(idx)));
            }
            maxima
        };
        let of_last = |of: &dyn Fn(usize) -> u64, join: fn(u64, u64) -> u64| -> Vec<u64> {
            let mut joined = vec![0; n + 1];
            for i in (0..n).rev() {
                joined[i] = item(i).fold(joined[i + 1], |all, &idx| join(all, of(idx)));
            }
            joined
        };
        let mut staging = Staging::default();
        let mut staging_of_last = vec![0; n + 1];
        for i in (0..n).rev() {
            item(i).for_each(|&idx| staging.add(&footprints[idx]));
            staging_of_last[i] = staging.bytes(self.needs);
        }
        Sums {
            weights: sum(&|idx| footprints[idx].total()),
            kv: sum(&kv),
            staging_of_last,
            unfinished_of_last: of_last(&|idx| footprints[idx].unfinished, |a, b| a + b),
            source_of_last: of_last(&|idx| footprints[idx].source, u64::max),
            on_its_way_of_first: max_of_first(&|idx| footprints[idx].on_its_way),
            on_its_way_of_last: of_last(&|idx| footprints[idx].on_its_way, u64::max),
        }
    }
}

fn use_of(unit: Unit, is_tied: bool) -> Use {
    match unit {
        Unit::Embedding if !is_tied => Use::Rows,
        Unit::Embedding | Unit::Layer(Side::Decoder, _) => Use::EveryToken,
        Unit::FinalNorm(Side::Decoder) | Unit::Head => Use::EveryToken,
        Unit::Expert { .. } => Use::SomeTokens,
        Unit::Layer(Side::Encoder, _) | Unit::FinalNorm(Side::Encoder) => Use::Prompt,
    }
}

/// A layer's place in an order any beginning of which is spread evenly over all layers: its multiple of the golden ratio,
/// but for whole numbers, in units of 2⁻⁶³. Multiples of that ratio fall into the largest gaps that those before them
/// leave (the three-distance theorem).
fn evenly_distributed(layer: usize) -> u64 {
    const RATIO: u64 = 0x9e37_79b9_7f4a_7c15;
    (layer as u64).wrapping_mul(RATIO) >> 1
}
