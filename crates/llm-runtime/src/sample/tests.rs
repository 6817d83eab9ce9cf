use super::*;

const PLAIN: Sampling = Sampling {
    temperature: 1.0,
    ..Sampling::GREEDY
};

/// Frequency of each token in `n` draws from the same logits.
fn frequencies(sampling: Sampling, logits: &[f32], n: usize) -> Vec<f64> {
    let mut sampler = Sampler::new(sampling, 7, logits.len());
    let mut counts = vec![0.0; logits.len()];
    for _ in 0..n {
        counts[sampler.sample(logits).unwrap() as usize] += 1.0 / n as f64;
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
    assert_eq!(sampler.sample(&[-1.0, 3.0, 3.0, 2.0]).unwrap(), 1);
}

#[test]
fn the_penalty_counts_each_seen_token_once() {
    let rules = Rules {
        repetition_penalty: 2.0,
        ..Rules::default()
    };
    let prompt = [1, 1, 1];
    let mut sampler = Sampler::new(Sampling::GREEDY, 0, 3).under(rules, &prompt, &prompt);
    let mut sample = |logits: [f32; 3]| sampler.sample(&logits).unwrap();
    assert_eq!(sample([2.5, 6.0, 0.0]), 1, "6 / 2 is still more than 2.5");
    assert_eq!(sample([3.5, 6.0, 0.0]), 0);
    // 0 is seen now: −1 becomes −2.
    assert_eq!(sample([-1.0, -9.0, -1.5]), 2);
}

#[test]
fn infinite_logits_are_chosen_from() {
    // What a rule with an extreme factor makes of finite ones.
    let rules = Rules {
        sequence_bias: vec![
            (vec![1], f32::MAX),
            (vec![1], f32::MAX),
            (vec![2], f32::MAX),
        ],
        exponential_decay: Some((0, f32::MAX)),
        eos_ids: vec![0, 2, 3],
        ..Rules::default()
    };
    for temperature in [0.0, 1.0, 1e-40] {
        let sampling = Sampling {
            temperature,
            ..Sampling::GREEDY
        };
        let mut sampler = Sampler::new(sampling, 0, 4).under(rules.clone(), &[1], &[1]);
        for _ in 0..20 {
            let id = sampler.sample(&[0.0, 1.0, 1e30, 0.0]).unwrap();
            assert!([1, 2].contains(&id), "{id}");
        }
    }
}

#[test]
fn where_every_token_is_forbidden_none_is_chosen() {
    let rules = Rules {
        no_repeat_ngram_size: 1,
        ..Rules::default()
    };
    for temperature in [0.0, 1.0] {
        let sampling = Sampling {
            temperature,
            ..Sampling::GREEDY
        };
        let mut sampler = Sampler::new(sampling, 0, 3).under(rules.clone(), &[1], &[1]);
        let logits = [0.5, 9.0, 1.0];
        let mut ids = [sampler.sample(&logits), sampler.sample(&logits)].map(|id| id.unwrap());
        ids.sort_unstable();
        assert_eq!(ids, [0, 2]);
        let error = sampler.sample(&logits).unwrap_err();
        assert!(matches!(error, RuntimeError::NoTokenLeft), "{error}");
    }
}

#[test]
fn the_same_seed_gives_the_same_tokens_and_another_does_not() {
    let logits: Vec<f32> = (0..1000).map(|i| ((i * 37) % 101) as f32 / 50.0).collect();
    let run = |seed| {
        let mut sampler = Sampler::new(PLAIN, seed, logits.len());
        (0..20)
            .map(|_| sampler.sample(&logits).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}
