//! Contents of memories, as bars of text.

use llm_plan::{Home, MemoryUse, Shortfall, Term, Verdict};
use llm_tensor::Bytes;

use crate::output::words::short;
use crate::plan::report::{Detail, PlanReport};

/// Contents of a memory at its fullest, beside its budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bar {
    pub(super) home: Home,
    pub(super) needed: Bytes,
    pub(super) budget: Bytes,
    /// Bytes by term; together those that are needed.
    pub(super) parts: Vec<(Term, Bytes)>,
    /// On disk: what rests in the checkpoint's own files and is read there. It takes nothing of the budget.
    pub(super) in_place: Bytes,
}

/// A bar for each memory; where the model does not fit, for those that lack something.
pub(super) fn bars(report: &PlanReport<'_>) -> Vec<Bar> {
    match &report.verdict {
        Verdict::Fits(plan) => {
            let memories = plan.estimate.memories().iter();
            let budget = |home| report.request.budgets.of(home);
            memories
                .map(|memory| Bar::new(memory, budget(memory.home)))
                .collect()
        }
        Verdict::DoesNotFit(refusal) => {
            let shortfalls = refusal.shortfalls.iter().chain(&refusal.on_cpu);
            shortfalls
                .map(|&Shortfall { memory, budget }| Bar::new(&memory, budget))
                .collect()
        }
    }
}

impl Bar {
    fn new(memory: &MemoryUse, budget: Bytes) -> Self {
        let at_load = memory.peak_at_load() > memory.peak_in_generation();
        let is_there = |term: Term| match term {
            Term::Weights | Term::QuantizationStatistics | Term::GpuContext | Term::Program => true,
            Term::LoadTransient => at_load,
            Term::KvCache | Term::Activations | Term::Workspace | Term::Staging => !at_load,
        };
        let needed = memory.needed();
        let parts = match memory.home {
            Home::Disk => vec![(Term::Weights, needed)],
            Home::Gpu(_) | Home::Ram => memory.terms.iter().filter(|&(t, _)| is_there(t)).collect(),
        };
        Bar {
            home: memory.home,
            needed,
            budget,
            parts,
            in_place: memory.in_place,
        }
    }

    /// Bytes of the whole length.
    pub(super) fn scale(&self) -> Bytes {
        beside(self.in_place, self.needed.max(self.budget))
    }

    /// End of the budget on that scale.
    pub(super) fn limit(&self) -> Bytes {
        beside(self.in_place, self.budget)
    }

    /// `13.2 GB of 15.0 GB`; of a disk that weights are read from, that too.
    pub(super) fn figures(&self) -> String {
        let mut text = String::new();
        if self.in_place > Bytes::ZERO {
            let in_place = short(self.in_place);
            text += &format!("{in_place} in the checkpoint's files; written: ");
        }
        text += &format!("{} of {}", short(self.needed), short(self.budget));
        if self.needed > self.budget {
            let missing = self.needed.saturating_sub(self.budget);
            text += &format!(", {} too much", short(missing));
        }
        text
    }

    /// `12.1 GB of weights, 1.0 GB of KV cache`.
    pub(super) fn breakdown(&self) -> String {
        let parts = self.parts.iter();
        let parts = parts.map(|(term, bytes)| format!("{} of {term}", short(*bytes)));
        let text = parts.collect::<Vec<_>>().join(", ");
        match (self.needed, self.in_place) {
            (_, Bytes::ZERO) => text,
            (Bytes::ZERO, bytes) => format!("{} that the checkpoint holds as needed", short(bytes)),
            (_, bytes) => format!(
                "{text}, beside {} that the checkpoint holds as needed",
                short(bytes)
            ),
        }
    }

