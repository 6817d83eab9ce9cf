//! Recognition of matrices of codes in groups, by their tensors and what the configuration says.

use std::num::NonZeroU64;

use llm_arch::{Place, Skeleton, Slot, StackPlace, Stored};
use llm_checkpoint::{Checkpoint, Encoding, TensorInfo};
use llm_plan::becomes_table;
use llm_quant::{GlobalScale, GroupCode, Grouped, Part, Parts};
use llm_tensor::DType;

use super::ints::{Axis, Lanes, PackedInts};
use super::module::{Module, reshaped};
use super::packing::{Packing, PartSource};
use crate::Result;
use crate::published::{Gptq, GroupSize, Published};

/// A matrix that was found for a slot.
pub(crate) struct Found {
    /// Its codes: a tensor, or rows of one.
    pub(crate) codes: TensorInfo,
    /// True if the codes are a tensor of their own.
    pub(crate) is_whole: bool,
    pub(crate) format: Grouped,
    pub(crate) packing: Packing,
}

/// True if a checkpoint may have such matrices.
pub(crate) fn are_there(checkpoint: &Checkpoint) -> bool {
    let ends = |name: &str| {
        let last = name.rsplit('.').next().unwrap_or(name);
        let is_part = matches!(last, "weight_packed" | "qweight" | "weight_scale" | "scale");
        is_part || last.ends_with("_blocks")
    };
    checkpoint.tensors().any(|tensor| ends(&tensor.name))
}

/// The matrix of `slot`, if the checkpoint has it in codes in groups.
///
/// # Errors
/// [`RuntimeError::QuantizedPart`](crate::RuntimeError::QuantizedPart), which names the tensor that is not understood.
pub(crate) fn find(
    checkpoint: &Checkpoint,
    skeleton: &Skeleton,
    slot: &Slot,
    published: Option<&Published>,
) -> Result<Option<Found>> {
    let &[rows, cols] = slot.shape.as_slice() else {
        return Ok(None);
    };
    for place in skeleton.places(slot) {
        let found = match &place {
            Place::Whole(name) => {
                let Some(prefix) = name.strip_suffix("weight") else {
                    continue;
                };
                let module = Module {
                    checkpoint,
                    slot,
                    prefix,
                    rows: rows as u64,
                    cols: cols as u64,
                };
                module.whole(published)?
            }
            Place::Stack(stack) => {
                let module = Module {
                    checkpoint,
                    slot,
                    prefix: &stack.name,
                    rows: rows as u64,
                    cols: cols as u64,
                };
                module.of_stack(stack)?
            }
        };
        if let Some(found) = found {
            return Ok(Some(found));
        }
        if checkpoint.get(place.name()).is_some() {
            return Ok(None);
        }
    }
    Ok(None)
}

impl<'a> Module<'a> {
    fn whole(&self, published: Option<&Published>) -> Result<Option<Found>> {
        let plain = |tensor: &TensorInfo, expected| tensor.encoding == Encoding::Plain(expected);
        if let Some(codes) = self.get("weight") {
            let has_scales = self.get("weight_scale").is_some();
            return match codes.encoding {
                Encoding::Plain(DType::U8) if self.get("weight_scale_2").is_some() => self
                    .nvfp4(codes, "weight_scale_2", GlobalScale::Factor)
                    .map(Some),
                Encoding::Plain(DType::I8) if has_scales => self.int8(codes).map(Some),
                // As DeepSeek-V4's experts are published.
                Encoding::Plain(DType::I8 | DType::U8) if self.get("scale").is_some() => {
                    self.mxfp4(codes, ("weight", "scale")).map(Some)
                }
                _ => Ok(None),
            };
        }
        if let Some(codes) = self.get("weight_packed") {
            let Some(Published::Compressed(_)) = published else {
                return Ok(None);
            };
            return match self.get("weight_scale") {
                _ if plain(codes, DType::I32) => self.packed_ints(codes).map(Some),
                Some(scales) if plain(scales, DType::F8E4M3) => {
                    let global = "weight_global_scale";
                    self.nvfp4(codes, global, GlobalScale::Divisor).map(Some)
                }
                _ => self
                    .mxfp4(codes, ("weight_packed", "weight_scale"))
                    .map(Some),
            };
        }
        match (self.get("qweight"), published) {
            (Some(codes), Some(Published::Gptq(gptq))) => self.gptq(codes, *gptq).map(Some),
            (Some(codes), Some(Published::Awq(size))) => self.awq(codes, *size).map(Some),
            (Some(_) | None, _) => Ok(None),
        }
    }

