//! cuBLAS of a queue: its products go where the queue's kernels go.

use std::cell::Cell;
use std::sync::Arc;

use llm_backend::Result;

use crate::card::Card;
use crate::choose::BLAS_WORKSPACE;
use crate::driver::{Blas, BlasLibrary, Failure, Gemm, Stream};
use crate::memory::Memory;
use crate::steps::Steps;

#[derive(Debug)]
pub(crate) struct QueueBlas {
    /// Nothing where it could not be started.
    blas: Option<Blas>,
    /// False once it has refused a product.
    works: Cell<bool>,
    /// What it computes in.
    _workspace: Memory,
}

impl QueueBlas {
    /// Starts it for a stream, where it is installed. The reason why it does not work is told of with the account of products.
    ///
    /// # Errors
    /// When there is no memory for what the plan counts.
    pub(crate) fn new(card: &Arc<Card>, stream: &Stream) -> Result<Option<Self>> {
        let library = match BlasLibrary::load() {
            Ok(library) => library,
            Err(reason) => {
                card.products.say(Err(reason.to_owned()));
                return Ok(None);
            }
        };
        let workspace = Memory::new(card, BLAS_WORKSPACE, "scratch memory")?;
        let started = Blas::new(library, stream, workspace.share());
        let started = started.map_err(|failure| told(&failure));
        card.products
            .say(started.as_ref().map(Blas::name).map_err(Clone::clone));
        let blas = started.ok();
        Ok(Some(QueueBlas {
            works: Cell::new(blas.is_some()),
            blas,
            _workspace: workspace,
        }))
    }

    pub(crate) fn works(&self) -> bool {
        self.works.get()
    }

    /// Puts a product behind all steps so far.
    pub(crate) fn multiply(
        &self,
        card: &Card,
        steps: &mut Steps,
        gemm: &Gemm,
    ) -> std::result::Result<(), Failure> {
        match &self.blas {
            Some(blas) => steps.multiply(card, blas, gemm),
            None => Ok(()),
        }
    }

    /// Does without it from now on.
    pub(crate) fn give_up(&self, card: &Card, failure: &Failure) {
        self.works.set(false);
        card.products.say(Err(told(failure)));
    }
}

fn told(failure: &Failure) -> String {
    format!("cuBLAS fails at {}: {}", failure.operation, failure.name)
}
