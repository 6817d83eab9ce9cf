//! Transcendental functions of lanes of f32, to a few units in the last place.

use llm_tensor::{Activation, ClampedGate};

use crate::simd::Simd;

/// e^x: subnormal, zero or infinite where the result is; NaN stays NaN.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    // The bounds lie beyond where the result leaves f32, and the second operand is what survives of a NaN.
    let x = simd.max(simd.splat(-110.0), x);
    let x = simd.min(simd.splat(90.0), x);
    let Reduced { n, r, slope } = reduce(simd, x);
    simd.scale(simd.fma(slope, r, simd.splat(1.0)), n)
}

/// The hyperbolic tangent, relatively precise near zero as well; NaN stays NaN.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    // Beyond the bounds the result is ±1 in f32, and the second operand is what survives of a NaN.
    let x = simd.max(simd.splat(-10.0), x);
    let x = simd.min(simd.splat(10.0), x);
    // tanh x = m / (m + 2) with m = e^(2x) - 1 = 2^n·(e^r - 1) + (2^n - 1).
    let Reduced { n, r, slope } = reduce(simd, simd.add(x, x));
    let one = simd.splat(1.0);
    let power = simd.sub(simd.scale(one, n), one);
    let m = simd.add(simd.scale(simd.mul(slope, r), n), power);
    simd.div(m, simd.add(m, simd.splat(2.0)))
}

/// An exponent x = n·ln 2 + r with |r| ≤ ln 2 / 2, and the slope (e^r - 1) / r.
struct Reduced<S: Simd> {
    n: S::F32,
    r: S::F32,
    slope: S::F32,
}

#[inline(always)]
fn reduce<S: Simd>(simd: S, x: S::F32) -> Reduced<S> {
    // ln 2 in two parts so that the first product is exact.
    let n = simd.round(simd.mul(x, simd.splat(std::f32::consts::LOG2_E)));
    let r = simd.fma(n, simd.splat(-LN_2_HIGH), x);
    let r = simd.fma(n, simd.splat(-LN_2_LOW), r);
    // Taylor's series; the first term left out is below 2⁻²⁷.
    let mut slope = simd.splat(1.0 / 5040.0);
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0] {
        slope = simd.fma(slope, r, simd.splat(coefficient));
    }
    Reduced { n, r, slope }
}

/// `activation` of every lane.
#[inline(always)]
pub(crate) fn activate<S: Simd>(simd: S, activation: Activation, x: S::F32) -> S::F32 {
    match activation {
        Activation::Relu => simd.max(simd.splat(0.0), x),
        Activation::ReluSquared => {
            let x = simd.max(simd.splat(0.0), x);
            simd.mul(x, x)
        }
        Activation::Gelu => simd.mul(x, normal_cdf(simd, x)),
        Activation::GeluTanh => {
            // (1 + tanh u) / 2 = σ(2u).
            let cubic = simd.fma(simd.mul(simd.splat(0.044715), x), simd.mul(x, x), x);
            simd.mul(
                x,
                sigmoid(simd, simd.mul(simd.splat(2.0 * SQRT_2_OVER_PI), cubic)),
            )
        }
        Activation::Silu => simd.mul(x, sigmoid(simd, x)),
    }
}

/// Numbers of xIELU, those that softplus makes made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct XieluNumbers {
    pub(crate) above: f32,
    pub(crate) below: f32,
    pub(crate) slope: f32,
    pub(crate) eps: f32,
}

impl XieluNumbers {
    /// Of the numbers as they are learned.
    pub(crate) fn new([alpha_p, alpha_n, beta, eps]: [f32; 4]) -> Self {
        XieluNumbers {
            above: softplus(alpha_p),
            below: beta + softplus(alpha_n),
            slope: beta,
            eps: eps.min(0.0),
        }
    }
}

/// xIELU of every lane; NaN stays NaN.
#[inline(always)]
pub(crate) fn xielu<S: Simd>(simd: S, numbers: XieluNumbers, x: S::F32) -> S::F32 {
    let slope = simd.splat(numbers.slope);
    let above = simd.mul(simd.fma(simd.splat(numbers.above), x, slope), x);
    // The second operand is what survives of a NaN.
    let curve = simd.sub(expm1(simd, simd.min(simd.splat(numbers.eps), x)), x);
    let below = simd.fma(simd.splat(numbers.below), curve, simd.mul(slope, x));
    simd.where_negative(simd.sub(simd.splat(0.0), x), above, below)
}

/// e^x − 1 of numbers up to zero, relatively precise near it; NaN stays NaN.
#[inline(always)]
fn expm1<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    // Below, the result is −1 in f32.
    let Reduced { n, r, slope } = reduce(simd, simd.max(simd.splat(-30.0), x));
    let one = simd.splat(1.0);
    let power = simd.sub(simd.scale(one, n), one);
    simd.add(simd.scale(simd.mul(slope, r), n), power)
}

/// The clamped gate of every lane; NaN stays NaN.
#[inline(always)]
pub(crate) fn clamped<S: Simd>(simd: S, gate: &ClampedGate, g: S::F32, u: S::F32) -> S::F32 {
    let (limit, least) = (simd.splat(gate.limit), simd.splat(-gate.limit));
    let g = simd.min(limit, g);
    let u = simd.max(least, simd.min(limit, u));
    let glu = simd.mul(g, sigmoid(simd, simd.mul(simd.splat(gate.alpha), g)));
    simd.mul(glu, simd.add(u, simd.splat(gate.added)))
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    let one = simd.splat(1.0);
    let e = exp(simd, simd.sub(simd.splat(0.0), x));
    simd.div(one, simd.add(one, e))
}