    /// `weight_packed` of compressed-tensors: words along the columns.
    fn packed_ints(&self, codes: &TensorInfo) -> Result<Found> {
        let Module { rows, cols, .. } = *self;
        let ints = |bits| PackedInts {
            tensor: codes.clone(),
            rows,
            cols,
            bits,
            along: Axis::Cols,
            outer: Axis::Rows,
            lanes: Lanes::InOrder,
            plus: 0,
        };
        let shapes = [4, 8].map(|bits| ints(bits).shape());
        self.check(codes, &[DType::I32], &[&shapes[0], &shapes[1]])?;
        let ints = match *codes.shape == shapes[0] {
            true => ints(4),
            false => ints(8),
        };
        let code = GroupCode::of_bits(ints.bits.into());
        let (scales, scale, group) = self.scales(&FLOATS)?;
        let n_groups = group.map_or(1, |group| cols / group.get());
        let zeros = match self.get("weight_zero_point") {
            None => None,
            Some(zeros) if zeros.encoding == Encoding::Plain(DType::I8) => {
                self.check(zeros, &[DType::I8], &[&[rows, n_groups]])?;
                Some(match code {
                    GroupCode::Int8 => PartSource::AsIs(zeros.clone()),
                    GroupCode::Int4 | GroupCode::E2M1 => PartSource::Signed(zeros.clone()),
                })
            }
            Some(zeros) => {
                let zeros = PackedInts {
                    tensor: zeros.clone(),
                    cols: n_groups,
                    along: Axis::Rows,
                    ..ints.clone()
                };
                self.check(&zeros.tensor, &[DType::I32], &[&zeros.shape()])?;
                Some(PartSource::Packed(zeros))
            }
        };
        let order = self.groups("weight_g_idx", group.is_some())?;
        // Words of eight codes, the lowest bits first, are bytes of two, the low half first.
        let is_final = code == GroupCode::Int4 && cols.is_multiple_of(8) && order.is_none();
        let codes = match is_final {
            true => PartSource::AsIs(codes.clone()),
            false => PartSource::Packed(ints),
        };
        let format = Grouped {
            code,
            scale,
            group,
            zeros: zeros.is_some(),
            global: None,
            order: order.is_some(),
        };
        let scales = PartSource::AsIs(scales.clone());
        self.found(
            "weight_packed",
            format,
            [Some(codes), Some(scales), zeros, None, order],
        )
    }

    /// 8-bit codes of compressed-tensors, as they are.
    fn int8(&self, codes: &TensorInfo) -> Result<Found> {
        let Module { rows, cols, .. } = *self;
        self.check(codes, &[DType::I8], &[&[rows, cols]])?;
        let (scales, scale, group) = self.scales(&FLOATS)?;
        let n_groups = group.map_or(1, |group| cols / group.get());
        let zeros = self.get("weight_zero_point");
        if let Some(zeros) = zeros {
            self.check(zeros, &[DType::I8], &[&[rows, n_groups], &[rows]])?;
        }
        let format = Grouped {
            code: GroupCode::Int8,
            scale,
            group,
            zeros: zeros.is_some(),
            global: None,
            order: false,
        };
        let as_is = |tensor: &TensorInfo| PartSource::AsIs(tensor.clone());
        let zeros = zeros.map(as_is);
        let parts = [Some(as_is(codes)), Some(as_is(scales)), zeros, None, None];
        self.found("weight", format, parts)
    }

