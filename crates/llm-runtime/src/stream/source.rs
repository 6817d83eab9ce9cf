//! Files of offloaded weights, and the spans in them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use llm_arch::{Role, Slot, Unit};
use llm_checkpoint::{Checkpoint, DirectFile, Layout as Order, TensorInfo};
use llm_plan::{
    Brought, Encodings, Home, Placement, RunOn, becomes_table, is_cut, is_looked_up, resting_bytes,
    slice_rows, staged_bytes, staging_slots,
};
use llm_quant::{Scheme, StoredWeight};
use llm_tensor::{Bytes, PageBuf};

use super::parcel::{Item, Parcel, Source, Span};
use super::rows::TableSource;
use super::{Cut, Feed, Key, Layout, Staging};
use crate::offload::{self, Prepared, UnitFile};
use crate::quantized::{PartPlace, place_of};
use crate::sum::Summing;
use crate::{BoundModel, BoundTensor, Result, RuntimeError};

/// Opens what a device computes with and does not hold: `at` says what rests where. What is on disk and the checkpoint does
/// not hold as it is computed with lies in files of its own, by unit. Passes have `n_tokens` rows at most.
///
/// Of those files, the ones with tables that are looked up in are verified here, and read in parts from then on; the
/// others are verified when they are first read.
///
/// # Errors
/// When a file cannot be opened or read, and [`RuntimeError::OffloadDamaged`].
pub(crate) fn open(
    model: &BoundModel,
    encodings: &Encodings<'_>,
    (run_on, at): (RunOn, impl Fn(Unit) -> Placement),
    mut prepared: Prepared,
    (n_tokens, slice): (usize, Bytes),
) -> Result<Feed> {
    // They are read otherwise, and their descriptors are not needed twice.
    let offloaded = std::mem::take(&mut prepared.files);
    let is_tied = model.spec().is_tied();
    let mut files = Files::new(model, &offloaded);
    let mut tables = HashMap::new();
    let mut summed = BTreeSet::new();
    let mut items: BTreeMap<Key, Vec<Item>> = BTreeMap::new();
    let mut layouts: BTreeMap<Unit, Layout> = BTreeMap::new();
    let mut cut = HashMap::new();
    // Of each unit, in a place and in a buffer.
    let mut staged: BTreeMap<Unit, [Brought; 2]> = BTreeMap::new();
    let is_brought = |at: Placement| at.run_on == run_on && !at.is_resident();
    let large = large_units(model, encodings, run_on, slice);
    // Those of one parcel one after the other, what is cut behind them.
    let mut tensors: Vec<_> = model.tensors().collect();
    let slices = |bound: &BoundTensor<'_>| {
        let scheme = encodings.scheme(bound.slot, bound.stored(), run_on);
        let rows = slice_rows(bound.slot, scheme, slice);
        rows.filter(|_| large.contains(&bound.slot.unit))
    };
    tensors.sort_by_cached_key(|bound| {
        let is_cut = slices(bound).is_some();
        (bound.slot.unit, key_of(bound.slot), is_cut)
    });
    for bound in tensors {
        let slot = bound.slot;
        let placement = at(slot.unit);
        // A stage makes tables of its own of these, when it is built.
        if becomes_table(slot.role) || !is_brought(placement) {
            continue;
        }
        let scheme = encodings.scheme(slot, bound.stored(), run_on);
        let weight = match placement.home {
            Home::Disk => Some(files.tensor(&bound, scheme)?),
            Home::Ram | Home::Gpu(_) => None,
        };
        let is_large = large.contains(&slot.unit);
        if (is_large || slot.role.table_of().is_some())
            && let Some((file, sum)) = files.of_unit(slot.unit)
            && !bound.is_final(scheme)
            && summed.insert(slot.unit)
        {
            verify(&file, sum)?;
        }
        if slot.role.table_of().is_some() {
            let table = weight.clone().map(Box::new).map(TableSource::OnDisk);
            tables.insert(slot.role, table.unwrap_or(TableSource::InRam));
        }
        if is_looked_up(slot.role, is_tied) {
            continue;
        }
        let (matrix, unit, role, key) = (slot.matrix(), slot.unit, slot.role, key_of(slot));
        let slice_rows = slice_rows(slot, scheme, slice);
        let of_slice = slice_rows.map(|n| (n, matrix.1));
        let [in_place, in_buffer] = staged.entry(unit).or_default();
        let resting = |matrix| resting_bytes(matrix, scheme);
        in_place.add(resting(matrix), of_slice.map(resting));
        if placement.home == Home::Disk {
            let staged = |matrix| staged_bytes(matrix, scheme);
            in_buffer.add(staged(matrix), of_slice.map(staged));
        }
        let as_cut = slice_rows.filter(|_| is_large).map(|slice_rows| Cut {
            n_rows: matrix.0,
            slice_rows,
        });
        cut.extend(as_cut.map(|cut| ((unit, role), cut)));
        let mut add = |key, weight| {
            let item = Item { unit, role, weight };
            items.entry(key).or_default().push(item);
        };
        match (weight, as_cut) {
            (Some(weight), None) => add(key, weight),
            (Some(weight), Some(cut)) => {
                for (i, rows) in cut.slices().enumerate() {
                    let slice = weight.slice(rows, |_, source, window| source.cut(window));
                    add(Key::Slice(unit, role, i as u32), slice);
                }
            }
            (None, as_cut) => {
                let layout = layouts.entry(unit).or_insert_with(|| Layout::new(unit));
                layout.add((key, role), scheme, matrix, as_cut);
            }
        }
    }
    let parcels = items.into_iter().map(|(key, items)| {
        let unit = items[0].unit;
        let to_sum = files.of_unit(unit).filter(|_| !summed.contains(&unit));
        (key, Parcel::new(items, to_sum))
    });
    let staging = |i: usize| {
        let brought = staged.iter().filter(|(_, brought)| brought[i].all > 0);
        let lens = brought
            .clone()
            .map(|(unit, brought)| brought[i].at_once(large.contains(unit)) as usize);
        let len = lens.max().unwrap_or(0);
        let are_cut = brought
            .map(|(unit, _)| unit)
            .any(|unit| large.contains(unit));
        Staging {
            n: if len > 0 {
                staging_slots(are_cut) as usize
            } else {
                0
            },
            len,
        }
    };
    Ok(Feed {
        run_on,
        parcels: parcels.collect(),
        resting: layouts.into_values().collect(),
        cut,
        tables,
        places: staging(0),
        buffers: staging(1),
        n_tokens,
        prepared,
    })
}

