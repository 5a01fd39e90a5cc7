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

    use std::net::SocketAddr;
    use std::ops::{Deref, DerefMut};

    use pointsman::listen::Patience;
    use pointsman_config::Route;

    pub use crate::harness::*;

    pub struct TestEdge(crate::harness::TestEdge);

    impl TestEdge {
        pub fn start(v1: &[SocketAddr]) -> Self {
            Self::with(route(), v1, &[])
        }

        pub fn with(route: Route, v1: &[SocketAddr], v2: &[SocketAddr]) -> Self {
            Self::patient(Patience::default(), route, v1, v2)
        }

        pub fn patient(patience: Patience, route: Route, v1: &[SocketAddr], v2: &[SocketAddr]) -> Self {
            let edge = crate::harness::TestEdge::patient(patience, route, v1, v2);
            edge.publisher.set_fast_lane(true);
            Self(edge)
        }
    }

    impl Deref for TestEdge {
        type Target = crate::harness::TestEdge;

        fn deref(&self) -> &Self::Target {
            &self.0
        }
    }

    impl DerefMut for TestEdge {
        fn deref_mut(&mut self) -> &mut Self::Target {
            &mut self.0
        }
    }
}
