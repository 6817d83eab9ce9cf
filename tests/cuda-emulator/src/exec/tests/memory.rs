//! Loads, stores, atomic operations and asynchronous copies.

use super::{run, run_threads};
use crate::fault::Kind;

fn threads(n: u64) -> Vec<u64> {
    (0..n)
        .map(|thread| thread * 0x0102_0304_0506_0708 + 0x80)
        .collect()
}

#[test]
fn narrow_loads_are_extended_by_their_sign() {
    let a = threads(32);
    let address = "ld.param.u64 %wb, [pa]; add.s64 %wb, %wb, %at; ";
    let check = |load: &str, wanted: fn(u64) -> u64| {
        let found = run(&format!("{address}{load}"), [64, 64, 64, 32], [&a, &a, &a]);
        for (found, a) in found.iter().zip(&a) {
            assert_eq!(found & 0xffff_ffff, wanted(*a) & 0xffff_ffff, "{load}");
        }
    };
    check("ld.global.s8 d, [%wb];", |a| a as i8 as u64);
    check("ld.global.nc.u8 d, [%wb+1];", |a| a >> 8 & 0xff);
    check("ld.global.s16 d, [%wb+2];", |a| (a >> 16) as i16 as u64);
    check(
        "ld.global.nc.L1::no_allocate.L2::128B.u32 d, [%wb+4];",
        |a| a >> 32,
    );
    check(
        "ld.global.v2.u32 {%r0, %r1}, [%wb]; xor.b32 d, %r0, %r1;",
        |a| a ^ a >> 32,
    );
    check(
        "ld.volatile.global.v4.u16 {%h0, %h1, %h2, %h3}, [%wb]; cvt.u32.u16 d, %h3;",
        |a| a >> 48,
    );
    check("ld.u32 d, [%wb];", |a| a);
}

#[test]
fn shared_memory_is_reached_by_its_own_and_by_generic_addresses() {
    let a = threads(64);
    let body = "mov.u64 %wb, room; add.s64 %wb, %wb, %at; st.shared.b64 [%wb], a; bar.sync 0; \
                mov.u64 %wc, room; cvta.shared.u64 %wc, %wc; sub.s64 %wc, %wc, %at; ld.b64 d, [%wc+504];";
    let found = run(body, [64; 4], [&a, &a, &a]);
    let wanted: Vec<u64> = a.iter().rev().copied().collect();
    assert_eq!(found, wanted);
}

#[test]
fn atomic_operations_return_what_was_there() {
    let a: Vec<u64> = (0..64).map(|thread| thread + 1).collect();
    let body = "mov.u32 %r0, room; setp.ne.u32 %p0, %t, 0; @%p0 bra on; st.shared.u32 [%r0], 0; on: bar.sync 0; \
                atom.shared.add.u32 d, [%r0], a;";
    let mut found: Vec<u64> = run(body, [32; 4], [&a, &a, &a]);
    // The threads take turns in some order: what each saw is the sum of those before it.
    found.iter_mut().for_each(|d| *d &= 0xffff_ffff);
    assert_eq!(found.iter().max(), Some(&(64 * 65 / 2 - 64)));
    let sum = "ld.param.u64 %wb, [pa]; atom.global.max.u32 %r0, [%wb], b; bar.sync 0; ld.global.u32 d, [%wb];";
    let b: Vec<u64> = (0..64).map(|thread| thread * 37 % 101).collect();
    let found = run(sum, [32; 4], [&vec![5; 64], &b, &a]);
    assert!(
        found
            .iter()
            .all(|d| d & 0xffff_ffff == *b.iter().max().expect("values"))
    );
    let swap = "ld.param.u64 %wb, [pa]; atom.global.cas.b32 %r0, [%wb], 5, 9; bar.sync 0; ld.global.u32 d, [%wb];";
    let found = run(swap, [32; 4], [&vec![5; 64], &a, &a]);
    assert!(found.iter().all(|d| d & 0xffff_ffff == 9));
    let float = "ld.param.u64 %wb, [pa]; red.global.add.f32 [%wb], 0f3E800000; bar.sync 0; ld.global.u32 d, [%wb];";
    let found = run(float, [32; 4], [&vec![0; 64], &a, &a]);
    assert!(found.iter().all(|d| f32::from_bits(*d as u32) == 16.0));
}

#[test]
fn plain_and_atomic_accesses_race() {
    let a = threads(64);
    let body = "mov.u32 %r0, room; st.shared.u32 [%r0], 0; bar.sync 0; atom.shared.add.u32 d, [%r0], 1; \
                ld.shared.u32 d, [%r0];";
    let fault = run_threads(body, [64, 64, 64, 32], 64, [&a, &a, &a]).expect_err("a race");
    assert_eq!(fault.kind, Kind::Race, "{fault}");
}

