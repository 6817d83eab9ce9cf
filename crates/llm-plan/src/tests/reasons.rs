//! Reasons for not fitting, and advice.

use llm_quant::{LoadIn, QuantConfig};

use super::*;

/// A real model as it is published: what it says of itself, else bf16.
fn published<'a>(
    skeleton: &'a Skeleton,
    stored: &'a [StoredTensor],
    budgets: Budgets,
) -> Request<'a> {
    Request {
        limits: Limits {
            n_sequences: 1,
            context: 2048,
            n_tokens: 512,
            n_logits: 1,
        },
        budgets,
        ..request(skeleton, stored)
    }
}

/// Every change does, and nothing just below it.
fn check_advice(request: &Request<'_>) -> Vec<String> {
    let changes = advice(request).unwrap();
    let does = |change: &Change, less: u64| {
        let mut request = request.clone();
        match *change {
            Change::Precision(_) => return less == 0,
            Change::Context { to, .. } => request.limits.context = to + 64 * less as usize,
            Change::Sequences { to, .. } => request.limits.n_sequences = to + less as usize,
            Change::Disk(bytes) => {
                let bytes = bytes.get().saturating_sub(less * 100_000_000);
                request.budgets = request.budgets.with(Home::Disk, Bytes::new(bytes));
                if bytes == 0 && less > 0 {
                    return false;
                }
            }
            Change::Budget { home, to, .. } => {
                let to = to.get() - less * 100_000_000;
                request.budgets = request.budgets.with(home, Bytes::new(to));
            }
        }
        plan(&request).unwrap().plan().is_some()
    };
    for change in &changes {
        assert!(does(change, 0) && !does(change, 1), "{change}");
    }
    changes.iter().map(Change::to_string).collect()
}

/// Memories of the request in each precision.
fn table(request: &Request<'_>) -> Vec<String> {
    let line = |a: &Alternative| {
        let tiers = a.way.as_ref().map(|way| way.tiers.to_string());
        let tiers = tiers.unwrap_or_else(|| "no".to_owned());
        format!("{}: {tiers}", a.precision)
    };
    alternatives(request).unwrap().iter().map(line).collect()
}

#[test]
fn seven_billion_parameters_on_a_free_notebook() {
    let bloom = real("bigscience/bloomz-7b1-mt");
    let stored = all_as(&bloom, DType::F16);
    let mut request = published(&bloom, &stored, budgets(&[15 * GB], 12_700_000_000, None));
    request.encodings.dtype = WeightDType::As(DType::F32);
    assert_eq!(
        plan(&request).unwrap().to_string(),
        "does not fit: RAM would have to hold 16.2 GB (15.1 GiB), which is 3.5 GB (3.3 GiB) more than its budget \
         of 12.7 GB (11.8 GiB) (its largest part: 16.1 GB (15.0 GiB) of weights)"
    );
    assert_eq!(
        check_advice(&request),
        [
            "keep weights in bf16",
            "give 4.1 GB (3.8 GiB) on disk for weights to rest in",
            "give 18.8 GB (17.5 GiB) of GPU 0 (instead of 15.0 GB (14.0 GiB))",
            "give 16.3 GB (15.2 GiB) of RAM (instead of 12.7 GB (11.8 GiB))",
        ]
    );
    let expected = [
        "f32: no",
        "bf16: GPU + RAM",
        "int8: GPU",
        "nf4: GPU",
        "nf4 double: GPU",
        "fp4: GPU",
    ];
    assert_eq!(table(&request), expected);
    request.budgets = budgets(&[], 12_700_000_000, None);
    let expected = [
        "f32: no",
        "bf16: no",
        "int8: RAM",
        "nf4: RAM",
        "nf4 double: RAM",
        "fp4: RAM",
    ];
    assert_eq!(table(&request), expected);
    assert_eq!(check_advice(&request)[0], "quantize to int8");
    request.budgets = budgets(&[15 * GB], 12_700_000_000, Some(100 * GB));
    assert_eq!(
        table(&request)[..2],
        ["f32: GPU + RAM + disk", "bf16: GPU + RAM"]
    );
    // As the file has it, nothing needs to be written to be read from disk.
    request.encodings.dtype = WeightDType::Auto;
    request.budgets = budgets(&[6 * GB], 3 * GB, Some(0));
    let plan = fits(&request);
    let disk = plan.estimate.memory(Home::Disk).unwrap();
    assert_eq!(disk.needed(), Bytes::ZERO);
    assert!(disk.in_place > Bytes::new(5 * GB), "{}", disk.in_place);
}

#[test]
fn a_map_that_does_not_fit_says_where() {
    let skeleton = real("gpt2");
    let stored = all_as(&skeleton, DType::F32);
    let mut request = published(&skeleton, &stored, budgets(&[500_000_000], GB, None));
    request.limits.context = 1024;
    request.strategy = r#"{"": 0}"#.parse().unwrap();
    let Verdict::DoesNotFit(Refusal { shortfalls, on_cpu }) = plan(&request).unwrap() else {
        panic!("it fits");
    };
    assert_eq!((shortfalls.len(), on_cpu.len()), (1, 0));
    assert_eq!(shortfalls[0].memory.home, Home::Gpu(0));
    assert_eq!(shortfalls[0].largest_term().0, Term::Weights);
    let expected = ["give 900.0 MB (858.3 MiB) of GPU 0 (instead of 500.0 MB (476.8 MiB))"];
    assert_eq!(check_advice(&request), expected);
}

