//! Logits that are no finite numbers: whose they are, and why.

use llm_arch::Unit;
use llm_backend::Rows;

use super::Session;
use crate::not_finite::NotFinite;
use crate::pass::{Interrupts, Pass};
use crate::probe::Probe;
use crate::{Result, RuntimeError};

impl Session {
    /// The logits after each of `items`, which were fed, if all are finite.
    pub(super) fn checked(&mut self, items: &[(usize, &[u32])]) -> Result<&[f32]> {
        let n_logits = items.len() * self.spec.vocab;
        if is_finite(&self.logits[..n_logits]) {
            return Ok(&self.logits[..n_logits]);
        }
        let rows = items.iter().zip(self.logits.chunks_exact(self.spec.vocab));
        let flawed = rows.filter(|(_, logits)| !is_finite(logits));
        let flawed: Vec<_> = flawed.map(|(item, _)| *item).collect();
        let errors = flawed
            .into_iter()
            .map(|(sequence, ids)| self.diagnose(sequence, ids));
        // All of their sequences are taken back, and the first is told of.
        let errors: Vec<_> = errors.collect();
        Err(errors
            .into_iter()
            .next()
            .expect("one of them is not finite"))
    }

    /// Cause of logits that are not finite, after `ids` at the end of `sequence`: they are fed once more, and looked at
    /// between units. What was before them gave finite logits, and is what is left of the sequence, unless its windows or
    /// states are written over by then.
    pub(super) fn diagnose(&mut self, sequence: usize, ids: &[u32]) -> RuntimeError {
        let error = self.look_again(sequence, ids);
        self.truncate(sequence, self.sequences.fed_from(sequence));
        error
    }

    fn look_again(&mut self, sequence: usize, ids: &[u32]) -> RuntimeError {
        let probe = Probe::default();
        let horizon = self.sequences.horizon(sequence, 0);
        let kept = self.sequences.ids(sequence).map(<[u32]>::to_vec);
        let (ids, mut start) = match &kept {
            // States of the positions before are written over.
            Some(all) if self.spec.decoder.is_recurrent() => {
                self.pipeline.rewind(sequence, 0);
                (&all[..], 0)
            }
            _ => (ids, self.len(sequence) - ids.len()),
        };
        for ids in ids.chunks(self.limits.n_tokens) {
            let rows = Rows {
                first: 0,
                n_tokens: ids.len(),
                start,
                n_positions: start + ids.len(),
            };
            let pass = Pass {
                ids,
                sequences: &[(sequence, rows)],
                horizons: &[horizon],
                logits: false,
                interrupt: Interrupts {
                    session: &self.interrupt,
                    sequence: None,
                },
                probe: Some(&probe),
            };
            if let Err(error) = self.pipeline.forward(&pass) {
                return error;
            }
            if let Some(unit) = probe.unit() {
                return self.not_finite(unit, ids);
            }
            start += ids.len();
        }
        self.not_finite(Unit::Head, ids)
    }

    pub(super) fn not_finite(&self, unit: Unit, ids: &[u32]) -> RuntimeError {
        let cause = match &self.origin {
            Some(origin) => origin.explain(unit, ids),
            None => NotFinite::Made {
                unit,
                dtype: self.dtype,
            },
        };
        let cause = Box::new(cause);
        RuntimeError::NotFinite { cause }
    }
}

pub(super) fn is_finite(logits: &[f32]) -> bool {
    logits.iter().all(|x| x.is_finite())
}
