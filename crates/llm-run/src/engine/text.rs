//! Text of a generation, up to a stop string.

use anyhow::Result;
use llm_text::{StopOutcome, StopStrings, StreamingDetokenizer, TextError, Tokenizer};

use super::settings::Settings;

/// Text as it becomes certain: whole characters, no beginnings of stop strings.
pub(super) struct StoppingText<'t> {
    tokenizer: Option<&'t Tokenizer>,
    stop: Vec<String>,
    detokenizer: Option<StreamingDetokenizer<'t>>,
    stops: StopStrings,
    all: String,
}

impl<'t> StoppingText<'t> {
    pub(super) fn new(tokenizer: Option<&'t Tokenizer>, settings: &Settings) -> Self {
        StoppingText {
            tokenizer,
            stop: settings.stop.clone(),
            detokenizer: tokenizer.map(Tokenizer::detokenizer),
            stops: StopStrings::new(settings.stop.clone()),
            all: String::new(),
        }
    }

    /// Takes a token; true where it completes a stop string.
    pub(super) fn push(
        &mut self,
        id: u32,
        print: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<bool> {
        let Some(detokenizer) = &mut self.detokenizer else {
            return Ok(false);
        };
        let piece = match detokenizer.push(id) {
            // A vocabulary that was padded to a round number has entries beyond the tokenizer's: they have no text.
            Err(TextError::UnknownId { .. }) => String::new(),
            piece => piece?,
        };
        let (piece, is_stop) = match self.stops.push(&piece) {
            StopOutcome::Continue(piece) => (piece, false),
            StopOutcome::Stop(piece) => (piece, true),
        };
        self.emit(&piece, print)?;
        Ok(is_stop)
    }

    /// True where the text of `ids`, which begin an answer, has a stop string that the last of them completes.
    pub(super) fn is_stopped(&self, ids: &[u32]) -> bool {
        let Some(tokenizer) = self.tokenizer.filter(|_| !self.stop.is_empty()) else {
            return false;
        };
        let mut detokenizer = tokenizer.detokenizer();
        let mut stops = StopStrings::new(self.stop.clone());
        ids.iter().any(|&id| {
            let piece = detokenizer.push(id).unwrap_or_default();
            matches!(stops.push(&piece), StopOutcome::Stop(_))
        })
    }

    pub(super) fn finish(mut self, print: &mut dyn FnMut(&str) -> Result<()>) -> Result<String> {
        if let Some(detokenizer) = self.detokenizer.take() {
            let rest = detokenizer.finish()?;
            let stops = std::mem::replace(&mut self.stops, StopStrings::new(Vec::new()));
            let rest = finish_stops(stops, &rest);
            self.emit(&rest, print)?;
        }
        Ok(self.all)
    }

    fn emit(&mut self, piece: &str, print: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
        self.all.push_str(piece);
        if piece.is_empty() {
            Ok(())
        } else {
            print(piece)
        }
    }
}

/// The last text: what was held back, unless the rest completes a stop string or one was met before.
fn finish_stops(mut stops: StopStrings, rest: &str) -> String {
    match stops.push(rest) {
        StopOutcome::Continue(piece) => piece + &stops.finish(),
        StopOutcome::Stop(piece) => piece,
    }
}