#[test]
fn sequences_and_contexts_are_made_fewer_and_shorter() {
    let skeleton = real("microsoft/Phi-3-mini-4k-instruct");
    let stored = all_as(&skeleton, DType::BF16);
    let quant = QuantConfig::new(LoadIn::FourBit);
    let mut request = published(&skeleton, &stored, budgets(&[6 * GB], 4 * GB, None));
    request.encodings.quant = Some(&quant);
    request.limits.context = 4096;
    request.limits.n_sequences = 8;
    let verdict = plan(&request).unwrap().to_string();
    let parts = [
        "does not fit: GPU 0 would have to hold 8.6 GB",
        "(its largest part: 8.0 GB (7.5 GiB) of KV cache); and without it, RAM would",
    ];
    assert!(parts.iter().all(|part| verdict.contains(part)), "{verdict}");
    let advice = check_advice(&request);
    let expected = [
        "shorten the context to 1728 positions (from 4096)",
        "work on 5 sequences at a time (instead of 8)",
    ];
    assert_eq!(advice[..2], expected);
    assert_eq!(advice.len(), 4);
}

#[test]
fn what_cannot_be_helped_gets_no_advice() {
    let skeleton = llama(2, false);
    let stored = all_as(&skeleton, DType::BF16);
    let mut request = request(&skeleton, &stored);
    assert_eq!(advice(&request), Ok(Vec::new()), "it fits");
    request.budgets = budgets(&[10], 10, Some(10));
    let changes = check_advice(&request);
    // Neither fewer bits nor a shorter context make room in ten bytes.
    assert_eq!(
        changes,
        ["give 100.0 MB (95.4 MiB) of RAM (instead of 10 B)"]
    );
}

#[test]
fn steps_cost_what_they_move() {
    let skeleton = mixtral(2, 8);
    let stored = all_as(&skeleton, DType::BF16);
    let mut request = request(&skeleton, &stored);
    let machine = speeds(1000.0, 20.0, 50.0, 10.0);
    let expert = 2.0 * 3.0 * 48.0 * 32.0;
    let all: f64 = fits(&request)
        .estimate
        .units()
        .iter()
        .map(|u| u.per_pass.get() as f64)
        .sum();
    for (n_sequences, share) in [(1, 0.25), (2, 0.4375)] {
        request.limits.n_sequences = n_sequences;
        let plan = fits(&request);
        let weights = all - 16.0 * expert * (1.0 - share);
        assert_eq!(plan.step.seconds(&machine), weights / 50.0);
        let kv = plan.estimate.total(Term::KvCache).get() as f64;
        let [full, empty] = plan.step.tokens_per_second(&machine);
        assert_eq!(empty, n_sequences as f64 / (weights / 50.0));
        assert_eq!(full, n_sequences as f64 / ((weights + kv) / 50.0));
    }
    // What comes from elsewhere does so while the rest is computed with.
    request.limits.n_sequences = 1;
    request.strategy = r#"{"model.embed_tokens": 0, "model.layers.0": "cpu", "model.layers.1": "disk", "model.norm": "cpu", "lm_head": "cpu"}"#.parse().unwrap();
    request.budgets = budgets(&[GB], GB, Some(GB));
    let on_disk = |request: &Request<'_>| {
        let plan = fits(request);
        let weights = plan.step.weights.iter();
        let from = |home| {
            let moved = weights.clone().filter(|(path, _)| path.home == home);
            moved.map(|(_, bytes)| bytes.get() as f64).sum::<f64>()
        };
        (
            plan.step.seconds(&machine),
            from(Home::Ram),
            from(Home::Disk),
        )
    };
    request.offload = Offload::Compute;
    let (seconds, _, disk) = on_disk(&request);
    // The token's row goes from the table to the layers.
    assert_eq!(seconds, disk / 10.0 + 4.0 * 32.0 / 20.0);
    request.offload = Offload::Stream;
    let (seconds, ram, disk) = on_disk(&request);
    assert_eq!(seconds, (ram + disk) / 20.0);
    let slow_disk = Speeds {
        disk: 5.0,
        ..machine.clone()
    };
    assert_eq!(fits(&request).step.seconds(&slow_disk), disk / 5.0);
    let path = |home, run_on| machine.of(Placement { home, run_on });
    let gpu = RunOn::Gpu(0);
    assert_eq!(path(Home::Gpu(0), gpu), 1000.0);
    assert_eq!(path(Home::Ram, gpu), 20.0);
    assert_eq!(path(Home::Disk, gpu), 10.0);
    assert_eq!(path(Home::Ram, RunOn::Cpu), 50.0);
    assert_eq!(path(Home::Disk, RunOn::Cpu), 10.0);
}
