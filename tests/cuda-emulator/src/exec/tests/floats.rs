//! Floats: exact where the hardware is, within its bound where it approximates.

use half::{bf16, f16};

use super::{Case, check, floats, run, values};

const fn case(body: &'static str, widths: [u32; 4], wanted: fn(u64, u64, u64) -> u64) -> Case {
    Case {
        body,
        widths,
        wanted,
    }
}

const W32: [u32; 4] = [32; 4];
const W16: [u32; 4] = [16; 4];

fn f(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

/// Bits; every NaN is the one that the hardware makes, as is done to what the emulator gives.
fn bits(value: f32) -> u64 {
    u64::from(if value.is_nan() { f32::NAN } else { value }.to_bits())
}

/// As `check`, with all NaN alike.
fn check_floats(cases: &[Case]) {
    for case in cases {
        let (a, b, c) = (floats(1), floats(2), floats(3));
        let found = run(case.body, case.widths, [&a, &b, &c]);
        for at in 0..a.len() {
            let (found, wanted) = (f(found[at]), f((case.wanted)(a[at], b[at], c[at])));
            assert!(
                found.to_bits() == wanted.to_bits() || found.is_nan() && wanted.is_nan(),
                "{} of {}, {}, {}: {found:e}, not {wanted:e}",
                case.body,
                f(a[at]),
                f(b[at]),
                f(c[at])
            );
        }
    }
}

#[test]
fn arithmetic_is_exact() {
    check_floats(&[
        case("add.f32 d, a, b;", W32, |a, b, _| bits(f(a) + f(b))),
        case("sub.rn.f32 d, a, b;", W32, |a, b, _| bits(f(a) - f(b))),
        case("mul.f32 d, a, b;", W32, |a, b, _| bits(f(a) * f(b))),
        case("fma.rn.f32 d, a, b, c;", W32, |a, b, c| {
            bits(f(a).mul_add(f(b), f(c)))
        }),
        case("div.rn.f32 d, a, b;", W32, |a, b, _| bits(f(a) / f(b))),
        case("sqrt.rn.f32 d, a;", W32, |a, _, _| bits(f(a).sqrt())),
        case("rcp.rn.f32 d, a;", W32, |a, _, _| bits(1.0 / f(a))),
        case("neg.f32 d, a;", W32, |a, _, _| bits(-f(a))),
        case("abs.f32 d, a;", W32, |a, _, _| bits(f(a).abs())),
        case("add.sat.f32 d, a, b;", W32, |a, b, _| {
            let sum = f(a) + f(b);
            bits(if sum.is_nan() {
                0.0
            } else {
                sum.clamp(0.0, 1.0) + 0.0
            })
        }),
        case("copysign.f32 d, a, b;", W32, |a, b, _| {
            bits(f(b).copysign(f(a)))
        }),
        case("cvt.rni.f32.f32 d, a;", W32, |a, _, _| {
            bits(f(a).round_ties_even())
        }),
        case("cvt.rzi.f32.f32 d, a;", W32, |a, _, _| bits(f(a).trunc())),
        case("cvt.rmi.f32.f32 d, a;", W32, |a, _, _| bits(f(a).floor())),
        case("cvt.rpi.f32.f32 d, a;", W32, |a, _, _| bits(f(a).ceil())),
    ]);
}

#[test]
fn of_a_number_and_nan_the_number_is_the_least_and_the_most() {
    check_floats(&[
        case("min.f32 d, a, b;", W32, |a, b, _| match (f(a), f(b)) {
            (x, y) if x.is_nan() => bits(y),
            (x, y) if y.is_nan() => bits(x),
            (x, y) if x == y => a | b,
            (x, y) => bits(if x < y { x } else { y }),
        }),
        case("max.f32 d, a, b;", W32, |a, b, _| match (f(a), f(b)) {
            (x, y) if x.is_nan() => bits(y),
            (x, y) if y.is_nan() => bits(x),
            (x, y) if x == y => a & b,
            (x, y) => bits(if x > y { x } else { y }),
        }),
        case("max.NaN.f32 d, a, b;", W32, |a, b, _| match (f(a), f(b)) {
            (x, y) if x.is_nan() || y.is_nan() => bits(f32::NAN),
            (x, y) if x == y => a & b,
            (x, y) => bits(if x > y { x } else { y }),
        }),
    ]);
}

/// The exact value of `high + low` rounded down, found by looking at neighbours.
fn down(exact: impl Fn(f32) -> std::cmp::Ordering, nearest: f32) -> f32 {
    if nearest.is_finite() && exact(nearest).is_gt() {
        nearest.next_down()
    } else {
        nearest
    }
}

#[test]
fn directed_roundings_of_products() {
    check_floats(&[
        case("mul.rm.f32 d, a, b;", W32, |a, b, _| {
            let product = f64::from(f(a)) * f64::from(f(b));
            let nearest = f(a) * f(b);
            if nearest == f32::INFINITY && product.is_finite() {
                return bits(f32::MAX);
            }
            bits(down(|x| f64::from(x).total_cmp(&product), nearest))
        }),
        case("mul.rz.f32 d, a, b;", W32, |a, b, _| {
            let product = f64::from(f(a)) * f64::from(f(b));
            let nearest = f(a) * f(b);
            if nearest.is_infinite() && product.is_finite() {
                return bits(f32::MAX.copysign(nearest));
            }
            let size = down(|x| f64::from(x).total_cmp(&product.abs()), nearest.abs());
            bits(size.copysign(nearest))
        }),
    ]);
}

#[test]
fn comparisons_with_nan() {
    check_floats(&[
        case(
            "setp.lt.f32 %p0, a, b; selp.f32 d, 0f3F800000, 0f00000000, %p0;",
            W32,
            |a, b, _| bits(f32::from(u8::from(f(a) < f(b)))),
        ),
        case(
            "setp.neu.f32 %p0, a, b; selp.f32 d, 0f3F800000, 0f00000000, %p0;",
            W32,
            |a, b, _| bits(f32::from(u8::from(f(a) != f(b)))),
        ),
        case(
            "setp.ne.f32 %p0, a, b; selp.f32 d, 0f3F800000, 0f00000000, %p0;",
            W32,
            |a, b, _| {
                let ordered = !f(a).is_nan() && !f(b).is_nan();
                bits(f32::from(u8::from(ordered && f(a) != f(b))))
            },
        ),
        case(
            "setp.gtu.f32 %p0, a, b; selp.f32 d, 0f3F800000, 0f00000000, %p0;",
            W32,
            |a, b, _| {
                let unordered = f(a).is_nan() || f(b).is_nan();
                bits(f32::from(u8::from(unordered || f(a) > f(b))))
            },
        ),
        case(
            "testp.infinite.f32 %p0, a; selp.f32 d, 0f3F800000, 0f00000000, %p0;",
            W32,
            |a, _, _| bits(f32::from(u8::from(f(a).is_infinite()))),
        ),
    ]);
}

#[test]
fn comparisons_as_numbers() {
    check_floats(&[
        case("set.gt.f32.f32 d, a, b;", W32, |a, b, _| {
            bits(f32::from(u8::from(f(a) > f(b))))
        }),
        // Ones in the upper half where the second number is not the greater.
        case(
            "cvt.rn.f16x2.f32 %r0, a, b; cvt.rn.f16x2.f32 %r1, b, a; set.le.f16x2.f16x2 d, %r0, %r1;",
            W32,
            |a, b, _| {
                let (a, b) = (f16::from_f32(f(a)), f16::from_f32(f(b)));
                let one = |holds: bool| u64::from(holds) * 0x3c00;
                one(a <= b) << 16 | one(b <= a)
            },
        ),
    ]);
    check(
        &[case("set.ne.u32.f32 d, a, b;", W32, |a, b, _| {
            let ordered = !f(a).is_nan() && !f(b).is_nan();
            if ordered && f(a) != f(b) {
                u64::from(u32::MAX)
            } else {
                0
            }
        })],
        |_, seed| floats(seed),
    );
}

#[test]
fn conversions_hold_to_their_range() {
    check(
        &[
            case("cvt.rni.s32.f32 d, a;", W32, |a, _, _| {
                f(a).round_ties_even() as i32 as u64
            }),
            case("cvt.rzi.u32.f32 d, a;", W32, |a, _, _| {
                u64::from(f(a) as u32)
            }),
            case("cvt.rzi.s64.f32 d, a;", [32, 32, 32, 64], |a, _, _| {
                f(a) as i64 as u64
            }),
            case("cvt.rmi.s32.f32 d, a;", W32, |a, _, _| {
                f(a).floor() as i32 as u64
            }),
            case("cvt.rni.s8.f32 d, a;", W32, |a, _, _| {
                f(a).round_ties_even() as i8 as i32 as u64
            }),
        ],
        |_, seed| floats(seed),
    );
    check(
        &[
            case("cvt.rn.f32.s32 d, a;", W32, |a, _, _| bits(a as i32 as f32)),
            case("cvt.rn.f32.u32 d, a;", W32, |a, _, _| bits(a as u32 as f32)),
            case("cvt.rn.f32.u64 d, a;", [64, 32, 32, 32], |a, _, _| {
                bits(a as f32)
            }),
            case("cvt.rn.f32.s64 d, a;", [64, 32, 32, 32], |a, _, _| {
                bits(a as i64 as f32)
            }),
            case("cvt.s64.s32 d, a;", [32, 32, 32, 64], |a, _, _| {
                a as i32 as u64
            }),
            // The register of the operand is wider than its type.
            case("cvt.s64.s32 d, a;", [64, 32, 32, 64], |a, _, _| {
                a as i32 as u64
            }),
            case("cvt.s32.s64 d, a;", [64, 32, 32, 64], |a, _, _| {
                a as i32 as u64
            }),
            case("cvt.u64.u32 d, a;", [32, 32, 32, 64], |a, _, _| a),
            case("cvt.u32.u64 d, a;", [64, 32, 32, 32], |a, _, _| a),
            case("cvt.s32.s8 d, a;", W32, |a, _, _| a as i8 as u64),
            case("cvt.u32.u8 d, a;", W32, |a, _, _| u64::from(a as u8)),
            case("cvt.s8.s32 d, a;", W32, |a, _, _| a as i8 as u64),
            case("cvt.sat.s8.s32 d, a;", W32, |a, _, _| {
                (a as i32).clamp(-128, 127) as u64
            }),
            case("cvt.sat.u8.s32 d, a;", W32, |a, _, _| {
                (a as i32).clamp(0, 255) as u64
            }),
            case("cvt.u32.u16 d, a;", [16, 32, 32, 32], |a, _, _| a),
            case("cvt.s32.s16 d, a;", [16, 32, 32, 32], |a, _, _| {
                a as i16 as u64
            }),
        ],
        values,
    );
}

/// The double nearest to a sum or product is what a 16-bit format rounds: here bit by bit, without `half`.
fn nearest(value: f64, mantissa: i32, least: i32) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let exponent = value.abs().log2().floor().max(f64::from(least)) as i32;
    let step = 2f64.powi(exponent - mantissa);
    (value / step).round_ties_even() * step
}

