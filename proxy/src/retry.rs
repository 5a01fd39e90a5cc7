//! Whether a failed attempt is repeated, and where.
//!
//! Line: failure ► **retry** ► pool. Pure: what is known of the attempt comes in as a value, so that whatever speaks to
//! versions decides alike. A failure is the failure of the version that the request was assigned to, and stays it: the
//! answer of another one is for the user, not for the books.

pub mod books;
pub(crate) mod budget;
pub(crate) mod following;

use http::HeaderName;
use http::header::RETRY_AFTER;
use pointsman_config::{ErrorKind, Replay, Retries};

use crate::outcome::Outcome;

/// Set to `1` by a version's admission control on an answer 429 or 503: it refused the request, it did not fail.
const SHED: HeaderName = HeaderName::from_static("x-pointsman-shed");
/// What came of a gRPC call: in the head of an answer that has nothing else, in the trailers of every other.
pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// The most attempts that any route makes on one request.
pub(crate) const MOST_ATTEMPTS: u32 = 16;

/// What the head of an answer says about its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AnswerSigns {
    /// The status, or for a gRPC call that failed the status that HTTP has for it.
    status: u16,
    is_shed: bool,
    /// Whether it says when to come back.
    asks_to_wait: bool,
}

impl AnswerSigns {
    /// Reads an answer's head; `header` gives the value of a header.
    pub(crate) fn of<'a>(status: u16, header: impl Fn(&HeaderName) -> Option<&'a [u8]>) -> Self {
        let status = header(&GRPC_STATUS).and_then(failed_call).unwrap_or(status);
        if status < 500 && status != 429 {
            return Self { status, is_shed: false, asks_to_wait: false };
        }
        let is_shed = matches!(status, 429 | 503) && header(&SHED).is_some_and(|value| value == b"1");
        Self { status, is_shed, asks_to_wait: header(&RETRY_AFTER).is_some() }
    }

    /// What the answer counts as.
    pub(crate) fn outcome(self) -> Outcome {
        match self.status {
            _ if self.is_shed => Outcome::Rejected,
            500..=599 => Outcome::Error,
            _ => Outcome::Success,
        }
    }

    /// How the attempt failed; none if the answer is one for the user.
    pub(crate) fn failed(self) -> Option<Failed> {
        let fails = self.is_shed || matches!(self.status, 500..=599);
        fails.then_some(Failed::Answer(self))
    }
}

/// The HTTP status of a gRPC call that failed, from its `grpc-status`; none for a call that ended well or that its caller
/// got wrong. As gRPC's own mapping to HTTP has it (googleapis, `google/rpc/code.proto`).
pub(crate) fn failed_call(grpc_status: &[u8]) -> Option<u16> {
    match grpc_status {
        // UNKNOWN, INTERNAL, DATA_LOSS
        b"2" | b"13" | b"15" => Some(500),
        // UNIMPLEMENTED
        b"12" => Some(501),
        // UNAVAILABLE
        b"14" => Some(503),
        // DEADLINE_EXCEEDED
        b"4" => Some(504),
        _ => None,
    }
}

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failed {
    /// No connection: the version never heard of the request.
    Connect,
    /// The connection broke before the head of an answer.
    Reset,
    /// No head of an answer in time.
    Timeout,
    /// The answer says so itself.
    Answer(AnswerSigns),
}

impl Failed {
    /// How a broken attempt failed; none if something else than the version broke it.
    pub(crate) fn of(outcome: Outcome) -> Option<Self> {
        match outcome {
            Outcome::Connect => Some(Self::Connect),
            Outcome::Reset => Some(Self::Reset),
            Outcome::Timeout => Some(Self::Timeout),
            Outcome::Success | Outcome::Error | Outcome::ClientAbort | Outcome::Rejected => None,
        }
    }

    /// What the request counts as for the version that it was assigned to.
    pub(crate) fn outcome(self) -> Outcome {
        match self {
            Self::Connect => Outcome::Connect,
            Self::Reset => Outcome::Reset,
            Self::Timeout => Outcome::Timeout,
            Self::Answer(signs) => signs.outcome(),
        }
    }

    /// The status that the version answered with.
    pub(crate) fn status(self) -> Option<u16> {
        match self {
            Self::Connect | Self::Reset | Self::Timeout => None,
            Self::Answer(signs) => Some(signs.status),
        }
    }

    fn kind(self) -> ErrorKind {
        match self {
            Self::Connect => ErrorKind::Connect,
            Self::Reset => ErrorKind::Reset,
            Self::Timeout => ErrorKind::Timeout,
            Self::Answer(_) => ErrorKind::Status5xx,
        }
    }

