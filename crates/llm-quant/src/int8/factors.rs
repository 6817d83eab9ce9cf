//! Factors between elements, codes and products of LLM.int8().

/// Factor of a code times its row's scale that gives the element: 1 / 127.
pub const DEQUANTIZE: f32 = 1.0 / 127.0;
/// Factor of the integer product times both scales: 1 / 127², but for a digit.
///
/// bitsandbytes' code for processors has this constant where 6.2000124e-5 is meant. The difference, 2e-5 of a product,
/// is a hundredth of what 8 bits lose anyway, but it moves activations over the edges between codes; with it our
/// results are theirs up to the rounding of sums.
pub const PRODUCT_SCALE: f32 = 6.200_124e-5;

/// Factor from elements to codes, given the largest magnitude among them; 0 where all are zero.
///
/// The reciprocal is rounded before it is multiplied, as the references do, which is not the same as a division.
pub fn code_factor(absmax: f32) -> f32 {
    if absmax == 0.0 {
        0.0
    } else {
        127.0 * (1.0 / absmax)
    }
}