/// ln(1 + e^x) of a number, without overflow.
pub(crate) fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// Φ(x) = erfc(-x / √2) / 2, relatively precise in the lower tail as well.
#[inline(always)]
fn normal_cdf<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    let one = simd.splat(1.0);
    let half = simd.splat(0.5);
    let magnitude = simd.max(simd.sub(simd.splat(0.0), x), x);
    // Beyond, the tail is zero in f32; squares of larger numbers would overflow.
    let magnitude = simd.min(simd.splat(15.0), magnitude);
    // erfc(z) = e^(-z²) · t · P(t) with t = 1 / (1 + 0.3 z), z = |x| / √2.
    let z = simd.mul(magnitude, simd.splat(std::f32::consts::FRAC_1_SQRT_2));
    let t = simd.div(one, simd.fma(simd.splat(0.3), z, one));
    let mut p = simd.splat(SCALED_ERFC[0]);
    for coefficient in &SCALED_ERFC[1..] {
        p = simd.fma(p, t, simd.splat(*coefficient));
    }
    // The exponent's rounding error, which e^· would magnify, is put back to first order.
    let h = simd.mul(half, magnitude);
    let square = simd.mul(h, magnitude);
    let error = simd.fma(h, magnitude, simd.sub(simd.splat(0.0), square));
    let e = exp(simd, simd.sub(simd.splat(0.0), square));
    let e = simd.sub(e, simd.mul(e, error));
    let tail = simd.mul(simd.mul(half, e), simd.mul(t, p));
    simd.where_negative(x, tail, simd.sub(one, tail))
}

/// ln 2 with its low 9 bits cleared: times integers of 8 bits it is exact.
const LN_2_HIGH: f32 = 0.693_145_75;
/// ln 2 - `LN_2_HIGH`.
const LN_2_LOW: f32 = 1.428_606_8e-6;
/// √(2/π).
const SQRT_2_OVER_PI: f32 = 0.797_884_6;

/// P of e^(z²)·erfc(z) = t·P(t), t = 1 / (1 + 0.3 z), highest power first: interpolated at the Chebyshev nodes of
/// 0 ≤ z ≤ 10.2, where it is off by 2.5e-8 at most, relatively.
const SCALED_ERFC: [f32; 9] = [
    -1.308_451_7e-1,
    4.922_865_3e-1,
    -5.268_560_7e-1,
    5.652_86e-1,
    -1.074_865_3e-1,
    2.207_373_1e-1,
    1.467_505_9e-1,
    1.709_545_5e-1,
    1.691_728_1e-1,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::isa::Level;
    use crate::simd::Kernel;

    struct Exp<'a>(&'a mut [f32]);

    impl Kernel for Exp<'_> {
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            for at in (0..self.0.len()).step_by(S::LANES) {
                let y = exp(simd, simd.get(self.0, at));
                simd.put(self.0, at, y);
            }
        }
    }

    struct Tanh<'a>(&'a mut [f32]);

    impl Kernel for Tanh<'_> {
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            for at in (0..self.0.len()).step_by(S::LANES) {
                let y = tanh(simd, simd.get(self.0, at));
                simd.put(self.0, at, y);
            }
        }
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let x: Vec<f32> = (0..200_001)
            .map(|i| (i - 100_000) as f32 * 1.1e-3)
            .collect();
        for level in Isa::ALL.into_iter().filter_map(Level::new) {
            let mut y = x.clone();
            level.run(Exp(&mut y));
            for (&x, &y) in x.iter().zip(&y) {
                let exact = f64::from(x).exp();
                if exact > f64::from(f32::MAX) {
                    assert_eq!(y, f32::INFINITY, "{level:?}: e^{x}");
                    continue;
                }
                // The spacing of subnormal numbers is that of the smallest normal ones.
                let unit = f64::from(f32::EPSILON) * exact.max(f64::from(f32::MIN_POSITIVE));
                let error = (f64::from(y) - exact).abs();
                assert!(error <= 2.0 * unit, "{level:?}: e^{x} = {y}, not {exact}");
            }
        }
    }

    #[test]
    fn exp_of_the_ends() {
        for level in Isa::ALL.into_iter().filter_map(Level::new) {
            let mut y = [
                f32::NEG_INFINITY,
                f32::MIN,
                f32::MAX,
                f32::INFINITY,
                f32::NAN,
            ];
            level.run(Exp(&mut y));
            assert_eq!(y[..4], [0.0, 0.0, f32::INFINITY, f32::INFINITY]);
            assert!(y[4].is_nan(), "{level:?}");
        }
    }

    #[test]
    fn tanh_is_within_four_units_in_the_last_place() {
        let x: Vec<f32> = (0..200_001)
            .map(|i| (i - 100_000) as f32 * 1.3e-4)
            .chain((0..120).map(|i| 2f32.powi(-i)))
            .collect();
        for level in Isa::ALL.into_iter().filter_map(Level::new) {
            let mut y = x.clone();
            level.run(Tanh(&mut y));
            for (&x, &y) in x.iter().zip(&y) {
                let exact = f64::from(x).tanh();
                let error = (f64::from(y) - exact).abs();
                let bound = 4.0 * f64::from(f32::EPSILON) * exact.abs();
                assert!(error <= bound, "{level:?}: tanh {x} = {y}, not {exact}");
            }
        }
    }

    #[test]
    fn tanh_of_the_ends() {
        for level in Isa::ALL.into_iter().filter_map(Level::new) {
            let mut y = [
                f32::NEG_INFINITY,
                f32::MIN,
                f32::MAX,
                f32::INFINITY,
                f32::NAN,
            ];
            level.run(Tanh(&mut y));
            assert_eq!(y[..4], [-1.0, -1.0, 1.0, 1.0]);
            assert!(y[4].is_nan(), "{level:?}");
        }
    }
}
