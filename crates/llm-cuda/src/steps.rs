//! Kernels that a queue starts: one by one, or, where the same come again, all by one call.
//!
//! A pass that decodes a token starts the same kernels with the same arguments as the one before: what changes by token lies
//! in the GPU's memory. So a queue remembers the steps between one wait of the host and the next. What came twice becomes a
//! graph; when it begins a third time its steps are held back, and the graph is launched at its end. A step that differs
//! sends off those that were held back, and is started by itself, as are those after it.

use std::ffi::c_void;
use std::sync::Arc;

use crate::card::Card;
use crate::driver::{Blas, Chain, Context, Dimensions, Failure, Function, Gemm, Graph, Stream};
use crate::module::{Kernel, MAX_PARAMETERS};

/// A kernel to start, with its arguments.
pub(crate) struct Step<'a> {
    pub(crate) kernel: Kernel,
    pub(crate) function: Function,
    pub(crate) dimensions: Dimensions,
    /// Arguments, each on a border of eight bytes.
    pub(crate) words: &'a [u64],
}

/// Steps of a queue, and its stream.
#[derive(Debug)]
pub(crate) struct Steps {
    stream: Stream,
    /// Since the last wait, those that were started one by one.
    started: List,
    /// Lists between waits before, the latest last: passes come in turns, as those that swap two buffers do.
    earlier: Vec<List>,
    graphs: Vec<(List, Graph)>,
    /// The graph whose first steps are held back, and how many.
    held: Option<(usize, usize)>,
    /// Memory for the arguments of the launch that is put together next.
    words: Vec<u64>,
    /// Something that is no kernel of ours was started since the last wait: no graph is made of such steps.
    has_others: bool,
    /// Graphs that were launched.
    n_replays: u64,
}

/// Steps one after the other.
#[derive(Debug, Default, Clone, PartialEq)]
struct List {
    steps: Vec<Recorded>,
    words: Vec<u64>,
}

/// A step of a list.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Recorded {
    kernel: Kernel,
    function: Function,
    dimensions: Dimensions,
    /// The first word among those of the list, and the end.
    words: (usize, usize),
}

impl Steps {
    pub(crate) fn new(context: &Arc<Context>) -> Result<Self, Failure> {
        Ok(Steps {
            stream: Stream::new(context)?,
            started: List::default(),
            earlier: Vec::new(),
            graphs: Vec::new(),
            held: None,
            words: Vec::new(),
            has_others: false,
            n_replays: 0,
        })
    }

    /// Memory for the arguments of a launch, empty. A second launch that is put together meanwhile gets some of its own.
    pub(crate) fn take_words(&mut self) -> Vec<u64> {
        let mut words = std::mem::take(&mut self.words);
        words.clear();
        words
    }

    /// The memory again, for the next launch.
    pub(crate) fn give_words(&mut self, words: Vec<u64>) {
        self.words = words;
    }

    /// Starts a kernel, or holds it back.
    pub(crate) fn put(&mut self, card: &Card, step: &Step<'_>) -> Result<(), Failure> {
        let next = match self.held {
            Some((graph, n)) => self.going_on(graph, n, step).map(|graph| (graph, n + 1)),
            None if self.started.steps.is_empty() && !self.has_others => {
                let begins = self.graphs.iter().position(|(list, _)| list.is(0, step));
                begins.map(|graph| (graph, 1))
            }
            None => None,
        };
        if next.is_some() {
            if self.held.is_none() {
                card.hold();
            }
            self.held = next;
            return Ok(());
        }
        self.send(card)?;
        self.started.push(step);
        let last = self.started.steps.len() - 1;
        let started = self.started.start(&self.stream, last);
        if self.has_others {
            self.started.clear();
        }
        started
    }

    /// Starts a product by cuBLAS behind all steps so far.
    pub(crate) fn multiply(
        &mut self,
        card: &Card,
        blas: &Blas,
        gemm: &Gemm,
    ) -> Result<(), Failure> {
        self.send(card)?;
        self.started.clear();
        self.has_others = true;
        // SAFETY: memory is given as spans, whose ends wrappers have held against the sizes, and which its owner keeps until
        // all work is done.
        unsafe { blas.multiply(gemm) }
    }

    /// The stream, for what is made once, before any step.
    pub(crate) fn own_stream(&self) -> &Stream {
        &self.stream
    }

    /// The stream, once all steps so far are in it: for what is no step, and what waits.
    pub(crate) fn stream(&mut self, card: &Card) -> Result<&Stream, Failure> {
        match self.held.take() {
            Some((graph, n)) if n == self.graphs[graph].0.steps.len() => {
                // SAFETY: the arguments are those of steps that were put here, whose memory is kept while steps are held.
                let launched = unsafe { self.stream.launch_graph(&self.graphs[graph].1) };
                card.release();
                launched?;
                self.n_replays += 1;
            }
            held => {
                self.held = held;
                self.send(card)?;
                self.remember()?;
            }
        }
        Ok(&self.stream)
    }

