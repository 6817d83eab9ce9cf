//! Conversations as tokens, by the model's own chat template.

use anyhow::Result;
use llm_text::{ChatTemplate, Conversation, GenerationPrompt, SpecialTokens, Tokenizer};

use crate::failure::UserError;

/// The ids of a conversation by the model's own template, up to where its answer begins.
pub(crate) fn chat_ids(tokenizer: &Tokenizer, conversation: &Conversation) -> Result<Vec<u32>> {
    let template = chat_template(tokenizer)?;
    let text = template.render(conversation, GenerationPrompt::Add)?;
    Ok(tokenizer.encode(&text, SpecialTokens::AsIs)?)
}

/// The model's chat template.
pub(crate) fn chat_template(tokenizer: &Tokenizer) -> Result<&ChatTemplate> {
    let missing = || {
        UserError(
            "the model has no chat template; give plain prompts, without --chat, or choose an instruct model"
                .to_owned(),
        )
    };
    Ok(tokenizer.chat_template().ok_or_else(missing)?)
}
