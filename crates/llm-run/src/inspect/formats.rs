//! Formats of weights that files have, and what becomes of each: one table of all.

use std::num::NonZeroU64;

use anyhow::Result;
use llm_arch::{Slot, TensorKind};
use llm_checkpoint::REFUSED_GGUF_TYPES;
use llm_plan::{Encodings, RunOn, StoredTensor, WeightDType};
use llm_quant::{BlockSize, Code, FourBit, Fp8, GgmlType, GroupCode, Grouped, Int8, Scheme};
use llm_tensor::DType;
use serde::Serialize;

use crate::cli::KeyArgs;
use crate::output::table::{Column, table};
use crate::{demo, open, output};

/// Formats that are treated alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Row {
    /// Their names.
    formats: Vec<String>,
    /// Files that have them.
    files: &'static str,
    #[serde(flatten)]
    becomes: Becomes,
}

/// What a format is computed with as, unless something else is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Becomes {
    on_cpu: String,
    on_gpu: String,
}

/// Formats of one kind, in order.
struct Group {
    files: &'static str,
    /// Each with its name; one that is known by name alone has no scheme.
    formats: Vec<(String, Option<Scheme>)>,
}

/// Prints the table, as text or as JSON.
pub(super) fn print(as_json: bool) -> Result<()> {
    let model = open::bind(demo::NAME.as_ref(), &KeyArgs::default())?;
    let mut slots = model.skeleton().slots.iter();
    let projection = slots.find(|slot| slot.kind == TensorKind::Projection);
    let projection = projection.expect("the demo has projections");
    let rows: Vec<Row> = groups().iter().flat_map(|g| g.rows(projection)).collect();
    output::print(&match as_json {
        true => output::json(&rows)?,
        false => text(&rows),
    })
}

fn text(rows: &[Row]) -> String {
    let head = ["format", "in", "on the CPU", "on a GPU"].map(Column::Left);
    let cells = rows.iter().map(|row| {
        [
            row.formats.join(", "),
            row.files.to_owned(),
            row.becomes.on_cpu.clone(),
            row.becomes.on_gpu.clone(),
        ]
    });
    table(&head, cells).trim_start_matches('\n').to_owned()
}

impl Group {
    /// Its formats, those that are treated alike together.
    fn rows(&self, projection: &Slot) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for (name, scheme) in &self.formats {
            let becomes = Becomes::of(*scheme, projection);
            match rows.iter_mut().find(|row| row.becomes == becomes) {
                Some(row) => row.formats.push(name.clone()),
                None => rows.push(Row {
                    formats: vec![name.clone()],
                    files: self.files,
                    becomes,
                }),
            }
        }
        rows
    }
}

impl Becomes {
    /// As the plan and the loader have it for a matrix of that format.
    fn of(scheme: Option<Scheme>, projection: &Slot) -> Self {
        let on = |run_on| match scheme {
            Some(scheme) => as_loaded(scheme, projection, run_on),
            None => REFUSED.to_owned(),
        };
        Becomes {
            on_cpu: on(RunOn::Cpu),
            on_gpu: on(RunOn::Gpu(0)),
        }
    }
}

fn as_loaded(scheme: Scheme, projection: &Slot, run_on: RunOn) -> String {
    if matches!(scheme, Scheme::Dense(dtype) if !dtype.is_float()) {
        return REFUSED.to_owned();
    }
    let encodings = Encodings {
        dtype: WeightDType::Auto,
        config_dtype: None,
        quant: None,
    };
    match encodings.scheme(projection, StoredTensor::in_order(scheme), run_on) {
        kept if kept == scheme => "as stored".to_owned(),
        kept => format!("decoded to {kept}"),
    }
}

/// Every format that is known.
fn groups() -> Vec<Group> {
    let gguf = |family: Family| Group {
        files: "GGUF",
        formats: GgmlType::ALL
            .into_iter()
            .filter(|&ty| Family::of(ty) == family)
            .map(|ty| (ty.to_string(), Some(Scheme::Ggml(ty))))
            .collect(),
    };
    let mut groups = vec![elements(), bitsandbytes(), fp8()];
    groups.extend(grouped());
    groups.extend(Family::ALL.map(gguf));
    groups.push(Group {
        files: "GGUF",
        formats: REFUSED_GGUF_TYPES
            .into_iter()
            .map(|(_, name)| (name.to_owned(), None))
            .collect(),
    });
    groups
}

