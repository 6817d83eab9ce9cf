use std::sync::Arc;

use crate::case::Case;
use crate::data::{Device, Random, WORKS};
use llm_backend::{Backend, Groups, Ops};

/// Parts of groups, brought into order; exact, as nothing is computed.
#[derive(Debug)]
pub(crate) struct GroupsCase {
    groups: Groups,
    n_tokens: usize,
}

pub(crate) fn cases() -> Vec<GroupsCase> {
    let mut cases = Vec::new();
    // Groups, their parts, columns before them and after them, and columns before where parts go.
    let shapes: [(usize, &[usize], [usize; 3]); 6] = [
        (1, &[1, 1, 1], [0, 0, 0]),
        (2, &[8, 8, 8], [0, 0, 0]),
        (3, &[35, 7, 7], [0, 0, 0]),
        (8, &[16 * 64, 64, 64], [0, 0, 0]),
        (4, &[16, 16], [0, 5, 3]),
        (3, &[4, 4, 9, 9], [6, 2, 1]),
    ];
    for (n_groups, widths, [before, after, to]) in shapes {
        let width = n_groups * widths.iter().sum::<usize>();
        for n_tokens in [1, 2, 17] {
            let groups = Groups {
                n_groups,
                parts: Groups::parts(widths, n_groups, to),
                first: before,
                row_width: before + width + after,
                out_width: to + width + after,
            };
            cases.push(GroupsCase { groups, n_tokens });
        }
    }
    cases
}

impl Case for GroupsCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let mut device = Device::new(backend);
        let (n, n_out) = (
            self.n_tokens * self.groups.row_width,
            self.n_tokens * self.groups.out_width,
        );
        let mut random = Random::new(8);
        let grouped = device.buffer(&random.values(n, 1.0));
        // Other columns stay.
        let mut out = device.buffer(&random.values(n_out, 1.0));
        device
            .queue
            .ungroup(&self.groups, &grouped, &mut out, self.n_tokens)
            .expect(WORKS);
        device.read(&out, n_out)
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        vec![0.0; expected.len()]
    }
}
