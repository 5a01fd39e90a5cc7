//! What the manifests are held to. `kubectl kustomize` renders an overlay, [`Objects`] reads it, and [`findings`] says
//! what is wrong with it: pure functions from values to words, so that each rule can be shown to bite.
//!
//! | module | holds |
//! |---|---|
//! | [`schema`] | every field is one that Kubernetes (or the Prometheus Operator) knows |
//! | [`pods`] | limits, probes, the end of a pod, and that nothing runs as root or writes where it should not |
//! | [`wiring`] | selectors, ports and names meet something that is there |
//! | [`network`] | network policies let through what must get through, and nothing is without one |
//! | [`access`] | the edge may do what it needs, to the objects it needs |
//! | [`edge`] | the config in the `ConfigMap` fits the objects around it |
//! | [`monitoring`] | alerts and dashboard name metrics and labels that exist |

pub mod access;
pub mod edge;
pub mod monitoring;
pub mod network;
mod objects;
pub mod pods;
mod quantity;
pub mod schema;
pub mod wiring;

pub use objects::{Labels, NotRead, Object, Objects, Read};

use std::fmt;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Kind and name of the object.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.problem)
    }
}

/// Everything that is wrong with a rendered overlay; `external` are the Secrets that are made by hand before it is applied.
pub fn findings(objects: &Objects, external: &[&str]) -> Vec<Finding> {
    let mut found = schema::check(objects);
    found.extend(pods::check(objects));
    found.extend(wiring::check(objects, external));
    found.extend(network::check(objects));
    found.extend(access::check(objects));
    found.extend(edge::check(objects));
    found.sort();
    found.dedup();
    found
}
