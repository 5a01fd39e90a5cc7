//! Gradient-boosted trees, walked without a branch that the processor could guess wrongly: every leaf leads to
//! itself, so that a group of trees goes down together for as many steps as its deepest has, whatever the row.

mod layout;

use layout::{Forest, Node, Tree};

use super::tensors::{Tensors, WEIGHTS};
use super::{Model, ModelError, only_columns};
use crate::bundle::{Bundle, Link, TreesShape};
use crate::schema::{Rows, narrow};

/// Trees that go down side by side: the processor waits for one node while it compares the others.
const TREES_TOGETHER: usize = 8;

/// Rows that go through a group of trees before the next group is fetched.
const ROWS_TOGETHER: usize = 64;

/// See [`Model`].
#[derive(Debug)]
pub(super) struct Trees {
    forest: Forest,
    start: f64,
    link: Link,
    width: usize,
}

impl Trees {
    pub(super) fn build(bundle: &Bundle, shape: &TreesShape) -> Result<Self, ModelError> {
        only_columns(bundle)?;
        if bundle.manifest.output.size.is_some() {
            return Err(ModelError::Output { wanted: "one value".to_owned() });
        }
        if !shape.start.is_finite() {
            return Err(ModelError::Impossible { what: "that the sum starts at no finite number".to_owned() });
        }
        let mut tensors = Tensors::read(bundle.file(WEIGHTS)?)?;
        let stored = layout::Stored {
            roots: tensors.positions("trees.root", &[shape.trees])?,
            features: tensors.positions("nodes.column", &[shape.nodes])?,
            thresholds: tensors.floats("nodes.threshold", &[shape.nodes])?,
            left: tensors.positions("nodes.left", &[shape.nodes])?,
            right: tensors.positions("nodes.right", &[shape.nodes])?,
            values: tensors.doubles("nodes.value", &[shape.nodes])?,
        };
        tensors.finish()?;
        let width = bundle.schema.width();
        Ok(Self { forest: stored.lay_out(width)?, start: shape.start, link: shape.link, width })
    }

    /// The predictions for a few rows.
    fn block(&self, columns: &[f32], predictions: &mut Vec<f32>) {
        let mut sums = [self.start; ROWS_TOGETHER];
        for trees in self.forest.trees.chunks(TREES_TOGETHER) {
            for (row, sum) in columns.chunks_exact(self.width).zip(&mut sums) {
                *sum = self.add(trees, row, *sum);
            }
        }
        let rows = columns.len() / self.width;
        predictions.extend(sums.iter().take(rows).map(|sum| narrow(linked(self.link, *sum))));
    }

    /// A sum with the leaves that a row reaches in these trees, in their order.
    fn add(&self, trees: &[Tree], row: &[f32], sum: f64) -> f64 {
        let mut at = [0; TREES_TOGETHER];
        let mut steps = 0;
        for (at, tree) in at.iter_mut().zip(trees) {
            *at = tree.root;
            steps = steps.max(tree.depth);
        }
        for _ in 0..steps {
            for at in at.iter_mut().take(trees.len()) {
                *at = self.forest.nodes.get(*at).map_or(*at, |node| next(node, row));
            }
        }
        let leaves = at.iter().take(trees.len());
        leaves.fold(sum, |sum, leaf| sum + self.forest.values.get(*leaf).copied().unwrap_or(f64::NAN))
    }
}

/// The node below: the left one when the value is at most the threshold, else the one beside it.
fn next(node: &Node, row: &[f32]) -> usize {
    let value = row.get(usize::from(node.column)).copied().unwrap_or(f32::NAN);
    node.left + usize::from(value > node.threshold)
}

fn linked(link: Link, sum: f64) -> f64 {
    match link {
        Link::Identity => sum,
        Link::Logistic => 1.0 / (1.0 + (-sum).exp()),
        Link::Exponential => sum.exp(),
    }
}

impl Model for Trees {
    fn predict(&self, rows: &Rows) -> Result<Vec<f32>, ModelError> {
        let mut predictions = Vec::with_capacity(rows.count);
        for block in rows.columns.chunks(ROWS_TOGETHER * self.width) {
            self.block(block, &mut predictions);
        }
        Ok(predictions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks the tensors as they are written, one branch after the other.
    fn plainly(stored: &layout::Stored, row: &[f32]) -> f64 {
        let down = |root: &u32| {
            let mut at = usize::try_from(*root).unwrap();
            while stored.left[at] != 0 {
                let left = row[usize::try_from(stored.features[at]).unwrap()] <= stored.thresholds[at];
                at = usize::try_from(if left { stored.left[at] } else { stored.right[at] }).unwrap();
            }
            stored.values[at]
        };
        stored.roots.iter().map(down).sum()
    }

    /// Adds a tree that is deeper on its left side; gives its root.
    fn grow(stored: &mut layout::Stored, depth: u32) -> u32 {
        let at = stored.left.len();
        let position = u32::try_from(at).unwrap();
        stored.features.push(position % 2);
        stored.thresholds.push(f32::from(u8::try_from(position * 37 % 101).unwrap()) / 30.0);
        stored.left.push(0);
        stored.right.push(0);
        stored.values.push(f64::from(position) / 8.0);
        if depth > 0 {
            stored.left[at] = grow(stored, depth - 1);
            stored.right[at] = grow(stored, depth / 2);
        }
        position
    }

    fn uneven(trees: u32) -> layout::Stored {
        let mut stored = layout::Stored::default();
        for tree in 0..trees {
            let root = grow(&mut stored, tree % 6);
            stored.roots.push(root);
        }
        stored
    }

    #[test]
    fn uneven_trees_give_what_a_plain_walk_gives() {
        let stored = uneven(21);
        let rows: Vec<[f32; 2]> = (0..200_u8).map(|row| [f32::from(row) / 60.0, f32::from(200 - row) / 70.0]).collect();
        let wanted: Vec<f32> = rows.iter().map(|row| narrow(plainly(&stored, row))).collect();
        let trees = Trees { forest: stored.lay_out(2).unwrap(), start: 0.0, link: Link::Identity, width: 2 };
        let rows = Rows { columns: rows.concat(), count: 200, ..Rows::default() };
        assert_eq!(trees.predict(&rows).unwrap(), wanted);
        assert!(wanted.iter().any(|value| value.to_bits() != wanted[0].to_bits()), "no row goes another way");
    }

    #[test]
    fn links_are_the_inverse_of_what_was_trained_on() {
        assert!((linked(Link::Logistic, 0.0) - 0.5).abs() < 1e-12);
        assert!(linked(Link::Logistic, -800.0).abs() < 1e-12);
        assert!((linked(Link::Exponential, 1.0) - std::f64::consts::E).abs() < 1e-12);
    }
}
