//! xIELU, an activation with learned numbers.

use crate::Backend;

/// xIELU (Huang and Schlag 2024), with numbers that a layer learned.
///
/// With α₊ = softplus(`alpha_p`) and α₋ = `beta` + softplus(`alpha_n`): `α₊ x² + beta · x` where x is above zero, and
/// `α₋ (exp(min(x, eps)) − 1 − x) + beta · x` elsewhere.
#[derive(Debug)]
pub struct Xielu<'a, B: Backend> {
    /// `[1]`, of the curve above zero.
    pub alpha_p: &'a B::Weight,
    /// `[1]`, of the curve below zero.
    pub alpha_n: &'a B::Weight,
    /// `[1]`, the slope at zero.
    pub beta: &'a B::Weight,
    /// `[1]`, the largest argument of the exponential: no more than zero.
    pub eps: &'a B::Weight,
}

impl<'a, B: Backend> Xielu<'a, B> {
    /// The numbers, in this order.
    pub fn numbers(&self) -> [&'a B::Weight; 4] {
        [self.alpha_p, self.alpha_n, self.beta, self.eps]
    }
}