#[test]
fn sixteen_bits_are_rounded_once() {
    check(
        &[
            case("cvt.rn.f16.f32 d, a;", [32, 32, 32, 16], |a, _, _| {
                let value = nearest(f64::from(f(a)), 10, -14);
                if f(a).is_nan() {
                    return u64::from(f16::from_f32(f(a)).to_bits());
                }
                let value = if value.abs() > 65504.0 {
                    value * 1e300
                } else {
                    value
                };
                u64::from(f16::from_f32(value as f32).to_bits())
            }),
            case("cvt.rn.bf16.f32 d, a;", [32, 32, 32, 16], |a, _, _| {
                if f(a).is_nan() {
                    return u64::from(bf16::from_f32(f(a)).to_bits());
                }
                let bits = a as u32;
                u64::from((bits + 0x7fff + (bits >> 16 & 1)) >> 16)
            }),
            case("cvt.rz.bf16.f32 d, a;", [32, 32, 32, 16], |a, _, _| {
                if f(a).is_nan() {
                    u64::from(bf16::from_f32(f(a)).to_bits())
                } else {
                    a >> 16
                }
            }),
            case("cvt.rn.f16x2.f32 d, a, b;", W32, |a, b, _| {
                u64::from(f16::from_f32(f(a)).to_bits()) << 16
                    | u64::from(f16::from_f32(f(b)).to_bits())
            }),
            case("cvt.rna.tf32.f32 d, a;", W32, |a, _, _| {
                (a as u32).wrapping_add(0x1000) as u64 & !0x1fff
            }),
        ],
        |_, seed| floats(seed),
    );
    check(
        &[
            case("cvt.f32.f16 d, a;", [16, 16, 16, 32], |a, _, _| {
                u64::from(f16::from_bits(a as u16).to_f32().to_bits())
            }),
            case("cvt.f32.bf16 d, a;", [16, 16, 16, 32], |a, _, _| {
                // A NaN becomes a quiet one.
                u64::from(bf16::from_bits(a as u16).to_f32().to_bits())
            }),
        ],
        values,
    );
}

