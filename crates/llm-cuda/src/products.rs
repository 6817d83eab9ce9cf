//! What multiplies many rows of activations: cuBLAS where it is installed, or the kernels of this crate.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use llm_tensor::WorkspaceShape;

use crate::choose;
use crate::driver::BlasLibrary;

/// Library for products with many rows of activations. Who plans memory must know all that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Products {
    /// Kernels of this crate alone.
    Own,
    /// cuBLAS, where it is the faster one.
    CuBlas,
}

impl Products {
    /// That of this machine, whose driver works: cuBLAS where the loader finds it.
    pub fn installed() -> Self {
        match BlasLibrary::load() {
            Ok(_) => Products::CuBlas,
            Err(_) => Products::Own,
        }
    }

    /// Reason why it is not cuBLAS, in a sentence without its full stop.
    pub fn flaw() -> Option<&'static str> {
        BlasLibrary::load().err()
    }

    /// True if queues for passes within `shape` have cuBLAS.
    pub(crate) fn has_blas(self, shape: &WorkspaceShape) -> bool {
        match self {
            Products::Own => false,
            Products::CuBlas => choose::blas_may_pay(shape),
        }
    }
}

/// Products with many rows that a card was asked for.
#[derive(Debug, Default)]
pub(crate) struct ProductCount {
    by_blas: AtomicU64,
    by_own: AtomicU64,
    /// Name of the library, or reason why it has no part in this, once a queue has asked for it.
    blas: Mutex<Option<Result<String, String>>>,
}

impl ProductCount {
    /// Takes note of a product with `n` rows.
    pub(crate) fn count(&self, n: usize, is_by_blas: bool) {
        match is_by_blas {
            true => self.by_blas.fetch_add(1, Relaxed),
            false if n >= MANY => self.by_own.fetch_add(1, Relaxed),
            false => 0,
        };
    }

    /// Takes note of the library, or of a reason to do without.
    pub(crate) fn say(&self, blas: Result<String, String>) {
        let mut said = self.blas.lock().unwrap_or_else(PoisonError::into_inner);
        *said = Some(blas);
    }

    /// `224 by cuBLAS 12.4.5, 32 by own kernels`; nothing where there were none.
    pub(crate) fn text(&self) -> Option<String> {
        let (by_blas, by_own) = (self.by_blas.load(Relaxed), self.by_own.load(Relaxed));
        let blas = self.blas.lock().unwrap_or_else(PoisonError::into_inner);
        let name = match &*blas {
            Some(Ok(name)) => name,
            Some(Err(_)) | None => "cuBLAS",
        };
        let mut text = String::new();
        if by_blas > 0 {
            text += &format!("{by_blas} by {name}");
        }
        if by_own > 0 {
            let and = if by_blas > 0 { ", " } else { "" };
            let _ = write!(text, "{and}{by_own} by own kernels");
            match &*blas {
                Some(Err(flaw)) => text += &format!(": {flaw}"),
                Some(Ok(_)) | None if by_blas == 0 => {
                    text += ", which are as fast for products of their sizes";
                }
                Some(Ok(_)) | None => {}
            }
        }
        (by_blas + by_own > 0).then_some(text)
    }
}

/// Rows from which on a product counts.
const MANY: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_names_what_multiplied() {
        let count = ProductCount::default();
        count.count(63, false);
        assert_eq!(count.text(), None);
        count.count(64, false);
        let text = |count: &ProductCount| count.text().unwrap();
        assert_eq!(
            text(&count),
            "1 by own kernels, which are as fast for products of their sizes"
        );
        count.say(Err("cuBLAS is not installed".to_owned()));
        assert_eq!(text(&count), "1 by own kernels: cuBLAS is not installed");
        count.say(Ok("cuBLAS 12.4.5".to_owned()));
        count.count(512, true);
        assert_eq!(text(&count), "1 by cuBLAS 12.4.5, 1 by own kernels");
    }
}
