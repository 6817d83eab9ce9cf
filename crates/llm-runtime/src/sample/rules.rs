//! Rules that change the logits before a token is chosen from them.

/// Penalties and bonuses of tokens, by what was said before. The rules apply in the order of the fields, which is
/// transformers', with OpenAI's two penalties after its own.
///
/// Ids that are not in the vocabulary are nobody's: they do nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// Added to the logit of the last id where the others are what was said last.
    pub sequence_bias: Vec<(Vec<u32>, f32)>,
    /// Multiplies positive and divides negative logits of the prompt's tokens; 1 does nothing.
    pub encoder_repetition_penalty: f32,
    /// Divides positive and multiplies negative logits of tokens already seen (Keskar et al. 2019); 1 does nothing.
    pub repetition_penalty: f32,
    /// Taken from the logit of each token that was generated.
    pub presence_penalty: f32,
    /// Taken from it as often as it was generated.
    pub frequency_penalty: f32,
    /// No sequence of so many tokens comes twice; 0 for any.
    pub no_repeat_ngram_size: usize,
    /// None of the prompt's comes again; 0 for any.
    pub encoder_no_repeat_ngram_size: usize,
    /// Sequences whose last id does not follow on the others.
    pub bad_words: Vec<Vec<u32>>,
    /// The text does not end before the decoder has so many tokens, the prompt's included.
    pub min_length: usize,
    /// Nor before so many were generated.
    pub min_new_tokens: usize,
    /// Tokens that end the text.
    pub eos_ids: Vec<u32>,
    /// Follows on a decoder's first token.
    pub forced_bos: Option<u32>,
    /// One of them is the last of `max_length` tokens.
    pub forced_eos: Vec<u32>,
    /// Tokens that the decoder has at most, the prompt's included.
    pub max_length: usize,
    /// Takes infinite logits, as the rules above leave them, for the largest and smallest numbers.
    pub remove_invalid_values: bool,
    /// After how many generated tokens those that end the text become more probable, and by which factor each time.
    pub exponential_decay: Option<(usize, f32)>,
    /// Tokens that never come.
    pub suppress: Vec<u32>,
    /// Tokens that do not come first.
    pub begin_suppress: Vec<u32>,
}

/// Nothing is changed.
impl Default for Rules {
    fn default() -> Self {
        Rules {
            sequence_bias: Vec::new(),
            encoder_repetition_penalty: 1.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            no_repeat_ngram_size: 0,
            encoder_no_repeat_ngram_size: 0,
            bad_words: Vec::new(),
            min_length: 0,
            min_new_tokens: 0,
            eos_ids: Vec::new(),
            forced_bos: None,
            forced_eos: Vec::new(),
            max_length: usize::MAX,
            remove_invalid_values: false,
            exponential_decay: None,
            suppress: Vec::new(),
            begin_suppress: Vec::new(),
        }
    }
}

/// Tokens so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Past<'a> {
    /// The decoder's tokens.
    pub(crate) ids: &'a [u32],
    /// Number of those that were not generated.
    pub(crate) n_prompt: usize,
    /// The prompt, or what an encoder read.
    pub(crate) source: &'a [u32],
}

/// Set of tokens of the vocabulary that were met, without a list to clear.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    rounds: Vec<u32>,
    round: u32,
}

impl Marks {
    pub(crate) fn new(vocab: usize) -> Self {
        Marks {
            rounds: vec![0; vocab],
            round: 0,
        }
    }

    fn forget(&mut self) {
        self.round = self.round.wrapping_add(1);
        if self.round == 0 {
            self.rounds.fill(0);
            self.round = 1;
        }
    }

    /// True if `id` is met for the first time.
    fn is_new(&mut self, id: u32) -> bool {
        let met = self.rounds.get_mut(id as usize);
        met.is_some_and(|met| std::mem::replace(met, self.round) != self.round)
    }
}

impl Rules {
    /// The same where the decoder has at most `max_length` tokens.
    pub fn up_to(&self, max_length: usize) -> Self {
        Rules {
            max_length,
            ..self.clone()
        }
    }

    /// True if they change nothing, whatever was said.
    pub(crate) fn is_neutral(&self) -> bool {
        let neutral = Rules::default();
        let neutral = Rules {
            // These alone change nothing.
            eos_ids: self.eos_ids.clone(),
            max_length: self.max_length,
            remove_invalid_values: self.remove_invalid_values,
            ..neutral
        };
        *self == neutral
    }

