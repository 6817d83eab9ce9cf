//! Memory that others reported of whole models, beside what is planned for them.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::program::{IN_RAM, Program};

/// A figure, and how close a plan comes to it.
struct Published {
    config: &'static str,
    what: &'static str,
    flags: &'static [&'static str],
    /// Units that it leaves out.
    without: &'static [&'static str],
    /// Terms of a unit that it counts.
    counted: &'static [&'static str],
    bytes: u64,
    tolerance: f64,
}

/// Memory of a GPU after loading; the head was elsewhere.
const fn phi_3(what: &'static str, flags: &'static [&'static str], bytes: u64) -> Published {
    Published {
        config: "microsoft--Phi-3-mini-4k-instruct",
        what,
        flags,
        without: &["head"],
        counted: &["weights", "quantization_statistics"],
        bytes,
        tolerance: 0.01,
    }
}

const PUBLISHED: [Published; 4] = [
    phi_3(
        "f32, without head, measured on a GPU",
        &["--dtype", "f32"],
        14_890_594_304,
    ),
    phi_3(
        "int8, without head, measured on a GPU",
        &["--dtype", "f16", "--load-in-8bit"],
        3_859_044_352,
    ),
    phi_3(
        "fp4, without head, measured on a GPU",
        &["--dtype", "f16", "--load-in-4bit", "--quant-type", "fp4"],
        2_240_436_224,
    ),
    Published {
        config: "gpt2",
        what: "int8, as reported, without masks and scales",
        flags: &["--dtype", "f16", "--load-in-8bit"],
        without: &[],
        counted: &["weights"],
        bytes: 163_944_960,
        tolerance: 0.0,
    },
];

/// Prints and returns the comparison.
///
/// # Errors
/// When a plan is not as close as it should be.
pub(super) fn check(program: &Program, root: &Path) -> Result<Value> {
    let mut rows = Vec::new();
    for published in &PUBLISHED {
        let Published {
            config,
            what,
            bytes,
            ..
        } = *published;
        let folder = root.join("tests/fixtures/configs").join(config);
        let planned =
            published.sum(&program.plan(&folder, &[published.flags, &IN_RAM].concat())?)?;
        let error = planned as f64 / bytes as f64 - 1.0;
        println!(
            "{config}, {what}: published {bytes}, planned {planned} ({:+.2} %)",
            100.0 * error
        );
        ensure!(
            error.abs() <= published.tolerance,
            "{config}, {what} is off"
        );
        rows.push(json!({
            "model": config, "what": what, "published": bytes, "planned": planned, "error": error,
        }));
    }
    Ok(rows.into())
}

impl Published {
    fn sum(&self, plan: &Value) -> Result<u64> {
        let units = plan["units"].as_array().context("a plan's units")?;
        let is_counted = |unit: &&Value| self.without.iter().all(|name| unit["unit"] != **name);
        let of_unit = |unit: &Value| {
            let terms = self.counted.iter().map(|term| unit[term].as_u64());
            terms.sum::<Option<u64>>().context("a unit's bytes")
        };
        units.iter().filter(is_counted).map(of_unit).sum()
    }
}
