//! Time of an operation that is only enqueued.

use std::time::{Duration, Instant};

use anyhow::Result;
use llm_backend::{Backend, Queue};

/// Seconds that a call of `enqueue` takes the device: the median of five rounds, each of about a fifth of `time`. In a round
/// calls follow each other, so that neither starting them nor waiting counts.
pub(crate) fn seconds<B: Backend>(
    queue: &mut B::Queue,
    time: Duration,
    mut enqueue: impl FnMut(&mut B::Queue) -> Result<()>,
) -> Result<f64> {
    let mut round = |n: usize| -> Result<f64> {
        let begin = Instant::now();
        for _ in 0..n {
            enqueue(queue)?;
        }
        queue.finish()?;
        Ok(begin.elapsed().as_secs_f64() / n as f64)
    };
    // The first has the driver load the kernel.
    let mut once = round(1)?;
    if !time.is_zero() {
        once = once.min(round(1)?);
    }
    let n = (time.as_secs_f64() / N_ROUNDS as f64 / once.max(1e-6)).ceil();
    let n = (n as usize).clamp(1, 2000);
    // Where no time is to be spent, none is to be learnt.
    let n_rounds = if time.is_zero() { 1 } else { N_ROUNDS };
    let mut rounds = (0..n_rounds)
        .map(|_| round(n))
        .collect::<Result<Vec<f64>>>()?;
    rounds.sort_by(f64::total_cmp);
    Ok(rounds[rounds.len() / 2].max(1e-9))
}

const N_ROUNDS: usize = 5;