#[test]
fn arithmetic_of_halves_is_rounded_once() {
    let halves = |_: u32, seed: u64| -> Vec<u64> {
        floats(seed)
            .iter()
            .map(|bits| u64::from(f16::from_f32(f(*bits)).to_bits()))
            .collect()
    };
    let of = |bits: u64| f16::from_bits(bits as u16).to_f64();
    let (a, b, c) = (halves(16, 1), halves(16, 2), halves(16, 3));
    let check = |body: &str, wanted: &dyn Fn(f64, f64, f64) -> f64| {
        let found = run(body, W16, [&a, &b, &c]);
        for at in 0..a.len() {
            let exact = wanted(of(a[at]), of(b[at]), of(c[at]));
            let rounded = nearest(exact, 10, -14);
            let rounded = if rounded.abs() > 65504.0 {
                rounded * 1e300
            } else {
                rounded
            };
            let found = of(found[at]);
            assert!(
                found == rounded || found.is_nan() && rounded.is_nan(),
                "{body} of {}, {}, {}: {found}, not {rounded}",
                of(a[at]),
                of(b[at]),
                of(c[at])
            );
        }
    };
    check("add.f16 d, a, b;", &|a, b, _| a + b);
    check("mul.f16 d, a, b;", &|a, b, _| a * b);
    check("fma.rn.f16 d, a, b, c;", &|a, b, c| a * b + c);
    check(
        "mov.b32 %r0, {a, b}; mov.b32 %r1, {b, c}; mul.f16x2 %r2, %r0, %r1; mov.b32 {%h0, %h1}, %r2; \
         mov.b16 d, %h1;",
        &|_, b, c| b * c,
    );
}

