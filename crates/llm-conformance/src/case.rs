use std::fmt::Debug;
use std::sync::Arc;

use llm_backend::{Backend, Reference};

/// Something to compute on any backend.
pub(crate) trait Case: Debug {
    /// All results, one after the other.
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32>;

    /// Distance that each result may have from the exact one, given those of the reference.
    fn bounds(&self, expected: &[f32]) -> Vec<f64>;
}

pub(crate) fn check_each<B: Backend>(backend: &Arc<B>, cases: &[impl Case]) {
    check_against(&Arc::new(Reference::new()), backend, cases);
}

/// Checks cases of a backend against a reference that computes as it does.
pub(crate) fn check_against<B: Backend>(
    reference: &Arc<Reference>,
    backend: &Arc<B>,
    cases: &[impl Case],
) {
    let device = &backend.info().name;
    for case in cases {
        let expected = case.run(reference);
        let found = case.run(backend);
        let bounds = case.bounds(&expected);
        assert_eq!(
            (found.len(), bounds.len()),
            (expected.len(), expected.len()),
            "{device}: {case:?}"
        );
        for (i, ((&found, &expected), bound)) in found.iter().zip(&expected).zip(bounds).enumerate()
        {
            let difference = (f64::from(found) - f64::from(expected)).abs();
            let agree = if expected.is_nan() {
                found.is_nan()
            } else {
                // Equal infinities differ by NaN.
                found == expected || difference <= bound
            };
            assert!(
                agree,
                "{device}: result {i} is {found}, expected {expected} ± {bound:.1e}: {case:?}"
            );
        }
    }
}

pub(crate) fn check_same_bits<A: Backend, B: Backend>(
    one: &Arc<A>,
    other: &Arc<B>,
    cases: &[impl Case],
) {
    for case in cases {
        let (a, b) = (case.run(one), case.run(other));
        let same = a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits());
        let (one, other) = (&one.info().name, &other.info().name);
        assert!(
            a.len() == b.len() && same,
            "{one} and {other} differ: {case:?}"
        );
    }
}

/// The spacing of f32 at 1: twice the error of a rounding, relatively.
pub(crate) const EPS: f64 = f32::EPSILON as f64;

/// Bounds the rounding error of a sum of `n` products, relative to the sum of their magnitudes.
///
/// In the worst case errors add up to n roundings; being of either sign they add up to about √n, and no order of
/// summation that a kernel takes is worse than one after the other. The constant covers short sums and what is done
/// with the result.
pub(crate) fn sum_error(n: usize) -> f64 {
    EPS * (4.0 + (n as f64).sqrt())
}
