//! Model and settings of `llm-run generate`.

use std::path::Path;

use anyhow::Result;
use llm_text::Tokenizer;

use crate::cli::GenerateArgs;
use crate::open::OpenModel;
use crate::{defaults, demo, output};
use llm_engine::Settings;

pub(super) fn open(args: &GenerateArgs) -> Result<OpenModel> {
    let model = args.model.as_deref().unwrap_or(Path::new(demo::NAME));
    OpenModel::open(model, &args.load.keys)
}

/// Settings by the flags and the model's own file; what of the file is not applied is said.
pub(super) fn settings(
    args: &GenerateArgs,
    model: &OpenModel,
    tokenizer: Option<&Tokenizer>,
) -> Result<Settings> {
    let config = model.generation()?;
    let of_model = (model.bound.spec(), tokenizer);
    let settings = defaults::settings(&args.sampling, &config, of_model, MAX_NEW_TOKENS)?;
    output::notes(&config.notices);
    if tokenizer.is_none() && !settings.stop.is_empty() {
        let problem = "`stop_strings` was not applied: there is no tokenizer";
        output::notes(&[format!("{}: {problem}", config.path.display())]);
    }
    Ok(settings)
}

/// Tokens that are generated unless told otherwise.
const MAX_NEW_TOKENS: usize = 256;
