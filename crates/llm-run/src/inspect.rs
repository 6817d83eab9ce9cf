//! `llm-run inspect`: what is in a checkpoint, by its headers, and what becomes of it once it is loaded.

use std::process::ExitCode;

use anyhow::Result;
use llm_plan::WeightDType;
use llm_runtime::BoundModel;

use self::report::CheckpointReport;
use crate::cli::InspectArgs;
use crate::open::OpenModel;
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
    if quant.is_none() && args.dtype.is_none() {
        let checkpoint = open::checkpoint(path)?;
        // What does not bind is listed as it is.
        let model = BoundModel::open(path).ok();
        let mut report = CheckpointReport::new(&checkpoint, model.as_ref())?;
        if report.statistics_bytes.is_some() {
            report.transformers = peers::transformers(path);
        }
        print(&report)?;
    } else {
        let model = OpenModel::open(path, &args.keys)?.bound;
        let dtype = args.dtype.unwrap_or(WeightDType::Auto);
        print(&loaded::report(&model, dtype, quant.as_ref())?)?;
    }
    Ok(ExitCode::SUCCESS)
}
