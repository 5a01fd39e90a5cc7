//! What this build is made from.

/// Version, commit and, where the build was told one, date: `0.1.0 (1a2b3c4d5e6f-dirty, 2026-01-31)`.
pub const VERSION: &str = env!("POINTSMAN_VERSION");
