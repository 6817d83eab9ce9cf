use std::collections::HashMap;
use std::fmt;

use llm_arch::{ModelSpec, Skeleton, Unit};
use llm_tensor::Bytes;
use serde_json::{Map, Value};

use crate::hf_map::{HEADS, module_of};
use crate::units::Units;
use crate::{DEFAULT_SLICE, Home, Placement, RunOn};

/// Home and device of each unit: each unit of the model once, every budget kept.
///
/// ```
/// use llm_arch::{Unit, from_config};
/// use llm_plan::{DeviceMap, Home, RunOn};
///
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/models/llama/config.json");
/// let config = serde_json::from_slice(&std::fs::read(path)?)?;
/// let skeleton = from_config(&config)?;
/// let map = DeviceMap::on_one(&skeleton.spec, RunOn::Gpu(0));
/// assert_eq!(map.get(Unit::Head).map(|placement| placement.home), Some(Home::Gpu(0)));
/// assert_eq!(map.hf_device_map(&skeleton)[""], 0);
/// assert_eq!(map.stages()?.len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceMap {
    /// In the order in which they compute.
    placements: Vec<(Unit, Placement)>,
    /// Index of each unit in that order.
    sorted: Vec<(Unit, usize)>,
    is_tied: bool,
    /// Size of the slices in which units are brought that are larger.
    slice: Bytes,
}

impl DeviceMap {
    /// `placements`, parallel to the units, keep the budgets.
    pub(crate) fn new(units: &Units, is_tied: bool, placements: &[Placement]) -> Self {
        let list = units.list();
        assert_eq!(list.len(), placements.len(), "a place for each unit");
        let order = units.in_order_of_computing();
        // The list is sorted.
        let mut sorted: Vec<_> = list.iter().map(|&unit| (unit, 0)).collect();
        order.enumerate().for_each(|(i, idx)| sorted[idx].1 = i);
        let order = units.in_order_of_computing();
        let placements = order.map(|idx| (list[idx], placements[idx])).collect();
        DeviceMap {
            placements,
            sorted,
            is_tied,
            slice: DEFAULT_SLICE,
        }
    }

    /// The same with units brought in slices of another size than [`DEFAULT_SLICE`].
    pub(crate) fn in_slices(self, slice: Bytes) -> Self {
        DeviceMap { slice, ..self }
    }

    /// Size of the slices of matrices in which units are brought that are larger and rest elsewhere than they compute.
    pub fn slice(&self) -> Bytes {
        self.slice
    }

    /// The map of a model that rests in the memory of one device and computes there.
    pub fn on_one(spec: &ModelSpec, run_on: RunOn) -> Self {
        let (units, home) = (Units::of(spec), run_on.memory());
        let placements = vec![Placement { home, run_on }; units.list().len()];
        DeviceMap::new(&units, spec.is_tied(), &placements)
    }

    /// The place of a unit.
    pub fn get(&self, unit: Unit) -> Option<Placement> {
        let found = self.sorted.binary_search_by_key(&unit, |&(unit, _)| unit);
        found.ok().map(|i| self.placements[self.sorted[i].1].1)
    }

    /// Each unit with its place, in the order in which they compute; a layer's experts follow it.
    pub fn iter(&self) -> impl Iterator<Item = (Unit, Placement)> + '_ {
        self.placements.iter().copied()
    }

    /// True if the head's matrix is the embedding's table.
    pub fn is_tied(&self) -> bool {
        self.is_tied
    }

    /// The map as accelerate's `hf_device_map`: the largest modules that lie in one memory.
    pub fn hf_device_map(&self, skeleton: &Skeleton) -> Map<String, Value> {
        let home = |unit| self.get(unit).map_or(Home::Ram, |place| place.home);
        let names = skeleton.slots.iter().map(module_of);
        let paths: Vec<Vec<&str>> = names.map(|name| name.split('.').collect()).collect();
        let homes = skeleton.slots.iter().map(|slot| home(slot.unit));
        let mut modules: Vec<_> = paths.iter().map(Vec::as_slice).zip(homes).collect();
        if self.is_tied() {
            modules.push((&HEADS[..1], home(Unit::Head)));
        }
        let mut map = Map::new();
        print(&modules, "", &mut map);
        map
    }

    /// The memories where weights rest.
    pub fn tiers(&self) -> Tiers {
        let has = |is: fn(Home) -> bool| self.iter().any(|(_, place)| is(place.home));
        Tiers {
            gpu: has(|home| matches!(home, Home::Gpu(_))),
            ram: has(|home| home == Home::Ram),
            disk: has(|home| home == Home::Disk),
        }
    }

    /// The devices that compute, GPUs first.
    pub fn devices(&self) -> Vec<RunOn> {
        let mut devices: Vec<_> = self.iter().map(|(_, place)| place.run_on).collect();
        devices.sort_unstable();
        devices.dedup();
        devices
    }
}

/// Kinds of memory where weights rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tiers {
    /// GPUs'.
    pub gpu: bool,
    /// The machine's.
    pub ram: bool,
    /// Files.
    pub disk: bool,
}

/// `GPU + RAM + disk`, as far as they are used.
impl fmt::Display for Tiers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tiers = [("GPU", self.gpu), ("RAM", self.ram), ("disk", self.disk)];
        let used: Vec<_> = tiers.iter().filter(|tier| tier.1).map(|t| t.0).collect();
        f.pad(&used.join(" + "))
    }
}

/// Modules below `prefix`, by what follows it of their names, in one entry if they lie in one memory.
fn print(modules: &[(&[&str], Home)], prefix: &str, map: &mut Map<String, Value>) {
    let Some(&(_, first)) = modules.first() else {
        return;
    };
    if modules.iter().all(|&(_, home)| home == first) {
        let device = match first {
            Home::Gpu(number) => Value::from(number),
            Home::Ram => Value::from("cpu"),
            Home::Disk => Value::from("disk"),
        };
        map.insert(prefix.to_owned(), device);
        return;
    }
    let mut names = Vec::new();
    let mut below: HashMap<&str, Vec<(&[&str], Home)>> = HashMap::new();
    for &(path, home) in modules {
        let (name, rest) = path
            .split_first()
            .map_or(("", path), |(n, rest)| (*n, rest));
        let group = below.entry(name).or_insert_with(|| {
            names.push(name);
            Vec::new()
        });
        group.push((rest, home));
    }
    for name in names {
        let dot = if prefix.is_empty() { "" } else { "." };
        print(&below[name], &format!("{prefix}{dot}{name}"), map);
    }
}
