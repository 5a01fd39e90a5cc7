//! Trees as the file holds them, checked, and as they are walked: in the order of their levels, with the two
//! nodes below a node side by side.

use super::ModelError;

/// Trees as the file holds them. A node is a leaf when `left` and `right` are 0, which no node has below it,
/// since node 0 is the first root.
#[derive(Debug, Default)]
pub(super) struct Stored {
    /// For each tree the position of its root.
    pub(super) roots: Vec<u32>,
    /// Of each node the column that is compared.
    pub(super) features: Vec<u32>,
    /// What it is compared with.
    pub(super) thresholds: Vec<f32>,
    /// Where a row goes on whose value is at most the threshold.
    pub(super) left: Vec<u32>,
    /// Where any other row goes on.
    pub(super) right: Vec<u32>,
    /// What a leaf adds to the sum.
    pub(super) values: Vec<f64>,
}

/// One node as it is walked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    /// Where a row goes on whose value is at most the threshold; other rows go to the node behind that.
    pub(super) left: usize,
    /// What is compared. Of a leaf infinite, so that every row stays.
    pub(super) threshold: f32,
    /// The column that is compared.
    pub(super) column: u16,
}

/// Where a tree starts, and how many steps its deepest leaf is away.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tree {
    pub(super) root: usize,
    pub(super) depth: usize,
}

/// All trees, as they are walked.
#[derive(Debug, Default)]
pub(super) struct Forest {
    pub(super) trees: Vec<Tree>,
    pub(super) nodes: Vec<Node>,
    /// What each node adds to the sum when the walk ends there.
    pub(super) values: Vec<f64>,
}

/// A node as the file holds it.
#[derive(Clone, Copy)]
struct Raw {
    column: u32,
    threshold: f32,
    below: Option<[u32; 2]>,
    value: f64,
}

impl Stored {
    /// Checks that every node belongs to one tree, once, and compares a column that there is.
    pub(super) fn lay_out(&self, width: usize) -> Result<Forest, ModelError> {
        let mut seen = vec![false; self.left.len()];
        let mut forest = Forest::default();
        for root in &self.roots {
            let tree = self.tree(*root, width, &mut seen, &mut forest)?;
            forest.trees.push(tree);
        }
        match seen.iter().position(|seen| !seen) {
            Some(node) => Err(ModelError::Tree { node, problem: "belongs to no tree" }),
            None => Ok(forest),
        }
    }

    /// Lays one tree out, level by level.
    fn tree(&self, root: u32, width: usize, seen: &mut [bool], forest: &mut Forest) -> Result<Tree, ModelError> {
        let start = forest.nodes.len();
        let mut level = vec![root];
        let mut depth = 0;
        loop {
            let mut below = Vec::new();
            // The children of this level come behind all of its own nodes.
            let first_below = forest.nodes.len() + level.len();
            for position in level {
                let raw = self.visit(position, seen)?;
                let at = forest.nodes.len();
                let node = match raw.below {
                    None => Node { left: at, threshold: f32::INFINITY, column: 0 },
                    Some(_) => Node {
                        left: first_below + below.len(),
                        threshold: raw.threshold,
                        column: column_within(raw.column, width)
                            .ok_or(ModelError::Tree { node: place(position), problem: "compares no column" })?,
                    },
                };
                below.extend(raw.below.into_iter().flatten());
                forest.nodes.push(node);
                forest.values.push(raw.value);
            }
            if below.is_empty() {
                return Ok(Tree { root: start, depth });
            }
            level = below;
            depth += 1;
        }
    }

    /// A node that nobody has come to before.
    fn visit(&self, position: u32, seen: &mut [bool]) -> Result<Raw, ModelError> {
        let node = place(position);
        match (seen.get_mut(node), self.raw(node)) {
            (Some(true), _) => Err(ModelError::Tree { node, problem: "can be reached on two ways" }),
            (Some(seen), Some(raw)) => {
                *seen = true;
                match raw.below {
                    Some([0, _] | [_, 0]) => Err(ModelError::Tree { node, problem: "has one way down, not two" }),
                    _ => Ok(raw),
                }
            }
            (_, _) => Err(ModelError::Tree { node, problem: "is not there" }),
        }
    }

    fn raw(&self, node: usize) -> Option<Raw> {
        let below = [*self.left.get(node)?, *self.right.get(node)?];
        Some(Raw {
            column: *self.features.get(node)?,
            threshold: *self.thresholds.get(node)?,
            below: (below != [0, 0]).then_some(below),
            value: *self.values.get(node)?,
        })
    }
}

fn place(position: u32) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}

fn column_within(column: u32, width: usize) -> Option<u16> {
    u16::try_from(column).ok().filter(|column| usize::from(*column) < width)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stump() -> Stored {
        Stored {
            roots: vec![0],
            features: vec![1, 0, 0],
            thresholds: vec![0.5, 0.0, 0.0],
            left: vec![1, 0, 0],
            right: vec![2, 0, 0],
            values: vec![0.0, -1.0, 1.0],
        }
    }

    fn refusal(change: impl FnOnce(&mut Stored)) -> String {
        let mut stored = stump();
        change(&mut stored);
        stored.lay_out(2).unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_tree_is_refused() {
        assert!(stump().lay_out(2).is_ok());
        assert!(
            refusal(|stored| stored.right[0] = 9).contains("node 9 of the trees in model.safetensors is not there")
        );
        assert!(
            refusal(|stored| stored.right[0] = 1).contains("node 1 of the trees in model.safetensors can be reached")
        );
        assert!(refusal(|stored| stored.right[0] = 0).contains("has one way down"));
        assert!(refusal(|stored| stored.features[0] = 2).contains("compares no column"));
        assert!(refusal(|stored| stored.roots = vec![1]).contains("node 0 of the trees in model.safetensors belongs"));
        let circle = |stored: &mut Stored| (stored.left[1], stored.right[1]) = (1, 2);
        assert!(refusal(circle).contains("reached on two ways"));
    }
}