#[test]
fn copies_arrive_when_they_are_waited_for() {
    let a = threads(32);
    let setup = "mov.u32 %r0, room; shl.b32 %r1, %t, 3; add.u32 %r0, %r0, %r1; ld.param.u64 %wb, [pa]; \
                 add.s64 %wb, %wb, %at; ";
    let copied = format!(
        "{setup}cp.async.ca.shared.global [%r0], [%wb], 8; cp.async.commit_group; cp.async.wait_group 0; \
         ld.shared.b64 d, [%r0];"
    );
    assert_eq!(run(&copied, [64; 4], [&a, &a, &a]), a);
    // Of eight bytes five come from memory, the rest is zero.
    let part = format!(
        "{setup}mov.b32 %r2, 5; cp.async.ca.shared.global [%r0], [%wb], 8, %r2; cp.async.wait_all; \
         ld.shared.b64 d, [%r0];"
    );
    let wanted: Vec<u64> = a.iter().map(|a| a & 0xff_ffff_ffff).collect();
    assert_eq!(run(&part, [64; 4], [&a, &a, &a]), wanted);
    // The newest group stays under way.
    let early = format!(
        "{setup}cp.async.ca.shared.global [%r0], [%wb], 8; cp.async.commit_group; cp.async.wait_group 1; \
         ld.shared.b64 d, [%r0];"
    );
    let fault = run_threads(&early, [64; 4], 32, [&a, &a, &a]).expect_err("not waited for");
    assert!(fault.text.contains("is not waited for"), "{fault}");
    // An empty group counts as one.
    let empty = format!(
        "{setup}cp.async.ca.shared.global [%r0], [%wb], 8; cp.async.commit_group; cp.async.commit_group; \
         cp.async.wait_group 1; ld.shared.b64 d, [%r0];"
    );
    assert_eq!(run(&empty, [64; 4], [&a, &a, &a]), a);
}

#[test]
fn faults_name_thread_and_line() {
    let a = threads(32);
    let body = "ld.param.u64 %wb, [pa];\nadd.s64 %wb, %wb, %at;\nld.global.u32 d, [%wb+4096];";
    let fault = run_threads(body, [64, 64, 64, 32], 32, [&a, &a, &a]).expect_err("an over-read");
    assert_eq!(fault.kind, Kind::Address);
    for words in [
        "kernel test, block (0, 0, 0), thread (0, 0, 0)",
        "`ld.global.u32 d, [%wb+4096];`",
    ] {
        assert!(fault.text.contains(words), "{fault}");
    }
}

/// Warp 0 writes, and warps 0 and 1 of three pass a barrier of their own; then a warp reads.
fn named_barrier(reader: u32) -> Result<Vec<u64>, crate::fault::Located> {
    let a = threads(96);
    let body = format!(
        "mov.u32 %r0, room; shr.u32 %r1, %t, 5; mov.b64 d, 0; and.b32 %r2, %t, 31; shl.b32 %r2, %r2, 3; \
         add.u32 %r0, %r0, %r2; setp.ne.u32 %p0, %r1, 0; @%p0 bra on; st.shared.b64 [%r0], a; on: \
         setp.eq.u32 %p1, %r1, 2; @%p1 bra past; bar.sync 1, 64; past: setp.ne.u32 %p2, %r1, {reader}; @%p2 bra end; \
         ld.shared.b64 d, [%r0]; end:"
    );
    run_threads(&body, [64; 4], 96, [&a, &a, &a])
}

#[test]
fn a_barrier_of_some_warps_orders_those() {
    let found = named_barrier(1).unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(found[32..64], threads(96)[..32]);
    let fault = named_barrier(2).expect_err("the third warp has passed no barrier");
    assert_eq!(fault.kind, Kind::Race, "{fault}");
}

#[test]
fn who_arrives_does_not_wait() {
    let a = threads(64);
    // Warp 0 writes and arrives, warp 1 waits for it.
    let body = "mov.u32 %r0, room; shr.u32 %r1, %t, 5; mov.b64 d, 0; and.b32 %r2, %t, 31; shl.b32 %r2, %r2, 3; \
                add.u32 %r0, %r0, %r2; setp.ne.u32 %p0, %r1, 0; @%p0 bra other; st.shared.b64 [%r0], a; bar.arrive 2, 64; \
                bra end; other: bar.sync 2, 64; ld.shared.b64 d, [%r0]; end:";
    let found = run(body, [64; 4], [&a, &a, &a]);
    assert_eq!(found[32..], a[..32]);
}

#[test]
fn threads_that_have_ended_are_not_waited_for() {
    let a = threads(96);
    let body =
        "mov.b64 d, a; setp.lt.u32 %p0, %t, 40; @%p0 bra stay; bra end; stay: bar.sync 0; end:";
    // The other warps' threads end before the barrier, some of them beside threads that wait.
    let fault = run_threads(body, [64; 4], 96, [&a, &a, &a]);
    assert!(fault.is_ok(), "{:?}", fault.err().map(|fault| fault.text));
}
