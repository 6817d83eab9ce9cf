//! The conformance suite: on the first GPU, and on emulated ones that load each of the kernels' targets, where these differ.

#![allow(clippy::print_stderr, reason = "a test says what it skips")]

use std::path::Path;
use std::sync::Arc;
use std::{env, fs};

use cuda_emulator::harness::Machine;
use cuda_emulator::report::Report;
use llm_cuda::{Compute, Cuda, computes_with, probe};

fn first() -> Arc<Cuda> {
    let cuda = Cuda::new(0).unwrap_or_else(|failure| panic!("the first GPU: {failure}"));
    Arc::new(cuda)
}

fn on_the_card(check: fn(&Arc<Cuda>)) {
    match probe() {
        Ok(_) => check(&first()),
        Err(none) if env::var_os("LLM_RUN_REQUIRE_GPU").is_some() => panic!("{none}"),
        Err(none) => eprintln!("skipped: {none}"),
    }
}

/// On a card of a compute capability, times ten.
fn emulated(target: u32, check: fn(&Arc<Cuda>)) -> Option<Report> {
    let report = Machine::new().compute(target).inside(|| check(&first()))?;
    assert_eq!(report.devices[0].allocated, 0, "bytes that are left");
    Some(report)
}

/// The same for operations whose kernels are one PTX for all cards.
fn emulated_once(check: fn(&Arc<Cuda>)) {
    let Some(report) = emulated(80, check) else {
        return;
    };
    let ptx = Path::new(env!("CARGO_MANIFEST_DIR")).join("ptx");
    let facts = fs::read_to_string(ptx.join("kernels.txt")).expect("the kernels' facts");
    let mut n = 0;
    for kernel in facts.lines().skip(1) {
        let [name, file, ..] = Vec::from_iter(kernel.split(' '))[..] else {
            panic!("{kernel}");
        };
        if report.kernels.contains_key(name) {
            n += 1;
            if name.starts_with(HELD_ON_BOTH) {
                continue;
            }
            let newer = ptx.join(format!("{file}_sm80.ptx"));
            assert!(!newer.exists(), "{name} differs between cards");
        }
    }
    assert_eq!(n, report.kernels.len());
}

/// Beginning of kernels by which keys come into pools: the suites of attention and of selection hold those of all cards.
const HELD_ON_BOTH: &str = "kv_append_";

