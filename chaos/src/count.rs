//! Counts as floats.

/// Exact for every count that a world here reaches; infinite beyond 32 bits.
pub(crate) fn exact(count: impl TryInto<u32>) -> f64 {
    count.try_into().map_or(f64::INFINITY, f64::from)
}
