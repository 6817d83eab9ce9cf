//! A model of which nothing is known but the names and sizes of its tensors: its parts, and where they would rest.

use std::collections::HashMap;

use llm_tensor::Bytes;

use crate::staging::STAGING_SLOTS;
use crate::{Budgets, Home};

/// Tensors that belong together as far as their names tell: a layer, or a module outside of layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The module that it is, or whose numbered part it is: `model.layers`.
    pub module: String,
    /// Its number there.
    pub number: Option<usize>,
    /// Bytes of its tensors, as they are stored.
    pub weights: Bytes,
    /// Bytes of its keys and values, as far as known.
    pub kv_cache: Bytes,
}

impl Part {
    /// The parts of a model in an order that it may compute in: what embeds, then layers by their numbers, then all else.
    ///
    /// A layer is told by the first number among the words of a name: `model.layers.3.mlp.up_proj.weight` is of the
    /// fourth part of `model.layers`.
    pub fn of_tensors<'t>(tensors: impl IntoIterator<Item = (&'t str, Bytes)>) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        let mut places: HashMap<(&str, Option<usize>), usize> = HashMap::new();
        for (name, bytes) in tensors {
            let key = module_of(name);
            let place = *places.entry(key).or_insert_with(|| {
                parts.push(Part {
                    module: key.0.to_owned(),
                    number: key.1,
                    weights: Bytes::ZERO,
                    kv_cache: Bytes::ZERO,
                });
                parts.len() - 1
            });
            parts[place].weights += bytes;
        }
        parts.sort_by(|a, b| {
            let by_name = || (&a.module, a.number).cmp(&(&b.module, b.number));
            rank(a).cmp(&rank(b)).then_with(by_name)
        });
        parts
    }
}

/// Module and number of a part: a name's words before its first number, or before its last word.
fn module_of(name: &str) -> (&str, Option<usize>) {
    let mut start = 0;
    for word in name.split('.') {
        if start > 0
            && let Ok(number) = word.parse()
        {
            return (&name[..start - 1], Some(number));
        }
        start += word.len() + 1;
    }
    (
        name.rsplit_once('.').map_or(name, |(module, _)| module),
        None,
    )
}

/// Rank of a part in the order of computing, as far as its name tells.
fn rank(part: &Part) -> Rank {
    match part.number {
        Some(_) => Rank::Layer,
        None if EMBEDDINGS.iter().any(|&word| part.module.contains(word)) => Rank::Embedding,
        None => Rank::Rest,
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Embedding,
    Layer,
    Rest,
}

/// Words in the names of tables of tokens and positions.
const EMBEDDINGS: [&str; 6] = ["embed", "embd", "wte", "wpe", "word_emb", "shared"];

/// Parts placed, and what each memory would hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartsPlan {
    /// Parallel to the parts.
    pub homes: Vec<Home>,
    /// By memory; of a disk nothing, since weights rest in the checkpoint's own files.
    pub needed: Vec<(Home, Bytes)>,
    /// Bytes in the checkpoint's files that would be read for every token.
    pub in_place: Bytes,
}

/// Use of memories beside weights, keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartsCosts {
    /// Each GPU.
    pub gpu: Bytes,
    /// RAM.
    pub ram: Bytes,
}

/// Outcome of placing parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartsVerdict {
    /// They do.
    Fit(PartsPlan),
    /// They do not: the place where RAM lacks least, and by how much.
    Lack(PartsPlan, Bytes),
}

