//! Golden and quantized models on the first GPU of the machine; skipped where there is none.
//!
//! `LLM_RUN_GOLDENS` names golden models to check instead of all, separated by commas: an interpreter of kernels is slow.

#![allow(
    clippy::print_stdout,
    reason = "a test says what it skips, and how long it took"
)]

use std::env;
use std::sync::Arc;
use std::time::Instant;

use llm_cuda::{Cuda, probe};
use llm_runtime::Device;
use llm_tests::{GOLDENS, check_golden, check_quantized};

/// The first GPU, which all models share; nothing where there is none.
fn gpu() -> Option<Arc<Cuda>> {
    match probe() {
        Ok(_) => Some(Arc::new(Cuda::new(0).expect("the first GPU opens"))),
        Err(none) => {
            println!("skipped: {none}");
            None
        }
    }
}

#[test]
fn the_gpu_computes_what_the_goldens_say() {
    let Some(gpu) = gpu() else { return };
    let named = env::var("LLM_RUN_GOLDENS").ok();
    let is_named = |name: &&str| {
        let named = named.as_deref();
        named.is_none_or(|named| named.split(',').any(|of| of == *name))
    };
    for name in GOLDENS.iter().filter(|name| is_named(name)) {
        let begin = Instant::now();
        check_golden(name, &|| Box::new(Arc::clone(&gpu)) as Box<dyn Device>);
        println!("{name}: {:.1} s", begin.elapsed().as_secs_f64());
    }
    assert_eq!(left(&gpu), [] as [String; 0]);
}

#[test]
fn the_gpu_computes_what_the_libraries_did() {
    let Some(gpu) = gpu() else { return };
    check_quantized(&|| Box::new(Arc::clone(&gpu)) as Box<dyn Device>);
    assert_eq!(left(&gpu), [] as [String; 0]);
}

/// Memory that no session has any more and that was not given back.
fn left(gpu: &Cuda) -> Vec<String> {
    let usage = gpu.usage().into_iter().filter(|(_, n)| n.get() > 0);
    usage
        .map(|(purpose, n)| format!("{n} of {purpose}"))
        .collect()
}
