//! Graphs: work with an order, to be done as often as one likes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::driver::{Handle, Session, known};
use crate::error::{Error, Result};
use crate::work::Work;

/// A graph.
#[derive(Clone, Default)]
pub struct Graph {
    pub nodes: BTreeMap<Handle, Node>,
}

/// Work in a graph.
#[derive(Clone)]
pub struct Node {
    pub work: Work,
    /// Nodes that come before.
    pub after: Vec<Handle>,
}

/// A graph that can be launched.
pub struct Exec {
    pub graph: Arc<Graph>,
}

impl Graph {
    /// These nodes and all that come before them.
    pub fn up_to(&self, ends: &[Handle]) -> BTreeSet<Handle> {
        let mut found = BTreeSet::new();
        let mut open = ends.to_vec();
        while let Some(node) = open.pop() {
            if found.insert(node)
                && let Some(node) = self.nodes.get(&node)
            {
                open.extend(&node.after);
            }
        }
        found
    }

    /// Whether every node can have its turn.
    fn has_order(&self) -> bool {
        let mut left: BTreeSet<Handle> = self.nodes.keys().copied().collect();
        while !left.is_empty() {
            let before = left.len();
            let stuck = |node: &Handle| self.nodes[node].after.iter().any(|n| left.contains(n));
            let still: BTreeSet<Handle> = left.iter().copied().filter(stuck).collect();
            if still.len() == before {
                return false;
            }
            left = still;
        }
        true
    }
}

impl Session {
    pub fn instantiate(&mut self, graph: Handle) -> Result<Handle> {
        let graph = known(&self.graphs, graph)?;
        if !graph.has_order() {
            return Err(Error::INVALID_VALUE);
        }
        let graph = Arc::new(graph.clone());
        let handle = self.handle();
        self.execs.insert(handle, Exec { graph });
        Ok(handle)
    }

    /// Does a graph's work, in an order drawn from those that its edges allow.
    pub fn run_graph(&mut self, context: Handle, graph: &Graph) -> Result {
        let mut left: BTreeSet<Handle> = graph.nodes.keys().copied().collect();
        while !left.is_empty() {
            let free = |node: &&Handle| !graph.nodes[node].after.iter().any(|n| left.contains(n));
            let ready: Vec<Handle> = left.iter().filter(free).copied().collect();
            let Some(&node) = ready.get(self.draw(ready.len())) else {
                return Err(Error::UNKNOWN);
            };
            left.remove(&node);
            self.execute(context, &graph.nodes[&node].work)?;
        }
        Ok(())
    }
}
