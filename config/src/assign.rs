//! Who gets the canary: by chance, always the same for one user, or as a tester asks.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::split::VersionId;

/// What makes a user: requests with the same key go to the same version for as long as a rollout lasts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sticky {
    /// The value of a header; lower case. A request without it is assigned by chance.
    Header(String),
    /// A cookie that the edge sets.
    Cookie(StickyCookie),
    /// The client's address, IPv6 by its /64.
    ClientIp,
}

/// The cookie that makes a user: a random name, signed, so that clients cannot choose their version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StickyCookie {
    /// Its name.
    pub name: String,
    /// How long browsers keep it. Default 30 days.
    pub max_age: Duration,
    /// File with the secret that signs it; several edges of one site share it. None: a secret of this edge's own, kept
    /// with its state.
    pub secret_file: Option<PathBuf>,
}

/// Has requests go to a version whatever its weight; they are no evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Override {
    /// What is looked at.
    pub source: OverrideSource,
    /// The value that asks for it; none if the value names the version.
    pub ask: Option<Ask>,
}

/// One value, and the version it asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ask {
    /// The value, to the letter.
    pub value: String,
    /// The version; a key of the route's versions.
    pub version: VersionId,
}

/// Where a tester says which version is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OverrideSource {
    /// A header; lower case.
    Header(String),
    /// A cookie.
    Cookie(String),
}
