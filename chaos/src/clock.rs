//! The time of day, for figures that two processes compare.

use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds since 1970; 0 on a machine whose clock stands before that.
pub(crate) fn unix_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