/// Types whose elements mean themselves.
fn elements() -> Group {
    let format = |dtype: DType| (dtype.to_string(), Some(Scheme::Dense(dtype)));
    Group {
        files: "any",
        formats: DType::ALL.map(format).into(),
    }
}

fn bitsandbytes() -> Group {
    let four_bit = |code, double_quant| {
        Scheme::FourBit(FourBit {
            code,
            block_size: BlockSize::DEFAULT,
            double_quant,
        })
    };
    let mut schemes = vec![Scheme::Int8(Int8 { threshold: 6.0 })];
    for code in Code::ALL {
        schemes.extend([false, true].map(|double_quant| four_bit(code, double_quant)));
    }
    let formats = schemes.into_iter();
    Group {
        files: "bitsandbytes",
        formats: formats.map(|s| (s.to_string(), Some(s))).collect(),
    }
}

/// 8-bit floating-point numbers with scales.
fn fp8() -> Group {
    let format = |(name, block): (&str, [u64; 2])| {
        let format = Fp8 {
            dtype: DType::F8E4M3,
            scale: DType::F32,
            block,
        };
        (name.to_owned(), Some(Scheme::Fp8(format)))
    };
    let all = u64::MAX;
    let formats = [
        ("fp8, a scale for a block", [128, 128]),
        ("for a row", [1, all]),
        ("for all", [all, all]),
    ];
    Group {
        files: "safetensors",
        formats: formats.map(format).into(),
    }
}

/// Codes with a scale for each group of a row's elements, each with the names of those who write them.
fn grouped() -> Vec<Group> {
    let format = |code| Grouped {
        code,
        scale: DType::F16,
        group: NonZeroU64::new(128),
        zeros: false,
        global: None,
        order: false,
    };
    let [int4, int8] = [GroupCode::Int4, GroupCode::Int8].map(format);
    let reordered = Grouped {
        order: true,
        ..int4
    };
    let (mxfp4, nvfp4) = (Grouped::MXFP4, Grouped::NVFP4);
    let kinds: [(&'static str, &[(&str, Grouped)]); 5] = [
        (
            "GPTQ",
            &[("4 bits", int4), ("8 bits", int8), ("act-order", reordered)],
        ),
        ("AWQ", &[("4 bits, GEMM", int4)]),
        (
            "compressed-tensors",
            &[
                ("int4", int4),
                ("int8", int8),
                ("NVFP4", nvfp4),
                ("MXFP4", mxfp4),
            ],
        ),
        ("modelopt", &[("NVFP4", nvfp4)]),
        ("gpt-oss", &[("MXFP4", mxfp4)]),
    ];
    let group = |(files, formats): (&'static str, &[(&str, Grouped)])| Group {
        files,
        formats: formats
            .iter()
            .map(|&(name, format)| (name.to_owned(), Some(Scheme::Grouped(format))))
            .collect(),
    };
    let refused = [
        "GPTQ of 2 or 3 bits",
        "AWQ GEMV",
        "AQLM",
        "HQQ",
        "QuIP",
        "torchao",
        "Quark",
    ];
    let mut groups: Vec<_> = kinds.map(group).into();
    groups.push(Group {
        files: "safetensors",
        formats: refused.map(|name| (name.to_owned(), None)).into(),
    });
    groups
}

/// Block types of GGUF that came together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Simple,
    K,
    I,
    Ternary,
    Float,
}

impl Family {
    const ALL: [Family; 5] = [
        Family::Simple,
        Family::K,
        Family::I,
        Family::Ternary,
        Family::Float,
    ];

    fn of(ty: GgmlType) -> Self {
        match ty {
            GgmlType::Q4_0 | GgmlType::Q4_1 | GgmlType::Q5_0 | GgmlType::Q5_1 | GgmlType::Q8_0 => {
                Family::Simple
            }
            GgmlType::Q2K | GgmlType::Q3K | GgmlType::Q4K | GgmlType::Q5K | GgmlType::Q6K => {
                Family::K
            }
            GgmlType::IQ2XXS
            | GgmlType::IQ2XS
            | GgmlType::IQ2S
            | GgmlType::IQ3XXS
            | GgmlType::IQ3S
            | GgmlType::IQ1S
            | GgmlType::IQ1M
            | GgmlType::IQ4NL
            | GgmlType::IQ4XS => Family::I,
            GgmlType::TQ1_0 | GgmlType::TQ2_0 => Family::Ternary,
            GgmlType::MXFP4 | GgmlType::NVFP4 => Family::Float,
        }
    }
}

const REFUSED: &str = "refused";