/// Largest error of an approximation, relative to the true value, over operands between `low` and `high`.
fn worst(body: &str, low: f32, high: f32, truth: fn(f64) -> f64) -> f64 {
    let n = 512;
    let inputs: Vec<u64> = (0..n)
        .map(|k| bits(low + (high - low) * k as f32 / n as f32))
        .collect();
    let found = run(body, W32, [&inputs, &inputs, &inputs]);
    let error = |at: usize| {
        let wanted = truth(f64::from(f(inputs[at])));
        (f64::from(f(found[at])) - wanted).abs() / wanted.abs()
    };
    (0..n).map(error).fold(0.0, f64::max)
}

#[test]
fn approximations_are_within_the_bounds_of_the_hardware_and_not_exact() {
    let one_ulp = 2f64.powi(-22);
    for (body, low, high, truth, bound) in [
        (
            "rcp.approx.f32 d, a;",
            0.7,
            90.0,
            (|x| 1.0 / x) as fn(f64) -> f64,
            one_ulp,
        ),
        (
            "rsqrt.approx.f32 d, a;",
            0.7,
            90.0,
            |x| 1.0 / x.sqrt(),
            one_ulp,
        ),
        ("sqrt.approx.f32 d, a;", 0.7, 90.0, f64::sqrt, one_ulp),
        ("ex2.approx.ftz.f32 d, a;", -20.0, 20.0, f64::exp2, one_ulp),
        ("lg2.approx.f32 d, a;", 2.5, 90.0, f64::log2, one_ulp),
        ("tanh.approx.f32 d, a;", 0.1, 3.0, f64::tanh, 2f64.powi(-11)),
    ] {
        let error = worst(body, low, high, truth);
        assert!(error <= bound, "{body}: {error:e}");
        assert!(error > 2f64.powi(-25), "{body} is exact");
    }
}
