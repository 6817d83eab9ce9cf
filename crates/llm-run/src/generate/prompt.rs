//! The prompt of `llm-run generate`, as text and as tokens.

use std::path::Path;

use anyhow::Result;
use llm_runtime::RuntimeError;
use llm_text::{Conversation, Message, Role, SpecialTokens};

use crate::cli::GenerateArgs;
use crate::failure::{UserError, refuse};
use crate::input::template::chat_ids;
use crate::input::{read_file, read_stdin};
use crate::open::OpenModel;
use crate::{demo, output};

pub(super) fn prompt_ids(args: &GenerateArgs, model: &OpenModel) -> Result<Vec<u32>> {
    if let Some(ids) = &args.token_ids {
        return Ok(ids.clone());
    }
    text_ids(prompt_text(args)?, args, model)
}

impl GenerateArgs {
    /// True where neither a model nor a prompt is given.
    pub(super) fn prompt_of_demo(&self) -> bool {
        let has_text = self.prompt.is_some() || self.prompt_text.is_some();
        let has_other = self.prompt_file.is_some() || self.token_ids.is_some();
        self.model.is_none() && !has_text && !has_other
    }
}

/// The ids of a prompt, as a message of a conversation if so asked.
pub(super) fn text_ids(text: String, args: &GenerateArgs, model: &OpenModel) -> Result<Vec<u32>> {
    // Some tokenizers would make a begin-of-text token of it, and the answer would have nothing to do with any prompt.
    if text.is_empty() {
        return Err(RuntimeError::EmptyPrompt.into());
    }
    let tokenizer = model.tokenizer()?;
    if args.chat {
        let system = args.system.clone();
        let system = system.map(|text| Message::new(Role::System, text));
        let messages = system.into_iter().chain([Message::new(Role::User, text)]);
        let mut conversation = Conversation::new(messages.collect());
        given_to_template(args, &mut conversation)?;
        chat_ids(tokenizer, &conversation)
    } else {
        Ok(tokenizer.encode(&text, SpecialTokens::Add)?)
    }
}

/// Gives the template the tools and the variables of the command line, unless the conversation has its own.
pub(super) fn given_to_template(
    args: &GenerateArgs,
    conversation: &mut Conversation,
) -> Result<()> {
    if let (Some(path), None) = (&args.tools, &conversation.tools) {
        let text = read_file(path)?;
        let tools = serde_json::from_str(&text);
        let tools = tools.map_err(|error| {
            let expected = "expected a list of objects, each a tool's JSON schema";
            UserError(format!("{}: {expected}: {error}", path.display()))
        });
        conversation.tools = Some(tools?);
    }
    for given in &args.template_arg {
        let (name, value) = (given.name.clone(), given.value.clone());
        conversation.variables.entry(name).or_insert(value);
    }
    Ok(())
}

fn prompt_text(args: &GenerateArgs) -> Result<String> {
    let text = args.prompt.as_ref().or(args.prompt_text.as_ref());
    match (text, &args.prompt_file, &args.model) {
        (Some(text), _, _) if text == "-" => read_stdin(),
        (Some(text), _, _) => {
            if Path::new(text).is_file() {
                let hint = "--prompt-file reads the file of that name";
                output::notes(&[format!("the prompt is the text `{text}`; {hint}")]);
            }
            Ok(text.clone())
        }
        (None, Some(path), _) => read_file(path),
        (None, None, None) => Ok(demo::PROMPT.to_owned()),
        (None, None, Some(_)) => {
            let ways =
                "after the model, with -p, --prompt-file or --token-ids, or `-` for standard input";
            refuse(format!("there is no prompt; give one {ways}"))
        }
    }
}
