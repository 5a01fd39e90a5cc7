//! The suites of the data path over the fast lane.
#![allow(clippy::duplicate_mod, reason = "both lanes pass the same suites")]

#[path = "drain.rs"]
mod drain;
#[path = "edge.rs"]
mod edge;
#[path = "outcomes.rs"]
mod outcomes;
#[path = "retries.rs"]
mod retries;
#[path = "smuggling.rs"]
mod smuggling;
#[path = "timeouts.rs"]
mod timeouts;

mod harness {
    //! The edge whose plain requests take the fast lane.

    pub use crate::harness::*;

    pub type TestEdge = OneLane<true>;
}
