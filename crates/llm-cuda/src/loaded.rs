//! cuBLAS as a GPU has it loaded: what it takes there beside what is allocated for it.

use std::sync::Arc;

use llm_backend::Result;
use llm_tensor::DType;

use crate::card::Card;
use crate::choose::BLAS_WORKSPACE;
use crate::driver::{Blas, BlasLibrary, Gemm};
use crate::memory::Memory;
use crate::steps::Steps;

/// cuBLAS, with the code of some of its kernels, for as long as this lives.
#[derive(Debug)]
pub struct LoadedCublas {
    _blas: Blas,
    // Its stream.
    _steps: Steps,
}

impl LoadedCublas {
    pub(crate) fn of(card: &Arc<Card>) -> Result<Option<Self>> {
        let Ok(library) = BlasLibrary::load() else {
            return Ok(None);
        };
        let mut steps = Steps::new(&card.context).map_err(|failure| card.failed(failure))?;
        let workspace = Memory::new(card, BLAS_WORKSPACE, "scratch memory")?;
        // What does not start takes nothing.
        let Ok(blas) = Blas::new(library, steps.own_stream(), workspace.share()) else {
            return Ok(None);
        };
        let memory = Memory::zeroed(card, (3 * SIZE * SIZE, size_of::<f32>()), "matrices")?;
        let all = memory.span(0..memory.n_bytes());
        let matrix = |i: usize| {
            (
                all.address() + (i * SIZE * SIZE * size_of::<f32>()) as u64,
                SIZE,
            )
        };
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let gemm = Gemm {
                n: SIZE / 2,
                rows: SIZE,
                cols: SIZE,
                dtype,
                x: matrix(0),
                weight: matrix(1),
                out: matrix(2),
                adds: false,
            };
            // A type that the card lacks has no kernel to load.
            let _ = steps.multiply(card, &blas, &gemm);
        }
        let blas = steps
            .stream(card)
            .and_then(|stream| stream.synchronize())
            .and_then(|()| blas.without_workspace(steps.own_stream()));
        Ok(Some(LoadedCublas {
            _blas: blas.map_err(|failure| card.failed(failure))?,
            _steps: steps,
        }))
    }
}

/// Rows and columns of matrices whose products have kernels loaded.
const SIZE: usize = 1024;
