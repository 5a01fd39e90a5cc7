//! What can become of a call to the API server, in words that say what to do.

use std::error::Error;
use std::time::Duration;

use thiserror::Error;

/// Why a call did not give what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CallError {
    /// No answer in time. A write may have been carried out, or may still be.
    #[error("the API server did not answer `{call}` within {} ms; what it was asked may still come about", after.as_millis())]
    Deadline {
        /// What was asked.
        call: String,
        /// How long was waited.
        after: Duration,
    },
    /// No connection, or one that broke. A write may have been carried out.
    #[error(
        "the API server cannot be reached for `{call}`: {reason}; look at the address in KUBECONFIG, or at what the pod may reach (NetworkPolicy)"
    )]
    Unreachable {
        /// What was asked.
        call: String,
        /// What the network said.
        reason: String,
    },
    /// Asked to come back later; nothing was done.
    #[error("the API server is too busy for `{call}`: {reason}")]
    Busy {
        /// What was asked.
        call: String,
        /// What it said.
        reason: String,
        /// When to come back, if it said so.
        retry_after: Option<Duration>,
    },
    /// It failed. A write may have been carried out.
    #[error("the API server failed at `{call}` with {status}: {reason}")]
    Failed {
        /// What was asked.
        call: String,
        /// The HTTP status.
        status: u16,
        /// What it said.
        reason: String,
    },
    /// Not allowed.
    #[error(
        "the API server forbids `{call}`: {reason}; grant it to the service account of Pointsman (Role in `manifests/`)"
    )]
    Forbidden {
        /// What was asked.
        call: String,
        /// What it said.
        reason: String,
    },
    /// There is no such thing.
    #[error("`{call}` found nothing: {reason}; create it, or correct its name in the config file")]
    NotFound {
        /// What was asked.
        call: String,
        /// What it said.
        reason: String,
    },
    /// Somebody else was faster; nothing was done.
    #[error("`{call}` came too late: {reason}")]
    Conflict {
        /// What was asked.
        call: String,
        /// What it said.
        reason: String,
    },
    /// It understood and will not do it; nothing was done.
    #[error("the API server refuses `{call}` with {status}: {reason}")]
    Refused {
        /// What was asked.
        call: String,
        /// The HTTP status.
        status: u16,
        /// What it said.
        reason: String,
    },
    /// Its answer is not what the API promises.
    #[error("the answer to `{call}` cannot be read: {reason}")]
    Unreadable {
        /// What was asked.
        call: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl CallError {
    /// What `error` means for `call`.
    pub(crate) fn of(call: &str, error: &kube::Error) -> Self {
        let call = call.to_owned();
        if let kube::Error::Api(status) = error {
            return Self::of_status(call, status);
        }
        let reason = innermost(error);
        if matches!(error, kube::Error::SerdeError(_) | kube::Error::FromUtf8(_)) {
            Self::Unreadable { call, reason }
        } else {
            Self::Unreachable { call, reason }
        }
    }

    /// What the API server's `status` means for `call`.
    pub(crate) fn of_status(call: String, status: &kube::core::Status) -> Self {
        let reason = if status.message.is_empty() { status.reason.clone() } else { status.message.clone() };
        match status.code {
            403 => Self::Forbidden { call, reason },
            404 => Self::NotFound { call, reason },
            409 => Self::Conflict { call, reason },
            429 => {
                let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
                let retry_after = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
                Self::Busy { call, reason, retry_after }
            }
            500.. => Self::Failed { call, status: status.code, reason },
            other => Self::Refused { call, status: other, reason },
        }
    }

    /// Whether a write that ended like this may have been carried out, or may still be.
    pub fn may_have_landed(&self) -> bool {
        match self {
            Self::Deadline { .. } | Self::Unreachable { .. } | Self::Failed { .. } | Self::Unreadable { .. } => true,
            Self::Busy { .. }
            | Self::Forbidden { .. }
            | Self::NotFound { .. }
            | Self::Conflict { .. }
            | Self::Refused { .. } => false,
        }
    }
}

/// The last cause of `error`: those above it print it again.
pub(crate) fn innermost(error: &dyn Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    #[track_caller]
    fn check(code: u16, landed: bool, words: &str) {
        let status = Status::failure("said so", "Reason").with_code(code);
        let error = CallError::of("get service shop/live", &kube::Error::Api(status.boxed()));
        assert_eq!(error.may_have_landed(), landed, "{code}");
        assert!(error.to_string().contains(words), "{error}");
    }

    #[test]
    fn each_status_says_what_it_means_and_whether_a_write_may_have_landed() {
        check(403, false, "forbids `get service shop/live`: said so; grant it");
        check(404, false, "found nothing");
        check(409, false, "came too late");
        check(422, false, "refuses");
        check(429, false, "too busy");
        check(500, true, "failed at");
        check(504, true, "failed at");
    }

    #[test]
    fn a_cause_is_told_once() {
        let io = std::io::Error::other("connection refused");
        let error = CallError::of("get", &kube::Error::Service(Box::new(io)));
        let text = error.to_string();
        assert!(text.starts_with("the API server cannot be reached for `get`: connection refused; look at"), "{text}");
    }
}
