//! What a broken request means: who broke it, and what the client is told.
//!
//! Line: upstream ► **failure** ► outcome. The framework says what failed and on which side; here that becomes one
//! outcome. Only the version's side blames the version.

use pingora_error::{Error, ErrorSource, ErrorType};

use crate::answer::Refusal;
use crate::outcome::Outcome;

/// A broken request, judged.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What it counts as.
    pub(crate) outcome: Outcome,
    /// What the client is told; nothing if it has gone.
    pub(crate) refusal: Option<Refusal>,
}

impl Failure {
    fn told(outcome: Outcome, refusal: Refusal) -> Self {
        Self { outcome, refusal: Some(refusal) }
    }

    /// Judges an error of the framework.
    pub(crate) fn of(error: &Error) -> Self {
        match error.esource() {
            ErrorSource::Upstream => Self::of_version(error.etype()),
            ErrorSource::Downstream => Self::of_client(error.etype()),
            // The framework names the version's side whenever it breaks; an answer that cannot be written, it does not.
            ErrorSource::Unset if is_broken_stream(error.etype()) => Self::of_client(error.etype()),
            ErrorSource::Internal | ErrorSource::Unset => Self::told(Outcome::Rejected, Refusal::Internal),
        }
    }

    fn of_version(kind: &ErrorType) -> Self {
        use ErrorType::{
            ConnectError, ConnectNoRoute, ConnectRefused, ConnectTimedout, HandshakeError, InternalError, InvalidCert,
            ReadTimedout, TLSHandshakeFailure, TLSHandshakeTimedout, WriteTimedout,
        };
        let no_handshake = matches!(kind, TLSHandshakeFailure | TLSHandshakeTimedout | InvalidCert | HandshakeError);
        if no_handshake || matches!(kind, ConnectTimedout | ConnectRefused | ConnectNoRoute | ConnectError) {
            Self::told(Outcome::Connect, Refusal::UpstreamConnect)
        } else if matches!(kind, ReadTimedout | WriteTimedout) {
            Self::told(Outcome::Timeout, Refusal::UpstreamTimeout)
        } else if matches!(kind, InternalError) {
            // No socket, no local port: the edge has run out of something, and the version never heard of the request.
            Self::told(Outcome::Rejected, Refusal::Overloaded)
        } else {
            Self::told(Outcome::Reset, Refusal::UpstreamReset)
        }
    }

    fn of_client(kind: &ErrorType) -> Self {
        if is_broken_stream(kind) {
            Self { outcome: Outcome::ClientAbort, refusal: None }
        } else if matches!(kind, ErrorType::ReadTimedout) {
            Self::told(Outcome::Rejected, Refusal::RequestTimeout)
        } else {
            Self::told(
                Outcome::Rejected,
                Refusal::BadRequest("a body that is not framed as its head says, or a header that cannot be forwarded"),
            )
        }
    }
}

/// Whether the other side of a connection has gone.
fn is_broken_stream(kind: &ErrorType) -> bool {
    use ErrorType::{ConnectionClosed, ReadError, WriteError, WriteTimedout};
    matches!(kind, ConnectionClosed | ReadError | WriteError | WriteTimedout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: fn(ErrorType) -> Box<Error>, kind: ErrorType, outcome: Outcome, status: Option<u16>) {
        let failure = Failure::of(&source(kind));
        assert_eq!((failure.outcome, failure.refusal.map(|refusal| refusal.status().as_u16())), (outcome, status));
    }

    #[test]
    fn the_version_is_blamed_for_its_own_side_only() {
        check(Error::new_up, ErrorType::ConnectRefused, Outcome::Connect, Some(502));
        check(Error::new_up, ErrorType::ConnectTimedout, Outcome::Connect, Some(502));
        check(Error::new_up, ErrorType::TLSHandshakeFailure, Outcome::Connect, Some(502));
        check(Error::new_up, ErrorType::InvalidCert, Outcome::Connect, Some(502));
        check(Error::new_up, ErrorType::H2Error, Outcome::Reset, Some(502));
        check(Error::new_up, ErrorType::ReadTimedout, Outcome::Timeout, Some(504));
        check(Error::new_up, ErrorType::WriteTimedout, Outcome::Timeout, Some(504));
        check(Error::new_up, ErrorType::ConnectionClosed, Outcome::Reset, Some(502));
        check(Error::new_up, ErrorType::InvalidHTTPHeader, Outcome::Reset, Some(502));
        check(Error::new_up, ErrorType::InternalError, Outcome::Rejected, Some(503));
        check(Error::new_down, ErrorType::ConnectionClosed, Outcome::ClientAbort, None);
        check(Error::new_down, ErrorType::WriteError, Outcome::ClientAbort, None);
        check(Error::new_down, ErrorType::ReadTimedout, Outcome::Rejected, Some(408));
        check(Error::new_down, ErrorType::InvalidHTTPHeader, Outcome::Rejected, Some(400));
        check(Error::new_in, ErrorType::InternalError, Outcome::Rejected, Some(500));
        check(Error::new, ErrorType::UnknownError, Outcome::Rejected, Some(500));
        check(Error::new, ErrorType::WriteError, Outcome::ClientAbort, None);
        check(Error::new, ErrorType::WriteTimedout, Outcome::ClientAbort, None);
    }
}
