//! The manifests as `kubectl kustomize` renders them, against every rule; and every rule against something that breaks it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::print_stderr,
    clippy::wildcard_enum_match_arm,
    unreachable_pub,
    reason = "a test fails by panicking, and says on stderr what it skips"
)]

mod bite;
mod bundles;
mod dockerfiles;
mod monitoring;
mod overlays;
mod policy;
mod render;
