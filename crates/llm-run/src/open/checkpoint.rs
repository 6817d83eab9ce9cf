//! A checkpoint, without the architecture that its configuration names.

use std::path::Path;

use anyhow::Result;
use llm_checkpoint::{Checkpoint, Elsewhere};

use crate::failure::refuse;
use crate::{demo, output};

/// Opens what the user calls a model, for its weights alone, and says once what is to be said of its files. `origin` may
/// have their bytes.
pub(crate) fn checkpoint(model: &Path, origin: Option<&dyn Elsewhere>) -> Result<Checkpoint> {
    if model == Path::new(demo::NAME) {
        return Ok(Checkpoint::from_bytes(
            Path::new(demo::ORIGIN),
            demo::weights(),
        )?);
    }
    expect_there(model)?;
    let checkpoint = Checkpoint::open_with(model, origin)?;
    output::notes(checkpoint.notices());
    Ok(checkpoint)
}

/// Refuses a path that leads nowhere.
///
/// # Errors
/// With what may have been meant.
pub(crate) fn expect_there(path: &Path) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let text = path.display().to_string();
    let hint = if text.contains(' ') && !text.contains('/') {
        "a text to continue comes after the model, or with -p".to_owned()
    } else if text.contains("://") {
        "nothing is fetched by its address: give a folder, or its name on a hub, org/name"
            .to_owned()
    } else {
        let name = demo::NAME;
        format!("give a folder, a .safetensors or .gguf file, or `{name}`")
    };
    refuse(format!("there is no model at {text}; {hint}"))
}

/// True where it may be an owner and a model's name on a hub: no path of a file, nor of anything in a folder that is here.
pub(crate) fn is_hub_name(text: &str) -> bool {
    let is_part = |part: &str| {
        let is_letter = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.chars().all(is_letter)
    };
    let is_file = [".safetensors", ".gguf", ".bin", ".json", ".pt", ".pth"]
        .iter()
        .any(|suffix| text.ends_with(suffix));
    text.split_once('/').is_some_and(|(owner, name)| {
        is_part(owner) && is_part(name) && !is_file && !Path::new(owner).exists()
    })
}
