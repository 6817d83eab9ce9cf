//! Text of a generation, up to a stop string.

use llm_text::{StopOutcome, StopStrings, StreamingDetokenizer, TextError, Tokenizer};

use crate::Result;
use crate::settings::Settings;

/// Text as it becomes certain: whole characters, no beginnings of stop strings.
pub(crate) struct StoppingText<'t> {
    tokenizer: Option<&'t Tokenizer>,
    stop: Vec<String>,
    detokenizer: Option<StreamingDetokenizer<'t>>,
    stops: StopStrings,
    all: String,
}

impl<'t> StoppingText<'t> {
    pub(crate) fn new(tokenizer: Option<&'t Tokenizer>, settings: &Settings) -> Self {
        StoppingText {
            tokenizer,
            stop: settings.stop.clone(),
            detokenizer: tokenizer.map(Tokenizer::detokenizer),
            stops: StopStrings::new(settings.stop.clone()),
            all: String::new(),
        }
    }

    /// Takes a token; the text that is certain now, and true where the token completes a stop string.
    pub(crate) fn push(&mut self, id: u32) -> Result<(String, bool)> {
        let Some(detokenizer) = &mut self.detokenizer else {
            return Ok((String::new(), false));
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
        self.all.push_str(&piece);
        Ok((piece, is_stop))
    }

    /// True where the text of `ids`, which begin an answer, has a stop string that the last of them completes.
    pub(crate) fn is_stopped(&self, ids: &[u32]) -> bool {
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

    /// All of the text, and what of it was not handed out yet.
    pub(crate) fn finish(mut self) -> Result<(String, String)> {
        let Some(detokenizer) = self.detokenizer.take() else {
            return Ok((self.all, String::new()));
        };
        let rest = finish_stops(self.stops, &detokenizer.finish()?);
        self.all.push_str(&rest);
        Ok((self.all, rest))
    }
}

/// The last text: what was held back, unless the rest completes a stop string or one was met before.
fn finish_stops(mut stops: StopStrings, rest: &str) -> String {
    match stops.push(rest) {
        StopOutcome::Continue(piece) => piece + &stops.finish(),
        StopOutcome::Stop(piece) => piece,
    }
}
