//! Device maps as accelerate writes them: JSON from names of modules to GPUs' numbers, `"cpu"` and `"disk"`.

use std::collections::{BTreeMap, HashSet};
use std::str::FromStr;

use llm_arch::{Skeleton, Slot, Unit};
use serde_json::{Map, Value};

use crate::items::reads_prompt;
use crate::placement::{DividedPart, Division, Rest};
use crate::units::Units;
use crate::weights::Weights;
use crate::{Budgets, Home, Placement, PlanError, Result, RunOn};

/// A device map that a user gives, not yet compared with a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HfMap(BTreeMap<String, Home>);

impl FromStr for HfMap {
    type Err = PlanError;

    fn from_str(json: &str) -> Result<Self> {
        let flawed = |e: serde_json::Error| PlanError::NotJson {
            reason: e.to_string(),
        };
        let entries: Map<String, Value> = serde_json::from_str(json).map_err(flawed)?;
        let entry = |(module, device): (String, Value)| {
            let name = match device {
                Value::String(name) => name,
                other => other.to_string(),
            };
            Ok((module, name.parse()?))
        };
        entries
            .into_iter()
            .map(entry)
            .collect::<Result<_>>()
            .map(HfMap)
    }
}

impl HfMap {
    /// The place of each unit, by the names of its tensors.
    pub(crate) fn placements(
        &self,
        skeleton: &Skeleton,
        weights: &Weights,
        budgets: &Budgets,
        rest: Rest,
    ) -> Result<Vec<Placement>> {
        self.check_devices(budgets)?;
        self.check_overlaps()?;
        let homes = self.homes(skeleton, weights)?;
        Ok(placements(weights, &homes, rest))
    }

    fn check_devices(&self, budgets: &Budgets) -> Result<()> {
        for (module, home) in &self.0 {
            let module = module.clone();
            match *home {
                Home::Gpu(number) if !budgets.gpus.contains_key(&number) => {
                    let numbers: Vec<_> = budgets.gpus.keys().map(u32::to_string).collect();
                    let known = match numbers.is_empty() {
                        true => "there is no GPU".to_owned(),
                        false => format!("there is {}", numbers.join(", ")),
                    };
                    return Err(PlanError::NoSuchGpu {
                        module,
                        number,
                        known,
                    });
                }
                Home::Disk if budgets.disk.is_none() => {
                    return Err(PlanError::NoOffload { module });
                }
                Home::Gpu(_) | Home::Ram | Home::Disk => {}
            }
        }
        Ok(())
    }

    fn check_overlaps(&self) -> Result<()> {
        for inner in self.0.keys().filter(|module| !module.is_empty()) {
            let mut outside = enclosing(inner).skip(1);
            if let Some(outer) = outside.find(|&outer| self.0.contains_key(outer)) {
                return Err(PlanError::Overlap {
                    outer: outer.to_owned(),
                    inner: inner.clone(),
                });
            }
        }
        Ok(())
    }

    /// The home of each unit.
    fn homes(&self, skeleton: &Skeleton, weights: &Weights) -> Result<Vec<Home>> {
        let units = &weights.units;
        let mut found: Vec<Option<(Home, &Slot)>> = vec![None; units.list().len()];
        let (mut used, mut missing) = (HashSet::new(), Vec::new());
        for slot in &skeleton.slots {
            let mut covering = enclosing(&slot.name);
            let Some((module, &home)) = covering.find_map(|name| self.0.get_key_value(name)) else {
                missing.push(module_of(slot));
                continue;
            };
            used.insert(module.as_str());
            match &found[units.idx(slot.unit)] {
                None => found[units.idx(slot.unit)] = Some((home, slot)),
                Some((other, first)) if *other != home => {
                    return Err(PlanError::Apart {
                        unit: format!("the {}", slot.unit),
                        a: module_of(first).to_owned(),
                        b: module_of(slot).to_owned(),
                    });
                }
                Some(_) => {}
            }
        }
        self.check_names(&used, skeleton, weights)?;
        missing.dedup();
        if let Some(module) = missing.first() {
            return Err(PlanError::Gap {
                module: (*module).to_owned(),
                more: match missing.len() - 1 {
                    0 => String::new(),
                    n => format!(" and {n} more modules"),
                },
            });
        }
        let table = found[units.idx(Unit::Embedding)];
        if weights.is_tied {
            self.check_tied(&found, units, table)?;
        }
        let home = |place: &Option<(Home, &Slot)>| place.or(table).map(|(home, _)| home);
        let homes = found.iter().map(|place| home(place).unwrap_or(Home::Ram));
        Ok(homes.collect())
    }

    /// A tied head is where its table is.
    fn check_tied(
        &self,
        found: &[Option<(Home, &Slot)>],
        units: &Units,
        table: Option<(Home, &Slot)>,
    ) -> Result<()> {
        let Some((home, slot)) = table else {
            return Ok(());
        };
        let named = HEADS
            .iter()
            .find(|head| self.0.get(**head).is_some_and(|&at| at != home));
        let head = named.map(|head| (*head).to_owned()).or_else(|| {
            let own = found[units.idx(Unit::Head)];
            own.and_then(|(at, own)| (at != home).then(|| module_of(own).to_owned()))
        });
        match head {
            None => Ok(()),
            Some(head) => Err(PlanError::TiedApart {
                head,
                table: module_of(slot).to_owned(),
            }),
        }
    }

