//! Settings of a generation: what the command line says, over what the model's own files say.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use anyhow::Result;
use llm_arch::ModelSpec;
use llm_engine::{Length, Settings};
use llm_runtime::{Beams, EarlyStopping, Rules, Sampling};
use llm_text::Tokenizer;

use crate::cli::SamplingArgs;
use crate::failure::refuse;
use crate::generation_config::GenerationConfig;

/// Settings by the flags, else by the file of the model's makers.
///
/// # Errors
/// When what is asked for contradicts itself, or names tokens that the model does not know.
pub(crate) fn settings(
    args: &SamplingArgs,
    config: &GenerationConfig,
    (spec, tokenizer): (&ModelSpec, Option<&Tokenizer>),
    max_new_tokens: usize,
) -> Result<Settings> {
    config.check_ids(spec.vocab)?;
    args.check(spec.vocab, tokenizer.is_some())?;
    let known_eos = match config.eos_token_id.is_empty() {
        true => tokenizer.map_or(&[][..], Tokenizer::eos_ids),
        false => &config.eos_token_id,
    };
    let eos_ids = match args.ignore_eos {
        true => Vec::new(),
        false => known_eos.to_vec(),
    };
    let num_beams = args.num_beams.or(config.num_beams);
    let beams = num_beams.filter(|&n| n > 1).map(|n_beams| Beams {
        n_beams,
        length_penalty: args.length_penalty.or(config.length_penalty).unwrap_or(1.0),
        early_stopping: args
            .early_stopping
            .map(EarlyStopping::from)
            .or(config.early_stopping)
            .unwrap_or(EarlyStopping::Heuristic),
        renormalize: config.renormalize_logits,
    });
    let stop = match args.stop.is_empty() {
        true => config.stop_strings.clone(),
        false => args.stop.clone(),
    };
    let start_token = spec.encoder.as_ref().map(|encoder| {
        let start_token = config.decoder_start_token_id;
        start_token.unwrap_or(encoder.start_token)
    });
    Ok(Settings {
        sampling: sampling(args, config),
        rules: rules(args, config, eos_ids),
        beams,
        seed: args.seed.unwrap_or_else(|| RandomState::new().hash_one(0)),
        length: length(args, config, max_new_tokens)?,
        // What is longer than a duration can be has no end.
        max_time: config
            .max_time
            .and_then(|seconds| Duration::try_from_secs_f32(seconds).ok()),
        stop,
        logprobs: None,
        constraint: None,
        start_token,
    })
}

fn sampling(args: &SamplingArgs, config: &GenerationConfig) -> Sampling {
    let has_filter = [args.top_p, args.min_p].iter().any(Option::is_some) || args.top_k.is_some();
    let config_samples = config.do_sample == Some(true);
    let samples = match (args.greedy, args.temperature) {
        (true, _) => false,
        (false, Some(temperature)) => temperature > 0.0,
        (false, None) => has_filter || config_samples,
    };
    if !samples {
        return Sampling::GREEDY;
    }
    // The default of transformers, for models whose makers count on it.
    let top_k = match config_samples {
        true => LIBRARY_TOP_K,
        false => 0,
    };
    let neutral = Sampling::GREEDY;
    let or = |value: Option<f32>, neutral: f32| value.unwrap_or(neutral);
    Sampling {
        temperature: or(args.temperature.or(config.temperature), 1.0),
        top_h: config.top_h,
        top_k: args.top_k.or(config.top_k).unwrap_or(top_k),
        top_p: or(args.top_p.or(config.top_p), neutral.top_p),
        min_p: or(args.min_p.or(config.min_p), neutral.min_p),
        typical_p: or(config.typical_p, neutral.typical_p),
        epsilon_cutoff: or(config.epsilon_cutoff, neutral.epsilon_cutoff),
        eta_cutoff: or(config.eta_cutoff, neutral.eta_cutoff),
    }
}

/// `top_k` of transformers where a file samples and does not name it.
const LIBRARY_TOP_K: usize = 50;

fn rules(args: &SamplingArgs, config: &GenerationConfig, eos_ids: Vec<u32>) -> Rules {
    let neutral = Rules::default();
    let mut sequence_bias = config.sequence_bias.clone();
    sequence_bias.extend(
        args.logit_bias
            .iter()
            .map(|bias| (vec![bias.id], bias.value)),
    );
    let mut suppress = config.suppress_tokens.clone();
    suppress.extend(args.suppress_tokens.iter().flatten());
    let min_new_tokens = args.min_new_tokens.or(config.min_new_tokens);
    Rules {
        sequence_bias,
        encoder_repetition_penalty: config.encoder_repetition_penalty.unwrap_or(1.0),
        repetition_penalty: args
            .repetition_penalty
            .or(config.repetition_penalty)
            .unwrap_or(1.0),
        presence_penalty: args.presence_penalty.unwrap_or(0.0),
        frequency_penalty: args.frequency_penalty.unwrap_or(0.0),
        no_repeat_ngram_size: args
            .no_repeat_ngram_size
            .or(config.no_repeat_ngram_size)
            .unwrap_or(0),
        encoder_no_repeat_ngram_size: config.encoder_no_repeat_ngram_size.unwrap_or(0),
        bad_words: config.bad_words_ids.clone(),
        // The least number of new tokens takes the place of the least length.
        min_length: match min_new_tokens {
            Some(_) => 0,
            None => config.min_length.unwrap_or(0),
        },
        min_new_tokens: min_new_tokens.unwrap_or(0),
        eos_ids,
        forced_bos: config.forced_bos_token_id,
        forced_eos: config.forced_eos_token_id.clone(),
        remove_invalid_values: config.remove_invalid_values,
        exponential_decay: config.exponential_decay_length_penalty,
        suppress,
        begin_suppress: config.begin_suppress_tokens.clone(),
        ..neutral
    }
}

fn length(args: &SamplingArgs, config: &GenerationConfig, usual: usize) -> Result<Length> {
    let asked = args.max_new_tokens.map(usize::from);
    if let (Some(least), Some(most)) = (args.min_new_tokens, asked)
        && least > most
    {
        return refuse(format!(
            "--min-new-tokens {least} is more than --max-new-tokens {most}"
        ));
    }
    let least = args.min_new_tokens.unwrap_or(0);
    Ok(match (asked.or(config.max_new_tokens), config.max_length) {
        (Some(n_tokens), _) => Length::New(n_tokens.max(least)),
        (None, Some(n_tokens)) => Length::Total {
            n_tokens,
            file: config.path.display().to_string(),
        },
        (None, None) => Length::New(usual.max(least)),
    })
}

impl SamplingArgs {
    /// Refuses ids that the model does not know, and what nothing could come of.
    fn check(&self, vocab: usize, has_tokenizer: bool) -> Result<()> {
        let biased = self.logit_bias.iter().map(|bias| ("--logit-bias", bias.id));
        let suppressed = self.suppress_tokens.iter().flatten();
        let suppressed = suppressed.map(|&id| ("--suppress-tokens", id));
        for (flag, id) in biased.chain(suppressed) {
            if id as usize >= vocab {
                let problem = format!("the model's vocabulary has {vocab} entries");
                return refuse(format!("{flag}: token id {id} is out of range: {problem}"));
            }
        }
        if !self.stop.is_empty() && !has_tokenizer {
            let problem = "the model has no tokenizer, and token ids no text to stop at";
            return refuse(format!("--stop: {problem}"));
        }
        Ok(())
    }
}
