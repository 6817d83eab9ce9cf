//! Launches: everything that a kernel is given is held against what is known of it before the driver is asked.

use std::cell::RefCell;
use std::sync::PoisonError;

use bytemuck::NoUninit;
use llm_backend::Result;

use crate::card::Card;
use crate::driver::{Dimensions, Failure};
use crate::memory::Span;
use crate::module::{self, Kernel, KernelFacts, Parameter, SHARED_WITHOUT_ASKING};
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
    facts: &'static KernelFacts,
    grid: [usize; 3],
    block: [usize; 3],
    shared: usize,
    /// Arguments, each on a border of eight bytes.
    words: Vec<u64>,
    n_arguments: usize,
}

impl<'a> Launch<'a> {
    /// One block of one thread, until it is told more.
    pub(crate) fn new(card: &'a Card, steps: &'a RefCell<Steps>, name: &str) -> Self {
        Launch {
            card,
            steps,
            facts: module::facts(name),
            grid: [1; 3],
            block: [1; 3],
            shared: 0,
            words: Vec::with_capacity(USUAL_WORDS),
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
        self.grid = grid;
        self
    }

    /// Threads of a block.
    pub(crate) fn block(mut self, block: [usize; 3]) -> Self {
        let most = [1024, 1024, 64];
        let all: usize = block.iter().product();
        let fits = block
            .iter()
            .zip(most)
            .all(|(&n, most)| (1..=most).contains(&n));
        assert!(
            fits && all <= self.facts.max_threads as usize,
            "{}: {block:?} threads, of which it may have {}",
            self.name(),
            self.facts.max_threads
        );
        self.block = block;
        self
    }

    /// Threads of a block, in a row.
    pub(crate) fn threads(self, n: usize) -> Self {
        self.block([n, 1, 1])
    }

    /// Shared memory beyond the kernel's own.
    pub(crate) fn shared(mut self, n_bytes: usize) -> Self {
        let own = self.facts.static_shared as usize;
        let most = self.card.facts.shared_per_block.get() as usize;
        let most = most.max(SHARED_WITHOUT_ASKING as usize);
        assert!(
            own.checked_add(n_bytes).is_some_and(|all| all <= most),
            "{}: {n_bytes} bytes of shared memory beside {own}, of {most}",
            self.name()
        );
        self.shared = n_bytes;
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
        self.push(Parameter::Structure(size_of::<T>()), value)
    }

    fn push<T: NoUninit>(mut self, ty: Parameter, value: &T) -> Self {
        let expected = self.facts.parameters.get(self.n_arguments);
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
            self.facts.parameters.len(),
            "arguments of {}",
            self.name()
        );
        if self.grid.contains(&0) {
            return Ok(());
        }
        self.put().map_err(|failure| self.card.failed(failure))
    }

    fn put(&self) -> std::result::Result<(), Failure> {
        let kernel = self.card.kernels.get(self.facts)?;
        let dimensions = Dimensions {
            grid: self.grid.map(|n| n as u32),
            block: self.block.map(|n| n as u32),
            shared: self.shared as u32,
        };
        self.allow_shared(kernel, dimensions.shared)?;
        let step = Step {
            facts: self.facts,
            function: kernel.function,
            dimensions,
            words: &self.words,
        };
        self.steps.borrow_mut().put(self.card, &step)
    }

    /// Asks the driver once for shared memory beyond what every launch may have.
    fn allow_shared(&self, kernel: &Kernel, n_bytes: u32) -> std::result::Result<(), Failure> {
        let all = self.facts.static_shared + n_bytes;
        // Kept while the driver is asked, so that no other thread's smaller number comes after.
        let allowed = kernel.shared_allowed.lock();
        let mut allowed = allowed.unwrap_or_else(PoisonError::into_inner);
        if all > *allowed {
            let function = kernel.function;
            function.allow_shared(&self.card.context, n_bytes)?;
            *allowed = all;
        }
        Ok(())
    }

    fn name(&self) -> &'static str {
        self.facts.name
    }
}

/// Words of the arguments of most kernels.
const USUAL_WORDS: usize = 32;

#[cfg(test)]
mod tests;
