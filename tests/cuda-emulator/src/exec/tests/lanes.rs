//! Exchanges between lanes, votes, and tensor cores.

use half::{bf16, f16};

use super::{run, run_threads, values};

fn threads(n: usize) -> Vec<u64> {
    (0..n as u64).map(|thread| thread * 1000 + 7).collect()
}

#[test]
fn shuffles_name_the_lane_that_they_read() {
    let lane_of = |at: usize| at % 32;
    type Source = fn(usize) -> usize;
    let cases: [(&str, Source); 7] = [
        ("shfl.sync.bfly.b32 d, a, 5, 31, -1;", |lane| lane ^ 5),
        ("shfl.sync.down.b32 d, a, 3, 31, -1;", |lane| {
            if lane + 3 < 32 { lane + 3 } else { lane }
        }),
        ("shfl.sync.up.b32 d, a, 4, 0, -1;", |lane| {
            if lane >= 4 { lane - 4 } else { lane }
        }),
        ("shfl.sync.idx.b32 d, a, 9, 31, -1;", |_| 9),
        // Segments of eight lanes.
        ("shfl.sync.idx.b32 d, a, 2, 6175, -1;", |lane| {
            lane / 8 * 8 + 2
        }),
        ("shfl.sync.down.b32 d, a, 1, 6175, -1;", |lane| {
            if lane % 8 == 7 { lane } else { lane + 1 }
        }),
        ("shfl.sync.up.b32 d, a, 1, 6144, -1;", |lane| {
            if lane % 8 == 0 { lane } else { lane - 1 }
        }),
    ];
    let a = threads(64);
    for (body, from) in cases {
        let found = run(body, [32; 4], [&a, &a, &a]);
        for at in 0..64 {
            let wanted = a[at / 32 * 32 + from(lane_of(at))];
            assert_eq!(found[at] as u32 as u64, wanted, "{body} at {at}");
        }
    }
}

#[test]
fn shuffles_tell_who_was_in_range() {
    let a = threads(32);
    let body = "shfl.sync.down.b32 %r0|%p0, a, 30, 31, -1; selp.b32 d, 1, 0, %p0;";
    let found = run(body, [32; 4], [&a, &a, &a]);
    let wanted: Vec<u64> = (0..32).map(|lane| u64::from(lane < 2)).collect();
    assert_eq!(found.iter().map(|d| d & 1).collect::<Vec<_>>(), wanted);
}

#[test]
fn a_shuffle_from_a_lane_that_takes_no_part_is_a_fault() {
    let a = threads(32);
    let body = "setp.lt.u32 %p0, %t, 16; mov.b32 d, 0; @!%p0 bra end; \
                shfl.sync.idx.b32 d, a, 20, 31, 0xffff; end:";
    let fault = run_threads(body, [32; 4], 32, [&a, &a, &a]).expect_err("lane 20 is not there");
    assert!(
        fault
            .text
            .contains("reads lane 20, which does not take part"),
        "{fault}"
    );
}

#[test]
fn votes_and_matches_see_all_lanes() {
    let a: Vec<u64> = (0..32).map(|lane| lane % 5).collect();
    let same = |value: u64| {
        (0..32)
            .filter(|lane| a[*lane] == value)
            .fold(0u64, |bits, lane| bits | 1 << lane)
    };
    let check = |body: &str, wanted: &dyn Fn(u64) -> u64| {
        let found = run(body, [32; 4], [&a, &a, &a]);
        for lane in 0..32 {
            assert_eq!(
                found[lane] & 0xffff_ffff,
                wanted(a[lane]),
                "{body} at {lane}"
            );
        }
    };
    check(
        "setp.eq.u32 %p0, a, 3; vote.sync.ballot.b32 d, %p0, -1;",
        &|_| same(3),
    );
    check(
        "setp.lt.u32 %p0, a, 5; vote.sync.all.pred %p1, %p0, -1; selp.b32 d, 1, 0, %p1;",
        &|_| 1,
    );
    check(
        "setp.gt.u32 %p0, a, 5; vote.sync.any.pred %p1, %p0, -1; selp.b32 d, 1, 0, %p1;",
        &|_| 0,
    );
    check("match.any.sync.b32 d, a, -1;", &same);
    check("activemask.b32 d;", &|_| 0xffff_ffff);
    check("redux.sync.add.s32 d, a, -1;", &|_| a.iter().sum());
    check("redux.sync.max.u32 d, a, -1;", &|_| 4);
}

#[test]
fn block_votes_count_over_all_warps() {
    let a = threads(96);
    let body = "setp.lt.u32 %p0, %t, 40; barrier.cta.red.popc.aligned.u32 d, 0, %p0;";
    let found = run(body, [32; 4], [&a, &a, &a]);
    assert!(found.iter().all(|d| d & 0xffff_ffff == 40), "{found:?}");
}

/// Element of a left fragment: row and column by lane and place, of rows of `k` elements, `per` in a register.
fn left(lane: usize, register: usize, element: usize, per: usize) -> (usize, usize) {
    (
        lane / 4 + register % 2 * 8,
        lane % 4 * per + element + register / 2 * 4 * per,
    )
}

/// Small whole numbers: every product and sum is exact.
fn small(row: usize, col: usize) -> i32 {
    ((row * 7 + col * 3 + row * col) % 15) as i32 - 7
}

