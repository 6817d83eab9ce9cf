//! Staging buffers of streamed weights.

use llm_arch::Slot;
use llm_quant::Scheme;
use llm_tensor::{Bytes, DType, PageBuf};

/// Staging places of a device, and buffers in RAM for what comes from disk: one is filled while another is computed with.
pub(crate) const STAGING_SLOTS: u64 = 2;

/// The same where a unit is too large to be brought at once: one has what is not cut of it, one is computed with, one is there
/// next, and one is filled.
const SLOTS_OF_SLICES: u64 = 4;

/// Slices of matrices of this size: reads and copies of it go at full speed.
pub const DEFAULT_SLICE: Bytes = Bytes::mib(32);

/// Staging places, or buffers, that take turns, where units are cut or not.
pub fn staging_slots(are_cut: bool) -> u64 {
    match are_cut {
        true => SLOTS_OF_SLICES,
        false => STAGING_SLOTS,
    }
}

/// True of a unit that is brought in slices, since a pass reads so many bytes of it.
pub fn is_cut(per_pass: Bytes, slice: Bytes) -> bool {
    per_pass > slice
}

/// Rows of each slice in which a tensor of `scheme` is brought, if its unit is cut: of a matrix that is multiplied with, as many as
/// `slice` bytes have; at least as many as make a matrix in that scheme. `None` for what comes whole, with the rest of its unit.
pub fn slice_rows(slot: &Slot, scheme: Scheme, slice: Bytes) -> Option<usize> {
    let (rows, cols) = slot.matrix();
    let bytes = scheme.stored_bytes(rows as u64, cols as u64).total();
    if !slot.role.is_multiplied() || bytes.get() < slice.get() / SMALL_SHARE || rows == 0 {
        return None;
    }
    let n_rows = rows as u64;
    let step = scheme.row_step(n_rows, cols as u64);
    let most = slice.get() / (bytes.get() / n_rows).max(1);
    // Kernels take some rows at a time.
    let even = step * (ROWS_TOGETHER / (step & step.wrapping_neg()).min(ROWS_TOGETHER));
    let step = if most < even { step } else { even };
    let most = (most / step * step).max(step);
    let n_slices = n_rows.div_ceil(most);
    let each = n_rows.div_ceil(n_slices).next_multiple_of(step);
    Some(each.min(n_rows) as usize)
}

/// Bytes that are brought of a unit: of all of it at once, or if it is cut, of its largest slice or of what is not cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Brought {
    /// All together.
    pub all: u64,
    rest: u64,
    slice: u64,
}

impl Brought {
    /// Adds a tensor: all of it, and of that a slice, if it is one that is cut.
    pub fn add(&mut self, all: Bytes, slice: Option<Bytes>) {
        self.all += all.get();
        match slice {
            Some(slice) => self.slice = self.slice.max(slice.get()),
            None => self.rest += all.get(),
        }
    }

    pub(crate) fn join(&mut self, other: &Brought) {
        self.all += other.all;
        self.rest += other.rest;
        self.slice = self.slice.max(other.slice);
    }

    /// The most that is brought at once.
    pub fn at_once(&self, is_cut: bool) -> u64 {
        match is_cut {
            true => self.rest.max(self.slice),
            false => self.all,
        }
    }
}

/// Matrices that are smaller than a slice by this come with what is not cut: a read of their own takes too long for what it brings.
const SMALL_SHARE: u64 = 16;

/// Rows that kernels take together, or multiples of what they take.
const ROWS_TOGETHER: u64 = 32;

/// Padding of each part of a tensor: a read begins and ends on borders of pages of 4096 bytes, and so brings up to a
/// page before and one after it.
pub const SLOT_PADDING: u64 = 2 * 4096;

/// Border on which each part of a tensor begins that is brought to a GPU: as in an allocation of its own there.
pub const PART_BORDER: u64 = 256;

/// Bytes of a matrix of `scheme` in a staging place of a GPU, and in RAM where it rests there for a GPU. A unit takes whole
/// pages for the sum over what a pass reads of it.
pub fn resting_bytes((rows, cols): (usize, usize), scheme: Scheme) -> Bytes {
    let parts = scheme.parts(rows as u64, cols as u64).into_iter();
    let bytes = parts.map(|(_, info)| info.bytes.next_multiple_of(PART_BORDER));
    Bytes::new(bytes.sum())
}

/// The same in whole pages.
pub(crate) fn whole_pages(n_bytes: u64) -> u64 {
    n_bytes.next_multiple_of(PageBuf::PAGE as u64)
}

/// Bytes of a matrix of `scheme` in a buffer for what comes from disk: its own, and the padding of each of its parts. A unit
/// takes the sum over what a pass reads of it.
pub fn staged_bytes((rows, cols): (usize, usize), scheme: Scheme) -> Bytes {
    let parts = scheme.parts(rows as u64, cols as u64).into_iter();
    let bytes = parts.map(|(part, info)| match part.is_in_files() {
        true => info.bytes + SLOT_PADDING,
        // Known from what describes the matrix.
        false => info.bytes,
    });
    Bytes::new(bytes.sum())
}

/// Bytes of a row that is looked up in a table: of one not resident where it computes, a pass brings a row for each of
/// its tokens, in f32 unless its elements mean themselves. Zero for what is no table.
pub fn looked_up_row_bytes(slot: &Slot, scheme: Scheme) -> Bytes {
    if slot.role.table_of().is_none() {
        return Bytes::ZERO;
    }
    let (_, cols) = slot.matrix();
    let dtype = scheme.elements().unwrap_or(DType::F32);
    Bytes::new((cols * dtype.size()) as u64)
}

#[cfg(test)]
mod tests {
    use llm_quant::layout::tensors;
    use llm_quant::{BlockSize, Code, FourBit, Int8, Part};

    use super::*;

    #[test]
    fn parts_are_those_that_a_checkpoint_has_of_a_matrix() {
        let int8 = Int8 { threshold: 6.0 };
        let four_bit = |double_quant| {
            Scheme::FourBit(FourBit {
                code: Code::Nf4,
                block_size: BlockSize::DEFAULT,
                double_quant,
            })
        };
        let schemes = [
            Scheme::Dense(DType::BF16),
            Scheme::Int8PerUse(DType::F16, int8),
            Scheme::Int8(int8),
            four_bit(false),
            four_bit(true),
        ];
        for scheme in schemes {
            let tensors = tensors(scheme, 64, 32, DType::U8).unwrap();
            // The rest describes them, and is read when the model is opened.
            let is_read = |part: Part| !matches!(part, Part::State(_) | Part::WeightFormat);
            let n = tensors.iter().filter(|info| is_read(info.part)).count();
            let parts = scheme.parts(64, 32).into_iter();
            let n_parts = parts.filter(|(part, _)| part.is_in_files()).count();
            assert_eq!(n_parts, n, "{scheme}");
        }
    }
}
