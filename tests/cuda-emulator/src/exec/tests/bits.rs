//! Bits, bytes and fields.

use super::{Case, check, values};

const fn case(body: &'static str, widths: [u32; 4], wanted: fn(u64, u64, u64) -> u64) -> Case {
    Case {
        body,
        widths,
        wanted,
    }
}

const W32: [u32; 4] = [32; 4];
const W64: [u32; 4] = [64; 4];
const SHIFT64: [u32; 4] = [64, 32, 32, 64];

#[test]
fn logic_and_shifts() {
    check(
        &[
            case("and.b32 d, a, b;", W32, |a, b, _| a & b),
            case("or.b64 d, a, b;", W64, |a, b, _| a | b),
            case("xor.b16 d, a, b;", [16; 4], |a, b, _| a ^ b),
            case("not.b32 d, a;", W32, |a, _, _| !a),
            case("cnot.b32 d, a;", W32, |a, _, _| u64::from(a == 0)),
            case(
                "shl.b32 d, a, b;",
                W32,
                |a, b, _| if b > 31 { 0 } else { a << b },
            ),
            case(
                "shl.b64 d, a, b;",
                SHIFT64,
                |a, b, _| if b > 63 { 0 } else { a << b },
            ),
            case(
                "shr.u32 d, a, b;",
                W32,
                |a, b, _| if b > 31 { 0 } else { a >> b },
            ),
            case("shr.s32 d, a, b;", W32, |a, b, _| {
                ((a as i32) >> b.min(31)) as u64
            }),
            case("shr.s64 d, a, b;", SHIFT64, |a, b, _| {
                ((a as i64) >> b.min(63)) as u64
            }),
            case("shr.u16 d, a, b;", [16, 32, 32, 16], |a, b, _| {
                if b > 15 { 0 } else { a >> b }
            }),
            case("shf.l.wrap.b32 d, a, b, c;", W32, |a, b, c| {
                ((b << 32 | a) << (c & 31)) >> 32
            }),
            case("shf.r.wrap.b32 d, a, b, c;", W32, |a, b, c| {
                (b << 32 | a) >> (c & 31)
            }),
            case("shf.l.clamp.b32 d, a, b, c;", W32, |a, b, c| {
                if c >= 32 {
                    a
                } else {
                    ((b << 32 | a) << c) >> 32
                }
            }),
            case("shf.r.clamp.b32 d, a, b, c;", W32, |a, b, c| {
                (b << 32 | a) >> c.min(32)
            }),
            case("lop3.b32 d, a, b, c, 0xca;", W32, |a, b, c| a & b | !a & c),
            case("lop3.b32 d, a, b, c, 0x96;", W32, |a, b, c| a ^ b ^ c),
            case("lop3.b32 d, a, b, c, 0xe8;", W32, |a, b, c| {
                a & b | a & c | b & c
            }),
        ],
        values,
    );
}

#[test]
fn counts_and_fields() {
    check(
        &[
            case("popc.b32 d, a;", W32, |a, _, _| u64::from(a.count_ones())),
            case("popc.b64 d, a;", [64, 64, 64, 32], |a, _, _| {
                u64::from(a.count_ones())
            }),
            case("clz.b32 d, a;", W32, |a, _, _| {
                u64::from((a as u32).leading_zeros())
            }),
            case("clz.b64 d, a;", [64, 64, 64, 32], |a, _, _| {
                u64::from(a.leading_zeros())
            }),
            case("brev.b32 d, a;", W32, |a, _, _| {
                u64::from((a as u32).reverse_bits())
            }),
            case("bfind.u32 d, a;", W32, |a, _, _| match a {
                0 => u64::from(u32::MAX),
                _ => u64::from(31 - (a as u32).leading_zeros()),
            }),
            case("bfind.shiftamt.u32 d, a;", W32, |a, _, _| match a {
                0 => u64::from(u32::MAX),
                _ => u64::from((a as u32).leading_zeros()),
            }),
            case("bfind.s32 d, a;", W32, |a, _, _| {
                let value = a as i32;
                let bits = if value < 0 { !value } else { value } as u32;
                if bits == 0 {
                    u64::from(u32::MAX)
                } else {
                    u64::from(31 - bits.leading_zeros())
                }
            }),
            case("bfe.u32 d, a, 5, 9;", W32, |a, _, _| a >> 5 & 0x1ff),
            case("bfe.s32 d, a, 20, 12;", W32, |a, _, _| {
                ((a as i32) >> 20) as u64
            }),
            case("bfe.s32 d, a, 4, 4;", W32, |a, _, _| {
                (((a as i32) << 24) >> 28) as u64
            }),
            case("bfe.u64 d, a, 30, 20;", W64, |a, _, _| a >> 30 & 0xf_ffff),
            case("bfi.b32 d, a, b, 8, 12;", W32, |a, b, _| {
                b & !(0xfff << 8) | (a & 0xfff) << 8
            }),
            case("bfi.b64 d, a, b, 32, 32;", W64, |a, b, _| {
                b & 0xffff_ffff | a << 32
            }),
        ],
        values,
    );
}

fn byte(a: u64, b: u64, choice: u64) -> u64 {
    let value = (b << 32 | a) >> (8 * (choice & 7)) & 255;
    match (choice >> 3 & 1, value >> 7) {
        (0, _) => value,
        (_, 0) => 0,
        _ => 255,
    }
}

fn signed(word: u64, at: u64) -> i64 {
    i64::from((word >> (8 * at)) as i8)
}

#[test]
fn bytes_of_words() {
    check(
        &[
            case("prmt.b32 d, a, b, c;", W32, |a, b, c| {
                (0..4).fold(0, |out, k| out | byte(a, b, c >> (4 * k) & 15) << (8 * k))
            }),
            case("prmt.b32 d, a, b, 0x5410;", W32, |a, b, _| {
                a & 0xffff | (b & 0xffff) << 16
            }),
            case("prmt.b32.f4e d, a, b, c;", W32, |a, b, c| {
                (b << 32 | a) >> (8 * (c & 3))
            }),
            case("dp4a.s32.s32 d, a, b, c;", W32, |a, b, c| {
                (0..4).fold(i64::from(c as i32), |sum, k| {
                    sum + signed(a, k) * signed(b, k)
                }) as u64
            }),
            case("dp4a.u32.u32 d, a, b, c;", W32, |a, b, c| {
                (0..4).fold(c, |sum, k| {
                    sum.wrapping_add((a >> (8 * k) & 255) * (b >> (8 * k) & 255))
                })
            }),
            case("dp4a.u32.s32 d, a, b, c;", W32, |a, b, c| {
                (0..4).fold(i64::from(c as i32), |sum, k| {
                    sum + (a >> (8 * k) & 255) as i64 * signed(b, k)
                }) as u64
            }),
            case(
                "mov.b32 {%h0, %h1}, a; mov.b32 d, {%h1, %h0};",
                W32,
                |a, _, _| a << 16 | a >> 16,
            ),
            case(
                "mov.b64 {%r0, %r1}, a; mov.b64 d, {%r1, %r0};",
                W64,
                |a, _, _| a.rotate_left(32),
            ),
        ],
        values,
    );
}
