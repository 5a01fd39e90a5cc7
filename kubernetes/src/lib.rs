//! Everything of Pointsman that speaks to a Kubernetes API server, and nothing that decides.
//!
//! Every call has a deadline, nothing is repeated behind the caller's back, and an API server that is lost changes
//! nothing: what was last known stays, and says that it is old. Pure parts (merging slices, planning patches, the rules
//! of the Lease, the bounds of the annotation) take values and the time; the rest carries out what they say.

pub mod annotation;
mod client;
mod discovery;
mod error;
mod events;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod lease;
mod live_service;
mod retire;
mod seen;
mod trouble;
mod watching;

pub use client::{Cluster, ConnectError, Deadlines};
pub use discovery::{Condition, Discovered, Discovery, Endpoint, Picture, PortChoice, ServiceName};
pub use error::CallError;
pub use events::{EventSink, Journal, Post, Told};
pub use lease::{Candidacy, Election, Leadership, LeaseTimes, LeaseTimesError, Move, Record};
pub use live_service::{
    Document, FIELD_MANAGER, Followed, Foreign, Found, LiveService, Observed, Obstacle, OnForeign, Selected, Wanted,
    WriteError, Writer, claim, plan,
};
pub use retire::{Retired, scale_down};
pub use seen::service_seen;
pub use watching::Link;