/// Units that are brought in slices.
fn large_units(
    model: &BoundModel,
    encodings: &Encodings<'_>,
    run_on: RunOn,
    slice: Bytes,
) -> BTreeSet<Unit> {
    let is_tied = model.spec().is_tied();
    let mut read: BTreeMap<Unit, Bytes> = BTreeMap::new();
    for bound in model.tensors() {
        let slot = bound.slot;
        if becomes_table(slot.role) || is_looked_up(slot.role, is_tied) {
            continue;
        }
        let (rows, cols) = slot.matrix();
        let scheme = encodings.scheme(slot, bound.stored(), run_on);
        let bytes = scheme.stored_bytes(rows as u64, cols as u64).total();
        *read.entry(slot.unit).or_default() += bytes;
    }
    let large = read.into_iter().filter(|&(_, bytes)| is_cut(bytes, slice));
    large.map(|(unit, _)| unit).collect()
}

/// The parcel that has the weight of a slot.
fn key_of(slot: &Slot) -> Key {
    match slot.role {
        Role::TokenTable => Key::TiedTable,
        _ => Key::Unit(slot.unit),
    }
}

/// Files that are opened once, when something in them is needed.
struct Files<'a> {
    model: &'a BoundModel,
    offloaded: &'a BTreeMap<Unit, UnitFile>,
    of_checkpoint: HashMap<usize, Arc<DirectFile>>,
    of_units: HashMap<Unit, Arc<DirectFile>>,
}

