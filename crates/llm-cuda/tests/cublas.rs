//! Products with many rows, by cuBLAS where the loader finds it and by own kernels else. A stand-in takes its place.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails where it meets the unexpected"
)]

use std::sync::Arc;

use cuda_emulator::harness::{BlasLibrary, Machine, report};
use cuda_emulator::report::Report;
use half::{bf16, f16};
use llm_backend::{Backend, LinearPart, Ops, Output, Queue};
use llm_cuda::{Compute, Cuda, CudaQueue, Products, costs};
use llm_quant::{BlockSize, Code, FourBit, Fp8, GgmlType, Part, Scheme, StoredWeight};
use llm_tensor::{DType, HostBytes, WorkspaceShape};

/// A product that cuBLAS makes.
#[derive(Debug, Clone, Copy)]
struct Case {
    scheme: Scheme,
    compute: Compute,
    n: usize,
    size: (usize, usize),
    /// Rows of a weight that scratch memory is made for: with fewer than the weight's it takes several tiles.
    scratch_rows: usize,
    output: Output,
    has_bias: bool,
    /// Products of which it is the sum, and tiles of the weight.
    n_calls: u64,
    /// Error beside the sum of magnitudes.
    bound: f64,
}

const NF4: Scheme = Scheme::FourBit(FourBit {
    code: Code::Nf4,
    block_size: BlockSize::DEFAULT,
    double_quant: true,
});

const PLAIN: Case = Case {
    scheme: Scheme::Dense(DType::F32),
    compute: Compute::F32,
    n: 128,
    size: (1100, 1344),
    scratch_rows: 1100,
    output: Output::Write,
    has_bias: true,
    n_calls: 1,
    bound: 1e-6,
};

#[test]
fn f32_weights_are_multiplied_as_they_are() {
    emulated(80, PLAIN);
}

#[test]
fn bf16_weights_are_multiplied_by_three_parts_of_the_activations() {
    let of = |output, has_bias, compute, n_calls, bound| Case {
        scheme: Scheme::Dense(DType::BF16),
        compute,
        n: 512,
        size: (1024, 8192),
        scratch_rows: 1024,
        output,
        has_bias,
        n_calls,
        bound,
    };
    emulated(80, of(Output::Add, true, Compute::F32, 3, 1e-6));
    emulated(80, of(Output::Write, false, Compute::Half, 2, 1e-5));
}

#[test]
fn f16_weights_are_multiplied_in_tiles_and_scaled() {
    let case = Case {
        scheme: Scheme::Dense(DType::F16),
        compute: Compute::F32,
        n: 512,
        size: (4000, 2048),
        scratch_rows: 1024,
        output: Output::Add,
        has_bias: true,
        n_calls: 2,
        bound: 1e-6,
    };
    emulated(75, case);
}

#[test]
fn four_bit_weights_are_decoded_in_tiles() {
    let case = Case {
        scheme: NF4,
        compute: Compute::F32,
        n: 512,
        size: (4000, 2048),
        scratch_rows: 2048,
        output: Output::Add,
        has_bias: true,
        n_calls: 6,
        // Both factors have 16 bits.
        bound: 2e-5,
    };
    emulated(80, case);
}

#[test]
fn weights_in_formats_of_published_files_are_decoded_in_tiles() {
    let fp8 = Fp8 {
        dtype: DType::F8E4M3,
        scale: DType::F32,
        block: [128, 128],
    };
    for scheme in [Scheme::Ggml(GgmlType::Q4K), Scheme::Fp8(fp8)] {
        let case = Case {
            scheme,
            n: 512,
            size: (4000, 2048),
            scratch_rows: 2048,
            n_calls: 6,
            // Both factors have 16 bits.
            bound: 2e-5,
            ..PLAIN
        };
        emulated(80, case);
    }
}

/// Memory that was planned for it is there where it does not start.
#[test]
fn without_a_library_that_works_kernels_of_our_own_multiply() {
    let small = Case {
        n: 64,
        size: (64, 64),
        ..PLAIN
    };
    for (library, has_memory, flaw) in [
        (BlasLibrary::Missing, false, "cuBLAS is not installed"),
        (
            BlasLibrary::Foreign,
            false,
            "libcublas.so.12 lacks `cublasCreate_v2`",
        ),
        (
            BlasLibrary::Broken,
            true,
            "cuBLAS fails at starting libcublas.so.12: CUBLAS_STATUS_NOT_INITIALIZED",
        ),
    ] {
        let report = Machine::new().blas(library).inside(|| {
            let cuda = Arc::new(Cuda::new(0).unwrap());
            let shape = shape(PLAIN);
            let mut queue = cuda.queue(Some(&shape)).unwrap();
            let planned = costs::workspace_bytes(&shape, Products::installed());
            assert_eq!(cuda.usage()["scratch memory"], planned);
            let without = costs::workspace_bytes(&shape, Products::Own);
            assert_eq!(planned > without, has_memory);
            check(&cuda, &mut queue, small);
            let said = format!("3 by own kernels: {flaw}");
            assert_eq!(cuda.products(), Some(said));
        });
        if let Some(report) = report {
            assert!(!report.kernels.contains_key(CUBLAS), "{library:?}");
        }
    }
}

