//! What was said in a conversation.

use std::path::Path;

use anyhow::{Context, Result};
use llm_text::{Conversation, Message, Role};
use serde::{Deserialize, Serialize};

use crate::failure::{refuse, unreadable};

/// What was said: instructions, if any, and questions with their answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Dialogue {
    pub(super) system: Option<String>,
    pub(super) exchanges: Vec<Exchange>,
}

/// A question and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exchange {
    pub(super) question: String,
    pub(super) answer: String,
}

impl Dialogue {
    /// The conversation up to a question that is not answered yet.
    pub(super) fn asking(&self, question: &str) -> Conversation {
        let mut messages = self.said();
        messages.push(Message::new(Role::User, question.to_owned()));
        Conversation::new(messages)
    }

    fn said(&self) -> Vec<Message> {
        let system = self.system.iter();
        let system = system.map(|text| Message::new(Role::System, text.clone()));
        let exchanges = self.exchanges.iter().flat_map(|exchange| {
            let Exchange { question, answer } = exchange.clone();
            [
                Message::new(Role::User, question),
                Message::new(Role::Assistant, answer),
            ]
        });
        system.chain(exchanges).collect()
    }

    /// Writes the conversation, so that the file is whole or as it was. No file is replaced that is none of a conversation.
    ///
    /// # Errors
    /// When it cannot be written, or something else is there.
    pub(super) fn save(&self, path: &Path) -> Result<()> {
        if path.exists() {
            Dialogue::load(path).with_context(|| {
                format!("{} is no conversation, and is not replaced", path.display())
            })?;
        }
        let messages = self.said();
        let messages = messages.iter().map(|message| Saved {
            role: text_of(message, "role"),
            content: text_of(message, "content"),
        });
        let object = Line {
            messages: messages.collect(),
        };
        let folder = path.parent().filter(|folder| *folder != Path::new(""));
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
            serde_json::to_writer(&mut file, &object)?;
            std::io::Write::write_all(&mut file, b"\n")?;
            file.persist(path)?;
            Ok::<_, anyhow::Error>(())
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    /// The conversation of a file.
    ///
    /// # Errors
    /// When it cannot be read, or is none of questions with their answers.
    pub(super) fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| unreadable(path.display(), error))?;
        let Line { messages } =
            serde_json::from_str(&text).with_context(|| format!("{}", path.display()))?;
        let mut dialogue = Dialogue::default();
        let mut rest = messages.as_slice();
        if let [first, others @ ..] = rest
            && first.role == Role::System.name()
        {
            dialogue.system = Some(first.content.clone());
            rest = others;
        }
        let (pairs, odd) = rest.as_chunks();
        for [question, answer] in pairs {
            let roles = [question, answer].map(|message| message.role.as_str());
            if roles != [Role::User, Role::Assistant].map(Role::name) {
                return refuse(format!(
                    "{}: expected questions of a `user`, each with an answer of the `assistant`; found {} and {}",
                    path.display(),
                    roles[0],
                    roles[1]
                ));
            }
            dialogue.exchanges.push(Exchange {
                question: question.content.clone(),
                answer: answer.content.clone(),
            });
        }
        match odd {
            [] => Ok(dialogue),
            [_, ..] => refuse(format!(
                "{}: the last message has no answer",
                path.display()
            )),
        }
    }
}

/// A conversation as `generate --prompts` reads it, too.
#[derive(Serialize, Deserialize)]
struct Line {
    messages: Vec<Saved>,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    role: String,
    content: String,
}

fn text_of(message: &Message, field: &str) -> String {
    let text = message.fields().get(field).and_then(|text| text.as_str());
    text.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_and_nothing_else_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("talk.json");
        let dialogue = Dialogue {
            system: Some("Be brief.".to_owned()),
            exchanges: vec![Exchange {
                question: "Who?\n\"Me\"".to_owned(),
                answer: "You.".to_owned(),
            }],
        };
        for dialogue in [Dialogue::default(), dialogue] {
            dialogue.save(&path).unwrap();
            assert_eq!(Dialogue::load(&path).unwrap(), dialogue);
        }
        for (text, words) in [
            ("{}", "missing field `messages`"),
            (
                r#"{"messages": [{"role": "user", "content": "a"}]}"#,
                "has no answer",
            ),
            (
                r#"{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}"#,
                "found user and user",
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = format!("{:#}", Dialogue::load(&path).unwrap_err());
            assert!(
                error.contains(words) && error.contains("talk.json"),
                "{error}"
            );
            let error = format!("{:#}", Dialogue::default().save(&path).unwrap_err());
            assert!(error.contains("is not replaced"), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        let nowhere = folder.path().join("no/such/talk.json");
        let error = Dialogue::default().save(&nowhere).unwrap_err();
        assert!(format!("{error:#}").contains("cannot write"), "{error:#}");
    }
}
