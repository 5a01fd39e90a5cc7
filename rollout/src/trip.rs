//! A canary that was taken back: what an edge that knows of it tells the others.

use pointsman_config::VersionId;
use serde::{Deserialize, Serialize};

/// Who decides for a route that several edges serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// This edge.
    Leader,
    /// Another one: this one takes over what it says, and takes a canary back on its own only when it fails most of its
    /// requests here.
    Follower,
}

/// One build that was taken back, by the edge that tells of it or by another one that it has heard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trip {
    /// Which version.
    pub version: VersionId,
    /// Which build of it.
    pub revision: Option<String>,
    /// Why, for people.
    pub why: String,
    /// After how many decisions, as [`Saved::serial`](crate::Saved::serial) counts: what was decided later about the same
    /// build counts instead.
    #[serde(default)]
    pub serial: u64,
}
