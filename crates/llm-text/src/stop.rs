/// Watches text that arrives in pieces for strings that end the generation.
///
/// The string that *ends* first counts; of several that end at the same place, the longest. Text that may yet
/// turn out to be the beginning of a stop string is held back until that is decided, so what was handed out
/// never contains any part of it, however the text is cut into pieces.
#[derive(Debug, Clone)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
    hit: bool,
}

/// Outcome of [`StopStrings::push`]; exhaustive, as a stop string was met or it was not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopOutcome {
    /// No stop string yet: the text that may be printed.
    Continue(String),
    /// A stop string was met: the last text to be printed, which ends before it.
    Stop(String),
}

impl StopStrings {
    /// A watch for any of `stops`; with none it lets everything pass.
    ///
    /// # Panics
    ///
    /// If one of `stops` is empty: it would end every generation before its beginning.
    pub fn new(stops: Vec<String>) -> Self {
        assert!(
            stops.iter().all(|stop| !stop.is_empty()),
            "a stop string must not be empty"
        );
        StopStrings {
            stops,
            held: String::new(),
            hit: false,
        }
    }

    /// Takes the next piece of text and returns what is safe to print. After a stop nothing is.
    pub fn push(&mut self, text: &str) -> StopOutcome {
        if self.hit {
            return StopOutcome::Stop(String::new());
        }
        self.held.push_str(text);
        if let Some(start) = self.first_stop() {
            self.hit = true;
            self.held.truncate(start);
            return StopOutcome::Stop(std::mem::take(&mut self.held));
        }
        let rest = self.held.split_off(self.certain_len());
        StopOutcome::Continue(std::mem::replace(&mut self.held, rest))
    }

    /// The generation has ended by itself: what was held back and may now be printed.
    pub fn finish(self) -> String {
        self.held
    }

    /// Beginning of the stop string that ends first.
    fn first_stop(&self) -> Option<usize> {
        let found = self.stops.iter().filter_map(|stop| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start))
        });
        found.min().map(|(_, start)| start)
    }

    /// The length of what cannot be the beginning of a stop string.
    fn certain_len(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = (self.held.len() + 1).saturating_sub(longest);
        (from..self.held.len())
            .filter(|&at| self.held.is_char_boundary(at))
            .find(|&at| self.stops.iter().any(|s| s.starts_with(&self.held[at..])))
            .unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests;