/// Places parts as they are stored, in their order: GPUs first, one after the other, then RAM, then the disk, from which
/// parts come through two places in RAM as large as the largest of them. A larger budget moves no part to a slower memory.
pub fn place_parts(parts: &[Part], budgets: &Budgets, costs: PartsCosts) -> PartsVerdict {
    let of = |part: &Part| part.weights.get().saturating_add(part.kv_cache.get());
    let mut homes = Vec::with_capacity(parts.len());
    let mut needed = Vec::new();
    for (&number, budget) in &budgets.gpus {
        let mut held = costs.gpu.get();
        let rest = &parts[homes.len()..];
        let before = homes.len();
        for part in rest {
            match held.checked_add(of(part)) {
                Some(all) if all <= budget.get() => held = all,
                _ => break,
            }
            homes.push(Home::Gpu(number));
        }
        if homes.len() > before {
            needed.push((Home::Gpu(number), Bytes::new(held)));
        }
    }
    let rest = &parts[homes.len()..];
    let ram = |n_in_ram: usize| {
        let (held, read) = rest.split_at(n_in_ram);
        // What computes with parts from disk is in RAM, and so are its keys and values.
        let held = held.iter().map(of);
        let kv_cache = read.iter().map(|part| part.kv_cache.get());
        let largest = read.iter().map(|part| part.weights.get()).max();
        let staging = largest.unwrap_or(0).saturating_mul(STAGING_SLOTS);
        let all = held.chain(kv_cache).chain([staging, costs.ram.get()]);
        all.fold(0, u64::saturating_add)
    };
    let n = rest.len();
    let least = match budgets.disk {
        None => n,
        Some(_) => (0..=n).rev().min_by_key(|&end| ram(end)).unwrap_or(n),
    };
    let fitting = match budgets.disk {
        None => Some(n).filter(|&n| ram(n) <= budgets.ram.get()),
        Some(_) => (0..=n).rev().find(|&end| ram(end) <= budgets.ram.get()),
    };
    let n_in_ram = fitting.unwrap_or(least);
    homes.extend((0..n).map(|i| if i < n_in_ram { Home::Ram } else { Home::Disk }));
    needed.push((Home::Ram, Bytes::new(ram(n_in_ram))));
    let plan = PartsPlan {
        in_place: rest[n_in_ram..].iter().map(|part| part.weights).sum(),
        homes,
        needed,
    };
    match fitting {
        Some(_) => PartsVerdict::Fit(plan),
        None => {
            let missing = Bytes::new(ram(n_in_ram)).saturating_sub(budgets.ram);
            PartsVerdict::Lack(plan, missing)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, prop};
    use proptest::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn names_tell_layers_and_what_is_around_them() {
        let tensors = [
            "lm_head.weight",
            "model.embed_tokens.weight",
            "model.layers.10.mlp.experts.3.up_proj.qweight",
            "model.layers.10.mlp.experts.4.up_proj.scales",
            "model.layers.2.self_attn.q_proj.weight",
            "model.layers.2.self_attn.q_proj.weight_scale_inv",
            "model.norm.weight",
            "visual.blocks.0.attn.qkv.weight",
            "visual.blocks.1.attn.qkv.weight",
            "blk.0.attn_q.weight",
            "token_embd.weight",
            "alone",
            "0.weight",
            "",
        ];
        let parts = Part::of_tensors(tensors.map(|name| (name, Bytes::new(10))));
        let found: Vec<_> = parts
            .iter()
            .map(|p| (p.module.as_str(), p.number, p.weights.get()))
            .collect();
        let expected = [
            ("model.embed_tokens", None, 10),
            ("token_embd", None, 10),
            ("blk", Some(0), 10),
            ("model.layers", Some(2), 20),
            ("model.layers", Some(10), 20),
            ("visual.blocks", Some(0), 10),
            ("visual.blocks", Some(1), 10),
            ("", None, 10),
            ("0", None, 10),
            ("alone", None, 10),
            ("lm_head", None, 10),
            ("model.norm", None, 10),
        ];
        assert_eq!(found, expected);
    }

    fn part(weights: u64, kv_cache: u64) -> Part {
        Part {
            module: "layers".to_owned(),
            number: None,
            weights: Bytes::new(weights),
            kv_cache: Bytes::new(kv_cache),
        }
    }

    fn budgets(gpus: &[u64], ram: u64, disk: Option<u64>) -> Budgets {
        let gpus = (0..).zip(gpus);
        Budgets {
            gpus: gpus.map(|(i, &n)| (i, Bytes::new(n))).collect(),
            ram: Bytes::new(ram),
            disk: disk.map(Bytes::new),
        }
    }

    const COSTS: PartsCosts = PartsCosts {
        gpu: Bytes::new(5),
        ram: Bytes::new(3),
    };

    #[test]
    fn parts_fill_the_fastest_memory_first() {
        use Home::{Disk, Gpu, Ram};
        struct Case {
            gpus: &'static [u64],
            ram: u64,
            disk: Option<u64>,
            homes: [Home; 4],
            ram_needed: u64,
            missing: u64,
        }
        let case = |gpus, ram, disk, homes, ram_needed, missing| Case {
            gpus,
            ram,
            disk,
            homes,
            ram_needed,
            missing,
        };
        let cases = [
            case(&[], 100, None, [Ram; 4], 47, 0),
            case(&[], 47, Some(0), [Ram; 4], 47, 0),
            case(&[], 46, None, [Ram; 4], 47, 1),
            // Two places for the largest on disk, and the keys and values of all.
            case(&[], 46, Some(0), [Ram, Disk, Disk, Disk], 37, 0),
            case(&[16], 100, None, [Gpu(0), Ram, Ram, Ram], 36, 0),
            case(&[16, 27], 100, None, [Gpu(0), Gpu(1), Gpu(1), Ram], 14, 0),
            case(&[60], 3, None, [Gpu(0); 4], 3, 0),
            case(&[4], 100, None, [Ram; 4], 47, 0),
        ];
        let parts = [part(10, 1), part(10, 1), part(10, 1), part(10, 1)];
        for case in cases {
            let budgets = budgets(case.gpus, case.ram, case.disk);
            let (plan, missing) = match place_parts(&parts, &budgets, COSTS) {
                PartsVerdict::Fit(plan) => (plan, 0),
                PartsVerdict::Lack(plan, missing) => (plan, missing.get()),
            };
            assert_eq!(plan.homes, case.homes, "{budgets:?}");
            let ram = plan.needed.iter().find(|(home, _)| *home == Ram).unwrap();
            assert_eq!(
                (ram.1.get(), missing),
                (case.ram_needed, case.missing),
                "{budgets:?}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn budgets_are_kept_and_more_demotes_nothing(
            sizes in prop::collection::vec((0..40u64, 0..5u64), 0..12),
            gpus in prop::collection::vec(0..100u64, 0..3),
            more in prop::collection::vec(0..100u64, 3),
            ram in 0..200u64,
            disk in prop::option::of(0..10u64),
        ) {
            let parts: Vec<_> = sizes.iter().map(|&(w, kv)| part(w, kv)).collect();
            let less = budgets(&gpus, ram, disk);
            let larger: Vec<_> = gpus.iter().zip(&more).map(|(a, b)| a + b).collect();
            let larger = budgets(&larger, ram + more[2], disk);
            let PartsVerdict::Fit(before) = place_parts(&parts, &less, COSTS) else {
                return Ok(());
            };
            for &(home, needed) in &before.needed {
                prop_assert!(needed <= less.of(home));
            }
            let PartsVerdict::Fit(after) = place_parts(&parts, &larger, COSTS) else {
                panic!("it fitted");
            };
            prop_assert_eq!(before.homes.len(), parts.len());
            let tier = |home: &Home| match home {
                Home::Gpu(_) => 0,
                Home::Ram => 1,
                Home::Disk => 2,
            };
            for (before, after) in before.homes.iter().zip(&after.homes) {
                prop_assert!(tier(after) <= tier(before));
            }
        }
    }
}