    /// Changes `logits` `[vocab]` of the token that follows on `past`.
    pub(crate) fn apply(&self, past: &Past<'_>, marks: &mut Marks, logits: &mut [f32]) {
        for (ids, bias) in &self.sequence_bias {
            if let Some(id) = completed(ids, past.ids) {
                change(logits, id, |logit| logit + bias);
            }
        }
        if self.encoder_repetition_penalty != 1.0 {
            penalise(
                past.source,
                1.0 / self.encoder_repetition_penalty,
                marks,
                logits,
            );
        }
        if self.repetition_penalty != 1.0 {
            penalise(past.ids, self.repetition_penalty, marks, logits);
        }
        if self.presence_penalty != 0.0 || self.frequency_penalty != 0.0 {
            marks.forget();
            for &id in &past.ids[past.n_prompt..] {
                let presence = match marks.is_new(id) {
                    true => self.presence_penalty,
                    false => 0.0,
                };
                change(logits, id, |logit| {
                    logit - presence - self.frequency_penalty
                });
            }
        }
        forbid_ngrams(self.no_repeat_ngram_size, past.ids, past.ids, logits);
        let encoder_size = self.encoder_no_repeat_ngram_size;
        forbid_ngrams(encoder_size, past.source, past.ids, logits);
        for word in &self.bad_words {
            let is_eos = matches!(word[..], [id] if self.eos_ids.contains(&id));
            match completed(word, past.ids) {
                Some(id) if !is_eos => forbid(logits, id),
                Some(_) | None => {}
            }
        }
        self.bound_length(past, logits);
        if self.remove_invalid_values {
            for logit in logits.iter_mut() {
                *logit = logit.clamp(f32::MIN, f32::MAX);
            }
        }
        self.hasten_end(past, logits);
        for &id in &self.suppress {
            forbid(logits, id);
        }
        // A forced token comes before the first that is free.
        let n_begun = match past.n_prompt > 1 || self.forced_bos.is_none() {
            true => past.n_prompt,
            false => past.n_prompt + 1,
        };
        if past.ids.len() == n_begun {
            for &id in &self.begin_suppress {
                forbid(logits, id);
            }
        }
    }

    fn bound_length(&self, past: &Past<'_>, logits: &mut [f32]) {
        let (n, n_new) = (past.ids.len(), past.ids.len() - past.n_prompt);
        if n < self.min_length || n_new < self.min_new_tokens {
            for &id in &self.eos_ids {
                forbid(logits, id);
            }
        }
        if let (Some(id), 1) = (self.forced_bos, n) {
            force(logits, &[id]);
        }
        if !self.forced_eos.is_empty() && n + 1 == self.max_length {
            force(logits, &self.forced_eos);
        }
    }

    fn hasten_end(&self, past: &Past<'_>, logits: &mut [f32]) {
        let Some((start, factor)) = self.exponential_decay else {
            return;
        };
        let n_new = past.ids.len() - past.n_prompt;
        if n_new > start {
            // A factor in double precision times a logit in single, as the reference has it.
            let growth = (f64::from(factor).powf((n_new - start) as f64) - 1.0) as f32;
            for (idx, &id) in self.eos_ids.iter().enumerate() {
                // A list may name a token twice, which still becomes more probable once.
                if self.eos_ids[..idx].contains(&id) {
                    continue;
                }
                change(logits, id, |logit| match logit.is_finite() {
                    true => logit + logit.abs() * growth,
                    false => logit,
                });
            }
        }
    }
}

/// The last of `ids`, if the others are the last of `past`.
fn completed(ids: &[u32], past: &[u32]) -> Option<u32> {
    let (&last, before) = ids.split_last()?;
    past.ends_with(before).then_some(last)
}

fn penalise(ids: &[u32], penalty: f32, marks: &mut Marks, logits: &mut [f32]) {
    marks.forget();
    for &id in ids {
        if marks.is_new(id) {
            change(logits, id, |logit| match logit < 0.0 {
                true => logit * penalty,
                false => logit / penalty,
            });
        }
    }
}

/// Forbids what would complete one of the sequences of `size` tokens in `source`.
fn forbid_ngrams(size: usize, source: &[u32], past: &[u32], logits: &mut [f32]) {
    if size == 0 || past.len() + 1 < size {
        return;
    }
    let last = &past[past.len() + 1 - size..];
    for ngram in source.windows(size) {
        if ngram[..size - 1] == *last {
            forbid(logits, ngram[size - 1]);
        }
    }
}

fn change(logits: &mut [f32], id: u32, to: impl FnOnce(f32) -> f32) {
    if let Some(logit) = logits.get_mut(id as usize) {
        *logit = to(*logit);
    }
}

fn forbid(logits: &mut [f32], id: u32) {
    change(logits, id, |_| f32::NEG_INFINITY);
}

/// Leaves nothing but `ids`.
fn force(logits: &mut [f32], ids: &[u32]) {
    logits.fill(f32::NEG_INFINITY);
    for &id in ids {
        change(logits, id, |_| 0.0);
    }
}

#[cfg(test)]
mod tests;
