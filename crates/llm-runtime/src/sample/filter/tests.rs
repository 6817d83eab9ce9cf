use serde::Deserialize;
use serde_json::Value;

use super::*;

#[derive(Deserialize)]
struct Golden {
    config: Value,
    n_least: usize,
    logits: Vec<f32>,
    kept: Vec<u32>,
    probabilities: Vec<f64>,
}

fn sampling(config: &Value) -> Sampling {
    let mut sampling = Sampling {
        temperature: 1.0,
        ..Sampling::GREEDY
    };
    for (key, value) in config.as_object().unwrap() {
        let number = value.as_f64().unwrap() as f32;
        match key.as_str() {
            "temperature" => sampling.temperature = number,
            "top_h" => sampling.top_h = Some(number),
            "top_k" => sampling.top_k = number as usize,
            "top_p" => sampling.top_p = number,
            "min_p" => sampling.min_p = number,
            "typical_p" => sampling.typical_p = number,
            "epsilon_cutoff" => sampling.epsilon_cutoff = number,
            "eta_cutoff" => sampling.eta_cutoff = number,
            key => panic!("no filter {key}"),
        }
    }
    sampling
}

#[test]
fn the_tokens_are_left_that_transformers_leaves() {
    let text = include_bytes!("../../../../../tests/fixtures/generation/filters.json");
    let goldens: Vec<Golden> = serde_json::from_slice(text).unwrap();
    assert!(goldens.len() > 100);
    for golden in &goldens {
        let sampling = sampling(&golden.config);
        let mut candidates = Candidates::default();
        let floor = match golden.n_least {
            1 => Floor::Nothing,
            _ => Floor::Forbidden,
        };
        candidates.take(&golden.logits, sampling.temperature, floor);
        candidates.filter(&sampling, golden.n_least);
        let total = candidates.total();
        let mut found: Vec<(u32, f64)> = candidates
            .all()
            .iter()
            .map(|candidate| (candidate.id, candidate.weight() / total))
            .collect();
        found.sort_by_key(|(id, _)| *id);
        let ids: Vec<u32> = found.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, golden.kept, "{} of {}", golden.config, golden.n_least);
        for ((id, found), expected) in found.iter().zip(&golden.probabilities) {
            // What was written was rounded to six places, logits and probabilities.
            let is_same = (found - expected).abs() <= 3e-6;
            assert!(is_same, "{}: {id}: {found}, {expected}", golden.config);
        }
    }
}

#[test]
fn equals_of_the_last_of_k_stay() {
    let mut candidates = Candidates::default();
    candidates.take(&[1.0, 3.0, 2.0, 2.0, 2.0, 0.0], 1.0, Floor::Nothing);
    let sampling = Sampling {
        top_k: 2,
        ..Sampling::GREEDY
    };
    candidates.filter(&sampling, 1);
    let mut ids: Vec<u32> = candidates.all().iter().map(|c| c.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 3, 4]);
}

#[test]
fn top_p_over_a_large_vocabulary_equals_a_full_sort() {
    let logits: Vec<f32> = (0..50_000u32)
        .map(|id| -((id.wrapping_mul(2_654_435_761) % 9973) as f32) / 2000.0)
        .collect();
    let mut candidates = Candidates::default();
    candidates.take(&logits, 1.0, Floor::Nothing);
    let mut expected = candidates.all.clone();
    expected.sort_by(by_rank);
    let total = candidates.total();
    for share in [0.001, 0.3, 0.9, 0.999] {
        let mut sum = 0.0;
        let reaches = |c: &Candidate| {
            sum += c.weight();
            sum >= share * total
        };
        let n = 1 + expected.iter().position(reaches).unwrap();
        candidates.take(&logits, 1.0, Floor::Nothing);
        candidates.keep_share(share, 1);
        assert_eq!(candidates.all, expected[..n], "share {share}");
    }
}
