//! The live Service as it is seen, and what is known of the way back: values that a shell looks up for each tick.
//!
//! Line: (cluster) ► **service** ► phase ► desired.

use std::time::Duration;

use pointsman_config::{Split, VersionId};
use serde::{Deserialize, Serialize};

use crate::input::Resume;

/// What stands in the cluster of a route's live Service; a shell that cannot ask gives what it saw last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSeen {
    /// What its selector selects.
    pub selected: Selected,
    /// Endpoints that are ready in all of its slices; none while those are not known. That nobody is ready is known only as
    /// long as they are heard.
    pub ready: Option<usize>,
    /// Whether its slices are heard at present; if not, the rest is as it was when they were heard last.
    pub heard: bool,
    /// Whether all of its slices hold endpoints of the selected version and of no other. Of a Service without endpoints it
    /// says nothing.
    pub agreed: bool,
    /// Somebody else's change of its selector or of the annotation, as long as it stands.
    pub foreign: Option<Foreign>,
}

/// What a selector selects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selected {
    /// A version of this route.
    Version(VersionId),
    /// Something else, in words such as `version=v9`.
    Other(String),
}

impl Selected {
    /// Whether it is `version`.
    pub fn is(&self, version: &VersionId) -> bool {
        match self {
            Self::Version(selected) => selected == version,
            Self::Other(_) => false,
        }
    }

    /// `v1`, or the words.
    pub fn in_words(&self) -> &str {
        match self {
            Self::Version(version) => version.as_str(),
            Self::Other(words) => words,
        }
    }
}

/// A change of the live Service that is not ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foreign {
    /// Who: the field manager that wrote it.
    pub by: String,
    /// What was changed, in words.
    pub what: String,
    /// When, as the API server wrote it down: the same change at another time is another change.
    pub when: String,
}

/// Whether the way back is proven: the old version has endpoints enough and was checked of late, and going back was
/// rehearsed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WayBack {
    /// It is.
    Proven {
        /// How long the rehearsal took: what a rollback is expected to take.
        took: Duration,
    },
    /// It is not.
    Unproven {
        /// Why, as the end of a sentence.
        why: String,
    },
}

/// Nobody has looked.
pub(crate) static NOBODY_LOOKED: WayBack = WayBack::Unproven { why: String::new() };

impl WayBack {
    /// Why it is not proven, as the end of a sentence; none if it is.
    pub fn doubt(&self) -> Option<&str> {
        match self {
            Self::Proven { .. } => None,
            Self::Unproven { why } if why.is_empty() => Some("nobody has looked yet"),
            Self::Unproven { why } => Some(why),
        }
    }
}

/// What a tick showed of everything around the route that a live Service depends on.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    /// The live Service; none while nothing was seen of it.
    pub(crate) service: Option<ServiceSeen>,
    /// What the edge applies; none before the first tick.
    pub(crate) applied: Option<Split>,
    /// Whether every edge applies what is granted.
    pub(crate) acknowledged: bool,
    /// Whether the way back is proven.
    pub(crate) way_back: WayBack,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self { service: None, applied: None, acknowledged: false, way_back: NOBODY_LOOKED.clone() }
    }
}

/// What somebody else did to the live Service, and how that was answered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Custody {
    /// Whether the live Service was found as Pointsman would have it, or somebody said what counts, at least once: before
    /// that it is not touched.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) taken: bool,
    /// What waits for an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) open: Option<Foreign>,
    /// What was answered and may still be seen, until it is written over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) answered: Option<Foreign>,
    /// How that was answered.
    #[serde(default)]
    pub(crate) how: Resume,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_false(value: &bool) -> bool {
    !value
}
