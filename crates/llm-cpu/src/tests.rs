mod threads;

use std::io::Write;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use llm_backend::{
    Allocation, Backend, BackendError, HostPages, LinearPart, NormOp, Ops, Output, Queue,
};
use llm_conformance::{
    check, check_few_rows, check_packed, check_packed_reproducible, check_reproducible,
    check_rounded_packed, check_rounded_reproducible,
};
use llm_quant::{Activations, Parts, Scheme, StoredWeight};
use llm_tensor::{DType, HostBytes, KvShape, KvValues, Norm, WorkspaceShape};

use crate::{Cpu, CpuError, CpuOptions, FEW_ROWS, Isa};

pub(crate) fn cpu(isa: Isa, n_threads: usize) -> Arc<Cpu> {
    let cpu = Cpu::new(CpuOptions {
        threads: NonZeroUsize::new(n_threads),
        isa: Some(isa),
        ..CpuOptions::default()
    });
    Arc::new(cpu.unwrap())
}

/// The same with activations rounded to 8 bits.
pub(crate) fn rounding_cpu(isa: Isa, n_threads: usize) -> Arc<Cpu> {
    let cpu = Cpu::new(CpuOptions {
        threads: NonZeroUsize::new(n_threads),
        isa: Some(isa),
        activations: Activations::Q8,
        ..CpuOptions::default()
    });
    Arc::new(cpu.unwrap())
}

/// Conformance on two threads, and the same bits on one, on three and once more on two.
fn check_isa(isa: Isa) {
    if !isa.is_available() {
        println!("skipped: this machine has no {isa}");
        return;
    }
    let two = cpu(isa, 2);
    check(&two);
    check_packed(&two);
    check_few_rows(&two, FEW_ROWS);
    for n_threads in 1..=3 {
        check_reproducible(&two, &cpu(isa, n_threads));
        check_packed_reproducible(&two, &cpu(isa, n_threads));
    }
}

#[test]
fn portable_conforms() {
    check_isa(Isa::Portable);
}

#[test]
fn avx2_conforms() {
    check_isa(Isa::Avx2);
}

#[test]
fn neon_conforms() {
    check_isa(Isa::Neon);
}

#[test]
fn avx512_conforms() {
    check_isa(Isa::Avx512);
}

#[test]
fn rounded_activations_conform() {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        let two = rounding_cpu(isa, 2);
        check_rounded_packed(&two);
        for n_threads in [1, 3] {
            check_rounded_reproducible(&two, &rounding_cpu(isa, n_threads));
        }
    }
}

