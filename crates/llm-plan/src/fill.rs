//! Filling memories, fastest first.

use std::ops::Range;

use crate::items::{HeadAmong, Items};
use crate::ledger::{Ledger, largest};
use crate::placement::Division;
use crate::{Budgets, Home, Placement, RunOn};

/// A GPU by its number, and what it may hold.
pub(crate) type Limit = (u32, u64);

/// Each GPU with the successor of its last item, one GPU after the other.
pub(crate) type GpuEnds = Vec<(u32, usize)>;

/// Borders between the memories of a filling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cut {
    gpu_ends: GpuEnds,
    /// Units in RAM; those that are nowhere else either are on disk.
    in_ram: Vec<usize>,
    /// Devices of what no GPU holds.
    tails: Tails,
}

/// Devices of what no GPU holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tails {
    /// Device of what reads the prompt alone.
    prompt: RunOn,
    /// Device of all else.
    other: RunOn,
    /// What the CPU computes with of it.
    divided: Option<Division>,
}

impl Tails {
    /// One for all.
    pub(crate) fn one(run_on: RunOn) -> Self {
        Tails {
            prompt: run_on,
            other: run_on,
            divided: None,
        }
    }
}

/// GPU to which something is streamed, and what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Streamer {
    number: u32,
    what: Streamed,
}

/// Part of what no GPU holds that is streamed to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Streamed {
    /// All of it.
    All,
    /// Units that read the prompt alone; the CPU computes with the rest.
    Prompt,
    /// What a division leaves to it.
    Part(Division),
}

impl Streamer {
    fn tails(self) -> Tails {
        let run_on = RunOn::Gpu(self.number);
        match self.what {
            Streamed::All => Tails::one(run_on),
            Streamed::Prompt => Tails {
                prompt: run_on,
                other: RunOn::Cpu,
                divided: None,
            },
            Streamed::Part(division) => Tails {
                divided: Some(division),
                ..Tails::one(run_on)
            },
        }
    }
}

impl Cut {
    /// Items that GPUs hold.
    pub(crate) fn n_gpu(&self) -> usize {
        self.gpu_ends.last().map_or(0, |&(_, end)| end)
    }

    /// By unit.
    pub(crate) fn placements(&self, items: &Items<'_>) -> Vec<Placement> {
        let tail = |idx| match items.reads_prompt(idx) {
            true => self.tails.prompt,
            false => self.tails.other,
        };
        let rest = |idx| Placement {
            home: Home::Disk,
            run_on: tail(idx),
        };
        let n_units = items.units(0..items.len()).len();
        let mut placements: Vec<_> = (0..n_units).map(rest).collect();
        for &idx in &self.in_ram {
            placements[idx].home = Home::Ram;
        }
        if let Some(division) = self.tails.divided {
            let n = items.len();
            let first = n.saturating_sub(division.n_on_cpu).max(self.n_gpu());
            for &idx in items.units(first..n) {
                placements[idx].run_on = RunOn::Cpu;
            }
        }
        let mut start = 0;
        for &(number, end) in &self.gpu_ends {
            for &idx in items.units(start..end) {
                placements[idx] = Placement {
                    home: Home::Gpu(number),
                    run_on: RunOn::Gpu(number),
                };
            }
            start = end;
        }
        placements
    }
}

/// Items to fill in, and budgets.
pub(crate) struct Filling<'a> {
    pub(crate) items: &'a Items<'a>,
    pub(crate) budgets: &'a Budgets,
    pub(crate) beside_gpus: BesideGpus,
}

/// Order in which RAM takes what no GPU holds, before the disk takes the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BesideGpus {
    /// As it is filled in.
    InOrder,
    /// As [`Items::evenly`] has it.
    Evenly,
}

