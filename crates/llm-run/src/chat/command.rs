//! Commands of a conversation: lines that are not said to the model.

/// A command; exhaustive, as each does something of its own.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command<'a> {
    /// Lists the commands.
    Help,
    /// Says under which instructions the conversation is held, or has it held under others.
    System(&'a str),
    /// Writes the conversation to a file.
    Save(&'a str),
    /// Goes on with the conversation of a file.
    Load(&'a str),
    /// Makes the last answer anew.
    Regenerate,
    /// Says what the last answer and the conversation took.
    Stats,
    /// Forgets what was said.
    Reset,
    /// Ends.
    Exit,
    /// One that there is not.
    Unknown(&'a str),
}

impl<'a> Command<'a> {
    /// The command that a line is; nothing where it is said to the model.
    pub(super) fn of(line: &'a str) -> Option<Self> {
        let line = line.trim();
        if !line.starts_with('/') {
            return None;
        }
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let command = match (name, rest) {
            ("/help" | "/?", "") => Command::Help,
            ("/system", text) => Command::System(text),
            ("/save", file) => Command::Save(file),
            ("/load", file) => Command::Load(file),
            ("/regenerate", "") => Command::Regenerate,
            ("/stats", "") => Command::Stats,
            ("/reset", "") => Command::Reset,
            ("/exit" | "/quit" | "/bye", "") => Command::Exit,
            _ => Command::Unknown(name),
        };
        Some(command)
    }
}

/// What `/help` says.
pub(super) const HELP: &str = "\
/system [TEXT]  say what the instructions are, or have others from now on
/regenerate     make the last answer anew
/save FILE      write the conversation, as a line of generate --prompts
/load FILE      go on with such a conversation
/stats          say what the conversation takes, and how fast answers come
/reset          forget what was said
/exit           end, as Ctrl-D does
A line that ends with \\ goes on in the next one; \"\"\" begins and ends many. Ctrl-C stops an answer.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_commands_or_said() {
        for (line, expected) in [
            ("hello /help", None),
            ("", None),
            (" /help ", Some(Command::Help)),
            ("/system", Some(Command::System(""))),
            ("/system  Be brief. ", Some(Command::System("Be brief."))),
            ("/save a b.json", Some(Command::Save("a b.json"))),
            ("/quit", Some(Command::Exit)),
            ("/quit now", Some(Command::Unknown("/quit"))),
            ("/nonsense", Some(Command::Unknown("/nonsense"))),
            ("/", Some(Command::Unknown("/"))),
        ] {
            assert_eq!(Command::of(line), expected, "{line:?}");
        }
    }
}
