//! Fields that say how an answer is chosen, and when it ends.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

use llm_engine::{Length, Settings};
use serde::Deserialize;

use crate::error::ApiError;
use crate::fields::Fields;
use crate::site::Served;

/// Settings of an answer of up to `n_new` tokens with the log-probabilities of `n_top`.
///
/// # Errors
/// When a field of them is not as it should be.
pub(crate) fn settings(
    served: &Served,
    fields: &mut Fields,
    n_new: Option<usize>,
    n_top: Option<usize>,
) -> Result<Settings, ApiError> {
    let mut settings = served.settings.clone();
    let temperature = fields.number("temperature", (|x| (0.0..=2.0).contains(&x), "0 to 2"))?;
    let share = |x| x > 0.0 && x <= 1.0;
    let top_p = fields.number("top_p", (share, "above 0, up to 1"))?;
    let top_k = fields.whole("top_k", 0..=u64::from(u32::MAX))?;
    let min_p = fields.number("min_p", (|x| (0.0..=1.0).contains(&x), "0 to 1"))?;
    let sampling = &mut settings.sampling;
    let has_filter = top_p.is_some() || top_k.is_some() || min_p.is_some();
    match temperature {
        Some(temperature) => sampling.temperature = temperature,
        // Who chooses among several has them chosen from.
        None if has_filter && sampling.temperature == 0.0 => sampling.temperature = 1.0,
        None => {}
    }
    sampling.top_p = top_p.unwrap_or(sampling.top_p);
    sampling.top_k = top_k.unwrap_or(sampling.top_k);
    sampling.min_p = min_p.unwrap_or(sampling.min_p);
    let rules = &mut settings.rules;
    let penalty: (fn(f64) -> bool, _) = (|x| (-2.0..=2.0).contains(&x), "-2 to 2");
    if let Some(penalty) = fields.number("presence_penalty", penalty)? {
        rules.presence_penalty = penalty;
    }
    if let Some(penalty) = fields.number("frequency_penalty", penalty)? {
        rules.frequency_penalty = penalty;
    }
    if let Some(penalty) = fields.number("repetition_penalty", (|x| x > 0.0, "above 0"))? {
        rules.repetition_penalty = penalty;
    }
    let biases: Option<BTreeMap<String, f64>> = fields.take("logit_bias")?;
    for (id, bias) in biases.unwrap_or_default() {
        let known = id
            .parse()
            .ok()
            .filter(|&id: &u32| (id as usize) < served.vocab);
        let (Some(id), true) = (known, (-100.0..=100.0).contains(&bias)) else {
            let problem =
                format!("`logit_bias`: {id:?} with {bias}; expected a token id with -100 to 100");
            return Err(ApiError::invalid("logit_bias", problem));
        };
        rules.sequence_bias.push((vec![id], bias as f32));
    }
    if fields.take("ignore_eos")?.unwrap_or(false) {
        rules.eos_ids.clear();
    }
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a text or a list of texts")]
    enum Stop {
        One(String),
        Many(Vec<String>),
    }
    match fields.take("stop")? {
        Some(Stop::One(stop)) => settings.stop = vec![stop],
        Some(Stop::Many(stops)) => settings.stop = stops,
        None => {}
    }
    let is_odd = |stop: &String| stop.is_empty() || stop.len() > LONGEST_STOP;
    if settings.stop.len() > MOST_STOPS || settings.stop.iter().any(is_odd) {
        let problem = format!("`stop` takes up to {MOST_STOPS} texts of 1 to {LONGEST_STOP} bytes");
        return Err(ApiError::invalid("stop", problem));
    }
    // Any whole number, negative ones too, as the client writes it.
    let seed: Option<i64> = fields.take("seed")?;
    settings.seed = seed.map_or_else(|| RandomState::new().hash_one(0), i64::cast_unsigned);
    if let Some(n_new) = n_new {
        settings.length = Length::New(n_new);
    }
    settings.logprobs = n_top;
    Ok(settings)
}

/// Log-probabilities that a request for a message asks for: those of so many of the most probable tokens beside each one's own.
///
/// # Errors
/// When there are too many, or they are asked for and not asked for.
pub(crate) fn top_logprobs(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    match (
        fields.take("logprobs")?.unwrap_or(false),
        fields.whole("top_logprobs", 0..=20)?,
    ) {
        (false, Some(1..)) => {
            let problem = "`top_logprobs` goes with `logprobs`";
            Err(ApiError::invalid("top_logprobs", problem))
        }
        (false, _) => Ok(None),
        (true, n_top) => Ok(Some(n_top.unwrap_or(0))),
    }
}

/// Stop strings of a request at most,
const MOST_STOPS: usize = 16;
/// and bytes of each: the text is searched for them with every token.
const LONGEST_STOP: usize = 256;

/// Tokens of an answer at most: more than any context has.
pub(crate) const MOST_TOKENS: u64 = u32::MAX as u64;