macro_rules! suites {
    (
        by_card: { $($by_card:ident: $check:expr,)* }
        long: { $($long:ident: $slow:expr,)* }
        once: { $($once:ident: $alike:expr,)* }
    ) => {
        /// On hardware; skipped where there is none, unless `LLM_RUN_REQUIRE_GPU` is set.
        mod on_the_card {
            $(#[test] fn $by_card() { super::on_the_card($check) })*
            $(#[test] fn $long() { super::on_the_card($slow) })*
            $(#[test] fn $once() { super::on_the_card($alike) })*
        }

        mod emulated {
            $(#[test] fn $by_card() { super::emulated(80, $check); })*
            $(#[test] fn $long() { super::emulated(80, $slow); })*
            $(#[test] fn $once() { super::emulated_once($alike) })*

            /// With the PTX of cards before 8.0.
            mod older {
                $(#[test] fn $by_card() { super::super::emulated(75, $check); })*
                $(
                    #[test]
                    #[ignore = "minutes of kernels that the golden models start, too"]
                    fn $long() { super::super::emulated(75, $slow); }
                )*
            }
        }
    };
}

suites! {
    by_card: {
        memory: llm_conformance::check_memory,
        tables: llm_conformance::check_tables,
        elementwise: llm_conformance::check_elementwise,
        linear: llm_conformance::check_linear,
        selection: llm_conformance::check_selection,
        states: llm_conformance::check_states,
        routing: llm_conformance::check_routing,
        queues: llm_conformance::check_queues,
    }
    long: {
        attention: llm_conformance::check_attention,
    }
    once: {
        norms: llm_conformance::check_norm,
        delta: llm_conformance::check_delta,
        state_space: llm_conformance::check_state_space,
        streams: llm_conformance::check_streams,
        entries: llm_conformance::check_entries,
    }
}

/// Formats of published files, as there are kernels for. Their PTX is one for all cards.
mod packed {
    use std::sync::Arc;

    use llm_cuda::{Cuda, computes_with};
    use llm_quant::Scheme;

    /// Columns that are whole blocks of every format.
    const COLS: usize = 512;

    fn schemes() -> Vec<Scheme> {
        let mut schemes = llm_conformance::packed_schemes();
        schemes.retain(|&scheme| computes_with(scheme, COLS));
        assert!(schemes.len() >= 24, "{schemes:?}");
        schemes
    }

    fn linear(cuda: &Arc<Cuda>) {
        llm_conformance::check_packed_linear(cuda, &schemes());
    }

    fn tables(cuda: &Arc<Cuda>) {
        llm_conformance::check_packed_tables(cuda, &schemes());
    }

    fn experts(cuda: &Arc<Cuda>) {
        llm_conformance::check_packed_experts(cuda, &schemes());
    }

    macro_rules! checks {
        ($($name:ident,)*) => {
            mod on_the_card {
                $(#[test] fn $name() { super::super::on_the_card(super::$name) })*
            }

            mod emulated {
                $(#[test] fn $name() {
                    let machine = super::super::Machine::new();
                    machine.inside(|| super::$name(&super::super::first()));
                })*
            }
        };
    }

    checks! { linear, tables, experts, }
}

/// Activations and values of codes that are rounded to 11 bits each.
fn check_half(half: &Arc<Cuda>) {
    llm_conformance::check_rounded_linear(half, 2.0 * 2f64.powi(-11));
}

/// The same with weights in the formats of published files, of which activations alone are rounded.
fn check_half_packed(half: &Arc<Cuda>) {
    let mut schemes = llm_conformance::packed_schemes();
    schemes.retain(|&scheme| computes_with(scheme, 512));
    llm_conformance::check_rounded_packed_linear(half, &schemes, 2f64.powi(-11));
}

fn half() -> Arc<Cuda> {
    Arc::new(Cuda::computing_in(0, Compute::Half).unwrap_or_else(|failure| panic!("{failure}")))
}

mod half {
    use super::{Machine, check_half, check_half_packed, half};

    #[test]
    fn on_the_card() {
        super::on_the_card(|_| check_half(&half()));
    }

    #[test]
    fn packed_on_the_card() {
        super::on_the_card(|_| check_half_packed(&half()));
    }

    #[test]
    fn packed_emulated() {
        Machine::new().inside(|| check_half_packed(&half()));
    }

    /// Tensor cores are those of 8.0. Every kernel that computes in 16 bits does.
    #[test]
    fn emulated() {
        let Some(report) = Machine::new().inside(|| check_half(&half())) else {
            return;
        };
        let dense = ["f16_1", "bf16_2"]
            .into_iter()
            .flat_map(|of| [32, 64, 128].map(|n_tokens| format!("gemm_dense_{of}_{n_tokens}")));
        let codes = ["", "_double", "_32", "_double_32"].map(|of| format!("four_bit_half_8{of}"));
        let tiles = [32, 128].map(|n_tokens| format!("gemm_four_bit_1_{n_tokens}"));
        for name in dense.chain(codes).chain(tiles) {
            assert!(report.kernels.contains_key(&name), "{name} was not started");
        }
    }

    /// Before 8.0 all is computed in f32.
    #[test]
    fn emulated_before_tensor_cores() {
        let report = Machine::new()
            .compute(75)
            .inside(|| llm_conformance::check_rounded_linear(&half(), 0.0));
        if let Some(report) = report {
            let is_half = |name: &&String| name.contains("_half_") || name.contains("_f16_1_");
            assert_eq!(report.kernels.keys().find(is_half), None);
        }
    }
}

/// Rows between the first two GPUs; skipped where there are not two.
#[test]
fn devices_on_the_card() {
    match probe() {
        Ok(driver) if driver.gpus.len() > 1 => {
            let numbers = [driver.gpus[0].number, driver.gpus[1].number];
            let [one, other] = numbers.map(|number| {
                let opened = Cuda::new(number);
                Arc::new(opened.unwrap_or_else(|none| panic!("GPU {number}: {none}")))
            });
            llm_conformance::check_devices(&one, &other);
        }
        Ok(_) => eprintln!("skipped: there is one GPU"),
        Err(none) if env::var_os("LLM_RUN_REQUIRE_GPU").is_some() => panic!("{none}"),
        Err(none) => eprintln!("skipped: {none}"),
    }
}

/// Whatever legal order streams are run in.
#[test]
fn no_order_of_streams_changes_a_result() {
    for seed in 0..4 {
        Machine::new()
            .seed(seed)
            .inside(|| llm_conformance::check_queues(&first()));
    }
}