    /// NVFP4, whose one scale belongs to all groups.
    fn nvfp4(&self, codes: &TensorInfo, global: &str, how: GlobalScale) -> Result<Found> {
        let Module { rows, cols, .. } = *self;
        self.refuse(
            "pre_quant_scale",
            "none: activations are not scaled for a matrix",
        )?;
        self.check(codes, &[DType::U8], &[&[rows, cols.div_ceil(2)]])?;
        let scales = self.need("weight_scale")?;
        self.check(scales, &[DType::F8E4M3], &[&[rows, cols.div_ceil(16)]])?;
        let all = self.need(global)?;
        self.check(all, &[DType::F32], &[&[], &[1]])?;
        let format = Grouped {
            global: Some(how),
            ..Grouped::NVFP4
        };
        let as_is = |tensor: &TensorInfo| Some(PartSource::AsIs(tensor.clone()));
        let parts = [as_is(codes), as_is(scales), None, as_is(all), None];
        let name = codes.name[self.prefix.len()..].to_owned();
        self.found(&name, format, parts)
    }

    /// MXFP4 of compressed-tensors.
    fn mxfp4(&self, codes: &TensorInfo, (own, scales): (&str, &str)) -> Result<Found> {
        let Module { rows, cols, .. } = *self;
        let bytes = [DType::U8, DType::I8];
        self.check(codes, &bytes, &[&[rows, cols.div_ceil(2)]])?;
        let scales = self.need(scales)?;
        let dtypes = [DType::U8, DType::F8E8M0];
        self.check(scales, &dtypes, &[&[rows, cols.div_ceil(32)]])?;
        let as_is = |tensor: &TensorInfo| Some(PartSource::AsIs(tensor.clone()));
        let parts = [as_is(codes), as_is(scales), None, None, None];
        self.found(own, Grouped::MXFP4, parts)
    }

    /// MXFP4 as gpt-oss has it: the experts of a layer in one, `[experts, rows, groups, 16]`.
    fn of_stack(&self, stack: &StackPlace) -> Result<Option<Found>> {
        let Some(blocks) = self.get("_blocks") else {
            return Ok(None);
        };
        let [n, rows, cols] = stack.shape.map(|extent| extent as u64);
        self.check(blocks, &[DType::U8], &[&[n, rows, cols / 32, 16]])?;
        if !cols.is_multiple_of(32) {
            return Err(self.misfit(&blocks.name, "rows of whole groups of 32", cols));
        }
        let scales = self.need("_scales")?;
        self.check(scales, &[DType::U8], &[&[n, rows, cols / 32]])?;
        let slice = |tensor: &TensorInfo, of_row| {
            let of_rows = reshaped(tensor, &[n, rows, of_row])?;
            let rows = stack.rows.start as u64..stack.rows.end as u64;
            of_rows.of_stack(stack.expert as u64, rows)
        };
        let slices = slice(blocks, cols / 2).zip(slice(scales, cols / 32));
        let Some((codes, scales)) = slices else {
            return Err(self.misfit(&blocks.name, "a matrix of each expert", &blocks.shape));
        };
        let as_is = |tensor: &TensorInfo| Some(PartSource::AsIs(tensor.clone()));
        let parts = [as_is(&codes), as_is(&scales), None, None, None];
        let found = self.found("_blocks", Grouped::MXFP4, parts)?;
        Ok(Some(Found {
            codes,
            is_whole: false,
            ..found
        }))
    }

