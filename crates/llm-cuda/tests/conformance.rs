//! The conformance suite on the first GPU; skipped where there is none.

use std::sync::Arc;

use llm_cuda::{Cuda, probe};

/// The first GPU, or why the test is skipped.
fn gpu() -> Option<Arc<Cuda>> {
    if let Err(no_gpu) = probe() {
        eprintln!("skipped: {no_gpu}");
        return None;
    }
    let cuda = Cuda::new(0).unwrap_or_else(|failure| panic!("the first GPU: {failure}"));
    Some(Arc::new(cuda))
}

#[test]
fn sizes_are_as_promised() {
    let Some(cuda) = gpu() else { return };
    llm_conformance::check_memory(&cuda);
}

#[test]
fn tables() {
    let Some(cuda) = gpu() else { return };
    llm_conformance::check_tables(&cuda);
}

#[test]
fn norms() {
    let Some(cuda) = gpu() else { return };
    llm_conformance::check_norm(&cuda);
}

#[test]
fn elementwise() {
    let Some(cuda) = gpu() else { return };
    llm_conformance::check_elementwise(&cuda);
}

#[test]
fn linear() {
    let Some(cuda) = gpu() else { return };
    llm_conformance::check_linear(&cuda);
}

#[test]
fn attention() {
    let Some(cuda) = gpu() else { return };
    llm_conformance::check_attention(&cuda);
}

#[test]
fn routing() {
    let Some(cuda) = gpu() else { return };
    llm_conformance::check_routing(&cuda);
}

#[test]
fn queues() {
    let Some(cuda) = gpu() else { return };
    llm_conformance::check_queues(&cuda);
}

#[test]
fn all_is_given_back() {
    let Some(cuda) = gpu() else { return };
    llm_conformance::check_memory(&cuda);
    llm_conformance::check_queues(&cuda);
    let left: Vec<_> = cuda
        .usage()
        .into_iter()
        .filter(|(_, n)| n.get() > 0)
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
