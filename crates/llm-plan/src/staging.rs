//! Staging buffers of streamed weights.

use llm_arch::Slot;
use llm_quant::Scheme;
use llm_tensor::{Bytes, DType, PageBuf};

/// Staging places of a device, and buffers in RAM for what comes from disk: one is filled while another is computed with.
pub const STAGING_SLOTS: u64 = 2;

/// Padding of each part of a tensor: a read begins and ends on borders of pages of 4096 bytes, and so brings up to a
/// page before and one after it.
pub const SLOT_PADDING: u64 = 2 * 4096;

/// Border on which each part of a tensor begins that is brought to a GPU: as in an allocation of its own there.
pub const PART_BORDER: u64 = 256;

/// Bytes of a tensor of `scheme` in a staging place of a GPU, and in RAM where it rests there for a GPU. A unit takes whole
/// pages for the sum over what a pass reads of it.
pub fn resting_bytes(slot: &Slot, scheme: Scheme) -> Bytes {
    let (rows, cols) = slot.matrix();
    let parts = scheme.parts(rows as u64, cols as u64).into_iter();
    let bytes = parts.map(|(_, info)| info.bytes.next_multiple_of(PART_BORDER));
    Bytes::new(bytes.sum())
}

/// The same in whole pages.
pub(crate) fn whole_pages(n_bytes: u64) -> u64 {
    n_bytes.next_multiple_of(PageBuf::PAGE as u64)
}

/// Bytes of a tensor of `scheme` in a buffer for what comes from disk: its own, and the padding of each of its parts. A unit
/// takes the sum over what a pass reads of it.
pub fn staged_bytes(slot: &Slot, scheme: Scheme) -> Bytes {
    let (rows, cols) = slot.matrix();
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