    /// The bar, `WIDTH` characters long.
    fn drawn(&self) -> String {
        let cell = |bytes: Bytes| {
            let scale = u128::from(self.scale().get().max(1));
            (u128::from(bytes.get()) * WIDTH as u128).div_ceil(scale) as usize
        };
        let mut text = String::new();
        let (mut sum, mut n_cells) = (Bytes::ZERO, 0);
        let in_place = std::iter::once((IN_PLACE, self.in_place));
        let parts = self.parts.iter().map(|&(term, bytes)| (fill(term), bytes));
        for (fill, bytes) in in_place.chain(parts) {
            sum += bytes;
            let end = cell(sum);
            text.extend(std::iter::repeat_n(fill, end - n_cells));
            n_cells = end;
        }
        text.extend(std::iter::repeat_n(FREE, WIDTH - n_cells));
        if self.needed <= self.budget {
            return text;
        }
        let limit = cell(self.limit()).min(WIDTH - 1);
        let chars = text.chars().enumerate();
        chars
            .map(|(i, c)| if i == limit { LIMIT } else { c })
            .collect()
    }
}

/// Bars of all memories, in detail each with its terms, and a legend.
pub(super) fn text(bars: &[Bar], detail: Detail) -> String {
    let mut text = String::new();
    for bar in bars {
        let home = bar.home.to_string();
        text += &format!("{home:<6} {}  {}\n", bar.drawn(), bar.figures());
        match detail {
            Detail::Short => {}
            Detail::Full => text += &format!("       {}\n", bar.breakdown()),
        }
    }
    let in_place = match bars.iter().any(|bar| bar.in_place > Bytes::ZERO) {
        true => format!("  {IN_PLACE} weights in the checkpoint's files"),
        false => String::new(),
    };
    let limit = match bars.iter().any(|bar| bar.needed > bar.budget) {
        true => format!("  {LIMIT} budget"),
        false => String::new(),
    };
    text + &format!("       █ weights  ▓ KV cache  ▒ all else{in_place}  {FREE} free{limit}\n")
}

/// Sum of both; a budget may be any number.
fn beside(in_place: Bytes, bytes: Bytes) -> Bytes {
    Bytes::new(in_place.get().saturating_add(bytes.get()))
}

fn fill(term: Term) -> char {
    match term {
        Term::Weights | Term::QuantizationStatistics => '█',
        Term::KvCache => '▓',
        Term::Activations
        | Term::Workspace
        | Term::Staging
        | Term::LoadTransient
        | Term::GpuContext
        | Term::Program => '▒',
    }
}

const WIDTH: usize = 60;
const FREE: char = '·';
const IN_PLACE: char = '░';
const LIMIT: char = '|';

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_fill_a_bar_in_proportion() {
        let mut bar = Bar {
            home: Home::Ram,
            needed: Bytes::new(90),
            budget: Bytes::new(120),
            parts: vec![
                (Term::Weights, Bytes::new(60)),
                (Term::KvCache, Bytes::new(20)),
                (Term::Workspace, Bytes::new(10)),
            ],
            in_place: Bytes::ZERO,
        };
        let cells = |fills: &[(char, usize)]| -> String {
            let all = fills.iter();
            all.flat_map(|&(c, n)| std::iter::repeat_n(c, n)).collect()
        };
        let expected = cells(&[('█', 30), ('▓', 10), ('▒', 5), ('·', 15)]);
        assert_eq!(bar.drawn(), expected);
        assert_eq!(bar.figures(), "90 B of 120 B");
        bar.budget = Bytes::new(45);
        let expected = cells(&[('█', 30), ('|', 1), ('█', 9), ('▓', 14), ('▒', 6)]);
        assert_eq!(bar.drawn(), expected);
        assert_eq!(bar.figures(), "90 B of 45 B, 45 B too much");
        // What is read in place is there, and takes nothing of the budget.
        let disk = Bar {
            home: Home::Disk,
            needed: Bytes::new(10),
            budget: Bytes::new(20),
            parts: vec![(Term::Weights, Bytes::new(10))],
            in_place: Bytes::new(40),
        };
        assert_eq!(disk.drawn(), cells(&[('░', 40), ('█', 10), ('·', 10)]));
        let figures = "40 B in the checkpoint's files; written: 10 B of 20 B";
        assert_eq!(disk.figures(), figures);
        bar.parts.clear();
        (bar.needed, bar.budget) = (Bytes::ZERO, Bytes::ZERO);
        assert_eq!(bar.drawn(), cells(&[('·', 60)]), "nothing of nothing");
    }
}
