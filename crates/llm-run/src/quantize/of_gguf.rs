//! The files beside the weights of a checkpoint that is made of a GGUF.

use anyhow::Result;
use llm_arch::HubForm;
use llm_checkpoint::Checkpoint;
use llm_text::Tokenizer;
use serde_json::json;

use super::side_files::SideFiles;
use crate::open::gguf_tokenizer;

/// The configuration, the tokenizer and what generation begins and ends with, all out of the GGUF's metadata.
pub(super) fn files(checkpoint: &Checkpoint, form: &HubForm) -> Result<SideFiles> {
    let mut files = SideFiles {
        config: form.config.clone(),
        ..SideFiles::default()
    };
    let gguf = gguf_tokenizer(checkpoint.metadata());
    let mut generation = json!({});
    for (key, id) in [
        ("bos_token_id", gguf.bos_id),
        ("eos_token_id", gguf.eos_id),
        // Where none is named, some families would take one that the vocabulary need not have.
        ("pad_token_id", gguf.pad_id),
    ] {
        files.config.insert(key.to_owned(), json!(id));
        if id.is_some() {
            generation[key] = json!(id);
        }
    }
    if gguf.tokens.is_empty() {
        let remark = "the GGUF has no tokenizer, and so none is written";
        files.remarks.push(remark.to_owned());
        return Ok(files);
    }
    let tokenizer = Tokenizer::from_gguf(&gguf)?;
    if let [_, _, ..] = tokenizer.eos_ids() {
        generation["eos_token_id"] = json!(tokenizer.eos_ids());
    }
    let text = format!("{generation:#}\n").into_bytes();
    files.new.push(("generation_config.json".to_owned(), text));
    let own = tokenizer.to_files()?.into_iter();
    files
        .new
        .extend(own.map(|(name, bytes)| (name.to_owned(), bytes)));
    Ok(files)
}
