use std::sync::Arc;

use crate::case::Case;
use crate::data::{Device, Random, WORKS};
use llm_backend::{Backend, HeadGroups, Ops};

/// Heads in groups, brought into order; exact, as nothing is computed.
#[derive(Debug)]
pub(crate) struct GroupsCase {
    groups: HeadGroups,
    n_tokens: usize,
}

pub(crate) fn cases() -> Vec<GroupsCase> {
    let mut cases = Vec::new();
    for (n_groups, n_queries, head_dim) in [(1, 1, 1), (2, 1, 8), (3, 5, 7), (8, 16, 64)] {
        for n_tokens in [1, 2, 17] {
            let groups = HeadGroups {
                n_groups,
                n_queries,
                head_dim,
            };
            cases.push(GroupsCase { groups, n_tokens });
        }
    }
    cases
}

impl Case for GroupsCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let mut device = Device::new(backend);
        let HeadGroups {
            n_groups,
            n_queries,
            head_dim,
        } = self.groups;
        let n = self.n_tokens * n_groups * (n_queries + 2) * head_dim;
        let grouped = device.buffer(&Random::new(8).values(n, 1.0));
        let mut out = device.zeros(n);
        device
            .queue
            .ungroup(&self.groups, &grouped, &mut out, self.n_tokens)
            .expect(WORKS);
        device.read(&out, n)
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        vec![0.0; expected.len()]
    }
}
