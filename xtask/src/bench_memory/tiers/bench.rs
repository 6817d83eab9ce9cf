//! Runs of one model.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Result, ensure};
use llm_tensor::Bytes;
use rustix::fs::{Advice, fadvise};
use serde_json::Value;

use super::row::{Ids, TierRow};
use super::{Budget, Tools};
use crate::bench_memory::Precision;
use crate::bench_memory::cgroup::Cgroup;
use crate::bench_memory::models::{Folder, available_ram};
use crate::bench_memory::program::IN_RAM;
use crate::bench_memory::row::{Base, Row, number};

/// A model that was made, and what runs it.
pub(super) struct Bench<'a> {
    pub(super) tools: &'a Tools<'a>,
    pub(super) folder: &'a Folder,
    /// Folder of offloaded weights, and the map that has all of them on disk.
    pub(super) offload: String,
    pub(super) disk_map: String,
    pub(super) n_new: usize,
}

/// Reference for runs under a budget.
struct Reference {
    ids: Option<Value>,
    /// Memory of the program itself: it depends on what it computes, not on where weights come from.
    base: Base,
}

impl Bench<'_> {
    /// Runs a precision wholly in RAM, where the machine has that, and under the budgets.
    pub(super) fn rows(&self, precision: &Precision, budgets: &[Budget]) -> Result<Vec<TierRow>> {
        let mut rows = Vec::new();
        let mut add = |row: TierRow| {
            println!("{row}");
            rows.push(row);
        };
        let plan = self.plan(precision, &IN_RAM)?;
        let in_ram = needed(&plan)?;
        let mut reference = Reference {
            ids: None,
            base: self.tools.base,
        };
        if in_ram <= available_ram()? {
            let run = self.generate(precision, &IN_RAM, None)?;
            let row = |base| Row::new((self.folder, precision.name), &plan, &run, base);
            reference = Reference {
                ids: Some(run["generated_ids"].clone()),
                base: Base::of(&row(Base::default())?),
            };
            add(TierRow::new(
                row(self.tools.base)?,
                &plan,
                None,
                Ids::Reference,
            )?);
        }
        for budget in budgets {
            add(self.under(budget, in_ram, precision, &reference)?);
        }
        Ok(rows)
    }

    fn under(
        &self,
        budget: &Budget,
        in_ram: Bytes,
        precision: &Precision,
        reference: &Reference,
    ) -> Result<TierRow> {
        let (map, budget) = match budget {
            Budget::Of(budget) => ("auto", *budget),
            Budget::Half => {
                let sum = self.on_disk(precision)? + in_ram;
                ("auto", Bytes::new(sum.get() / 2))
            }
            Budget::Least => (self.disk_map.as_str(), self.on_disk(precision)?),
        };
        let max_memory = format!("cpu={}", budget.get());
        let flags = self.flags(map, &max_memory);
        let plan = self.plan(precision, &flags)?;
        let (model, name) = (&self.folder.name, precision.name);
        ensure!(plan["fits"] == true, "{model} {name}: {}", plan["verdict"]);
        let group = match self.tools.has_cgroups {
            true => Some(Cgroup::new(budget + SLACK)?),
            false => None,
        };
        let run = self.generate(precision, &flags, group.as_ref())?;
        let ids = match &reference.ids {
            Some(ids) if *ids == run["generated_ids"] => Ids::Same,
            Some(_) => Ids::Different,
            None => Ids::NotCompared,
        };
        let row = Row::new((self.folder, name), &plan, &run, reference.base)?;
        TierRow::new(row, &plan, Some(budget), ids)
    }

    /// RAM needed with all weights offloaded.
    fn on_disk(&self, precision: &Precision) -> Result<Bytes> {
        needed(&self.plan(precision, &self.flags(&self.disk_map, "cpu=1TB"))?)
    }

    fn flags<'f>(&'f self, map: &'f str, max_memory: &'f str) -> [&'f str; 6] {
        [
            "--device-map",
            map,
            "--max-memory",
            max_memory,
            "--offload-folder",
            &self.offload,
        ]
    }

    fn plan(&self, precision: &Precision, flags: &[&str]) -> Result<Value> {
        let context = self.folder.context.to_string();
        let flags = [precision.flags, flags, &["--context", &context]].concat();
        self.tools.program.plan(&self.folder.path, &flags)
    }

    fn generate(
        &self,
        precision: &Precision,
        flags: &[&str],
        group: Option<&Cgroup>,
    ) -> Result<Value> {
        drop_cache(&self.folder.path)?;
        let flags = [precision.flags, flags].concat();
        let choice = (self.n_new, &CHOICE[..]);
        let program = self.tools.program;
        program.generate(self.folder, &flags, choice, group)
    }
}

fn needed(plan: &Value) -> Result<Bytes> {
    Ok(Bytes::new(number(&plan["memories"]["cpu"]["needed"])?))
}

/// Has the kernel forget what it holds of the files: what is mapped of them counts for the group that reads it first.
fn drop_cache(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let file = File::open(entry?.path())?;
        file.sync_all()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    Ok(())
}

/// Slack of a control group beside the budget: page cache, and what the kernel keeps for the process.
pub(super) const SLACK: Bytes = Bytes::mib(64);
/// Nearly any token may come: then ids agree only where logits do.
const CHOICE: [&str; 8] = [
    "--temperature",
    "8",
    "--top-k",
    "0",
    "--top-p",
    "1",
    "--seed",
    "1",
];