#[test]
fn an_instruction_set_that_is_not_there_is_refused() {
    for isa in Isa::ALL {
        let made = Cpu::new(CpuOptions {
            threads: NonZeroUsize::new(1),
            isa: Some(isa),
            ..CpuOptions::default()
        });
        match made {
            Ok(cpu) => assert!(isa.is_available() && cpu.isa() == isa),
            Err(CpuError::MissingIsa { isa: missing, .. }) => assert_eq!(missing, isa),
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn weights_stay_where_they_are() {
    let bytes = HostBytes::new(vec![0u8; 13]).slice(1..13);
    let weight = |dtype, cols| StoredWeight::dense(dtype, (2, cols), bytes.clone());
    let cpu = cpu(Isa::Portable, 1);
    let loaded = cpu.load(weight(DType::BF16, 3)).unwrap();
    assert_eq!(loaded.dense().as_ptr(), bytes.as_ptr());
    assert!(matches!(
        cpu.load(weight(DType::I8, 6)),
        Err(BackendError::UnsupportedWeight {
            scheme: Scheme::Dense(DType::I8),
            ..
        })
    ));
}

/// A file's last bytes, zeros, mapped with a page behind them whose touch is fatal.
pub(crate) fn at_end_of_file(n_bytes: usize) -> HostBytes {
    written_at_end_of_file(&vec![0; n_bytes])
}

/// The same with these bytes.
pub(crate) fn written_at_end_of_file(bytes: &[u8]) -> HostBytes {
    const PAGE: usize = 4096;
    let n_pages = bytes.len().div_ceil(PAGE);
    let mut file = tempfile::tempfile().unwrap();
    let start = n_pages * PAGE - bytes.len();
    file.write_all(&vec![0; start]).unwrap();
    file.write_all(bytes).unwrap();
    // SAFETY: nobody else has the file; what lies beyond its end is not touched here.
    let map = unsafe {
        memmap2::MmapOptions::new()
            .len((n_pages + 1) * PAGE)
            .map(&file)
    };
    HostBytes::new(map.unwrap()).slice(start..n_pages * PAGE)
}

#[test]
fn nothing_is_read_beyond_a_weight() {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        let cpu = cpu(isa, 1);
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for (rows, cols) in [
                (1, 1),
                (2, 15),
                (3, 17),
                (4, 31),
                (5, 33),
                (7, 64),
                (66, 100),
            ] {
                let weight = |rows: usize, cols: usize| {
                    let bytes = at_end_of_file(rows * cols * dtype.size());
                    cpu.load(StoredWeight::dense(dtype, (rows, cols), bytes))
                        .unwrap()
                };
                let (matrix, vector) = (weight(rows, cols), weight(1, cols));
                let bias = weight(1, rows);
                let part = LinearPart {
                    weight: &matrix,
                    bias: Some(&bias),
                };
                let mut x = cpu.alloc(20 * cols).unwrap();
                let mut normed = cpu.alloc(20 * cols).unwrap();
                let mut out = cpu.alloc(20 * rows).unwrap();
                let mut last = cpu.alloc_index(1).unwrap();
                last.as_mut_slice()[0] = rows as u32 - 1;
                let mut queue = cpu.queue(Some(&shape(20, cols, rows))).unwrap();
                queue.embed(&matrix, &last, 1, 1.0, &mut x).unwrap();
                let norm = NormOp {
                    norm: Norm::Layer,
                    eps: 1e-5,
                    gain_offset: 0.0,
                    gain: &vector,
                    bias: Some(&vector),
                };
                queue.norm(&norm, &x, &mut normed, 20).unwrap();
                for n_tokens in [1, 3, 20] {
                    let mut queue = cpu.queue(Some(&shape(n_tokens, cols, rows))).unwrap();
                    queue
                        .linear(&[part], &normed, Output::Write, &mut out, n_tokens)
                        .unwrap();
                }
                // The file holds zeros only.
                assert!(out.as_slice().iter().all(|&y| y == 0.0));
            }
        }
    }
}

/// `x` `[n_tokens, cols]` times a weight `[rows, cols]`.
pub(crate) fn product(
    cpu: &Arc<Cpu>,
    weight: StoredWeight,
    (rows, cols): (usize, usize),
    x: &[f32],
) -> Vec<f32> {
    let n_tokens = x.len() / cols;
    let weight = cpu.load(weight).unwrap();
    let parts = [LinearPart {
        weight: &weight,
        bias: None,
    }];
    let mut queue = cpu.queue(Some(&shape(n_tokens, cols, rows))).unwrap();
    let mut buffer = cpu.alloc(x.len()).unwrap();
    queue.upload(x, &mut buffer).unwrap();
    let mut out = cpu.alloc(n_tokens * rows).unwrap();
    let output = Output::Write;
    queue
        .linear(&parts, &buffer, output, &mut out, n_tokens)
        .unwrap();
    out.as_slice().to_vec()
}

pub(crate) fn shape(n_tokens: usize, cols: usize, rows: usize) -> WorkspaceShape {
    WorkspaceShape {
        n_tokens,
        cols,
        rows,
        context: 2000,
        n_heads: 6,
        n_kv_heads: 2,
        head_dim: 20,
        n_selecting: 0,
    }
}

#[test]
fn sizes_are_what_is_allocated() {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        for n_threads in [1, 3] {
            let cpu = cpu(isa, n_threads);
            let rounding = rounding_cpu(isa, n_threads);
            for n_tokens in [1, 11, 12, 31, 32, 500] {
                let shape = shape(n_tokens, 3001, 100);
                for cpu in [&cpu, &rounding] {
                    let queue = cpu.queue(Some(&shape)).unwrap();
                    assert_eq!(cpu.workspace_bytes(&shape), queue.workspace.bytes());
                }
            }
            for capacity in [1, 15, 16, 1000] {
                let shape = KvShape {
                    n_kv_heads: 3,
                    head_dim: 20,
                    values: KvValues::Own,
                    capacity,
                    n_sequences: 2,
                    dtype: DType::BF16,
                };
                let pool = cpu.kv_pool(&shape).unwrap();
                assert_eq!(cpu.kv_pool_bytes(&shape), pool.bytes());
            }
        }
    }
}

#[test]
fn pages_are_filled_when_no_weight_lies_there() {
    let cpu = cpu(Isa::Portable, 1);
    let mut own = cpu.host_pages(1).unwrap();
    assert_eq!(Allocation::bytes(&own).get(), 4096);
    own.fill(|pages| pages[..4].fill(1));
    let weight = StoredWeight {
        scheme: Scheme::Dense(DType::BF16),
        rows: 1,
        cols: 2,
        parts: Parts::weight(0..4),
    };
    let placed = cpu.in_pages(&own, &weight).unwrap();
    assert_eq!(placed.dense().bytes_of(0..1), [1; 4]);
    drop(placed);
    own.fill(|pages| pages[..4].fill(2));
    let placed = cpu.in_pages(&own, &weight).unwrap();
    assert_eq!(placed.dense().bytes_of(0..1), [2; 4]);
    let refused = catch_unwind(AssertUnwindSafe(|| own.fill(|pages| pages.fill(3))));
    assert!(refused.is_err());
    assert_eq!(placed.dense().bytes_of(0..1), [2; 4]);
}
