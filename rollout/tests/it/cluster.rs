//! A cluster in virtual time: a live Service whose slices follow its selector after a while, an API server that can be
//! lost, patches that land late, and edges that acknowledge late.

use std::collections::BTreeMap;

use pointsman_config::{Route, Split, VersionId};
use pointsman_rollout::{Desired, Foreign, Ready, Selected, ServiceSeen, WayBack};

use crate::world::version;

/// One patch of the selector, and what was true when it landed.
#[derive(Debug, Clone)]
pub(crate) struct Patch {
    pub(crate) to: VersionId,
    /// What this edge applied.
    pub(crate) applied: Split,
    /// Whether every other edge applied the same.
    pub(crate) acknowledged: bool,
    /// Endpoints of the version that were ready.
    pub(crate) ready: usize,
}

/// What the slices show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shows {
    /// The pods of a version.
    Pods,
    /// That there are none.
    Nobody,
    /// They are not heard.
    Nothing,
}

/// The live Service of a route, and the edges beside this one.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) selector: Selected,
    /// What the slices hold.
    pub(crate) slices: Selected,
    pub(crate) shows: Shows,
    /// Whether slices are heard at present; what they showed last stays known.
    pub(crate) hears_slices: bool,
    /// Ticks until slices follow the selector, and other edges the leader.
    pub(crate) lag: u32,
    pub(crate) foreign: Option<Foreign>,
    /// Whether the API server answers.
    pub(crate) api_is_up: bool,
    /// Whether other edges answer.
    pub(crate) acknowledged: bool,
    /// What the other edges apply.
    pub(crate) elsewhere: Split,
    pub(crate) way_back: WayBack,
    /// Every patch that landed.
    pub(crate) patches: Vec<Patch>,
    slices_wait: u32,
    edges_wait: u32,
    picture: Option<ServiceSeen>,
}

impl Cluster {
    pub(crate) fn new(route: &Route) -> Self {
        let stable = Selected::Version(route.stable.clone());
        Self {
            selector: stable.clone(),
            slices: stable,
            shows: Shows::Pods,
            hears_slices: true,
            lag: 3,
            foreign: None,
            api_is_up: true,
            acknowledged: true,
            elsewhere: Split::Whole(route.stable.clone()),
            way_back: WayBack::Proven { took: std::time::Duration::from_millis(40) },
            patches: Vec::new(),
            slices_wait: 0,
            edges_wait: 0,
            picture: None,
        }
    }

    /// What a watch shows; the last picture while the API server is lost.
    pub(crate) fn seen(&self, ready: &BTreeMap<VersionId, Ready>) -> Option<ServiceSeen> {
        if !self.api_is_up {
            return self.picture.clone();
        }
        let up = match &self.slices {
            Selected::Version(version) if self.shows == Shows::Pods => ready.get(version).map_or(0, |ready| ready.up),
            Selected::Version(_) | Selected::Other(_) => 0,
        };
        Some(ServiceSeen {
            selected: self.selector.clone(),
            ready: (self.shows != Shows::Nothing).then_some(up),
            agreed: self.shows != Shows::Nothing && self.slices == self.selector,
            heard: self.hears_slices && self.shows != Shows::Nothing,
            foreign: self.foreign.clone(),
        })
    }

    /// Somebody else writes the selector.
    pub(crate) fn seize(&mut self, to: Selected) {
        self.selector = to;
        self.foreign = Some(Foreign {
            by: "kubectl-edit".to_owned(),
            what: format!("the selector is {} now", self.selector.in_words()),
            when: format!("after {} patches", self.patches.len()),
        });
    }

    /// The shell carries out what is desired; slices and other edges follow in their time.
    pub(crate) fn reconcile(&mut self, desired: &Desired, ready: &BTreeMap<VersionId, Ready>, applied: &Split) {
        self.picture = self.seen(ready);
        if let Some(to) = desired.selected.as_ref().filter(|to| self.api_is_up && !self.selector.is(to)) {
            let up = ready.get(to).map_or(0, |ready| ready.up);
            let acknowledged = self.acknowledged && self.elsewhere == desired.granted;
            self.patches.push(Patch { to: to.clone(), applied: applied.clone(), acknowledged, ready: up });
            self.selector = Selected::Version(to.clone());
            self.foreign = None;
            self.slices_wait = self.lag;
        }
        if self.slices != self.selector {
            self.slices_wait = self.slices_wait.saturating_sub(1);
            if self.slices_wait == 0 {
                self.slices = self.selector.clone();
            }
        }
        if self.acknowledged && self.elsewhere != desired.granted {
            self.edges_wait = if self.edges_wait == 0 { self.lag } else { self.edges_wait - 1 };
            if self.edges_wait == 0 {
                self.elsewhere = desired.granted.clone();
            }
        }
    }

    pub(crate) fn selects(&self, name: &str) -> bool {
        self.selector.is(&version(name))
    }
}
