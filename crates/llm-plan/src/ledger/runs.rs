use std::ops::Range;

use super::{Maxima, Tally, Totals};

/// Tallies of any consecutive items, in logarithmic time. Equal items that follow each other are one run: a mixture has
/// tens of thousands of experts, and few that differ.
#[derive(Debug)]
pub(crate) struct Runs {
    /// First item of each run; one more for where the last ends.
    starts: Vec<usize>,
    /// Each item of a run.
    each: Vec<Tally>,
    /// All items before a run.
    before: Vec<Totals>,
    /// Maxima over runs: node `i` has those of nodes `2i` and `2i + 1`, the last half is of single runs.
    tree: Vec<Maxima>,
}

impl Runs {
    /// Those of `n` items in their order. `is_same` says of an item that it is sure to equal the one before it.
    pub(crate) fn of(
        n: usize,
        is_same: impl Fn(usize) -> bool,
        item: impl Fn(usize) -> Tally,
    ) -> Self {
        let (mut starts, mut each, mut before) = (Vec::new(), Vec::<Tally>::new(), Vec::new());
        let mut totals = Totals::default();
        for i in 0..n {
            if i > 0 && is_same(i) {
                continue;
            }
            let tally = item(i);
            if each.last() == Some(&tally) {
                continue;
            }
            if let (Some(last), Some(start)) = (each.last(), starts.last()) {
                totals = totals.plus(last.totals.times(i - start));
            }
            starts.push(i);
            each.push(tally);
            before.push(totals);
        }
        starts.push(n);
        let mut tree = vec![Maxima::default(); each.len()];
        tree.extend(each.iter().map(|tally| tally.maxima));
        for i in (1..each.len()).rev() {
            tree[i] = tree[2 * i].max(tree[2 * i + 1]);
        }
        Runs {
            starts,
            each,
            before,
            tree,
        }
    }

    /// Tally of some items.
    pub(crate) fn tally(&self, items: Range<usize>) -> Tally {
        if items.is_empty() {
            return Tally::default();
        }
        let runs = self.run_of(items.start)..self.run_of(items.end - 1) + 1;
        Tally {
            totals: self.first(items.end).minus(self.first(items.start)),
            maxima: self.maxima(runs),
        }
    }

    /// The most of the first items, no fewer than `from`, that fit. Of numbers that end in one run a smaller one fits if a
    /// larger one does.
    pub(crate) fn most(&self, from: usize, fits: impl Fn(usize) -> bool) -> Option<usize> {
        let n = self.starts[self.each.len()];
        if from <= n && fits(n) {
            return Some(n);
        }
        let runs = self.starts.windows(2).rev();
        let runs = runs.map(|run| run[0].max(from)..run[1]);
        runs.filter(|run| !run.is_empty())
            .find_map(|run| largest(run, &fits))
    }

    /// Number of first items, no fewer than `from`, that needs least, the smallest among equals. Of numbers that end in
    /// one run a smaller one needs no more than a larger one.
    pub(crate) fn least(&self, from: usize, needed: impl Fn(usize) -> u64) -> usize {
        let starts = self.starts.iter().copied().filter(|&start| start > from);
        let candidates = std::iter::once(from).chain(starts);
        candidates.min_by_key(|&n| needed(n)).unwrap_or(from)
    }

    /// Totals of the first `n` items.
    fn first(&self, n: usize) -> Totals {
        match n.checked_sub(1) {
            None => Totals::default(),
            Some(last) => {
                let run = self.run_of(last);
                let own = self.each[run].totals.times(n - self.starts[run]);
                self.before[run].plus(own)
            }
        }
    }

    fn run_of(&self, item: usize) -> usize {
        self.starts.partition_point(|&start| start <= item) - 1
    }

    fn maxima(&self, runs: Range<usize>) -> Maxima {
        let n = self.each.len();
        let (mut start, mut end) = (runs.start + n, runs.end + n);
        let mut maxima = Maxima::default();
        while start < end {
            if start % 2 == 1 {
                maxima = maxima.max(self.tree[start]);
                start += 1;
            }
            if end % 2 == 1 {
                end -= 1;
                maxima = maxima.max(self.tree[end]);
            }
            (start, end) = (start / 2, end / 2);
        }
        maxima
    }
}

/// The largest number that `fits`, as each smaller one then does; `None` where not even the first does.
pub(crate) fn largest(numbers: Range<usize>, fits: impl Fn(usize) -> bool) -> Option<usize> {
    let (mut low, mut high) = (numbers.start, numbers.end);
    while low < high {
        let middle = low + (high - low) / 2;
        if fits(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low.checked_sub(1).filter(|&n| n >= numbers.start)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::prop;
    use proptest::{prop_assert_eq, proptest};

    use super::*;

    fn item(size: u64) -> Tally {
        Tally {
            totals: Totals {
                n_units: 1,
                elements: size,
                ..Totals::default()
            },
            maxima: Maxima {
                staged: size,
                resting: size / 3,
                source: 10 - size,
                on_its_way: size / 2,
                are_cut: size > 2,
            },
        }
    }

    fn runs_of(sizes: &[u64]) -> Runs {
        let is_same = |i: usize| i.is_multiple_of(2) && sizes[i] == sizes[i - 1];
        Runs::of(sizes.len(), is_same, |i| item(sizes[i]))
    }

    proptest! {
        #[test]
        fn tallies_are_those_of_one_item_after_the_other(
            sizes in prop::collection::vec(0..4u64, 0..40),
            cuts in (0..41usize, 0..41usize),
        ) {
            let runs = runs_of(&sizes);
            let (start, end) = (cuts.0.min(sizes.len()), cuts.1.min(sizes.len()));
            let mut expected = Tally::default();
            for &size in sizes.get(start..end).unwrap_or(&[]) {
                expected.add(&item(size));
            }
            prop_assert_eq!(runs.tally(start..end.max(start)), expected);
        }

        #[test]
        fn searches_by_run_find_what_searches_by_item_do(
            sizes in prop::collection::vec(0..4u64, 0..40),
            from in 0..41usize,
            limit in 0..120u64,
        ) {
            let runs = runs_of(&sizes);
            let (n, from) = (sizes.len(), from.min(sizes.len()));
            // Held as they are; the largest of the others twice.
            let needed = |end: usize| {
                runs.tally(0..end).totals.elements + 20 * runs.tally(end..n).maxima.staged
            };
            let fits = |end: usize| needed(end) <= limit;
            prop_assert_eq!(runs.most(from, fits), (from..=n).rev().find(|&end| fits(end)));
            let least = (from..=n).min_by_key(|&end| needed(end)).unwrap();
            prop_assert_eq!(runs.least(from, needed), least);
        }
    }
}
