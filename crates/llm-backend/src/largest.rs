//! The largest of a row.

/// Column of the largest of a row, the first among equals; nothing where a number is not finite, or there is none. A greedy
/// choice from logits that are fit to choose from.
///
/// ```
/// use llm_backend::first_of_largest;
///
/// assert_eq!(first_of_largest(&[0.5, 2.0, -1.0, 2.0]), Some(1));
/// assert_eq!(first_of_largest(&[0.5, f32::NAN]), None);
/// assert_eq!(first_of_largest(&[0.5, f32::NEG_INFINITY]), None);
/// ```
pub fn first_of_largest(row: &[f32]) -> Option<u32> {
    // Lanes that a compiler makes vectors of; products with zero are not zero where a number is not finite.
    let (mut most, mut flaws) = ([f32::NEG_INFINITY; LANES], [0.0; LANES]);
    let mut chunks = row.chunks_exact(LANES);
    for chunk in &mut chunks {
        for i in 0..LANES {
            most[i] = if chunk[i] > most[i] {
                chunk[i]
            } else {
                most[i]
            };
            flaws[i] += chunk[i] * 0.0;
        }
    }
    let rest = chunks.remainder();
    let is_finite = flaws.iter().all(|&flaw| flaw == 0.0) && rest.iter().all(|x| x.is_finite());
    let most = most.iter().chain(rest).copied();
    let largest = most.fold(f32::NEG_INFINITY, f32::max);
    let column = row.iter().position(|&x| x == largest)?;
    is_finite.then_some(column as u32)
}

const LANES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_not_finite_is_found_anywhere() {
        for n in [1, 15, 16, 17, 100] {
            let row: Vec<f32> = (0..n).map(|i| (i * 37 % 11) as f32 - 20.0).collect();
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let expected = row.iter().position(|&x| x == largest);
            assert_eq!(first_of_largest(&row), expected.map(|at| at as u32));
            for at in 0..n {
                for flaw in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let mut row = row.clone();
                    row[at] = flaw;
                    assert_eq!(first_of_largest(&row), None, "{flaw} at {at} of {n}");
                }
            }
        }
        assert_eq!(first_of_largest(&[]), None);
        assert_eq!(first_of_largest(&[-0.0, 0.0]), Some(0));
    }
}
