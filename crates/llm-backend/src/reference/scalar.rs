//! The arithmetic of single rows and elements, in f64.

use llm_tensor::{Activation, ClampedGate};

use super::Reference;
use crate::RelativeBias;

pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(&a, &b)| f64::from(a) * f64::from(b))
        .sum()
}

/// Bias of a head for a key at `position` and a query at `from`.
pub(super) fn biased(
    bias: &RelativeBias<'_, Reference>,
    head: usize,
    position: usize,
    from: usize,
) -> f64 {
    let element = (bias.zero + position)
        .saturating_sub(from)
        .min(bias.row - 1);
    f64::from(bias.table[head * bias.row + element])
}

pub(super) fn activated(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Relu => x.max(0.0),
        Activation::ReluSquared => x.max(0.0) * x.max(0.0),
        Activation::Gelu => x * normal_cdf(x),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::Silu => x / (1.0 + (-x).exp()),
    }
}

pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// ln(1 + exp(x)).
pub(super) fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// See [`crate::Xielu`], whose numbers these are.
pub(super) fn xielu([alpha_p, alpha_n, beta, eps]: [f64; 4], x: f64) -> f64 {
    match x > 0.0 {
        true => softplus(alpha_p) * x * x + beta * x,
        // What is not a number stays so.
        false => (beta + softplus(alpha_n)) * (x.min(eps).exp_m1() - x) + beta * x,
    }
}

/// A feature of the gate and the one that it gates. What is not a number stays so.
pub(super) fn clamped(gate: &ClampedGate, g: f64, u: f64) -> f64 {
    let limit = f64::from(gate.limit);
    let g = if g > limit { limit } else { g };
    let u = u.clamp(-limit, limit);
    g / (1.0 + (-f64::from(gate.alpha) * g).exp()) * (u + f64::from(gate.added))
}

/// Φ(x), the normal distribution's cumulative function, to about 1e-15.
///
/// Φ(x) = 1/2 + φ(x) · (x + x³/3 + x⁵/(3·5) + …) (Marsaglia 2004); the series of the tail's complement cancels beyond
/// |x| ≈ 7, where Φ has long left what f32 can tell from 0 or 1.
fn normal_cdf(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x.abs() > 7.0 {
        return if x > 0.0 { 1.0 } else { 0.0 };
    }
    let (mut sum, mut term, mut n) = (x, x, 1.0);
    while sum + term != sum {
        n += 2.0;
        term *= x * x / n;
        sum += term;
    }
    0.5 + sum * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_agree_with_tabled_values() {
        // Φ(1) and Φ(-2.5) from tables of the normal distribution.
        let cases = [
            (Activation::Gelu, 1.0, 0.841_344_746_068_542_9),
            (Activation::Gelu, -2.5, -2.5 * 0.006_209_665_325_776_132),
            (Activation::Gelu, 30.0, 30.0),
            (Activation::Relu, -1.0, 0.0),
            (Activation::ReluSquared, -2.0, 0.0),
            (Activation::ReluSquared, 3.0, 9.0),
            (Activation::Silu, 1.0, 0.731_058_578_630_004_9),
            (Activation::GeluTanh, 1.0, 0.841_191_990_608_276_6),
        ];
        for (activation, x, expected) in cases {
            let found = activated(activation, x);
            assert!(
                (found - expected).abs() < 1e-12,
                "{activation:?}({x}) = {found}, expected {expected}"
            );
        }
    }
}
