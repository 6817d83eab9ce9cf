//! Graphs: work recorded once and launched again and again.

use super::{Code, Driver, Work};

/// Work of a device with what must be done before each piece.
#[derive(Clone)]
pub(crate) struct Graph {
    pub(crate) device: usize,
    pub(crate) nodes: Vec<Node>,
}

#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) handle: usize,
    pub(crate) work: Work,
    /// Indices of nodes.
    pub(crate) after: Vec<usize>,
}

impl Graph {
    /// Indices of nodes by their handles.
    pub(crate) fn indices(&self, handles: &[usize]) -> Result<Vec<usize>, Code> {
        handles
            .iter()
            .map(|handle| {
                self.nodes
                    .iter()
                    .position(|node| node.handle == *handle)
                    .ok_or(Code::INVALID_VALUE)
            })
            .collect()
    }
}

impl Driver {
    /// Puts a node into a graph; returns its handle.
    pub(crate) fn add_node(
        &mut self,
        graph: usize,
        after: &[usize],
        work: Work,
    ) -> Result<usize, Code> {
        let handle = self.handle();
        let graph = self.graphs.get_mut(&graph).ok_or(Code::INVALID_HANDLE)?;
        let after = graph.indices(after)?;
        graph.nodes.push(Node {
            handle,
            work,
            after,
        });
        Ok(handle)
    }

    /// A graph of pieces that follow each other, as a captured stream has them.
    pub(crate) fn chain(&mut self, device: usize, work: Vec<Work>) -> Graph {
        let nodes = work
            .into_iter()
            .enumerate()
            .map(|(at, work)| Node {
                handle: self.handle(),
                work,
                after: at.checked_sub(1).into_iter().collect(),
            })
            .collect();
        Graph { device, nodes }
    }

    /// Runs all nodes, each after those that it names, the seed choosing among orders.
    pub(super) fn run_graph(&mut self, device: usize, graph: &Graph) {
        let mut is_done = vec![false; graph.nodes.len()];
        for _ in 0..graph.nodes.len() {
            let ready: Vec<usize> = (0..graph.nodes.len())
                .filter(|at| !is_done[*at])
                .filter(|at| graph.nodes[*at].after.iter().all(|before| is_done[*before]))
                .collect();
            if self.check(device).is_err() {
                return;
            }
            let chosen = if self.settings.seed == 0 {
                ready[0]
            } else {
                ready[self.choose(ready.len())]
            };
            is_done[chosen] = true;
            self.perform(device, graph.nodes[chosen].work.clone());
        }
    }
}
