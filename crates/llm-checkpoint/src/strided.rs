//! Reading views whose elements do not lie one after the other.

use std::ops::Range;

use llm_tensor::{DType, convert_elements};
use rayon::prelude::*;

use crate::error::CheckpointError;
use crate::source::SourceFile;
use crate::tensor::TensorInfo;

/// Elements that one thread gathers at a time. Of a transposed matrix the runs in the file are only as long as a
/// piece has rows: pieces are larger than for tensors that lie in order.
const PIECE: usize = 1 << 18;

/// Bytes that are read from the file at a time, at most.
const WINDOW: u64 = 256 << 10;

/// Bytes that may be read however few of them are needed: the operating system reads no less.
const PAGE: u64 = 4096;

/// Bytes that may be read for each that is needed, beyond a page.
const WASTE: u64 = 8;

/// A tensor with strides.
#[derive(Clone, Copy)]
pub(crate) struct StridedView<'a> {
    pub(crate) file: &'a SourceFile,
    pub(crate) tensor: &'a TensorInfo,
    /// In elements, one for each dimension. No element lies outside the tensor's bytes.
    pub(crate) strides: &'a [u64],
    pub(crate) stored: DType,
}

impl StridedView<'_> {
    /// Reads elements `range` into `out`, as little-endian `dtype`.
    pub(crate) fn read_elements(
        self,
        range: Range<u64>,
        dtype: DType,
        out: &mut [u8],
    ) -> Result<(), CheckpointError> {
        out.par_chunks_mut(PIECE * dtype.size())
            .enumerate()
            .try_for_each_init(Scratch::default, |scratch, (piece_idx, out)| {
                let start = range.start + (piece_idx * PIECE) as u64;
                if self.stored == dtype {
                    return self.gather(start, out, &mut scratch.window);
                }
                let n_elements = out.len() / dtype.size();
                scratch.gathered.resize(n_elements * self.stored.size(), 0);
                self.gather(start, &mut scratch.gathered, &mut scratch.window)?;
                convert_elements(self.stored, &scratch.gathered, dtype, out)
                    .map_err(|error| self.file.tensor_error(&self.tensor.name, error))
            })
    }

    /// Fills `out` with the elements from `start` on, as they are stored.
    fn gather(
        self,
        start: u64,
        out: &mut [u8],
        window: &mut Vec<u8>,
    ) -> Result<(), CheckpointError> {
        let size = self.stored.size();
        let end = start + (out.len() / size) as u64;
        let mut at = start;
        while at < end {
            let (mut block, n_elements) = self.block(at..end);
            block.out_at = (at - start) as usize;
            let mut gathering = Gathering {
                file: self.file,
                start: self.tensor.bytes.start,
                size,
                window,
                out,
            };
            gathering.read(&block)?;
            at += n_elements;
        }
        Ok(())
    }

    /// The largest block of whole rows (or planes, or what has more dimensions) that begins where `range` does and
    /// ends within it, and its number of elements.
    fn block(&self, range: Range<u64>) -> (Block, u64) {
        let mut block = Block::default();
        let mut rest = range.start;
        // Elements of an index in the dimension under consideration, and whether those further in are all taken.
        let mut inner = 1;
        let mut n_elements = 1;
        let mut is_open = true;
        for (&extent, &stride) in self.tensor.shape.iter().zip(self.strides).rev() {
            let idx = rest % extent;
            rest /= extent;
            block.at += idx * stride;
            if is_open {
                let n = ((range.end - range.start) / inner).min(extent - idx);
                if n > 1 {
                    block.axes.push(Axis {
                        extent: n,
                        stride,
                        out_stride: inner as usize,
                    });
                    n_elements *= n;
                }
                is_open = n == extent;
                inner *= extent;
            }
        }
        block.axes.sort_by_key(|axis| axis.stride);
        (block, n_elements)
    }
}

/// Buffers of one thread to gather a piece.
#[derive(Default)]
struct Scratch {
    window: Vec<u8>,
    gathered: Vec<u8>,
}

/// Elements that form a grid, in the file and in the output.
#[derive(Debug, Clone, Default)]
struct Block {
    /// The first element, counted from the tensor's first.
    at: u64,
    /// Index in the output of that element.
    out_at: usize,
    /// The smallest stride first. Every extent is at least 2.
    axes: Vec<Axis>,
}

/// A direction of such a grid.
#[derive(Debug, Clone, Copy)]
struct Axis {
    extent: u64,
    /// Elements in the file from one to the next.
    stride: u64,
    /// Elements in the output from one to the next.
    out_stride: usize,
}

impl Block {
    /// Elements in the file from the first to behind the last.
    fn span(&self) -> u64 {
        let steps = self.axes.iter().map(|axis| (axis.extent - 1) * axis.stride);
        steps.sum::<u64>() + 1
    }

    fn n_elements(&self) -> u64 {
        self.axes.iter().map(|axis| axis.extent).product()
    }

    /// Cuts it in two across its widest axis.
    fn split(mut self) -> (Block, Block) {
        let axis = self.axes.pop().expect("a block too wide has an axis");
        let part = |first: u64, extent: u64| {
            let mut part = self.clone();
            part.at += first * axis.stride;
            part.out_at += first as usize * axis.out_stride;
            if extent > 1 {
                part.axes.push(Axis { extent, ..axis });
            }
            part
        };
        let half = axis.extent / 2;
        (part(0, half), part(half, axis.extent - half))
    }
}

/// Source and destination of blocks.
struct Gathering<'a> {
    file: &'a SourceFile,
    /// Offset of the tensor's first element in the file.
    start: u64,
    /// Bytes of an element.
    size: usize,
    window: &'a mut Vec<u8>,
    out: &'a mut [u8],
}

impl Gathering<'_> {
    /// Reads a block as a whole if that is small and not mostly waste, else in halves. The depth of this recursion
    /// is at most the binary logarithm of the number of elements, rounded up for each axis.
    fn read(&mut self, block: &Block) -> Result<(), CheckpointError> {
        let size = self.size as u64;
        let n_bytes = block.span() * size;
        let is_dense = n_bytes <= WASTE * block.n_elements() * size;
        if n_bytes > PAGE && (n_bytes > WINDOW || !is_dense) {
            let (first, second) = block.clone().split();
            self.read(&first)?;
            return self.read(&second);
        }
        self.window.resize(n_bytes as usize, 0);
        let at = self.start + block.at * size;
        self.file.read_at(at, self.window)?;
        self.scatter(&block.axes, 0, block.out_at);
        Ok(())
    }

    /// Copies the elements along `axes` from `from` of the window to `to` of the output.
    fn scatter(&mut self, axes: &[Axis], from: usize, to: usize) {
        let size = self.size;
        let mut copy = |from: usize, to: usize, n: usize| {
            self.out[to * size..(to + n) * size]
                .copy_from_slice(&self.window[from * size..(from + n) * size]);
        };
        match axes {
            [] => copy(from, to, 1),
            [
                Axis {
                    extent,
                    stride: 1,
                    out_stride: 1,
                },
            ] => copy(from, to, *extent as usize),
            [axis] => {
                for i in 0..axis.extent as usize {
                    copy(from + i * axis.stride as usize, to + i * axis.out_stride, 1);
                }
            }
            [inner @ .., axis] => {
                for i in 0..axis.extent as usize {
                    let from = from + i * axis.stride as usize;
                    self.scatter(inner, from, to + i * axis.out_stride);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