    /// Whether another endpoint of the same version may do better. A plain 500 is the model's answer to this input, and a
    /// version that sheds, or says when to come back, means all of itself.
    fn is_of_one_endpoint(self) -> bool {
        match self {
            Self::Connect | Self::Reset | Self::Timeout => true,
            Self::Answer(signs) => matches!(signs.status, 502..=504) && !signs.is_shed && !signs.asks_to_wait,
        }
    }
}

/// Whose attempt it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Stable's.
    Stable,
    /// That of a canary that the request was assigned to, with a stable version to fall back on.
    Canary,
    /// That of a version that the client asked for, and wants to hear from.
    Asked,
}

/// What repeating a request would mean, whoever is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Repeatable {
    /// Whether the method says that repeating does no harm.
    pub(crate) is_idempotent: bool,
    /// Whether all that was sent of the body can be sent again.
    pub(crate) body_is_kept: bool,
    /// Whether the client has got any of an answer.
    pub(crate) has_begun: bool,
}

/// What is known of a failed attempt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempt {
    pub(crate) failed: Failed,
    pub(crate) side: Side,
    /// Attempts on the request so far, this one included.
    pub(crate) attempts: u32,
    pub(crate) repeatable: Repeatable,
    /// Whether the version has an endpoint that this request has not tried.
    pub(crate) another_endpoint: bool,
}

/// What is done about a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// The user gets the failure.
    GiveUp,
    /// The user gets the failure because too much is being repeated already.
    NoBudget,
    /// Another endpoint of the version takes the request. None has seen it: the version has not failed yet.
    OtherEndpoint,
    /// The version has failed; another of its endpoints is asked all the same.
    Again,
    /// The version has failed; stable is asked.
    OnStable,
}

/// Decides about a failed attempt; `spend` takes one retry out of the route's budget, false if there is none.
pub(crate) fn next(settings: &Retries, attempt: &Attempt, spend: impl FnOnce() -> bool) -> Next {
    let wish = wish(settings, attempt);
    if matches!(wish, Next::Again | Next::OnStable) && !spend() { Next::NoBudget } else { wish }
}

/// What would be done if the budget allowed it.
pub(crate) fn wish(settings: &Retries, attempt: &Attempt) -> Next {
    let left = settings.attempts.min(MOST_ATTEMPTS).saturating_sub(attempt.attempts);
    if left == 0
        || attempt.repeatable.has_begun
        || !settings.on.contains(&attempt.failed.kind())
        || !is_safe(settings, attempt)
    {
        return Next::GiveUp;
    }
    let another = attempt.another_endpoint && attempt.failed.is_of_one_endpoint();
    match (attempt.side, attempt.failed) {
        // The last attempt is for stable, however many endpoints of the canary are left to refuse.
        (Side::Canary, Failed::Connect) if another && left > 1 => Next::OtherEndpoint,
        (Side::Canary, _) => Next::OnStable,
        (Side::Stable | Side::Asked, Failed::Connect) if another => Next::OtherEndpoint,
        (Side::Stable | Side::Asked, _) if another => Next::Again,
        (Side::Stable | Side::Asked, _) => Next::GiveUp,
    }
}

/// Whether sending the request again can do harm: it cannot if nobody has seen it, or if the route lets it be repeated.
fn is_safe(settings: &Retries, attempt: &Attempt) -> bool {
    let is_allowed = attempt.failed == Failed::Connect || may_be_replayed(settings, attempt.repeatable.is_idempotent);
    attempt.repeatable.body_is_kept && is_allowed
}

/// Whether a request may be sent again that its version may have seen: if its method says that this does no harm (RFC 9110,
/// section 9.2.2), or the route does.
fn may_be_replayed(settings: &Retries, is_idempotent: bool) -> bool {
    match settings.replay {
        Replay::Never => false,
        Replay::Idempotent => is_idempotent,
        Replay::Predictions => true,
    }
}