#[test]
fn a_small_queue_takes_no_memory_for_it() {
    Machine::new().blas(BlasLibrary::Emulated).inside(|| {
        let small = WorkspaceShape {
            n_tokens: 512,
            cols: 64,
            rows: 64,
            ..shape(PLAIN)
        };
        let cuda = Arc::new(Cuda::new(0).unwrap());
        let queue = cuda.queue(Some(&small)).unwrap();
        let planned = costs::workspace_bytes(&small, Products::installed());
        assert_eq!(planned, costs::workspace_bytes(&small, Products::Own));
        assert_eq!(cuda.usage()["scratch memory"], planned);
        drop(queue);
    });
}

/// Kernels, products by cuBLAS, and graphs of kernels that came before and come again.
#[test]
fn graphs_stay_what_they_were() {
    let report = Machine::new().blas(BlasLibrary::Emulated).inside(|| {
        let cuda = Arc::new(Cuda::new(0).unwrap());
        let mut queue = cuda.queue(Some(&shape(PLAIN))).unwrap();
        let mut x = cuda.alloc(4).unwrap();
        let mut y = cuda.alloc(4).unwrap();
        queue.upload(&[1.0; 4], &mut y).unwrap();
        let mut steps = |queue: &mut CudaQueue| {
            for _ in 0..10 {
                queue.add(&y, &mut x, 4, 1).unwrap();
            }
            let mut sum = [0.0; 4];
            queue.download(&x, &mut sum).unwrap();
            sum[0]
        };
        let sums = [1, 2, 3].map(|_| steps(&mut queue));
        assert_eq!(sums, [10.0, 20.0, 30.0]);
        let before = n_graphs();
        check(&cuda, &mut queue, PLAIN);
        assert_eq!(n_graphs(), before);
        assert_eq!(steps(&mut queue), 40.0);
        assert_eq!(n_graphs(), before + 1);
    });
    if let Some(report) = report {
        assert_eq!(report.graph_launches, 2);
    }
}

fn n_graphs() -> u64 {
    report().map_or(0, |report| report.graph_launches)
}

fn emulated(target: u32, case: Case) {
    let machine = Machine::new().compute(target).blas(BlasLibrary::Emulated);
    // In another order of streams, too.
    let report = machine.seed(3).counts(false).inside(|| {
        let cuda = Arc::new(Cuda::computing_in(0, case.compute).unwrap());
        let shape = shape(case);
        let mut queue = cuda.queue(Some(&shape)).unwrap();
        let planned = costs::workspace_bytes(&shape, Products::installed());
        assert_eq!(cuda.usage()["scratch memory"], planned);
        check(&cuda, &mut queue, case);
        let said = match case.n {
            0..=128 => "1 by cuBLAS 12.4.5, 2 by own kernels",
            _ => "1 by cuBLAS 12.4.5",
        };
        assert_eq!(cuda.products().as_deref(), Some(said), "{case:?}");
    });
    if let Some(report) = report {
        let n_calls = |report: &Report| report.kernels[CUBLAS].launches;
        assert_eq!(n_calls(&report), case.n_calls, "{case:?}");
    }
}

fn shape(case: Case) -> WorkspaceShape {
    WorkspaceShape {
        n_tokens: case.n,
        cols: case.size.1,
        rows: case.scratch_rows,
        context: 64,
        n_heads: 1,
        n_kv_heads: 1,
        head_dim: 64,
        n_selecting: 0,
    }
}

