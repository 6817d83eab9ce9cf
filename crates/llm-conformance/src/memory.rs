//! Sizes that a device promises, and weights that it refuses.

use std::sync::Arc;

use llm_backend::{Allocation, Backend, BackendError, Routing};
use llm_quant::{Int8, Scheme, StoredWeight};
use llm_tensor::{Bytes, DType, HostBytes, KvShape, KvValues, PageBuf, Weighting};

use crate::data::{DTYPES, WORKS};

pub(crate) fn check_sizes<B: Backend>(backend: &Arc<B>) {
    let device = &backend.info().name;
    for (i, capacity) in [1, 15, 16, 17, 1000].into_iter().enumerate() {
        for n_sequences in [1, 3] {
            for values in [KvValues::Own, KvValues::OfKeys(12)] {
                let shape = KvShape {
                    n_kv_heads: 3,
                    head_dim: 20,
                    values,
                    capacity,
                    n_sequences,
                    dtype: DTYPES[i % 3],
                };
                let pool = backend.kv_pool(&shape).expect(WORKS);
                let planned = backend.kv_pool_bytes(&shape);
                assert_eq!(planned, pool.bytes(), "{device}: {shape:?}");
            }
        }
        let routing = Routing {
            weighting: Weighting::Normalised,
            ..Routing::softmax(7, 2)
        };
        let routes = backend.routes(&routing, capacity).expect(WORKS);
        let planned = backend.routes_bytes(&routing, capacity);
        assert_eq!(planned, routes.bytes(), "{device}: routes of {capacity}");
        let place = backend.place(capacity).expect(WORKS);
        let pages = backend.host_pages(capacity).expect(WORKS);
        let whole = Bytes::new(capacity.next_multiple_of(PageBuf::PAGE) as u64);
        assert_eq!(place.bytes(), whole, "{device}: a place of {capacity}");
        assert_eq!(pages.bytes(), whole, "{device}: pages of {capacity}");
    }
}

pub(crate) fn check_refusals<B: Backend>(backend: &Arc<B>) {
    let place = backend.place(100).expect(WORKS);
    for scheme in [
        Scheme::Dense(DType::I8),
        Scheme::Dense(DType::I64),
        Scheme::Int8PerUse(DType::U8, Int8 { threshold: 6.0 }),
    ] {
        let (rows, cols) = (2, 3);
        let mut end = 0;
        let ranges = scheme.parts(rows as u64, cols as u64).map(|_, info| {
            end += info.bytes as usize;
            end - info.bytes as usize..end
        });
        let placed = StoredWeight {
            scheme,
            rows,
            cols,
            parts: ranges,
        };
        let stored = placed
            .clone()
            .map(|_, range| HostBytes::new(vec![0; range.len()]));
        let refusals = [
            backend.load(stored).err(),
            backend.placed(&place, &placed).err(),
        ];
        for refusal in refusals {
            let Some(BackendError::UnsupportedWeight { scheme: found, .. }) = refusal else {
                panic!(
                    "{}: {scheme} is refused, not {refusal:?}",
                    backend.info().name
                );
            };
            assert_eq!(found, scheme);
        }
    }
}
