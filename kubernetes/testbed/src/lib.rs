//! What tests stand on that run on the fake API server of `chaos` and, as they are, on the cluster that `KUBECONFIG`
//! names: a namespace of its own for each, which goes afterwards however the test ends.
//!
//! Without `KUBECONFIG` the tests on a cluster are left out; `REQUIRE_KUBERNETES=1` makes that a failure.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::missing_panics_doc,
    reason = "a part of tests: it fails by panicking, and says why it was left out"
)]

mod cluster;
mod front;
mod pods;
mod stage;
mod stand_in;
mod way;

pub use cluster::{Cluster, PATIENCE, eventually};
pub use pods::Pod;
pub use stage::{on_a_bare_fake, on_a_cluster, on_the_fake};
pub use way::Way;