impl Filling<'_> {
    /// All on GPUs that these hold, the first one first; where something is left over, one of them has places for it to
    /// be streamed to. `None` where not even those fit on any.
    pub(crate) fn streamed(&self, what: Streamed) -> Option<Result<Cut, Cut>> {
        let limits = self.limits();
        let mut best: Option<(Streamer, GpuEnds)> = None;
        // Among equals the last, which follows the others in computing too.
        for &(number, _) in limits.iter().rev() {
            let streamer = Streamer { number, what };
            let held = |ends: &GpuEnds| ends.last().map_or(0, |&(_, end)| end + 1);
            let from = best.as_ref().map_or(0, |(_, ends)| held(ends));
            if let Some(ends) = self.most_on_gpus(&limits, from, Some(streamer)) {
                best = Some((streamer, ends));
            }
        }
        best.map(|(streamer, ends)| self.rest(ends, streamer.tails()))
    }

    /// As much on the largest GPU as makes it need least, the rest streamed to it from RAM: the filling that shows what
    /// GPUs lack that cannot be streamed to.
    pub(crate) fn least_streamed(&self) -> Option<Cut> {
        let n = self.items.len();
        let largest = self.limits().into_iter().max_by_key(|&(_, limit)| limit);
        largest.map(|(number, _)| {
            let run_on = RunOn::Gpu(number);
            let needed = |n_gpu| self.items.on_gpu(run_on, 0..n_gpu, n_gpu..n);
            let n_gpu = self.items.runs(run_on).least(0, needed);
            Cut {
                gpu_ends: vec![(number, n_gpu)],
                in_ram: self.items.units(n_gpu..n).to_vec(),
                tails: Tails::one(run_on),
            }
        })
    }

    /// The same as `streamed`, but the CPU computes with what is left over; GPUs may hold nothing.
    pub(crate) fn shared_with_cpu(&self) -> Result<Cut, Cut> {
        let limits = self.limits();
        let ends = self.most_on_gpus(&limits, 0, None);
        self.rest(ends.unwrap_or_default(), Tails::one(RunOn::Cpu))
    }

    /// The CPU computes with everything.
    pub(crate) fn cpu(&self) -> Result<Cut, Cut> {
        self.rest(Vec::new(), Tails::one(RunOn::Cpu))
    }

    /// The same items on GPUs as `cut` has there, with GPUs as equally full as they can be; the first one, if it is to
    /// be spared, as empty as it can be.
    pub(crate) fn balanced(&self, cut: &Cut, spared: Spared) -> Cut {
        let Tails {
            prompt,
            other,
            divided,
        } = cut.tails;
        let streamer = match (prompt, other) {
            (RunOn::Gpu(number), RunOn::Cpu) => Some((number, Streamed::Prompt)),
            (_, RunOn::Gpu(number)) => {
                Some((number, divided.map_or(Streamed::All, Streamed::Part)))
            }
            (RunOn::Cpu, RunOn::Cpu) => None,
        };
        let streamer = streamer.map(|(number, what)| Streamer { number, what });
        let mut limits = self.limits();
        if spared == Spared::First && limits.len() > 1 {
            self.lower(&mut limits, 0..1, cut.n_gpu(), streamer);
            let others = 1..limits.len();
            self.lower(&mut limits, others, cut.n_gpu(), streamer);
        } else {
            let all = 0..limits.len();
            self.lower(&mut limits, all, cut.n_gpu(), streamer);
        }
        let ends = self.gpu_ends(&limits, cut.n_gpu(), streamer);
        // Where more GPUs compute than before, RAM may lack room for what crosses between them.
        let balanced = ends.and_then(|ends| self.rest(ends, cut.tails).ok());
        balanced.unwrap_or_else(|| cut.clone())
    }

    /// Lowers some GPUs' limits to the least that still holds the first `n_gpu` items.
    fn lower(
        &self,
        limits: &mut [Limit],
        which: Range<usize>,
        n_gpu: usize,
        streamer: Option<Streamer>,
    ) {
        let lowered = |ceiling: u64| {
            let mut limits = limits.to_vec();
            for (_, limit) in &mut limits[which.clone()] {
                *limit = ceiling.min(*limit);
            }
            limits
        };
        let (mut low, mut high) = (0, limits.iter().map(|&(_, limit)| limit).max().unwrap_or(0));
        while low < high {
            let middle = low + (high - low) / 2;
            if self.gpu_ends(&lowered(middle), n_gpu, streamer).is_some() {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        let lowered = lowered(high);
        limits.copy_from_slice(&lowered);
    }

    fn limits(&self) -> Vec<Limit> {
        let gpus = self.budgets.gpus.iter();
        gpus.map(|(&number, budget)| (number, budget.get()))
            .collect()
    }

    /// The most items, no fewer than `from`, that GPUs hold, the rest being streamed to one of them.
    fn most_on_gpus(
        &self,
        limits: &[Limit],
        from: usize,
        streamer: Option<Streamer>,
    ) -> Option<GpuEnds> {
        let ends = |n_gpu| self.gpu_ends(limits, n_gpu, streamer);
        match *limits {
            [(number, _)] => {
                let runs = self.items.runs(RunOn::Gpu(number));
                let n_gpu = runs.most(from, |n_gpu| ends(n_gpu).is_some())?;
                ends(n_gpu)
            }
            // With more on one of them, less is streamed to another: what fits may follow what does not.
            _ => (from..=self.items.len()).rev().find_map(ends),
        }
    }

    /// Ends of GPUs among the first `n_gpu` items, each filled before the next, the rest being streamed to one of them;
    /// `None` where they do not fit.
    fn gpu_ends(
        &self,
        limits: &[Limit],
        n_gpu: usize,
        streamer: Option<Streamer>,
    ) -> Option<GpuEnds> {
        let n = self.items.len();
        let streamed = match streamer.map(|streamer| streamer.what) {
            // What the CPU computes with no GPU holds.
            Some(Streamed::Part(division)) if n_gpu + division.n_on_cpu > n => return None,
            Some(Streamed::Part(division)) => n_gpu..n - division.n_on_cpu,
            Some(Streamed::All) => n_gpu..n,
            Some(Streamed::Prompt) => self.items.prompt(n_gpu..n),
            None => n..n,
        };
        let mut start = 0;
        let mut ends = Vec::with_capacity(limits.len());
        for (i, &(number, limit)) in limits.iter().enumerate() {
            let run_on = RunOn::Gpu(number);
            let tail = match streamer.filter(|streamer| streamer.number == number) {
                Some(_) => streamed.clone(),
                None => n..n,
            };
            let fits = |end: usize| self.items.on_gpu(run_on, start..end, tail.clone()) <= limit;
            let end = if fits(n_gpu) {
                n_gpu
            } else if i + 1 == limits.len() || !fits(start) {
                return None;
            } else {
                largest(start..n_gpu, fits)?
            };
            ends.push((number, end));
            start = end;
        }
        (start == n_gpu).then_some(ends)
    }

    /// Fills RAM with what GPUs do not hold, and the disk with the rest. Where that does not fit: the filling that
    /// shows what is lacking.
    pub(crate) fn rest(&self, gpu_ends: GpuEnds, tails: Tails) -> Result<Cut, Cut> {
        let first = self.rest_with(gpu_ends.clone(), tails, HeadAmong::First);
        let has_some =
            |cut: &Result<Cut, Cut>| cut.as_ref().is_ok_and(|cut| !cut.in_ram.is_empty());
        if self.beside_gpus == BesideGpus::InOrder || has_some(&first) {
            return first;
        }
        // RAM has no room for the head, but it may have for layers.
        let last = self.rest_with(gpu_ends, tails, HeadAmong::Last);
        if has_some(&last) { last } else { first }
    }

    fn rest_with(&self, gpu_ends: GpuEnds, tails: Tails, head: HeadAmong) -> Result<Cut, Cut> {
        let n_gpu = gpu_ends.last().map_or(0, |&(_, end)| end);
        let mut on_gpus = Ledger::new(self.items.needs());
        let mut start = 0;
        for &(number, end) in &gpu_ends {
            let (home, run_on) = (Home::Gpu(number), RunOn::Gpu(number));
            let units = self.items.tally(run_on, start..end);
            on_gpus.add(Placement { home, run_on }, &units);
            start = end;
        }
        let n = self.items.len();
        let reordered;
        let items = match (self.beside_gpus, tails.divided) {
            (BesideGpus::InOrder, None) => self.items,
            (BesideGpus::InOrder, Some(division)) => {
                reordered = self.items.divided(n_gpu, division);
                &reordered
            }
            (BesideGpus::Evenly, division) => {
                reordered = self.items.evenly((n_gpu, head), division);
                &reordered
            }
        };
        // Items with their devices, in the order in which RAM takes them.
        let by_device = match tails.divided {
            Some(division) => {
                let on_cpu = division.on_cpu(n - n_gpu);
                let (start, end) = (n_gpu + on_cpu.start, n_gpu + on_cpu.end);
                [
                    (tails.other, n_gpu..start),
                    (RunOn::Cpu, start..end),
                    (tails.other, end..n),
                ]
            }
            None => {
                let prompt = items.prompt(n_gpu..n);
                [
                    (tails.other, n_gpu..prompt.start),
                    (tails.prompt, prompt.clone()),
                    (tails.other, prompt.end..n),
                ]
            }
        };
        let needed = |memory: Home, ram_end: usize| {
            let mut ledger = on_gpus.clone();
            for (home, there) in [(Home::Ram, n_gpu..ram_end), (Home::Disk, ram_end..n)] {
                for (run_on, piece) in &by_device {
                    let (start, run_on) = (piece.start.max(there.start), *run_on);
                    let piece = start..piece.end.min(there.end).max(start);
                    ledger.add(Placement { home, run_on }, &items.tally(run_on, piece));
                }
            }
            ledger.memory(memory).needed()
        };
        let holds = |ram_end: usize| needed(Home::Ram, ram_end) <= self.budgets.ram;
        let (ram_end, fits) = match self.budgets.disk {
            None => (n, holds(n)),
            Some(disk) => {
                let runs = items.runs(tails.other);
                // Once nothing of a device's comes from disk, it takes no buffers: more may fit than would before.
                let borders = by_device.iter().map(|(_, piece)| piece.start).rev();
                match borders.into_iter().find_map(|from| runs.most(from, holds)) {
                    Some(end) => (end, needed(Home::Disk, end) <= disk),
                    None => {
                        let least = |end| needed(Home::Ram, end).get();
                        (runs.least(n_gpu, least), false)
                    }
                }
            }
        };
        let cut = Cut {
            gpu_ends,
            in_ram: items.units(n_gpu..ram_end).to_vec(),
            tails,
        };
        if fits { Ok(cut) } else { Err(cut) }
    }
}

/// GPU that a balanced filling spares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spared {
    /// None is.
    None,
    /// The first is.
    First,
}
