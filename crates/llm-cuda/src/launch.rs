//! Launches: everything that a kernel is given is held against what is known of it before the driver is asked.

use std::ffi::c_void;
use std::sync::PoisonError;

use bytemuck::NoUninit;
use llm_backend::Result;

use crate::card::Card;
use crate::driver::{Dimensions, Stream};
use crate::memory::Span;
use crate::module::{Kernel, Parameter, SHARED_WITHOUT_ASKING};

/// A launch that is put together: blocks, threads, and arguments in the kernel's order.
///
/// # Panics
/// Its functions panic when an argument is not what the kernel takes, when a number does not fit 31 bits, or when the blocks
/// exceed what devices have: such a call is wrong, whatever the data.
#[derive(Debug)]
#[must_use = "a launch does nothing before `run`"]
pub(crate) struct Launch<'a> {
    card: &'a Card,
    stream: &'a Stream,
    kernel: &'a Kernel,
    grid: [usize; 3],
    block: [usize; 3],
    shared: usize,
    /// Arguments, each on a border of eight bytes.
    words: [u64; MAX_WORDS],
    n_words: usize,
    /// The first word of each argument.
    starts: [usize; MAX_ARGUMENTS],
    n_arguments: usize,
}

impl<'a> Launch<'a> {
    /// One block of one thread, until it is told more.
    pub(crate) fn new(card: &'a Card, stream: &'a Stream, name: &str) -> Self {
        Launch {
            card,
            stream,
            kernel: card.kernels.get(name),
            grid: [1; 3],
            block: [1; 3],
            shared: 0,
            words: [0; MAX_WORDS],
            n_words: 0,
            starts: [0; MAX_ARGUMENTS],
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
            fits && all <= self.kernel.facts.max_threads as usize,
            "{}: {block:?} threads, of which it may have {}",
            self.name(),
            self.kernel.facts.max_threads
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
        let own = self.kernel.facts.static_shared as usize;
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
        let expected = self.kernel.facts.parameters.get(self.n_arguments);
        assert!(
            expected == Some(&ty),
            "{}: argument {} is {ty:?}, and not {expected:?}",
            self.name(),
            self.n_arguments
        );
        let bytes = bytemuck::bytes_of(value);
        let n_words = bytes.len().div_ceil(size_of::<u64>());
        let words = &mut self.words[self.n_words..][..n_words];
        bytemuck::cast_slice_mut(words)[..bytes.len()].copy_from_slice(bytes);
        self.starts[self.n_arguments] = self.n_words;
        self.n_words += n_words;
        self.n_arguments += 1;
        self
    }

    /// Puts the launch into its stream.
    ///
    /// # Errors
    /// Those of the driver.
    pub(crate) fn run(mut self) -> Result<()> {
        let facts = &self.kernel.facts;
        assert_eq!(
            self.n_arguments,
            facts.parameters.len(),
            "arguments of {}",
            facts.name
        );
        if self.grid.contains(&0) {
            return Ok(());
        }
        let dimensions = Dimensions {
            grid: self.grid.map(|n| n as u32),
            block: self.block.map(|n| n as u32),
            shared: self.shared as u32,
        };
        self.allow_shared(dimensions.shared)?;
        let words = &raw mut self.words;
        let mut arguments = [std::ptr::null_mut::<c_void>(); MAX_ARGUMENTS];
        for (argument, &start) in arguments.iter_mut().zip(&self.starts[..self.n_arguments]) {
            // SAFETY: an argument begins within the words.
            *argument = unsafe { words.cast::<u64>().add(start) }.cast();
        }
        let (function, name) = (self.kernel.function, self.kernel.facts.name);
        let arguments = &mut arguments[..self.n_arguments];
        // SAFETY: number and types of the arguments are those of the kernel. Memory is given as spans, which its owner keeps:
        // it is freed only after all work. That spans are long enough for the numbers beside them is what wrappers see to.
        let started = unsafe { self.stream.launch(function, &dimensions, arguments, name) };
        started.map_err(|failure| self.card.failed(failure))
    }

    /// Asks the driver once for shared memory beyond what every launch may have.
    fn allow_shared(&self, n_bytes: u32) -> Result<()> {
        let kernel = self.kernel;
        let all = kernel.facts.static_shared + n_bytes;
        // Kept while the driver is asked, so that no other thread's smaller number comes after.
        let mut allowed = kernel
            .shared_allowed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if all > *allowed {
            let asked = kernel.function.allow_shared(&self.card.context, n_bytes);
            asked.map_err(|failure| self.card.failed(failure))?;
            *allowed = all;
        }
        Ok(())
    }

    fn name(&self) -> &'static str {
        self.kernel.facts.name
    }
}

/// Arguments that a kernel may take.
const MAX_ARGUMENTS: usize = 32;

/// Words of all arguments.
const MAX_WORDS: usize = 256;

#[cfg(test)]
mod tests;
