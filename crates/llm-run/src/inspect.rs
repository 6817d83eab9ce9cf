//! `llm-run inspect`: what is in a checkpoint, by its headers, and what becomes of it once it is loaded.

use std::process::ExitCode;

use anyhow::Result;
use llm_checkpoint::Checkpoint;
use llm_plan::WeightDType;
use llm_runtime::BoundModel;

use self::report::CheckpointReport;
use crate::cli::InspectArgs;
use crate::hub_model::HubModel;
use crate::plan::{CONFIG, PlannedModel, lacks_weights};
use crate::{open, output, peers};

mod formats;
mod loaded;
mod metadata;
mod quantized;
mod report;

pub(crate) fn inspect(args: &InspectArgs) -> Result<ExitCode> {
    let Some(path) = &args.model else {
        formats::print(args.json)?;
        return Ok(ExitCode::SUCCESS);
    };
    let print = |report: &CheckpointReport<'_>| {
        output::print(&if args.json {
            output::json(report)?
        } else {
            report.text()
        })
    };
    let mut quant = args.quant.config()?;
    if let Some(quant) = &mut quant {
        args.compute.record(quant);
    }
    let dtype = args.dtype.unwrap_or(WeightDType::Auto);
    let quant = quant.as_ref();
    let origin = HubModel::origin(args.hub.as_ref());
    let listed = match (quant, args.dtype) {
        (None, None) => open::checkpoint(path, origin).and_then(|checkpoint| {
            // What does not bind is listed as it is.
            let model = Checkpoint::open_with(path, origin).ok();
            let model = model.and_then(|checkpoint| BoundModel::of(checkpoint).ok());
            let mut report = CheckpointReport::new(&checkpoint, model.as_ref())?;
            if report.statistics_bytes.is_some() {
                report.transformers = model.as_ref().and_then(peers::transformers);
            }
            print(&report)
        }),
        _ => open::bind_or_hint(path, &args.keys, origin)
            .and_then(|model| print(&loaded::report(&model, dtype, quant)?)),
    };
    match listed {
        Err(error) if lacks_weights(&error) && path.join(CONFIG).is_file() => {
            let model = PlannedModel::open((path, args.hub.as_ref()), &args.keys)?;
            print(&loaded::expected(path, &model, dtype, quant)?)?;
        }
        listed => listed?,
    }
    Ok(ExitCode::SUCCESS)
}
