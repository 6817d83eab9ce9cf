//! Log-probabilities of tokens.

/// Log-probabilities at a position of an answer, as the model gives them: before temperature, filters and rules.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// That of the token that was chosen.
    pub chosen: f32,
    /// The most probable tokens and theirs, the most probable first.
    pub top: Vec<(u32, f32)>,
}

impl Logprobs {
    /// Those of `id` and of the `n_top` most probable tokens, from finite `logits` `[vocab]`.
    pub(crate) fn of(logits: &[f32], id: u32, n_top: usize) -> Self {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        // A sum over a large vocabulary in f32 would be off in the fourth digit.
        let sum: f64 = logits
            .iter()
            .map(|&logit| f64::from(logit - largest).exp())
            .sum();
        let of = |logit: f32| (f64::from(logit - largest) - sum.ln()) as f32;
        let mut top: Vec<(u32, f32)> = Vec::with_capacity(n_top + 1);
        for (id, &logit) in logits.iter().enumerate() {
            let is_beaten = |last: &(u32, f32)| last.1 >= logit;
            if n_top == 0 || (top.len() == n_top && top.last().is_some_and(is_beaten)) {
                continue;
            }
            // Among equals the first comes first.
            let at = top.partition_point(|&(_, other)| other >= logit);
            top.insert(at, (id as u32, logit));
            top.truncate(n_top);
        }
        Logprobs {
            chosen: of(logits[id as usize]),
            top: top.into_iter().map(|(id, x)| (id, of(x))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_add_up_and_the_most_probable_come_first() {
        let logits = [1.0, 3.0, -2.0, 3.0, 0.5];
        let found = Logprobs::of(&logits, 4, 3);
        let ids: Vec<_> = found.top.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [1, 3, 0]);
        let all = Logprobs::of(&logits, 0, 9).top;
        let sum: f32 = all.iter().map(|(_, logprob)| logprob.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6, "{sum}");
        let of_4 = all.iter().find(|(id, _)| *id == 4).map(|(_, x)| *x);
        assert_eq!(of_4, Some(found.chosen));
        assert_eq!(Logprobs::of(&logits, 2, 0).top, []);
    }
}