    /// The graph that goes on like this after its first `n` steps, which are those of `graph`: that one, if it does.
    fn going_on(&self, graph: usize, n: usize, step: &Step<'_>) -> Option<usize> {
        let held = &self.graphs[graph].0;
        if held.is(n, step) {
            return Some(graph);
        }
        let goes_on = |(list, _): &(List, Graph)| list.is(n, step) && list.begins_like(held, n);
        self.graphs.iter().position(goes_on)
    }

    /// Starts what is held back, one by one.
    fn send(&mut self, card: &Card) -> Result<(), Failure> {
        let Some((graph, n)) = self.held.take() else {
            return Ok(());
        };
        let list = &mut self.graphs[graph].0;
        let sent = (0..n).try_for_each(|i| list.start(&self.stream, i));
        self.started.extend(list, n);
        card.release();
        sent
    }

    /// Keeps the list that ends here, and makes a graph of what came twice.
    fn remember(&mut self) -> Result<(), Failure> {
        let has_others = std::mem::take(&mut self.has_others);
        if self.started.steps.len() < SHORTEST || has_others {
            self.started.clear();
            return Ok(());
        }
        let list = std::mem::take(&mut self.started);
        match self.earlier.iter().position(|earlier| *earlier == list) {
            Some(before) => {
                let mut list = self.earlier.remove(before);
                let graph = list.graph(self.stream.context())?;
                if self.graphs.len() == MOST {
                    self.started = self.graphs.remove(0).0;
                    self.started.clear();
                }
                self.graphs.push((list, graph));
            }
            None => {
                if self.earlier.len() == MOST {
                    self.started = self.earlier.remove(0);
                    self.started.clear();
                }
                self.earlier.push(list);
            }
        }
        Ok(())
    }

    /// Graphs that were launched.
    #[cfg(test)]
    pub(crate) fn n_replays(&self) -> u64 {
        self.n_replays
    }
}

impl List {
    fn push(&mut self, step: &Step<'_>) {
        let first = self.words.len();
        self.words.extend_from_slice(step.words);
        self.steps.push(Recorded {
            kernel: step.kernel,
            function: step.function,
            dimensions: step.dimensions,
            words: (first, self.words.len()),
        });
    }

    /// Adds the first `n` steps of another.
    fn extend(&mut self, other: &List, n: usize) {
        // What is held back comes first in a list.
        debug_assert!(self.steps.is_empty());
        self.steps.extend_from_slice(&other.steps[..n]);
        let end = self.steps.last().map_or(0, |last| last.words.1);
        self.words.extend_from_slice(&other.words[..end]);
    }

    fn clear(&mut self) {
        self.steps.clear();
        self.words.clear();
    }

    /// True if step `i` is this one.
    fn is(&self, i: usize, step: &Step<'_>) -> bool {
        self.steps.get(i).is_some_and(|own| {
            own.function == step.function
                && own.dimensions == step.dimensions
                && self.words[own.words.0..own.words.1] == *step.words
        })
    }

    /// True if the first `n` steps are those of another.
    fn begins_like(&self, other: &List, n: usize) -> bool {
        self.steps.len() >= n && self.steps[..n] == other.steps[..n] && {
            let end = n.checked_sub(1).map_or(0, |last| self.steps[last].words.1);
            self.words[..end] == other.words[..end]
        }
    }

    /// Starts step `i`.
    fn start(&mut self, stream: &Stream, i: usize) -> Result<(), Failure> {
        let step = self.steps[i];
        let mut arguments = Arguments::of(&mut self.words, &step);
        // SAFETY: number and types of the arguments are those of the kernel, as `Launch` has seen to. Memory is given as spans,
        // which its owner keeps: it is freed only after all work, and not while steps are held back. That spans are long enough for the numbers beside
        // them is what wrappers see to.
        unsafe {
            stream.launch(
                step.function,
                &step.dimensions,
                arguments.pointers(),
                step.kernel.facts().name,
            )
        }
    }

    fn graph(&mut self, context: &Arc<Context>) -> Result<Graph, Failure> {
        let mut chain = Chain::new(context)?;
        for step in &self.steps {
            let mut arguments = Arguments::of(&mut self.words, step);
            // SAFETY: as in `start`; the graph is launched only in place of the same steps.
            unsafe { chain.add(step.function, &step.dimensions, arguments.pointers())? };
        }
        chain.finish()
    }
}

/// Addresses of a step's arguments.
struct Arguments {
    pointers: [*mut c_void; MAX_PARAMETERS],
    n: usize,
}

impl Arguments {
    fn of(words: &mut [u64], step: &Recorded) -> Self {
        let (words, starts) = (&mut words[step.words.0..], step.kernel.facts().starts());
        let mut pointers = [std::ptr::null_mut(); MAX_PARAMETERS];
        for (pointer, &start) in pointers.iter_mut().zip(starts) {
            *pointer = words[start.into()..].as_mut_ptr().cast();
        }
        Arguments {
            pointers,
            n: starts.len(),
        }
    }

    fn pointers(&mut self) -> &mut [*mut c_void] {
        &mut self.pointers[..self.n]
    }
}

/// Steps from which on a graph is worth its making.
const SHORTEST: usize = 8;

/// Lists that are remembered, and graphs that are kept.
const MOST: usize = 8;

#[cfg(test)]
mod tests;
