//! Integer arithmetic and comparisons.

use super::{Case, check, values};

const fn case(body: &'static str, widths: [u32; 4], wanted: fn(u64, u64, u64) -> u64) -> Case {
    Case {
        body,
        widths,
        wanted,
    }
}

const W16: [u32; 4] = [16; 4];
const W32: [u32; 4] = [32; 4];
const W64: [u32; 4] = [64; 4];

#[test]
fn arithmetic_wraps_as_rust_does() {
    check(
        &[
            case("add.s32 d, a, b;", W32, |a, b, _| a.wrapping_add(b)),
            case("add.u16 d, a, b;", W16, |a, b, _| a.wrapping_add(b)),
            case("add.s64 d, a, b;", W64, |a, b, _| a.wrapping_add(b)),
            case("add.sat.s32 d, a, b;", W32, |a, b, _| {
                (a as i32).saturating_add(b as i32) as u64
            }),
            case("sub.u32 d, a, b;", W32, |a, b, _| a.wrapping_sub(b)),
            case("sub.s64 d, a, b;", W64, |a, b, _| a.wrapping_sub(b)),
            case("mul.lo.s32 d, a, b;", W32, |a, b, _| a.wrapping_mul(b)),
            case("mul.lo.s64 d, a, b;", W64, |a, b, _| a.wrapping_mul(b)),
            case("mul.lo.u16 d, a, b;", W16, |a, b, _| a.wrapping_mul(b)),
            case("mul.hi.u32 d, a, b;", W32, |a, b, _| (a * b) >> 32),
            case("mul.hi.s32 d, a, b;", W32, |a, b, _| {
                ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u64
            }),
            case("mul.hi.u64 d, a, b;", W64, |a, b, _| {
                ((u128::from(a) * u128::from(b)) >> 64) as u64
            }),
            case("mul.hi.s64 d, a, b;", W64, |a, b, _| {
                ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64
            }),
            case("mul.wide.u32 d, a, b;", [32, 32, 32, 64], |a, b, _| a * b),
            case("mul.wide.s32 d, a, b;", [32, 32, 32, 64], |a, b, _| {
                (i64::from(a as i32) * i64::from(b as i32)) as u64
            }),
            case("mul.wide.u16 d, a, b;", [16, 16, 16, 32], |a, b, _| a * b),
            case("mul.wide.s16 d, a, b;", [16, 16, 16, 32], |a, b, _| {
                (i32::from(a as i16) * i32::from(b as i16)) as u64
            }),
            case("mad.lo.s32 d, a, b, c;", W32, |a, b, c| {
                a.wrapping_mul(b).wrapping_add(c)
            }),
            case("mad.wide.u32 d, a, b, c;", [32, 32, 64, 64], |a, b, c| {
                (a * b).wrapping_add(c)
            }),
            case("mad.wide.s32 d, a, b, c;", [32, 32, 64, 64], |a, b, c| {
                (i64::from(a as i32) * i64::from(b as i32)).wrapping_add(c as i64) as u64
            }),
            case("mad.hi.u32 d, a, b, c;", W32, |a, b, c| {
                ((a * b) >> 32).wrapping_add(c)
            }),
            case("min.s32 d, a, b;", W32, |a, b, _| {
                (a as i32).min(b as i32) as u64
            }),
            case("max.u32 d, a, b;", W32, |a, b, _| a.max(b)),
            case("max.s16 d, a, b;", W16, |a, b, _| {
                (a as i16).max(b as i16) as u64
            }),
            case("min.u64 d, a, b;", W64, |a, b, _| a.min(b)),
            case("abs.s32 d, a;", W32, |a, _, _| {
                (a as i32).wrapping_abs() as u64
            }),
            case("neg.s64 d, a;", W64, |a, _, _| a.wrapping_neg()),
            case("sad.s32 d, a, b, c;", W32, |a, b, c| {
                u64::from((a as i32).abs_diff(b as i32).wrapping_add(c as u32))
            }),
        ],
        values,
    );
}

#[test]
fn quotients_and_what_is_left() {
    check(
        &[
            case("div.u32 d, a, b;", W32, |a, b, _| {
                a.checked_div(b).unwrap_or(u64::MAX)
            }),
            case("div.s32 d, a, b;", W32, |a, b, _| {
                if b == 0 {
                    u64::MAX
                } else {
                    (a as i32).wrapping_div(b as i32) as u64
                }
            }),
            case("div.u64 d, a, b;", W64, |a, b, _| {
                a.checked_div(b).unwrap_or(u64::MAX)
            }),
            case("rem.u32 d, a, b;", W32, |a, b, _| {
                a.checked_rem(b).unwrap_or(a)
            }),
            case("rem.s64 d, a, b;", W64, |a, b, _| {
                if b == 0 {
                    a
                } else {
                    (a as i64).wrapping_rem(b as i64) as u64
                }
            }),
        ],
        values,
    );
}

#[test]
fn comparisons_by_type() {
    check(
        &[
            case(
                "setp.lt.s32 %p0, a, b; selp.b32 d, 1, 0, %p0;",
                W32,
                |a, b, _| u64::from((a as i32) < b as i32),
            ),
            case(
                "setp.lo.u32 %p0, a, b; selp.b32 d, 7, 9, %p0;",
                W32,
                |a, b, _| {
                    if a < b { 7 } else { 9 }
                },
            ),
            case(
                "setp.ge.s64 %p0, a, b; selp.b64 d, a, b, %p0;",
                W64,
                |a, b, _| {
                    if a as i64 >= b as i64 { a } else { b }
                },
            ),
            case(
                "setp.ne.s16 %p0, a, b; selp.u16 d, 1, 0, %p0;",
                W16,
                |a, b, _| u64::from(a != b),
            ),
            case(
                "setp.gt.u32 %p0, c, 100; setp.lt.and.s32 %p1|%p2, a, b, !%p0; selp.b32 %r0, 1, 0, %p1; \
                 selp.b32 %r1, 2, 0, %p2; or.b32 d, %r0, %r1;",
                W32,
                |a, b, c| {
                    let third = c <= 100;
                    let less = (a as i32) < b as i32;
                    u64::from(less && third) | u64::from(!less && third) << 1
                },
            ),
            case(
                "setp.eq.u32 %p0, a, b; setp.gt.u32 %p1, a, 5; xor.pred %p2, %p0, %p1; not.pred %p2, %p2; \
                 @%p2 bra yes; mov.b32 d, 0; bra end; yes: mov.b32 d, 1; end:",
                W32,
                |a, b, _| u64::from((a == b) == (a > 5)),
            ),
            case("slct.b32.s32 d, a, b, c;", W32, |a, b, c| {
                if c as i32 >= 0 { a } else { b }
            }),
        ],
        values,
    );
}
