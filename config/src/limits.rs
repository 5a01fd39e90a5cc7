//! How large, how many and how often requests may be.

use std::time::Duration;

use serde::Serialize;

/// How large, how many and how often requests may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Largest body in bytes; a larger one is answered 413. Default 64 MiB.
    pub body_bytes: u64,
    /// Largest request head (request line and headers) in bytes; a larger one is answered 431. Default 64 KiB.
    pub header_bytes: u64,
    /// Requests of the route that are worked on at a time; more are answered 503. Default: no limit.
    pub concurrent_requests: Concurrency,
    /// How often requests may come; more are answered 429. Each limit counts.
    pub rate: Vec<RateLimit>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 64 << 20,
            header_bytes: 64 << 10,
            concurrent_requests: Concurrency::Unlimited,
            rate: Vec::new(),
        }
    }
}

/// How many requests of a route are worked on at a time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Concurrency {
    /// As many as come.
    #[default]
    Unlimited,
    /// This many.
    Fixed(u32),
    /// As many as the versions take without their answers getting slower; found out while they work.
    Adaptive,
}

/// How often requests may come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RateLimit {
    /// So many requests ...
    pub requests: u32,
    /// ... in this time.
    pub per: Duration,
    /// How many may come at once. Default: `requests`.
    pub burst: u32,
    /// What is counted apart.
    pub key: RateKey,
}

/// Whose requests are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RateKey {
    /// All of the route.
    Route,
    /// Those of one client address, IPv6 by its /64.
    ClientIp,
    /// Those with the same value of a header; lower case. Requests without it are counted together.
    Header(String),
}
