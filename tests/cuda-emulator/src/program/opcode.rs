//! The name of an instruction and its modifiers, each of which must be taken by whoever decodes it.

use crate::ptx::{Space, Type};

/// Name of an instruction with the modifiers not yet understood.
pub(crate) struct Opcode<'a> {
    pub(crate) name: &'a str,
    modifiers: Vec<&'a str>,
}

impl<'a> Opcode<'a> {
    pub(crate) fn parse(text: &'a str) -> Self {
        let mut parts = text.split('.');
        Self {
            name: parts.next().unwrap_or_default(),
            modifiers: parts.collect(),
        }
    }

    /// Takes a modifier, if it is there.
    pub(crate) fn take(&mut self, word: &str) -> bool {
        let found = self.modifiers.iter().position(|modifier| *modifier == word);
        if let Some(at) = found {
            self.modifiers.remove(at);
        }
        found.is_some()
    }

    /// Takes the first modifier that is one of `words`.
    pub(crate) fn take_of(&mut self, words: &[&'static str]) -> Option<&'static str> {
        for at in 0..self.modifiers.len() {
            if let Some(word) = words.iter().find(|word| **word == self.modifiers[at]) {
                self.modifiers.remove(at);
                return Some(word);
            }
        }
        None
    }

    /// Takes all modifiers of `words`: hints that change no value.
    pub(crate) fn take_hints(&mut self, words: &[&str]) {
        self.modifiers.retain(|modifier| !words.contains(modifier));
    }

    /// Takes the first modifier that is a type.
    pub(crate) fn take_type(&mut self) -> Result<Type, String> {
        let found = self
            .modifiers
            .iter()
            .enumerate()
            .find_map(|(at, modifier)| Some((at, Type::parse(modifier)?)));
        let (at, ty) = found.ok_or("an instruction without a type")?;
        self.modifiers.remove(at);
        Ok(ty)
    }

    /// Takes the state space.
    pub(crate) fn take_space(&mut self) -> Space {
        // A block's own shared memory is all of it without clusters.
        match self.take_of(&["global", "shared", "shared::cta", "local", "const", "param"]) {
            Some("global") => Space::Global,
            Some("shared" | "shared::cta") => Space::Shared,
            Some("local") => Space::Local,
            Some("const") => Space::Const,
            Some("param") => Space::Param,
            Some(_) | None => Space::Generic,
        }
    }

    /// Nothing, or the modifiers that are left.
    pub(crate) fn finish(&self) -> Result<(), String> {
        if self.modifiers.is_empty() {
            Ok(())
        } else {
            Err(format!(
                "modifier .{} of {} is unknown",
                self.modifiers.join("."),
                self.name
            ))
        }
    }
}
