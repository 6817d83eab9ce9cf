use super::*;

const PLAIN: Sampling = Sampling {
    temperature: 1.0,
    ..Sampling::GREEDY
};

/// How often each token is drawn in `n` draws from the same logits.
fn frequencies(sampling: Sampling, logits: &[f32], n: usize) -> Vec<f64> {
    let mut sampler = Sampler::new(sampling, 7, logits.len());
    let mut counts = vec![0.0; logits.len()];
    for _ in 0..n {
        counts[sampler.sample(logits) as usize] += 1.0 / n as f64;
    }
    counts
}

fn check(sampling: Sampling, probabilities: &[f64], expected: &[f64]) {
    let logits: Vec<f32> = probabilities.iter().map(|p| p.ln() as f32).collect();
    let n = 20_000;
    for (found, expected) in frequencies(sampling, &logits, n).into_iter().zip(expected) {
        // Five standard deviations of a binomial share.
        let tolerance = 5.0 * (expected * (1.0 - expected) / n as f64).sqrt();
        assert!(
            (found - expected).abs() <= tolerance,
            "{sampling:?}: drawn {found}, expected {expected}"
        );
    }
}

#[test]
fn each_filter_keeps_what_it_should() {
    let p = [0.4, 0.1, 0.3, 0.2];
    check(PLAIN, &p, &p);
    check(
        Sampling { top_k: 2, ..PLAIN },
        &p,
        &[4.0 / 7.0, 0.0, 3.0 / 7.0, 0.0],
    );
    check(
        Sampling {
            top_p: 0.75,
            ..PLAIN
        },
        &p,
        &[4.0 / 9.0, 0.0, 3.0 / 9.0, 2.0 / 9.0],
    );
    check(
        Sampling {
            min_p: 0.6,
            ..PLAIN
        },
        &p,
        &[4.0 / 7.0, 0.0, 3.0 / 7.0, 0.0],
    );
    check(
        Sampling {
            top_k: 3,
            top_p: 0.7,
            ..PLAIN
        },
        &p,
        &[4.0 / 7.0, 0.0, 3.0 / 7.0, 0.0],
    );
    let squares: f64 = p.iter().map(|p| p * p).sum();
    check(
        Sampling {
            temperature: 0.5,
            ..PLAIN
        },
        &p,
        &p.map(|p| p * p / squares),
    );
}

#[test]
fn greedy_takes_the_first_of_the_largest() {
    let mut sampler = Sampler::new(Sampling::GREEDY, 0, 4);
    assert_eq!(sampler.sample(&[-1.0, 3.0, 3.0, 2.0]), 1);
}

#[test]
fn the_penalty_counts_each_seen_token_once() {
    let mut sampler = Sampler::new(
        Sampling {
            repetition_penalty: 2.0,
            ..Sampling::GREEDY
        },
        0,
        3,
    );
    sampler.observe(&[1, 1, 1]);
    assert_eq!(
        sampler.sample(&[2.5, 6.0, 0.0]),
        1,
        "6 / 2 is still more than 2.5"
    );
    assert_eq!(sampler.sample(&[3.5, 6.0, 0.0]), 0);
    // 0 is seen now: −1 becomes −2.
    assert_eq!(sampler.sample(&[-1.0, -9.0, -1.5]), 2);
}

#[test]
fn the_same_seed_gives_the_same_tokens_and_another_does_not() {
    let logits: Vec<f32> = (0..1000).map(|i| ((i * 37) % 101) as f32 / 50.0).collect();
    let run = |seed| {
        let mut sampler = Sampler::new(PLAIN, seed, logits.len());
        (0..20).map(|_| sampler.sample(&logits)).collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn top_p_over_a_large_vocabulary_equals_a_full_sort() {
    let mut candidates: Vec<(f32, u32)> = (0..50_000u32)
        .map(|id| {
            (
                -((id.wrapping_mul(2_654_435_761) % 9973) as f32) / 2000.0,
                id,
            )
        })
        .collect();
    let mut expected = candidates.clone();
    expected.sort_by(by_rank);
    let total: f64 = expected.iter().map(|c| f64::from(c.0).exp()).sum();
    for share in [0.001, 0.3, 0.9, 0.999] {
        let mut sum = 0.0;
        let reaches = |c: &(f32, u32)| {
            sum += f64::from(c.0).exp();
            sum >= share * total
        };
        let n = 1 + expected.iter().position(reaches).unwrap();
        let mut kept = candidates.clone();
        keep_share(&mut kept, share * total);
        assert_eq!(kept, expected[..n], "share {share}");
    }
    keep_best(&mut candidates, 100);
    let mut best = expected[..100].to_vec();
    best.sort_by_key(|c| c.1);
    assert_eq!(candidates, best);
}