    /// Words along the columns, one line a word's columns.
    fn gptq(&self, codes: &TensorInfo, gptq: Gptq) -> Result<Found> {
        let Module { rows, cols, .. } = *self;
        let ints = PackedInts {
            tensor: codes.clone(),
            rows,
            cols,
            bits: gptq.bits,
            along: Axis::Cols,
            outer: Axis::Cols,
            lanes: Lanes::InOrder,
            plus: 0,
        };
        self.check(codes, &[DType::I32], &[&ints.shape()])?;
        let (scales, scale, group) = self.transposed_scales(gptq.group_size)?;
        let zeros = PackedInts {
            tensor: self.need("qzeros")?.clone(),
            cols: group.map_or(1, |group| cols.div_ceil(group.get())),
            along: Axis::Rows,
            plus: gptq.zeros_plus,
            ..ints.clone()
        };
        self.check(&zeros.tensor, &[DType::I32], &[&zeros.shape()])?;
        // A file may have the groups of columns in order, too.
        let order = self.groups("g_idx", group.is_some() && gptq.desc_act)?;
        let mut found = self.of_words(ints, (scales, scale, group), zeros, order)?;
        if !gptq.desc_act
            && let Some(groups) = self.get("g_idx")
        {
            self.check(groups, &[DType::I32], &[&[self.cols]])?;
            found.packing.in_order = Some(groups.clone());
        }
        Ok(found)
    }

    /// Words along the rows.
    fn awq(&self, codes: &TensorInfo, group_size: GroupSize) -> Result<Found> {
        let Module { rows, cols, .. } = *self;
        let ints = PackedInts {
            tensor: codes.clone(),
            rows,
            cols,
            bits: 4,
            along: Axis::Rows,
            outer: Axis::Cols,
            lanes: Lanes::EvenFirst,
            plus: 0,
        };
        self.check(codes, &[DType::I32], &[&ints.shape()])?;
        let (scales, scale, group) = self.transposed_scales(group_size)?;
        let zeros = PackedInts {
            tensor: self.need("qzeros")?.clone(),
            cols: group.map_or(1, |group| cols.div_ceil(group.get())),
            ..ints.clone()
        };
        self.check(&zeros.tensor, &[DType::I32], &[&zeros.shape()])?;
        self.of_words(ints, (scales, scale, group), zeros, None)
    }

    fn of_words(
        &self,
        codes: PackedInts,
        (scales, scale, group): (&TensorInfo, DType, Option<NonZeroU64>),
        zeros: PackedInts,
        order: Option<PartSource>,
    ) -> Result<Found> {
        let format = Grouped {
            code: GroupCode::of_bits(codes.bits.into()),
            scale,
            group,
            zeros: true,
            global: None,
            order: order.is_some(),
        };
        let scales = PartSource::Transposed(scales.clone());
        let (codes, zeros) = (PartSource::Packed(codes), PartSource::Packed(zeros));
        self.found(
            "qweight",
            format,
            [Some(codes), Some(scales), Some(zeros), None, order],
        )
    }

    /// The scales `[rows, groups]`, their type and the size of groups.
    fn scales(&self, dtypes: &[DType]) -> Result<(&'a TensorInfo, DType, Option<NonZeroU64>)> {
        let scales = self.need("weight_scale")?;
        let n_groups = match *scales.shape {
            [_, n] => n,
            _ => 1,
        };
        let shapes: [&[u64]; 2] = [&[self.rows, n_groups], &[self.rows]];
        let dtype = self.check(scales, dtypes, &shapes)?;
        Ok((
            scales,
            dtype,
            self.group(scales, n_groups, GroupSize::Untold)?,
        ))
    }

    /// The scales `[groups, rows]`, their type and the size of groups.
    fn transposed_scales(
        &self,
        group_size: GroupSize,
    ) -> Result<(&'a TensorInfo, DType, Option<NonZeroU64>)> {
        let scales = self.need("scales")?;
        let n_groups = scales.shape.first().copied().unwrap_or(0);
        let dtype = self.check(scales, &FLOATS, &[&[n_groups, self.rows]])?;
        Ok((scales, dtype, self.group(scales, n_groups, group_size)?))
    }