    /// Every entry names something.
    fn check_names(
        &self,
        used: &HashSet<&str>,
        skeleton: &Skeleton,
        weights: &Weights,
    ) -> Result<()> {
        let is_known = |module: &str| {
            let last = module.rsplit('.').next().unwrap_or(module);
            used.contains(module)
                || WITHOUT_TENSORS.contains(&last)
                || (weights.is_tied && HEADS.contains(&module))
        };
        let unknown = self.0.keys().filter(|module| !is_known(module)).min();
        match unknown {
            None => Ok(()),
            Some(module) => Err(PlanError::UnknownModule {
                module: module.clone(),
                known: neighbours(module, skeleton),
            }),
        }
    }
}

/// Placements of units, given their homes: what no GPU holds is streamed to the one that computes what comes before it,
/// or else after it. A tied head computes where its table does.
fn placements(weights: &Weights, homes: &[Home], rest: Rest) -> Vec<Placement> {
    let units = &weights.units;
    let gpu = |home: Home| match home {
        Home::Gpu(number) => Some(number),
        Home::Ram | Home::Disk => None,
    };
    let in_order = || units.in_order_of_computing();
    let mut current = in_order().find_map(|idx| gpu(homes[idx]));
    let on_cpu = |&home: &Home| Placement {
        home,
        run_on: RunOn::Cpu,
    };
    let mut placements: Vec<_> = homes.iter().map(on_cpu).collect();
    let of_cpu = match rest {
        Rest::Divided(division) => of_cpu(weights, homes, division),
        Rest::Streamed | Rest::PromptStreamed | Rest::OnCpu => HashSet::new(),
    };
    for idx in in_order() {
        let home = homes[idx];
        let unit = units.list()[idx];
        let is_streamed = match rest {
            Rest::Streamed => true,
            Rest::PromptStreamed => reads_prompt(units.list()[idx]),
            Rest::OnCpu => false,
            Rest::Divided(_) => !of_cpu.contains(&idx),
        };
        let elsewhere = match (is_streamed, current) {
            (true, Some(number)) => RunOn::Gpu(number),
            (false, _) | (true, None) => RunOn::Cpu,
        };
        let run_on = match (gpu(home), unit) {
            // Its layer's rows come to it; what follows is with its layer.
            (Some(number), Unit::Expert { .. }) => RunOn::Gpu(number),
            (Some(number), _) => {
                current = Some(number);
                RunOn::Gpu(number)
            }
            (None, _) => elsewhere,
        };
        placements[idx].run_on = run_on;
    }
    if weights.is_tied {
        let [table, head] = [Unit::Embedding, Unit::Head].map(|unit| units.idx(unit));
        placements[head].run_on = placements[table].run_on;
    }
    placements
}

/// Units that the CPU computes with: the last of those whose home is as a division says, then the last of the others. A
/// tied head is counted with its table.
fn of_cpu(weights: &Weights, homes: &[Home], division: Division) -> HashSet<usize> {
    let units = &weights.units;
    let head = units.idx(Unit::Head);
    let first = match division.in_ram {
        DividedPart::OnCpu => Home::Ram,
        DividedPart::Streamed => Home::Disk,
    };
    let is_counted = |idx: &usize| {
        let is_tied = weights.is_tied && *idx == head;
        !is_tied && !matches!(homes[*idx], Home::Gpu(_))
    };
    let mut rest: Vec<usize> = units.in_order_of_computing().filter(is_counted).collect();
    rest.reverse();
    rest.sort_by_key(|&idx| homes[idx] != first);
    rest.into_iter().take(division.n_on_cpu).collect()
}

/// A name and every module around it, the last being the whole model.
fn enclosing(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(name), |name| {
        if name.is_empty() {
            return None;
        }
        Some(name.rsplit_once('.').map_or("", |(outer, _)| outer))
    })
}

/// The module that a tensor belongs to.
pub(crate) fn module_of(slot: &Slot) -> &str {
    slot.name
        .rsplit_once('.')
        .map_or(&slot.name, |(module, _)| module)
}

/// Modules of a model beside one that it does not have.
fn neighbours(module: &str, skeleton: &Skeleton) -> String {
    let below = |outer: &str| {
        let mut names: Vec<&str> = Vec::new();
        for slot in &skeleton.slots {
            let rest = match outer {
                "" => Some(slot.name.as_str()),
                _ => slot
                    .name
                    .strip_prefix(outer)
                    .and_then(|rest| rest.strip_prefix('.')),
            };
            let name = rest.and_then(|rest| {
                Some(&slot.name[..slot.name.len() - rest.len() + rest.find('.')?])
            });
            if let Some(name) = name
                && names.last() != Some(&name)
            {
                names.push(name);
            }
        }
        names
    };
    let names = enclosing(module)
        .skip(1)
        .map(below)
        .find(|names| !names.is_empty());
    let names = names.unwrap_or_default();
    let quoted = |names: &[&str]| {
        names
            .iter()
            .map(|n| format!("`{n}`"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    match names.as_slice() {
        [first, .., last] if names.len() > FEW => format!("there is `{first}` to `{last}`"),
        names => format!("there is {}", quoted(names)),
    }
}

/// Names of the head where the configuration ties it to the embedding, so that no tensor has them.
pub(crate) const HEADS: [&str; 3] = ["lm_head", "embed_out", "output"];

/// Last parts of the names of modules that have no tensors of their own, or none but a tied one; accelerate's maps
/// name them.
const WITHOUT_TENSORS: [&str; 6] = [
    "drop",
    "dropout",
    "emb_dropout",
    "rotary_emb",
    "rotary",
    "embed_tokens",
];

/// Names that a message lists.
const FEW: usize = 8;
