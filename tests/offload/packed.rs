//! Matrices in GGUF's blocks: mapped or streamed where the file has them, and written nowhere.

use std::fs;

use llm_plan::Order;
use llm_plan::{Home, Term, WeightDType};
use llm_quant::Scheme;
use llm_runtime::BoundModel;
use llm_tensor::Bytes;
use llm_tests::{Packed, Written, published};

use super::{Case, RESTS, Rest, held_as_planned, limits, run};

#[test]
fn blocks_compute_the_same_wherever_they_rest_and_are_written_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("packed.gguf");
    for packed in Packed::ALL {
        packed.write(&path, Written::Blocks);
        let model = BoundModel::open(&path).unwrap();
        let prompt: Vec<u32> = (0..17).map(|i| i * 16 % 300).collect();
        let mut expected = None;
        for rest in RESTS {
            let offload = tempfile::tempdir().unwrap();
            let case = Case {
                model: &model,
                kept: (WeightDType::Auto, None),
                limits: limits(&model, 5),
                folder: offload.path(),
            };
            let (mut session, plan) = case.load(rest).unwrap();
            let found = run(&mut session, &prompt).unwrap();
            assert_eq!(
                found,
                *expected.get_or_insert_with(|| found.clone()),
                "{packed:?} {rest:?}"
            );
            if let Some(disk) = plan.estimate.memory(Home::Disk) {
                assert_eq!(disk.needed(), Bytes::ZERO, "{packed:?} {rest:?}");
                assert!(disk.in_place > Bytes::ZERO, "{packed:?} {rest:?}");
            }
            assert_eq!(fs::read_dir(offload.path()).unwrap().count(), 0);
            held_as_planned(&session, &plan, &format!("{packed:?} {rest:?}"));
        }
    }
}

/// Codes that lie as they are computed with are streamed from the file; those in another order are written anew.
#[test]
fn codes_compute_the_same_wherever_they_rest() {
    for path in published() {
        let model = BoundModel::open(&path).unwrap();
        let is_reordered = model.tensors().any(|bound| {
            matches!(bound.scheme, Scheme::Grouped(_)) && bound.stored().order == Order::Strided
        });
        let prompt: Vec<u32> = (0..17).map(|i| i * 5 % 64).collect();
        let mut expected = None;
        for rest in RESTS {
            let offload = tempfile::tempdir().unwrap();
            let case = Case {
                model: &model,
                kept: (WeightDType::Auto, None),
                limits: limits(&model, 5),
                folder: offload.path(),
            };
            for _ in 0..2 {
                let (mut session, plan) = case.load(rest).unwrap();
                let found = run(&mut session, &prompt).unwrap();
                assert_eq!(
                    found,
                    *expected.get_or_insert_with(|| found.clone()),
                    "{path:?} {rest:?}"
                );
                held_as_planned(&session, &plan, &format!("{path:?} {rest:?}"));
            }
            let is_written = fs::read_dir(offload.path()).unwrap().count() > 0;
            match rest {
                Rest::Ram => assert!(!is_written, "{path:?}"),
                Rest::Half(_) => assert!(is_reordered || !is_written, "{path:?}"),
                Rest::Disk => assert_eq!(is_written, is_reordered, "{path:?}"),
            }
        }
    }
}

/// A type of numbers that is asked for is one that blocks are decoded to, wherever they rest.
#[test]
fn blocks_are_decoded_where_a_type_of_numbers_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("packed.gguf");
    Packed::ALL[2].write(&path, Written::Blocks);
    let model = BoundModel::open(&path).unwrap();
    let n_parameters = model.skeleton().n_parameters();
    let mut found = Vec::new();
    for rest in [Rest::Ram, Rest::Disk] {
        let offload = tempfile::tempdir().unwrap();
        let case = Case {
            model: &model,
            kept: (WeightDType::As(llm_tensor::DType::F32), None),
            limits: limits(&model, 5),
            folder: offload.path(),
        };
        let (mut session, plan) = case.load(rest).unwrap();
        assert_eq!(
            plan.estimate.total(Term::Weights),
            Bytes::new(4 * n_parameters)
        );
        found.push(run(&mut session, &[1, 2, 3]).unwrap());
    }
    assert_eq!(found[0], found[1]);
}
