use std::num::NonZeroUsize;

use llm_backend::conformance::{check, check_reproducible};
use llm_backend::{Backend, BackendError, HostWeight, KvShape, WorkspaceShape};
use llm_tensor::{DType, HostBytes};

use crate::{Cpu, CpuOptions, Isa};

fn cpu(isa: Isa, n_threads: usize) -> Cpu {
    Cpu::new(CpuOptions {
        threads: NonZeroUsize::new(n_threads),
        isa: Some(isa),
    })
    .unwrap()
}

fn available() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| {
        if !isa.is_available() {
            println!("skipped: this machine has no {isa}");
        }
        isa.is_available()
    })
}

#[test]
fn every_instruction_set_conforms_with_any_number_of_threads() {
    for isa in available() {
        for n_threads in 1..=3 {
            check(&cpu(isa, n_threads));
        }
    }
}

#[test]
fn results_are_the_same_in_every_run_and_with_any_number_of_threads() {
    for isa in available() {
        let one = cpu(isa, 1);
        for n_threads in 1..=3 {
            check_reproducible(&one, &cpu(isa, n_threads));
        }
    }
}
