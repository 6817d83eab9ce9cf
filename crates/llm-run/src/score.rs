//! `llm-run score`: how probable a model finds a text.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use llm_arch::ModelSpec;
use llm_checkpoint::{NewTensor, SafetensorsWriter};
use llm_plan::Workload;
use llm_runtime::{RuntimeError, Session};
use llm_tensor::{DType, Shape};
use llm_text::SpecialTokens;
use serde_json::json;

use crate::cli::ScoreArgs;
use crate::failure::{UserError, refuse};
use crate::input::read_file;
use crate::load::Loaded;
use crate::open::OpenModel;
use crate::output::{self, usage};
use crate::speculate::Speculate;

pub(crate) fn score(args: &ScoreArgs) -> Result<ExitCode> {
    if args.token_ids.is_none() && args.text.is_none() {
        let hint =
            "give a file with --text FILE, `-` being standard input, or ids with --token-ids 1,2,3";
        return refuse(format!("there is nothing to score; {hint}"));
    }
    let model = OpenModel::open(&args.model, &args.load.keys)?;
    let spec = model.bound.spec();
    let (encoder_ids, ids) = by_side(args, spec, given_ids(args, &model)?)?;
    if ids.is_empty() {
        return Err(RuntimeError::EmptyPrompt.into());
    }
    let needed = ids.len().max(encoder_ids.as_ref().map_or(0, Vec::len));
    let context = args.load.context(spec, needed)?;
    let workload = Workload {
        n_prompt: needed,
        n_new: 0,
    };
    let Loaded {
        mut session,
        placed,
        time,
        ..
    } = model.load(
        &args.load,
        context,
        1,
        LOGITS_AT_ONCE,
        workload,
        Speculate::Off,
    )?;

    let begin = std::time::Instant::now();
    let mut sink = match &args.logits {
        Some(path) => Some(logits_writer(path, ids.len(), session.spec().vocab)?),
        None => None,
    };
    if let Some(encoder_ids) = &encoder_ids {
        session.encode(0, encoder_ids)?;
    }
    let log_probabilities = log_probabilities(&mut session, &ids, &mut sink)?;
    if let Some(writer) = sink {
        writer.finish()?;
    }
    let time_scoring = begin.elapsed();

    let n_predicted = log_probabilities.iter().flatten().count();
    let mean_nll = -log_probabilities.iter().flatten().sum::<f64>() / n_predicted as f64;
    // Of a single token nothing is predicted.
    let perplexity = (n_predicted > 0).then_some(mean_nll.exp());
    if args.json {
        output::print(&output::json(&json!({
            "token_ids": ids,
            // Natural logarithms, by token; null for one that nothing precedes: the first, and the first of each window.
            "log_probabilities": log_probabilities,
            "n_predicted": n_predicted,
            "mean_nll": perplexity.map(|_| mean_nll),
            "perplexity": perplexity,
        }))?)?;
    } else {
        output::print(&match perplexity {
            Some(perplexity) => format!(
                "perplexity {perplexity:.4} · mean negative log-likelihood {mean_nll:.6} over {n_predicted} tokens\n"
            ),
            None => "a single token: nothing to predict\n".to_owned(),
        })?;
        output::closing_line([
            format!("loaded in {:.2} s", time.as_secs_f64()),
            format!("scored {}", output::tokens(ids.len(), time_scoring)),
        ]);
    }
    if args.verbose {
        eprint!("{}", usage::compare(&placed, &session));
    }
    Ok(ExitCode::SUCCESS)
}

/// Ids as given, or of the text that is.
fn given_ids(args: &ScoreArgs, model: &OpenModel) -> Result<Vec<u32>> {
    let path = match (&args.token_ids, &args.text) {
        (None, Some(path)) => path,
        (ids, _) => return Ok(ids.clone().unwrap_or_default()),
    };
    let is_missing = !path.exists() && path != Path::new("-");
    let text = read_file(path).map_err(|error| match is_missing {
        true => UserError(format!(
            "{error:#}; --text takes a file, `-` being standard input"
        ))
        .into(),
        false => error,
    })?;
    Ok(model.tokenizer()?.encode(&text, SpecialTokens::Add)?)
}

/// Ids that the encoder reads, where the model has one, and ids to score.
fn by_side(
    args: &ScoreArgs,
    spec: &ModelSpec,
    given: Vec<u32>,
) -> Result<(Option<Vec<u32>>, Vec<u32>)> {
    let family = spec.family;
    match (&spec.encoder, &args.decoder_token_ids) {
        (None, None) => Ok((None, given)),
        (Some(_), Some(decoder_ids)) => Ok((Some(given), decoder_ids.clone())),
        (None, Some(_)) => {
            let problem = "models have no encoder beside their decoder";
            refuse(format!("--decoder-token-ids: {family} {problem}"))
        }
        (Some(encoder), None) => {
            let begin = encoder.start_token;
            let hint = format!(
                "give the decoder's ids, which begin with {begin}, with --decoder-token-ids"
            );
            refuse(format!(
                "{family} models have an encoder and a decoder: {hint}"
            ))
        }
    }
}

/// Rows of logits in memory at a time: with a vocabulary of 256,000 some 16 MB.
const LOGITS_AT_ONCE: usize = 16;

/// The log-probability of each token given those before it in its window of the context.
fn log_probabilities(
    session: &mut Session,
    ids: &[u32],
    sink: &mut Option<SafetensorsWriter>,
) -> Result<Vec<Option<f64>>> {
    let mut found = Vec::with_capacity(ids.len());
    for window in ids.chunks(session.limits().context) {
        session.truncate(0, 0);
        found.push(None);
        session.score(0, window, |i, logits| -> Result<()> {
            if let Some(&next) = window.get(i + 1) {
                found.push(Some(log_softmax(logits, next)));
            }
            if let Some(writer) = sink {
                writer.write(bytemuck::cast_slice(logits))?;
            }
            Ok(())
        })?;
    }
    Ok(found)
}

/// ln of the softmax's share of `id`.
fn log_softmax(logits: &[f32], id: u32) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| f64::from(l - max).exp()).sum();
    f64::from(logits[id as usize] - max) - sum.ln()
}

fn logits_writer(path: &Path, n_tokens: usize, vocab: usize) -> Result<SafetensorsWriter> {
    let shape = Shape::new(&[n_tokens as u64, vocab as u64])?;
    let tensor = NewTensor {
        name: "logits".to_owned(),
        dtype: DType::F32,
        shape,
    };
    Ok(SafetensorsWriter::create(
        path,
        &[tensor],
        &BTreeMap::new(),
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_softmax_is_normalised_and_does_not_overflow() {
        let logits = [1000.0, 1001.0, 998.5];
        let total: f64 = (0..3).map(|id| log_softmax(&logits, id).exp()).sum();
        assert!((total - 1.0).abs() < 1e-12, "{total}");
        assert!((log_softmax(&logits, 1) - log_softmax(&logits, 0) - 1.0).abs() < 1e-12);
    }
}
