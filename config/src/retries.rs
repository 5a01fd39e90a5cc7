//! What is repeated so that a user does not see a failure, and what that may cost.

use std::collections::BTreeSet;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plan::ErrorKind;

/// When a failed attempt is repeated: on another endpoint, or on stable when the canary failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Retries {
    /// Which requests are safe to repeat. Default idempotent ones.
    pub replay: Replay,
    /// Attempts on one request, the first included; 1 turns retries off. Default 3.
    pub attempts: u32,
    /// Retries per request that are allowed in the long run, in parts per million. Default 10 %.
    pub budget_ppm: u32,
    /// Retries per second that are allowed however few requests there are. Default 3.
    pub budget_floor: u32,
    /// The largest body that is kept to be sent again, in bytes; at most 64 KiB. Default 64 KiB.
    pub body_bytes: u64,
    /// How long one attempt may take to its answer's head; none: as long as the whole request.
    pub per_try: Option<Duration>,
    /// Which failures are repeated. Default all.
    pub on: BTreeSet<ErrorKind>,
}

impl Retries {
    /// The largest body that can be kept; the framework's own limit.
    pub const MOST_BODY_BYTES: u64 = 64 << 10;
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            replay: Replay::Idempotent,
            attempts: 3,
            budget_ppm: 100_000,
            budget_floor: 3,
            body_bytes: Self::MOST_BODY_BYTES,
            per_try: None,
            on: [ErrorKind::Status5xx, ErrorKind::Timeout, ErrorKind::Connect, ErrorKind::Reset].into(),
        }
    }
}

/// Which requests are safe to repeat once a version may have seen them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Replay {
    /// None; only what no version can have seen is sent again.
    Never,
    /// Those whose method says so (RFC 9110, section 9.2.2).
    Idempotent,
    /// POST as well: what this route serves are predictions, which change nothing.
    Predictions,
}