/// Whether a request may be sent again whose kept connection broke without an answer, as if it had not been an attempt. Where
/// the version cannot have seen it, always; else only where the route would repeat it after a reset.
pub(crate) fn may_begin_afresh(settings: &Retries, is_idempotent: bool, is_unseen: bool) -> bool {
    let repeats_resets = settings.attempts > 1 && settings.on.contains(&ErrorKind::Reset);
    is_unseen || repeats_resets && may_be_replayed(settings, is_idempotent)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn predictions() -> Retries {
        Retries { replay: Replay::Predictions, ..Retries::default() }
    }

    fn status(status: u16) -> Failed {
        Failed::Answer(AnswerSigns { status, is_shed: false, asks_to_wait: false })
    }

    fn failed(side: Side, failed: Failed) -> Attempt {
        Attempt {
            failed,
            side,
            attempts: 1,
            repeatable: Repeatable { is_idempotent: false, body_is_kept: true, has_begun: false },
            another_endpoint: true,
        }
    }

    impl Attempt {
        fn but(mut self, change: impl FnOnce(&mut Repeatable)) -> Self {
            change(&mut self.repeatable);
            self
        }
    }

    #[track_caller]
    fn check(settings: &Retries, attempt: &Attempt, expected: Next) {
        assert_eq!(next(settings, attempt, || true), expected, "{attempt:?}");
    }

    fn signs(status: u16, headers: &[(&'static str, &'static str)]) -> AnswerSigns {
        AnswerSigns::of(status, |name| {
            headers.iter().find(|(known, _)| name == known).map(|(_, value)| value.as_bytes())
        })
    }

    #[test]
    fn whatever_the_canary_fails_with_stable_answers() {
        for failure in [Failed::Reset, Failed::Timeout, status(500), status(503), status(599)] {
            check(&predictions(), &failed(Side::Canary, failure), Next::OnStable);
            check(&Retries::default(), &failed(Side::Canary, failure), Next::GiveUp);
            let get = failed(Side::Canary, failure).but(|repeatable| repeatable.is_idempotent = true);
            check(&Retries::default(), &get, Next::OnStable);
        }
    }

    #[test]
    fn stable_is_asked_again_only_where_another_endpoint_may_do_better() {
        for (failure, expected) in [
            (Failed::Reset, Next::Again),
            (Failed::Timeout, Next::Again),
            (status(502), Next::Again),
            (status(503), Next::Again),
            (status(504), Next::Again),
            (status(500), Next::GiveUp),
            (status(501), Next::GiveUp),
        ] {
            check(&predictions(), &failed(Side::Stable, failure), expected);
            check(&predictions(), &failed(Side::Asked, failure), expected);
            let alone = Attempt { another_endpoint: false, ..failed(Side::Stable, failure) };
            check(&predictions(), &alone, Next::GiveUp);
        }
    }

    #[test]
    fn what_nobody_has_seen_may_go_anywhere_but_a_canary_leaves_stable_the_last_attempt() {
        let never = Retries { replay: Replay::Never, ..Retries::default() };
        check(&never, &failed(Side::Stable, Failed::Connect), Next::OtherEndpoint);
        let canary = failed(Side::Canary, Failed::Connect);
        check(&never, &canary, Next::OtherEndpoint);
        check(&never, &Attempt { attempts: 2, ..canary }, Next::OnStable);
        check(&never, &Attempt { another_endpoint: false, ..canary }, Next::OnStable);
        check(&never, &Attempt { attempts: 3, ..canary }, Next::GiveUp);
        check(&never, &canary.but(|repeatable| repeatable.body_is_kept = false), Next::GiveUp);
    }

    #[test]
    fn a_version_that_sheds_or_says_when_to_come_back_is_not_asked_again_but_stable_is() {
        for (answer, outcome) in [
            (signs(503, &[("x-pointsman-shed", "1")]), Outcome::Rejected),
            (signs(429, &[("x-pointsman-shed", "1")]), Outcome::Rejected),
            (signs(503, &[("retry-after", "7")]), Outcome::Error),
        ] {
            assert_eq!(answer.outcome(), outcome);
            let failure = answer.failed().unwrap();
            check(&predictions(), &failed(Side::Stable, failure), Next::GiveUp);
            check(&predictions(), &failed(Side::Canary, failure), Next::OnStable);
        }
        assert_eq!(signs(503, &[("x-pointsman-shed", "0")]).outcome(), Outcome::Error);
        assert_eq!(signs(500, &[("x-pointsman-shed", "1")]).outcome(), Outcome::Error);
        assert_eq!(signs(429, &[("retry-after", "7")]).failed(), None);
    }

    #[test]
    fn a_grpc_call_that_the_version_failed_is_a_failure_and_one_that_its_caller_got_wrong_is_none() {
        for (code, outcome) in [
            ("0", Outcome::Success),
            ("3", Outcome::Success),
            ("5", Outcome::Success),
            ("8", Outcome::Success),
            ("2", Outcome::Error),
            ("4", Outcome::Error),
            ("12", Outcome::Error),
            ("13", Outcome::Error),
            ("14", Outcome::Error),
            ("15", Outcome::Error),
        ] {
            assert_eq!(signs(200, &[("grpc-status", code)]).outcome(), outcome, "{code}");
        }
        let unavailable = signs(200, &[("grpc-status", "14")]).failed().unwrap();
        check(&predictions(), &failed(Side::Stable, unavailable), Next::Again);
        let internal = signs(200, &[("grpc-status", "13")]).failed().unwrap();
        check(&predictions(), &failed(Side::Stable, internal), Next::GiveUp);
    }

    #[test]
    fn an_operator_chooses_what_is_repeated_and_how_often() {
        let resets = Retries { on: [ErrorKind::Reset].into(), ..predictions() };
        check(&resets, &failed(Side::Canary, status(500)), Next::GiveUp);
        check(&resets, &failed(Side::Canary, Failed::Reset), Next::OnStable);
        let off = Retries { attempts: 1, ..predictions() };
        check(&off, &failed(Side::Canary, Failed::Connect), Next::GiveUp);
    }

    #[test]
    fn the_budget_is_asked_only_for_what_would_be_done() {
        let canary = failed(Side::Canary, Failed::Reset);
        assert_eq!(next(&predictions(), &canary, || false), Next::NoBudget);
        let never_asked = || -> bool { panic!("nothing would be repeated for it") };
        assert_eq!(
            next(&predictions(), &canary.but(|repeatable| repeatable.has_begun = true), never_asked),
            Next::GiveUp
        );
        assert_eq!(next(&predictions(), &failed(Side::Stable, Failed::Connect), never_asked), Next::OtherEndpoint);
    }

    #[test]
    fn what_a_kept_connection_lost_is_sent_again_if_nobody_saw_it_or_the_route_repeats_it() {
        let never = Retries { replay: Replay::Never, ..Retries::default() };
        let once = Retries { attempts: 1, ..predictions() };
        let others = Retries { on: [ErrorKind::Status5xx].into(), ..predictions() };
        for (settings, idempotent, other) in [
            (Retries::default(), true, false),
            (predictions(), true, true),
            (never, false, false),
            (once, false, false),
            (others, false, false),
        ] {
            assert_eq!(may_begin_afresh(&settings, true, false), idempotent, "{settings:?}");
            assert_eq!(may_begin_afresh(&settings, false, false), other, "{settings:?}");
            assert!(may_begin_afresh(&settings, false, true), "{settings:?}: nobody has seen it");
        }
    }

    fn any_attempt() -> impl Strategy<Value = Attempt> {
        let failure = prop_oneof![
            Just(Failed::Connect),
            Just(Failed::Reset),
            Just(Failed::Timeout),
            (500..600_u16, any::<bool>(), any::<bool>()).prop_map(|(status, is_shed, asks_to_wait)| {
                Failed::Answer(AnswerSigns { status, is_shed, asks_to_wait })
            }),
        ];
        let side = prop_oneof![Just(Side::Stable), Just(Side::Canary), Just(Side::Asked)];
        (failure, side, 1..20_u32, any::<[bool; 4]>()).prop_map(|(failed, side, attempts, flags)| {
            let [is_idempotent, body_is_kept, has_begun, another_endpoint] = flags;
            let repeatable = Repeatable { is_idempotent, body_is_kept, has_begun };
            Attempt { failed, side, attempts, repeatable, another_endpoint }
        })
    }

    proptest! {
        #[test]
        fn nothing_is_repeated_that_could_do_harm(
            attempt in any_attempt(),
            attempts in 1..20_u32,
            replay in prop_oneof![Just(Replay::Never), Just(Replay::Idempotent), Just(Replay::Predictions)],
        ) {
            let settings = Retries { attempts, replay, ..Retries::default() };
            let decided = next(&settings, &attempt, || true);
            let Repeatable { is_idempotent, body_is_kept, has_begun } = attempt.repeatable;
            if decided != Next::GiveUp {
                prop_assert!(!has_begun && body_is_kept && attempt.attempts < attempts.min(MOST_ATTEMPTS));
                let unseen = attempt.failed == Failed::Connect;
                prop_assert!(unseen || replay == Replay::Predictions || replay == Replay::Idempotent && is_idempotent);
            }
            prop_assert!(decided != Next::OnStable || attempt.side == Side::Canary);
            prop_assert!(decided == Next::GiveUp || decided == Next::OnStable || attempt.another_endpoint);
        }
    }
}
