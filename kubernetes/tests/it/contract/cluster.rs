//! The two servers that a case runs on, and what they are asked beside what every test asks.

use kube::Resource;
use kube::core::Status;

pub(super) use pointsman_testbed::{Cluster, PATIENCE, eventually};

/// What the server said instead of doing it.
pub(super) fn refusal<T: std::fmt::Debug>(outcome: kube::Result<T>) -> Status {
    let error = outcome.unwrap_err();
    let kube::Error::Api(status) = error else { panic!("no refusal of the server but {error:?}") };
    *status
}

pub(super) fn check_refusal<T: std::fmt::Debug>(outcome: kube::Result<T>, code: u16, reason: &str, message: &str) {
    let status = refusal(outcome);
    assert_eq!((status.code, status.reason.as_str(), status.message.as_str()), (code, reason, message));
}

pub(super) fn version_of<K: Resource>(object: &K) -> String {
    object.meta().resource_version.clone().unwrap()
}
