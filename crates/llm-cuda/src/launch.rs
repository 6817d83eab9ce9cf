//! Launches: everything that a kernel is given is held against what is known of it before the driver is asked.

use std::cell::RefCell;

use bytemuck::NoUninit;
use llm_backend::Result;

use crate::card::Card;
use crate::driver::{Dimensions, Failure};
use crate::memory::Span;
use crate::module::{Kernel, KernelFacts, Parameter};
use crate::steps::{Step, Steps};

/// A launch that is put together: blocks, threads, and arguments in the kernel's order.
///
/// # Panics
/// Its functions panic when an argument is not what the kernel takes, when a number does not fit 31 bits, or when the blocks
/// exceed what devices have: such a call is wrong, whatever the data.
#[derive(Debug)]
#[must_use = "a launch does nothing before `run`"]
pub(crate) struct Launch<'a> {
    card: &'a Card,
    steps: &'a RefCell<Steps>,
    kernel: Kernel,
    facts: &'static KernelFacts,
    dimensions: Dimensions,
    /// Arguments, each on a border of eight bytes: in memory of the queue's, which it gets back.
    words: Vec<u64>,
    n_arguments: usize,
}

impl<'a> Launch<'a> {
    /// One block of one thread, until it is told more.
    pub(crate) fn new(card: &'a Card, steps: &'a RefCell<Steps>, kernel: Kernel) -> Self {
        Launch {
            card,
            steps,
            kernel,
            facts: kernel.facts(),
            dimensions: Dimensions {
                grid: [1; 3],
                block: [1; 3],
                shared: 0,
            },
            words: steps.borrow_mut().take_words(),
            n_arguments: 0,
        }
    }

    /// Blocks. Where there are none, nothing is launched.
    pub(crate) fn grid(mut self, grid: [usize; 3]) -> Self {
        let most = [i32::MAX as usize, 65535, 65535];
        assert!(
            grid.iter().zip(most).all(|(&n, most)| n <= most),
            "{}: {grid:?} blocks",
            self.name()
        );
        self.dimensions.grid = grid.map(|n| n as u32);
        self
    }

    /// Threads of a block.
    pub(crate) fn block(mut self, block: [usize; 3]) -> Self {
        let most = [1024, 1024, 64];
        let fits = block
            .iter()
            .zip(most)
            .all(|(&n, most)| (1..=most).contains(&n));
        assert!(
            fits && block.iter().product::<usize>() <= self.facts.max_threads as usize,
            "{}: {block:?} threads, of which it may have {}",
            self.name(),
            self.facts.max_threads
        );
        self.dimensions.block = block.map(|n| n as u32);
        self
    }

    /// Threads of a block, in a row.
    pub(crate) fn threads(self, n: usize) -> Self {
        self.block([n, 1, 1])
    }

    /// Shared memory beyond the kernel's own.
    pub(crate) fn shared(mut self, n_bytes: usize) -> Self {
        let most = self.card.kernels.shared_for(self.facts);
        assert!(
            n_bytes <= most as usize,
            "{}: {n_bytes} bytes of shared memory beside {}, of which it may have {most}",
            self.name(),
            self.facts.static_shared
        );
        self.dimensions.shared = n_bytes as u32;
        self
    }

    /// Memory. The wrapper has seen to its length and alignment ([`Span::holding`], [`Span::aligned`]).
    pub(crate) fn pointer(self, span: Span<'_>) -> Self {
        self.push(Parameter::Word, &span.address())
    }

    /// Memory that may be missing.
    pub(crate) fn pointer_or_null(self, span: Option<Span<'_>>) -> Self {
        self.push(Parameter::Word, &span.map_or(0, Span::address))
    }

    /// A 64-bit number.
    pub(crate) fn long(self, n: usize) -> Self {
        self.push(Parameter::Word, &(n as u64))
    }

    /// A number below 2^31, for an `int` or an `unsigned`.
    pub(crate) fn int(self, n: usize) -> Self {
        let fits = i32::try_from(n);
        let n = fits.unwrap_or_else(|_| panic!("{}: {n} is not below 2^31", self.name()));
        self.push(Parameter::Int, &n)
    }

    /// 32 bits, as they are.
    pub(crate) fn bits(self, n: u32) -> Self {
        self.push(Parameter::Int, &n)
    }

    pub(crate) fn float(self, x: f32) -> Self {
        self.push(Parameter::Float, &x)
    }

    /// A structure, passed by value.
    pub(crate) fn structure<T: NoUninit>(self, value: &T) -> Self {
        self.push(Parameter::Structure(size_of::<T>() as u32), value)
    }

    fn push<T: NoUninit>(mut self, ty: Parameter, value: &T) -> Self {
        let expected = self.facts.parameters().get(self.n_arguments);
        assert!(
            expected == Some(&ty),
            "{}: argument {} is {ty:?}, and not {expected:?}",
            self.name(),
            self.n_arguments
        );
        let bytes = bytemuck::bytes_of(value);
        let n_words = bytes.len().div_ceil(size_of::<u64>());
        let first = self.words.len();
        self.words.resize(first + n_words, 0);
        bytemuck::cast_slice_mut(&mut self.words[first..])[..bytes.len()].copy_from_slice(bytes);
        self.n_arguments += 1;
        self
    }

    /// Puts the launch into its queue.
    ///
    /// # Errors
    /// Those of the driver, of this launch or an earlier one.
    pub(crate) fn run(self) -> Result<()> {
        assert_eq!(
            self.n_arguments,
            self.facts.parameters().len(),
            "arguments of {}",
            self.name()
        );
        let put = if self.dimensions.grid.contains(&0) {
            Ok(())
        } else {
            self.put()
        };
        self.steps.borrow_mut().give_words(self.words);
        put.map_err(|failure| self.card.failed(failure))
    }

    fn put(&self) -> std::result::Result<(), Failure> {
        let step = Step {
            kernel: self.kernel,
            function: self.card.kernels.get(self.kernel)?,
            dimensions: self.dimensions,
            words: &self.words,
        };
        self.steps.borrow_mut().put(self.card, &step)
    }

    fn name(&self) -> &'static str {
        self.facts.name
    }
}

#[cfg(test)]
mod tests;