impl<'a> Files<'a> {
    fn new(model: &'a BoundModel, offloaded: &'a BTreeMap<Unit, UnitFile>) -> Self {
        Files {
            model,
            offloaded,
            of_checkpoint: HashMap::new(),
            of_units: HashMap::new(),
        }
    }

    /// The file that was written for a unit, if something of it is read from there, and its checksum.
    fn of_unit(&self, unit: Unit) -> Option<(Arc<DirectFile>, u64)> {
        let file = self.of_units.get(&unit)?;
        Some((Arc::clone(file), self.offloaded[&unit].sum))
    }

    /// Sources of the parts of a weight that is kept in `scheme`.
    fn tensor(&mut self, bound: &BoundTensor<'_>, scheme: Scheme) -> Result<StoredWeight<Source>> {
        let slot = bound.slot;
        let in_place = bound.is_final(scheme);
        let (checkpoint, name) = match in_place {
            true => (self.model.checkpoint(), &bound.tensor.name),
            false => (&self.offloaded[&slot.unit].checkpoint, &slot.name),
        };
        let (rows, cols) = slot.matrix();
        let parts = scheme.parts(rows as u64, cols as u64);
        let packing = bound.packing.filter(|_| in_place);
        let parts = parts.try_map(|part, _| {
            if let Some(tensor) = packing.and_then(|packing| packing.tensor(part)) {
                let span = self.span(checkpoint, tensor, (slot.unit, in_place))?;
                return Ok(Source::File(span));
            }
            let name = match place_of(checkpoint, name, (rows, cols), scheme, part)? {
                PartPlace::Tensor(name) => name,
                PartPlace::Known(bytes) => return Ok(Source::Known(bytes)),
            };
            let of_stack = bound.part_of_stack(part).filter(|_| in_place);
            let tensor = match of_stack {
                Some(tensor) => tensor,
                None => checkpoint.require(&name)?,
            };
            let span = self.span(checkpoint, tensor, (slot.unit, in_place))?;
            Ok::<_, RuntimeError>(Source::File(span))
        })?;
        Ok(StoredWeight {
            scheme,
            rows,
            cols,
            parts,
        })
    }

    fn span(
        &mut self,
        checkpoint: &Checkpoint,
        tensor: &TensorInfo,
        (unit, in_place): (Unit, bool),
    ) -> Result<Span> {
        // What has gaps itself is written anew, but a file may have the scales of a matrix so.
        if tensor.layout != Order::RowMajor {
            return Err(RuntimeError::QuantizedPart {
                path: checkpoint.path().to_owned(),
                tensor: tensor.name.clone(),
                expected: "elements one after the other".to_owned(),
                found: "gaps between them".to_owned(),
            });
        }
        let opened = match in_place {
            true => self.of_checkpoint.get(&tensor.file_idx),
            false => self.of_units.get(&unit),
        };
        let file = match opened {
            Some(file) => Arc::clone(file),
            None => {
                let file = Arc::new(checkpoint.direct_file(tensor.file_idx)?);
                match in_place {
                    true => self
                        .of_checkpoint
                        .insert(tensor.file_idx, Arc::clone(&file)),
                    false => self.of_units.insert(unit, Arc::clone(&file)),
                };
                file
            }
        };
        Ok(Span {
            file,
            bytes: tensor.bytes.clone(),
        })
    }
}

/// Reads a file whole, to see that its checksum is `expected`.
fn verify(file: &DirectFile, expected: u64) -> Result<()> {
    let mut piece = PageBuf::zeroed(PIECE).map_err(|source| RuntimeError::Staging {
        bytes: Bytes::new(PIECE as u64),
        source,
    })?;
    let mut summing = Summing::default();
    for start in (0..file.len()).step_by(PIECE) {
        file.read_pages(start, &mut piece)?;
        let there = (file.len() - start).min(PIECE as u64) as usize;
        summing.update(&piece[..there]);
    }
    match summing.finish() {
        found if found == expected => Ok(()),
        found => Err(offload::damaged(file.path(), expected, found)),
    }
}

/// Bytes that are verified at a time: what one thread loads of a tensor, for which the plan has room.
const PIECE: usize = 1 << 20;