    /// Columns of a group; `None` where there is one group. Unless the configuration says how large groups are, all are
    /// equal.
    ///
    /// # Errors
    /// When the scales are of other groups than the configuration says, which the libraries refuse, too, or of unequal ones.
    fn group(
        &self,
        scales: &TensorInfo,
        n_groups: u64,
        said: GroupSize,
    ) -> Result<Option<NonZeroU64>> {
        if let GroupSize::Of(size) = said {
            let expected = size.map_or(1, |size| self.cols.div_ceil(size.get()));
            if n_groups != expected {
                let of = size.map_or("all".to_owned(), |size| size.to_string());
                let expected = format!(
                    "{expected} groups of scales: `group_size` in config.json has {of} of {} columns share one",
                    self.cols
                );
                return Err(self.misfit(&scales.name, expected, n_groups));
            }
        }
        let fits = |size: &NonZeroU64| self.cols.div_ceil(size.get()) == n_groups;
        let equal = (n_groups > 0 && self.cols.is_multiple_of(n_groups.max(1)))
            .then(|| NonZeroU64::new(self.cols / n_groups))
            .flatten();
        match (n_groups, said.columns().filter(fits).or(equal)) {
            (1, _) => Ok(None),
            (_, Some(size)) => Ok(Some(size)),
            (_, None) => {
                let expected = format!("scales of equal groups of {} columns", self.cols);
                Err(self.misfit(&scales.name, expected, &scales.shape))
            }
        }
    }

    /// The groups of columns, where these are told one by one.
    fn groups(&self, name: &str, is_used: bool) -> Result<Option<PartSource>> {
        let Some(groups) = self.get(name).filter(|_| is_used) else {
            return Ok(None);
        };
        self.check(groups, &[DType::I32], &[&[self.cols]])?;
        Ok(Some(PartSource::Groups(groups.clone())))
    }

    /// # Errors
    /// When the module has a tensor that would change what it computes.
    fn refuse(&self, name: &str, expected: &str) -> Result<()> {
        match self.get(name) {
            None => Ok(()),
            Some(tensor) => Err(self.misfit(&tensor.name, expected, &tensor.shape)),
        }
    }

    fn found(
        &self,
        codes: &str,
        format: Grouped,
        sources: [Option<PartSource>; 5],
    ) -> Result<Found> {
        let codes = self.need(codes)?;
        if becomes_table(self.slot.role) || self.slot.stored != Stored::AsIs {
            let expected = "floating-point numbers: a table, or a matrix that is stored transposed, has no codes";
            return Err(self.misfit(&codes.name, expected, format));
        }
        let all = [
            Part::Weight,
            Part::Scales,
            Part::Zeros,
            Part::GlobalScale,
            Part::Order,
        ];
        let parts = all.into_iter().zip(sources);
        let parts: Parts<_> = parts
            .filter_map(|(part, source)| Some((part, source?)))
            .collect();
        let names = TENSORS.iter().filter_map(|name| self.get(name));
        Ok(Found {
            codes: codes.clone(),
            is_whole: true,
            format,
            packing: Packing {
                parts,
                in_order: None,
                names: names.map(|tensor| tensor.name.clone()).collect(),
            },
        })
    }
}

/// Types of scales.
const FLOATS: [DType; 3] = [DType::F16, DType::BF16, DType::F32];

/// All tensors of such a module: of those that are not parts, some describe it and some are for quantized activations.
const TENSORS: [&str; 18] = [
    "weight",
    "weight_packed",
    "weight_scale",
    "weight_scale_2",
    "weight_global_scale",
    "weight_zero_point",
    "weight_g_idx",
    "weight_shape",
    "qweight",
    "qzeros",
    "scale",
    "scales",
    "g_idx",
    "input_scale",
    "input_zero_point",
    "input_global_scale",
    "_blocks",
    "_scales",
];
