//! Models that do not fit into RAM, or are not let: run from RAM and disk, under a budget.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use llm_tensor::Bytes;

use self::bench::{Bench, SLACK};
use self::row::TierRow;
use super::PRECISIONS;
use super::cgroup::Cgroup;
use super::models::{CONTEXT, Folder, free_disk};
use super::program::Program;
use super::row::Base;
use crate::make_model;

mod bench;
pub(super) mod row;

/// A model to run under budgets.
pub(super) struct Tiered {
    pub(super) name: &'static str,
    /// Its path from the workspace's root.
    config: &'static str,
    /// Options to make it of its configuration, in a folder.
    options: fn(&Path, &Path) -> make_model::Options,
    /// True if it is too large to be measured unasked.
    is_on_demand: bool,
    /// Precisions, and the budgets to run each under.
    runs: &'static [(&'static str, &'static [Budget])],
    /// Tokens to generate: as few as show it where each of them reads much.
    n_new: usize,
}

/// RAM that a run may take.
enum Budget {
    Of(Bytes),
    /// Halfway between what the model takes with all weights on disk and wholly in RAM.
    Half,
    /// RAM with all weights offloaded, and not a byte more.
    Least,
}

const SMALL: Budget = Budget::Of(Bytes::new(350_000_000));
const NOTEBOOK: Budget = Budget::Of(Bytes::new(12_700_000_000));
const TIERED: [Tiered; 4] = [
    // Its matrices are stored transposed: what rests on disk is written anew. Its table, the head too, comes in slices.
    Tiered {
        name: "gpt2",
        config: "tests/fixtures/configs/gpt2/config.json",
        options: |config, out| make_model::Options::cut(config, out, 11),
        is_on_demand: false,
        runs: &[
            ("bf16", &[Budget::Half, Budget::Least]),
            ("int8", &[Budget::Half]),
            ("nf4 double", &[Budget::Least]),
        ],
        n_new: 4,
    },
    Tiered {
        name: "bloom-700m-bin",
        config: "benches/configs/bloom-700m.json",
        options: make_model::Options::single_bin,
        is_on_demand: false,
        runs: &[
            ("bf16", &[SMALL, Budget::Least]),
            ("int8", &[SMALL]),
            ("nf4 double", &[SMALL]),
        ],
        n_new: 4,
    },
    Tiered {
        name: "bloomz-7b1-bin",
        config: "tests/fixtures/configs/bigscience--bloomz-7b1-mt/config.json",
        options: make_model::Options::single_bin,
        is_on_demand: true,
        runs: &[
            ("bf16", &[NOTEBOOK, Budget::Least]),
            ("int8", &[NOTEBOOK]),
            ("nf4 double", &[NOTEBOOK]),
        ],
        n_new: 9,
    },
    Tiered {
        name: "gemma-7b-bin", // A table of tokens of 1.6 GB, which is the head too.
        config: "tests/fixtures/configs/google--gemma-7b/config.json",
        options: make_model::Options::single_bin,
        is_on_demand: true,
        runs: &[("bf16", &[Budget::Least])],
        n_new: 4,
    },
];

/// The models of these names; without any, all but the largest.
pub(super) fn chosen(names: &[String]) -> impl Iterator<Item = &'static Tiered> {
    TIERED.iter().filter(move |tiered| match names {
        [] => !tiered.is_on_demand,
        names => names.iter().any(|name| name == tiered.name),
    })
}

/// Names that can be asked for.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    TIERED.iter().map(|tiered| tiered.name)
}

/// Tools that measure all models.
pub(super) struct Tools<'a> {
    program: &'a Program,
    base: Base,
    /// True if the kernel can hold runs to their budgets.
    has_cgroups: bool,
}

impl<'a> Tools<'a> {
    /// Says how runs are held to their budgets.
    pub(super) fn new(program: &'a Program, base: Base) -> Self {
        let group = Cgroup::new(SLACK);
        match &group {
            Ok(_) => println!("a run under a budget is in a memory cgroup of that and {SLACK}"),
            Err(error) => println!(
                "no memory cgroup can be made: {error:#}; peaks are held to the budgets all the same"
            ),
        }
        Tools {
            program,
            base,
            has_cgroups: group.is_ok(),
        }
    }
}

impl Tiered {
    /// Makes the model in `target`, runs it under every budget and once wholly in RAM in the same precision, and
    /// compares.
    ///
    /// # Errors
    /// When there is too little disk, or a run fails: among others when the kernel ends it.
    pub(super) fn rows(
        &self,
        tools: &Tools<'_>,
        (root, target): (&Path, &Path),
    ) -> Result<Vec<TierRow>> {
        let scratch = tempfile::tempdir_in(target)?;
        let model = scratch.path().join("model");
        let config = root.join(self.config);
        check_room(&config, scratch.path())?;
        make_model::run(&(self.options)(&config, &model))?;
        let folder = Folder::made(self.name.to_owned(), model, CONTEXT)?;
        let disk_map = scratch.path().join("disk.json");
        fs::write(&disk_map, r#"{"": "disk"}"#)?;
        let bench = Bench {
            tools,
            folder: &folder,
            offload: text(&scratch.path().join("offload"))?.to_owned(),
            disk_map: text(&disk_map)?.to_owned(),
            n_new: self.n_new,
        };
        let mut rows = Vec::new();
        for (name, budgets) in self.runs {
            let precision = PRECISIONS.iter().find(|p| p.name == *name);
            let precision = precision.context("a precision's name")?;
            rows.extend(bench.rows(precision, budgets)?);
        }
        Ok(rows)
    }
}

/// Fails before anything is written that would not find room.
fn check_room(config: &Path, folder: &Path) -> Result<()> {
    let (_, skeleton) = make_model::skeleton(config, None)?;
    let needed = Bytes::new(2 * skeleton.n_parameters()) + BESIDE;
    let free = free_disk(folder)?;
    ensure!(
        needed <= free,
        "{} has {free} free, and {} takes {needed}: {} are missing",
        folder.display(),
        config.display(),
        needed.saturating_sub(free)
    );
    Ok(())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is no UTF-8", path.display()))
}

/// Most bytes that runs write beside a model.
const BESIDE: Bytes = Bytes::mib(800);
