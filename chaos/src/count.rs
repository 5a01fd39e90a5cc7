//! Counts as floats, and of as many bits on every machine.

/// Exact for every count that a world here reaches; infinite beyond 32 bits.
pub(crate) fn exact(count: impl TryInto<u32>) -> f64 {
    count.try_into().map_or(f64::INFINITY, f64::from)
}

/// A count of things in memory.
pub(crate) fn as_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
