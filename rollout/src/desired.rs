//! How a route's traffic shall be divided: a function of the phase, cut by what must not be.

use std::collections::BTreeMap;

use pointsman_config::{Split, VersionId};

use crate::input::Ready;

/// How it shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// What the file, the plan or an operator asks.
    pub asked: Split,
    /// The same without quarantined versions.
    pub granted: Split,
    /// Who takes over while the granted version has no ready endpoint; only where all traffic is on a version that
    /// replaced another one.
    pub fallback: Option<VersionId>,
}

impl Desired {
    /// What the edge applies: granted, cut by readiness. A version without a ready endpoint gets nothing as long as
    /// the other one has some.
    pub fn effective(&self, ready: &BTreeMap<VersionId, Ready>) -> Split {
        let up = |version: &VersionId| ready.get(version).is_some_and(|ready| ready.up > 0);
        match (&self.granted, &self.fallback) {
            (Split::Canary { stable, canary, .. }, _) if !up(canary) && up(stable) => Split::Whole(stable.clone()),
            (Split::Whole(whole), Some(fallback)) if !up(whole) && up(fallback) => Split::Whole(fallback.clone()),
            (Split::Canary { .. } | Split::Whole(_), _) => self.granted.clone(),
        }
    }
}
