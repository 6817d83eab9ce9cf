//! What is told where there is no GPU, or not enough of one.

use std::sync::Arc;

use cuda_emulator::harness::{Library, Machine};
use llm_backend::{Backend, BackendError};
use llm_cuda::{Cuda, NoGpu, probe};
use llm_quant::StoredWeight;
use llm_tensor::{Bytes, DType, HostBytes, KvShape, KvValues};

#[test]
fn a_machine_without_a_usable_driver_is_told_why() {
    let machine = Machine::new;
    Machine::new()
        .library(Library::Broken)
        .inside(|| assert_eq!(probe().unwrap_err(), NoGpu::NoDriver));
    machine().library(Library::Foreign).inside(|| {
        let name = "cuDriverGetVersion";
        assert_eq!(probe().unwrap_err(), NoGpu::LacksFunction { name });
        assert!(Cuda::new(0).is_err());
    });
    machine()
        .devices(0)
        .inside(|| assert_eq!(probe().unwrap_err(), NoGpu::NoDevice));
    machine().driver(11080).inside(|| {
        let told = probe().unwrap_err().to_string();
        let expected = "the CUDA driver is for CUDA 11.8; the kernels need 12.0 or later";
        assert_eq!(told, expected);
    });
}

#[test]
fn gpus_are_told_apart() {
    Machine::new().devices(2).compute(75).inside(|| {
        let driver = probe().unwrap();
        let gpus: Vec<_> = driver.gpus.iter().map(|gpu| gpu.number).collect();
        assert_eq!((driver.version, &gpus[..]), (12020, &[0, 1][..]));
        assert_eq!(driver.gpus[1].compute_capability, (7, 5));
        let (number, n_gpus) = (2, 2);
        assert_eq!(
            Cuda::new(2).unwrap_err(),
            NoGpu::NoSuchDevice { number, n_gpus }
        );
        let second = Cuda::new(1).unwrap();
        assert!(second.info().name.starts_with("cuda:1 ("));
    });
    Machine::new().compute(70).inside(|| {
        // It is found, and not computed with.
        assert!(!probe().unwrap().gpus[0].is_supported());
        let told = Cuda::new(0).unwrap_err().to_string();
        assert!(told.contains("compute capability 7.0"), "{told}");
    });
}

/// One that another program has to itself is nothing to the others.
#[test]
fn a_gpu_that_cannot_be_opened_is_told_of() {
    Machine::new().devices(3).busy(&[1]).inside(|| {
        let driver = probe().unwrap();
        let gpus: Vec<_> = driver.gpus.iter().map(|gpu| gpu.number).collect();
        assert_eq!(gpus, [0, 2]);
        let [(1, reason)] = driver.unusable.as_slice() else {
            panic!("{:?}", driver.unusable);
        };
        let told = reason.to_string();
        let expected =
            "the CUDA driver fails at opening device 1: CUDA_ERROR_DEVICE_UNAVAILABLE (code 46)";
        assert_eq!(told, expected);
        assert_eq!(Cuda::new(1).unwrap_err(), *reason);
        assert!(Cuda::new(2).is_ok());
    });
    Machine::new().busy(&[0]).inside(|| {
        let told = probe().unwrap_err().to_string();
        assert!(told.contains("CUDA_ERROR_DEVICE_UNAVAILABLE"), "{told}");
    });
}

/// The message has what was asked for, for what, and what was free.
#[test]
fn memory_that_runs_out_is_told_with_what_was_free() {
    const TOTAL: u64 = 32 << 20;
    Machine::new().memory(TOTAL).inside(|| {
        let cuda = Arc::new(Cuda::new(0).unwrap());
        let kept = cuda.alloc(1 << 20).unwrap();
        let failures = [
            cuda.alloc(1 << 24).err(),
            cuda.alloc_index(1 << 24).err(),
            cuda.kv_pool(&KvShape {
                n_kv_heads: 8,
                head_dim: 128,
                values: KvValues::Own,
                capacity: 1 << 14,
                n_sequences: 1,
                dtype: DType::F16,
            })
            .err(),
            cuda.load(StoredWeight::dense(
                DType::F16,
                (1 << 13, 1 << 12),
                HostBytes::new(vec![0; 1 << 26]),
            ))
            .err(),
            cuda.place(1 << 26).err(),
        ];
        for failure in failures {
            let Some(BackendError::OutOfMemory {
                requested, free, ..
            }) = failure
            else {
                panic!("{failure:?}");
            };
            assert_eq!(requested, Bytes::new(1 << 26));
            assert_eq!(free, Some(Bytes::new(TOTAL - (4 << 20))));
        }
        // What failed took nothing, and what is left can be had.
        drop(kept);
        drop(cuda.alloc(TOTAL as usize / 4).unwrap());
        assert!(cuda.alloc(usize::MAX / 2).is_err());
    });
}
