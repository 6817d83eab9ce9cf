//! Instructions against Rust's own arithmetic, each over many values.

mod bits;
mod floats;
mod integers;
mod lanes;
mod memory;

use crate::block::{Block, Launch};
use crate::device::Memory;
use crate::fault::Located;
use crate::program::{Program, Symbols, build};
use crate::ptx;

/// Program of the first kernel of a module, whose variables are left out.
pub(super) fn program(text: &str) -> Result<Program, String> {
    let module = ptx::parse(text)?;
    let symbols = Symbols {
        source: text.lines().map(Box::from).collect(),
        ..Symbols::default()
    };
    build(&module, &module.kernels[0], &symbols)
}

/// Runs `body` in a block of `threads` threads, each with three 64-bit inputs; returns what each leaves in `d`.
///
/// `a`, `b`, `c` and `d` are registers of as many bits as `widths` says; `%wa` to `%wd` are 64-bit, `%r0` to `%r9` 32-bit
/// and `%p0` to `%p3` predicates for the body's own use, `%t` is the thread's index.
pub(super) fn run_threads(
    body: &str,
    widths: [u32; 4],
    threads: usize,
    inputs: [&[u64]; 3],
) -> Result<Vec<u64>, Located> {
    let [wa, wb, wc, wd] = widths;
    let load = |name: &str, width: u32| {
        format!(
            "ld.param.u64 %wa, [p{name}];\nadd.s64 %wa, %wa, %at;\nld.global.b{width} {name}, [%wa];\n"
        )
    };
    let text = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n\
         .visible .entry test(.param .u64 pa, .param .u64 pb, .param .u64 pc, .param .u64 pd)\n{{\n\
         .reg .b{wa} a;\n.reg .b{wb} b;\n.reg .b{wc} c;\n.reg .b{wd} d;\n\
         .reg .b64 %wa, %wb, %wc, %wd, %at;\n.reg .b32 %r<10>, %t;\n.reg .pred %p<4>;\n.reg .b16 %h<4>;\n\
         .shared .align 16 .b8 room[4096];\n\
         mov.u32 %t, %tid.x;\nmul.wide.u32 %at, %t, 8;\n{}{}{}{body}\n\
         ld.param.u64 %wa, [pd];\nadd.s64 %wa, %wa, %at;\nst.global.b{wd} [%wa], d;\nret;\n}}\n",
        load("a", wa),
        load("b", wb),
        load("c", wc),
    );
    let program = program(&text).unwrap_or_else(|what| panic!("{what}:\n{body}"));
    let mut memory = Memory::new(vec![1 << 20]);
    let mut params = Vec::new();
    let mut out = 0;
    for at in 0..4 {
        let address = memory.allocate(0, threads as u64 * 8).expect("room");
        params.extend(address.to_le_bytes());
        let region = memory.find(address, 8).expect("a region").clone();
        region.written.mark(0, threads as u64 * 8);
        for thread in 0..threads {
            let value = inputs.get(at).map_or(0, |input| input[thread]);
            let pointer = region.pointer(address + thread as u64 * 8).cast::<u64>();
            #[expect(unsafe_code, reason = "the region is written as a copy would")]
            // SAFETY: the region has eight bytes for each thread.
            unsafe {
                pointer.write_unaligned(value);
            }
        }
        out = address;
    }
    let launch = Launch {
        program: &program,
        grid: [1; 3],
        threads: [threads as u32, 1, 1],
        dynamic_shared: 0,
        params: &params,
        traffic: None,
        stored: None,
        races: true,
        unwritten: true,
        seed: 0,
    };
    Block::run(&launch, [0; 3], memory.view(0), &mut Vec::new())?;
    let region = memory.find(out, 8).expect("a region");
    Ok((0..threads)
        .map(|thread| {
            let pointer = region.pointer(out + thread as u64 * 8).cast::<u64>();
            #[expect(unsafe_code, reason = "the region is read as a copy would")]
            // SAFETY: as above.
            unsafe {
                pointer.read_unaligned()
            }
        })
        .collect())
}

/// As [`run_threads`] for a body that has no fault.
pub(super) fn run(body: &str, widths: [u32; 4], inputs: [&[u64]; 3]) -> Vec<u64> {
    run_threads(body, widths, inputs[0].len(), inputs).unwrap_or_else(|fault| panic!("{fault}"))
}

/// Values of `width` bits: the ones at the edges, and random ones.
pub(super) fn values(width: u32, seed: u64) -> Vec<u64> {
    let mask = u64::MAX >> (64 - width);
    let edges = [
        0,
        1,
        2,
        mask,
        mask - 1,
        mask >> 1,
        (mask >> 1) + 1,
        31,
        32,
        33,
        63,
        64,
    ];
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out: Vec<u64> = (0..244)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // Some are small, as amounts and indices are.
            (state >> if state & 7 == 0 { 58 } else { 0 }) & mask
        })
        .collect();
    // The edges stand beside different others in the different operands.
    for (at, edge) in edges.iter().enumerate() {
        out.insert((at * 7 * seed as usize) % out.len(), *edge);
    }
    out
}

/// Bits of floats: the ones at the edges, whole numbers, and random ones over all exponents.
pub(super) fn floats(seed: u64) -> Vec<u64> {
    let edges = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::MAX,
        f32::MIN_POSITIVE,
        1e-40,
        -1e-40,
        0.5,
        1.5,
        2.5,
        -2.5,
        65504.0,
        65520.0,
        1e10,
    ];
    let mut out = values(32, seed);
    for (at, edge) in edges.iter().enumerate() {
        let place = (at * 5 * seed as usize) % out.len();
        out[place] = u64::from(f32::to_bits(*edge));
    }
    for (at, bits) in out.iter_mut().enumerate() {
        if at % 3 == 0 {
            let small = (*bits as i64 % 2001) as f32 / 16.0 - 60.0;
            *bits = u64::from(small.to_bits());
        }
    }
    out
}

/// An instruction with what it should give for each set of inputs.
pub(super) struct Case {
    pub(super) body: &'static str,
    pub(super) widths: [u32; 4],
    pub(super) wanted: fn(u64, u64, u64) -> u64,
}

pub(super) fn check(cases: &[Case], inputs: impl Fn(u32, u64) -> Vec<u64>) {
    for case in cases {
        let [wa, wb, wc, wd] = case.widths;
        let (a, b, c) = (inputs(wa, 1), inputs(wb, 2), inputs(wc, 3));
        let found = run(case.body, case.widths, [&a, &b, &c]);
        let mask = u64::MAX >> (64 - wd);
        for at in 0..a.len() {
            let wanted = (case.wanted)(a[at], b[at], c[at]) & mask;
            assert_eq!(
                found[at] & mask,
                wanted,
                "{} of {:#x}, {:#x}, {:#x}: {:#x}, not {wanted:#x}",
                case.body,
                a[at],
                b[at],
                c[at],
                found[at] & mask
            );
        }
    }
}
