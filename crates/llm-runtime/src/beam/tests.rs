use super::*;

/// Log-probabilities of the next of four tokens, by how many were generated; the last ends a text.
type Table = fn(&[u32]) -> [f32; 4];

const END: u32 = 3;

fn beams(n_beams: usize, length_penalty: f32, early_stopping: EarlyStopping) -> Beams {
    Beams {
        n_beams,
        length_penalty,
        early_stopping,
        renormalize: false,
    }
}

/// The best continuation of up to `n` tokens, and how many passes it took.
fn search(beams: Beams, sampling: Sampling, table: Table, n: usize) -> (Vec<u32>, usize) {
    let rules = Rules {
        eos_ids: vec![END],
        max_length: 1 + n,
        ..Rules::default()
    };
    let mut search = BeamSearch::new(beams, (sampling, rules), 7, 4, (&[0], &[0]));
    let mut running = vec![Vec::new()];
    let mut n_passes = 0;
    loop {
        n_passes += 1;
        let logits: Vec<f32> = running
            .iter()
            .flat_map(|ids: &Vec<u32>| table(ids))
            .collect();
        let steps = search.advance(&logits, &mut |_| false).unwrap();
        if steps.is_empty() {
            return (search.best().to_vec(), n_passes);
        }
        let follow = |step: &BeamStep| [&running[step.parent][..], &[step.id]].concat();
        running = steps.iter().map(follow).collect();
    }
}

/// Logits whose best start leads nowhere: 0, and then all are alike; after 1 the end is nearly sure.
fn garden_path(ids: &[u32]) -> [f32; 4] {
    let p: [f32; 4] = match ids {
        [] => [0.55, 0.4, 0.03, 0.02],
        [0, ..] => [0.3, 0.3, 0.2, 0.2],
        [1, ..] => [0.02, 0.02, 0.01, 0.95],
        _ => [0.25; 4],
    };
    p.map(f32::ln)
}

#[test]
fn two_beams_find_what_one_passes_by() {
    let heuristic = |n| beams(n, 0.0, EarlyStopping::Heuristic);
    let (one, _) = search(heuristic(1), Sampling::GREEDY, garden_path, 3);
    assert_eq!(one[0], 0);
    let (two, _) = search(heuristic(2), Sampling::GREEDY, garden_path, 3);
    assert_eq!(two, [1, END]);
}

/// Ends are likely early, and what goes on is better for each of its tokens.
fn patient(ids: &[u32]) -> [f32; 4] {
    let p: [f32; 4] = match ids.len() {
        0 => [0.5, 0.0001, 0.0999, 0.4],
        1 => [0.5, 0.05, 0.05, 0.4],
        _ => [0.98, 0.005, 0.005, 0.01],
    };
    p.map(f32::ln)
}

#[test]
fn a_penalty_of_length_and_patience_decide_when_it_is_over() {
    let at_once = beams(2, 1.0, EarlyStopping::AtOnce);
    let (ids, n_passes) = search(at_once, Sampling::GREEDY, patient, 30);
    assert_eq!((ids.last(), n_passes), (Some(&END), 2));
    let never = beams(2, 1.0, EarlyStopping::Never);
    let (ids, n_passes) = search(never, Sampling::GREEDY, patient, 30);
    assert_eq!((ids.len(), n_passes), (30, 30));
    let short = beams(2, -1.0, EarlyStopping::Never);
    let (ids, _) = search(short, Sampling::GREEDY, patient, 30);
    assert_eq!(ids, [END]);
}

#[test]
fn draws_follow_the_probabilities() {
    // A single beam of a single token is a draw as any.
    let sampling = Sampling {
        temperature: 1.0,
        ..Sampling::GREEDY
    };
    let rules = Rules {
        max_length: 2,
        ..Rules::default()
    };
    let beams = beams(1, 1.0, EarlyStopping::Heuristic);
    let probabilities = [0.5f32, 0.3, 0.2, 0.0];
    let logits = probabilities.map(f32::ln);
    let n = 4000;
    let mut counts = [0u32; 4];
    for seed in 0..n {
        let of_search = (sampling, rules.clone());
        let mut search = BeamSearch::new(beams, of_search, seed, 4, (&[0], &[0]));
        assert!(search.advance(&logits, &mut |_| false).unwrap().is_empty());
        counts[search.best()[0] as usize] += 1;
    }
    assert_eq!(counts[3], 0);
    // Of two drawn without replacement the more probable one wins: it is missing only if both others are drawn.
    let second = |first: f32, p: f32| p / (1.0 - first);
    let both_others = 0.3 * second(0.3, 0.2) + 0.2 * second(0.2, 0.3);
    let expected = 1.0 - both_others;
    let found = counts[0] as f32 / n as f32;
    // Five standard deviations of a binomial share.
    let tolerance = 5.0 * (expected * (1.0 - expected) / n as f32).sqrt();
    assert!((found - expected).abs() < tolerance, "{found}, {expected}");
}

#[test]
fn stops_that_the_caller_sees_end_a_beam() {
    let rules = Rules {
        max_length: 9,
        ..Rules::default()
    };
    let two = beams(2, 0.0, EarlyStopping::AtOnce);
    let mut search = BeamSearch::new(two, (Sampling::GREEDY, rules), 0, 4, (&[0], &[0]));
    let mut is_end = |ids: &[u32]| ids.last() == Some(&1);
    let logits = [0.1f32, 0.5, 0.3, 0.1].map(f32::ln);
    let steps = search.advance(&logits, &mut is_end).unwrap();
    assert!(steps.iter().all(|step| step.id != 1), "{steps:?}");
    assert_eq!(steps.len(), 2);
    assert_eq!(search.best(), [1]);
}