/// Multiplies, and holds some rows of the result to sums of f64.
fn check(cuda: &Arc<Cuda>, queue: &mut CudaQueue, case: Case) {
    let Case { n, size, .. } = case;
    let (rows, cols) = size;
    let mut random = Random(7);
    let stored = weight(case.scheme, size, &mut random);
    let values = stored.values().unwrap();
    let bias_values = random.values(rows);
    let bias = dense(DType::F16, (1, rows), &bias_values);
    let x_values = random.values(n * cols);
    // Results lie in the middle of wider rows.
    let (width, first) = (rows + 8, 3);
    let out_values = random.values(n * width);
    let mut x = cuda.alloc(n * cols).unwrap();
    let mut out = cuda.alloc(n * width).unwrap();
    queue.upload(&x_values, &mut x).unwrap();
    queue.upload(&out_values, &mut out).unwrap();
    let around = [first, width - rows - first].map(|rows| {
        let zeros = dense(DType::F32, (rows, cols), &vec![0.0; rows * cols]);
        cuda.load(zeros).unwrap()
    });
    let (weight, bias) = (cuda.load(stored).unwrap(), cuda.load(bias).unwrap());
    let part = LinearPart {
        weight: &weight,
        bias: case.has_bias.then_some(&bias),
    };
    let beside = |weight| LinearPart { weight, bias: None };
    let parts = match case.n {
        // What is beside takes the emulator long.
        0..=128 => vec![beside(&around[0]), part, beside(&around[1])],
        _ => vec![part],
    };
    let (width, first) = match parts.len() {
        1 => (rows, 0),
        _ => (width, first),
    };
    queue.linear(&parts, &x, case.output, &mut out, n).unwrap();
    let mut found = vec![0.0; n * width];
    queue.download(&out, &mut found).unwrap();
    for token in [0, 1, n / 2 + 1, n - 1] {
        let x = &x_values[token * cols..][..cols];
        for row in 0..rows {
            let weight = &values[row * cols..][..cols];
            let mut sum = 0f64;
            let mut magnitude = 0f64;
            for (x, weight) in x.iter().zip(weight) {
                let product = f64::from(*x) * f64::from(*weight);
                sum += product;
                magnitude += product.abs();
            }
            let at = token * width + first + row;
            let bias = match case.has_bias {
                true => f64::from(f16::from_f32(bias_values[row]).to_f32()),
                false => 0.0,
            };
            let before = match case.output {
                Output::Add => f64::from(out_values[at]),
                Output::Write => 0.0,
            };
            let expected = sum + bias + before;
            let error = (f64::from(found[at]) - expected).abs();
            let most = case.bound * (magnitude + bias.abs() + before.abs());
            assert!(
                error <= most,
                "{case:?}: {token}, {row}: {} is not {expected}",
                found[at]
            );
        }
    }
}

fn weight(scheme: Scheme, (rows, cols): (usize, usize), random: &mut Random) -> StoredWeight {
    let parts = scheme.parts(rows as u64, cols as u64).map(|part, info| {
        let n = info.bytes as usize / info.dtype.size();
        match info.dtype {
            // Small numbers, whether codes or the scales among them.
            DType::U8 | DType::F8E4M3 if matches!(scheme, Scheme::Ggml(_) | Scheme::Fp8(_)) => {
                HostBytes::new(
                    random
                        .bytes(n)
                        .iter()
                        .map(|byte| byte & 0x3f)
                        .collect::<Vec<_>>(),
                )
            }
            DType::U8 | DType::I8 => HostBytes::new(random.bytes(n)),
            // Scales of scales that are near to each other.
            dtype => match part {
                Part::NestedAbsmax | Part::NestedOffset => elements(dtype, &vec![0.02; n]),
                _ => elements(dtype, &random.values(n)),
            },
        }
    });
    StoredWeight {
        scheme,
        rows,
        cols,
        parts,
    }
}

fn dense(dtype: DType, size: (usize, usize), values: &[f32]) -> StoredWeight {
    StoredWeight::dense(dtype, size, elements(dtype, values))
}

fn elements(dtype: DType, values: &[f32]) -> HostBytes {
    let bytes: Vec<u8> = match dtype {
        DType::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::F16 => values
            .iter()
            .flat_map(|x| f16::from_f32(*x).to_le_bytes())
            .collect(),
        DType::BF16 => values
            .iter()
            .flat_map(|x| bf16::from_f32(*x).to_le_bytes())
            .collect(),
        other => panic!("elements of {other}"),
    };
    HostBytes::new(bytes)
}

/// Numbers without a pattern.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // Numerical Recipes' generator of 64 bits.
        self.0 = self
            .0
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        self.0 >> 33
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }

    /// Between -1 and 1.
    fn values(&mut self, n: usize) -> Vec<f32> {
        let value = |bits: u64| bits as f32 / (1u64 << 30) as f32 - 1.0;
        (0..n).map(|_| value(self.next())).collect()
    }
}

/// Name of its products in the emulator's report.
const CUBLAS: &str = "cublasGemmEx";