#[test]
fn products_of_halves_and_brain_floats_are_those_of_their_matrices() {
    for (ty, encode) in [
        (
            "f16",
            (|value| f16::from_f32(value).to_bits()) as fn(f32) -> u16,
        ),
        ("bf16", |value| bf16::from_f32(value).to_bits()),
    ] {
        let pack = |f: &dyn Fn(usize) -> i32| {
            (0..2).fold(0u64, |out, k| {
                out | u64::from(encode(f(k) as f32)) << (16 * k)
            })
        };
        // Two registers of the left matrix come in `a`, two more in `b`; the right one's in `c`.
        let of = |register: usize| {
            (0..32)
                .map(move |lane| (lane, register))
                .map(|(lane, register)| {
                    pack(&|k| {
                        let (row, col) = left(lane, register, k, 2);
                        small(row, col)
                    })
                })
        };
        let join = |low: Vec<u64>, high: Vec<u64>| -> Vec<u64> {
            low.iter()
                .zip(high)
                .map(|(low, high)| low | high << 32)
                .collect()
        };
        let a = join(of(0).collect(), of(1).collect());
        let b = join(of(2).collect(), of(3).collect());
        let right = |register: usize| -> Vec<u64> {
            (0..32)
                .map(|lane| pack(&|k| small(lane % 4 * 2 + k + register * 8, lane / 4)))
                .collect()
        };
        let c = join(right(0), right(1));
        for register in 0..4 {
            let body = format!(
                "mov.b64 {{%r0, %r1}}, a; mov.b64 {{%r2, %r3}}, b; mov.b64 {{%r4, %r5}}, c; mov.b32 %r6, 0f3F800000; \
                 mma.sync.aligned.m16n8k16.row.col.f32.{ty}.{ty}.f32 {{%r6, %r7, %r8, %r9}}, {{%r0, %r1, %r2, %r3}}, \
                 {{%r4, %r5}}, {{%r6, %r6, %r6, %r6}}; mov.b32 d, %r{};",
                6 + register
            );
            let found = run(&body, [64, 64, 64, 32], [&a, &b, &c]);
            for (lane, value) in found.iter().enumerate() {
                let (row, col) = (lane / 4 + register / 2 * 8, lane % 4 * 2 + register % 2);
                let wanted: i32 = (0..16).map(|k| small(row, k) * small(k, col)).sum();
                assert_eq!(
                    f32::from_bits(*value as u32),
                    wanted as f32 + 1.0,
                    "{ty}: {row}, {col}"
                );
            }
        }
    }
}

#[test]
fn products_of_bytes_are_those_of_their_matrices() {
    let pack = |f: &dyn Fn(usize) -> i32| {
        (0..4).fold(0u64, |out, k| out | u64::from(f(k) as u8) << (8 * k))
    };
    let of = |register: usize, lane: usize| {
        pack(&|k| {
            let (row, col) = left(lane, register, k, 4);
            small(row, col) * 17
        })
    };
    let pair = |low: usize, high: usize| -> Vec<u64> {
        (0..32)
            .map(|lane| of(low, lane) | of(high, lane) << 32)
            .collect()
    };
    let (a, b) = (pair(0, 1), pair(2, 3));
    let right = |lane: usize, register: usize| {
        pack(&|k| small(lane % 4 * 4 + k + register * 16, lane / 4) * 18)
    };
    let c: Vec<u64> = (0..32)
        .map(|lane| right(lane, 0) | right(lane, 1) << 32)
        .collect();
    for register in 0..4 {
        let body = format!(
            "mov.b64 {{%r0, %r1}}, a; mov.b64 {{%r2, %r3}}, b; mov.b64 {{%r4, %r5}}, c; mov.b32 %r6, 5; \
             mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {{%r6, %r7, %r8, %r9}}, {{%r0, %r1, %r2, %r3}}, \
             {{%r4, %r5}}, {{%r6, %r6, %r6, %r6}}; mov.b32 d, %r{};",
            6 + register
        );
        let found = run(&body, [64, 64, 64, 32], [&a, &b, &c]);
        for (lane, value) in found.iter().enumerate() {
            let (row, col) = (lane / 4 + register / 2 * 8, lane % 4 * 2 + register % 2);
            let wanted: i32 = (0..32)
                .map(|k| small(row, k) * 17 * small(k, col) * 18)
                .sum();
            assert_eq!(*value as i32, wanted + 5, "{row}, {col}");
        }
    }
}

#[test]
fn matrices_are_loaded_as_they_lie_and_transposed() {
    // Each lane writes four bytes of a 8 × 8 matrix of 16-bit numbers, whose value is their index.
    let a = values(32, 1)[..32].to_vec();
    let setup = "shl.b32 %r0, %t, 1; add.u32 %r1, %r0, 1; shl.b32 %r1, %r1, 16; or.b32 %r2, %r0, %r1; \
                 mov.u32 %r3, room; shl.b32 %r4, %t, 2; add.u32 %r5, %r3, %r4; st.shared.u32 [%r5], %r2; \
                 bar.warp.sync -1; and.b32 %r6, %t, 7; shl.b32 %r6, %r6, 4; add.u32 %r6, %r3, %r6; ";
    for (name, index) in [
        (
            "ldmatrix.sync.aligned.m8n8.x1.shared.b16",
            (|row, col| row * 8 + col) as fn(u64, u64) -> u64,
        ),
        (
            "ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16",
            |row, col| col * 8 + row,
        ),
    ] {
        let found = run(
            &format!("{setup}{name} {{d}}, [%r6];"),
            [32; 4],
            [&a, &a, &a],
        );
        for (lane, value) in found.iter().enumerate() {
            let (row, col) = (lane as u64 / 4, lane as u64 % 4 * 2);
            let wanted = index(row, col) | index(row, col + 1) << 16;
            assert_eq!(value & 0xffff_ffff, wanted, "{name} at {lane}");
        }
    }
}
