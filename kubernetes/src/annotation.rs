//! What Pointsman writes on a live Service: who may write next, where the rollout stands, and what was decided last.
//!
//! One object holds both the truth and the switch, so that one compare-and-swap moves both. Everybody who watches
//! Services reads this text with every change, so it is kept small: the oldest decisions go first, and how many went is
//! told.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use pointsman_config::{RouteName, VersionId};
use pointsman_rollout::{Change, Saved};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

/// The annotation with [`State`], as JSON.
pub const STATE: &str = "pointsman.dev/state";
/// The annotation with the [`Fence`] of whoever may write.
pub const FENCE: &str = "pointsman.dev/fence";
/// The annotation with the version that is free to be scaled down, for whoever does that.
pub const RETIRED: &str = "pointsman.dev/retired";

/// The present format of [`State`].
const FORMAT: u32 = 1;
/// What the state may take with its decisions. A full quarantine makes it longer.
const WITH_DECISIONS_BYTES: usize = 32 * 1024;
/// What it may take at all: all annotations of an object together hold 256 KiB.
const LIMIT_BYTES: usize = 192 * 1024;

/// The last term: a Lease counts its holders (`leaseTransitions`) in 32 bits with a sign, and no fence can be later.
pub const MAX_TERM: u64 = 2_147_483_647;
/// More than anything here is ever counted up to, and the last whole number that every reader of JSON takes as it stands.
const MAX_COUNT: u64 = 1 << 53;

/// Proof of leadership that grows: whoever has a smaller one is not leader any more.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Fence {
    /// Counts up with every change of leader.
    pub term: u64,
    /// Who leads.
    pub holder: String,
}

impl Fence {
    /// Whether its holder may write where `found` stands: on its own, or over that of an earlier leader.
    pub fn may_replace(&self, found: &Self) -> bool {
        found == self || found.term < self.term
    }
}

impl fmt::Display for Fence {
    /// `7/edge-5d8-x2k`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.term, self.holder)
    }
}

/// A text that is no fence.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{text}` is no fence; Pointsman writes them as `7/holder`")]
pub struct FenceError {
    /// What was found.
    pub text: String,
}

impl FromStr for Fence {
    type Err = FenceError;

    fn from_str(text: &str) -> Result<Self, FenceError> {
        let error = || FenceError { text: text.to_owned() };
        let (term, holder) = text.split_once('/').ok_or_else(error)?;
        let term: u64 = term.parse().map_err(|_not_a_number| error())?;
        if holder.is_empty() || term > MAX_TERM {
            return Err(error());
        }
        Ok(Self { term, holder: holder.to_owned() })
    }
}

/// One decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decided {
    /// Counts up by one over all routes.
    pub id: u64,
    /// When (RFC 3339, UTC).
    pub at: String,
    /// What.
    pub change: Change,
}

/// An old version that was scaled down, after which trial of its successor: for the next build it may have been scaled up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scaled {
    /// Which.
    pub version: VersionId,
    /// As [`Saved::trial`] counts.
    pub trial: u64,
    /// To how many replicas.
    pub to: u32,
}

/// Where the rollout of a route stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Of which route.
    pub route: RouteName,
    /// Counts up with every write, so that no two are alike.
    pub serial: u64,
    /// The whole selector of the Service as it was left here; if it is another one, somebody else changed it.
    pub selector: BTreeMap<String, String>,
    /// The version that is free to be scaled down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired: Option<VersionId>,
    /// What was scaled down last; whoever leads next leaves it at the size that somebody may have given it since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaled: Option<Scaled>,
    /// What of the rollout outlives a process.
    pub saved: Saved,
    /// The last decisions, oldest first; old ones without their evidence.
    pub decisions: Vec<Decided>,
    /// How many decisions stood here once and had to make room.
    pub cut: u64,
}

/// The state of a route is too long for an annotation.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "the state of `{route}` takes {bytes} bytes and an annotation holds {LIMIT_BYTES}; lift what stands in quarantine and is not needed there: `pointsman retry {route} VERSION`"
)]
pub struct TooLarge {
    /// Of which route.
    pub route: RouteName,
    /// What it would take.
    pub bytes: usize,
}

/// Why the text of an annotation is no state.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StateError {
    /// No JSON, or not ours.
    #[error("it is not what Pointsman writes: {reason}")]
    Damaged {
        /// What is wrong.
        reason: String,
    },
    /// From another release.
    #[error("it has format {format}, and this Pointsman reads format {FORMAT}; run the release that wrote it")]
    Format {
        /// Its format.
        format: u32,
    },
}

#[derive(Serialize)]
struct Written<'a> {
    format: u32,
    #[serde(flatten)]
    state: &'a State,
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

impl State {
    /// The text of the annotation. What does not fit is left out: first the evidence of old decisions, then the oldest
    /// decisions; `cut` counts these.
    ///
    /// # Errors
    /// If it does not fit without any decision.
    pub fn encode(&self) -> Result<String, TooLarge> {
        let (kept, cut) = self.fitting_decisions();
        let state = Self { decisions: kept, cut: self.cut + cut, ..self.clone() };
        let text = state.text();
        if text.len() <= LIMIT_BYTES {
            Ok(text)
        } else {
            Err(TooLarge { route: self.route.clone(), bytes: text.len() })
        }
    }

    /// What the text of an annotation says.
    ///
    /// # Errors
    /// If it is not what [`State::encode`] gives.
    pub fn decode(text: &str) -> Result<Self, StateError> {
        let damaged = |error: serde_json::Error| StateError::Damaged { reason: error.to_string() };
        let written: Value = serde_json::from_str(text).map_err(damaged)?;
        let FormatOnly { format } = FormatOnly::deserialize(&written).map_err(damaged)?;
        if format != FORMAT {
            return Err(StateError::Format { format });
        }
        match beyond_counting(&written) {
            Some(number) => Err(StateError::Damaged { reason: format!("nothing counts up to {number}") }),
            None => Self::deserialize(written).map_err(damaged),
        }
    }

    fn text(&self) -> String {
        // Names, numbers and texts: there is nothing in it that JSON cannot say.
        serde_json::to_string(&Written { format: FORMAT, state: self }).unwrap_or_default()
    }

    /// The newest decisions that fit, and how many do not. Three quarters of the room are for decisions without their
    /// evidence; what is left over is for the evidence of the newest.
    fn fitting_decisions(&self) -> (Vec<Decided>, u64) {
        let bare = Self { decisions: Vec::new(), cut: u64::MAX, ..self.clone() };
        let room = WITH_DECISIONS_BYTES.saturating_sub(bare.text().len());
        let (mut kept, taken) = newest_without_evidence(&self.decisions, room / 4 * 3);
        let mut left = room - taken;
        for (kept, full) in kept.iter_mut().zip(self.decisions.iter().rev()) {
            let Some(rest) = left.checked_sub(length(full).saturating_sub(length(kept))) else { break };
            left = rest;
            kept.clone_from(full);
        }
        kept.reverse();
        let cut = self.decisions.len() - kept.len();
        (kept, u64::try_from(cut).unwrap_or(u64::MAX))
    }
}

/// A number in it that no counter of ours reaches: whoever went on from there would soon be at the end of all numbers.
fn beyond_counting(written: &Value) -> Option<u64> {
    match written {
        Value::Number(number) => number.as_u64().filter(|number| *number > MAX_COUNT),
        Value::Array(items) => items.iter().find_map(beyond_counting),
        Value::Object(fields) => fields.values().find_map(beyond_counting),
        Value::Null | Value::Bool(_) | Value::String(_) => None,
    }
}

/// The newest decisions that fit into `room` without their evidence, newest first, and what they take.
fn newest_without_evidence(decisions: &[Decided], room: usize) -> (Vec<Decided>, usize) {
    let (mut kept, mut taken) = (Vec::new(), 0);
    for decided in decisions.iter().rev().map(without_evidence) {
        let with_this = length(&decided).saturating_add(taken);
        if with_this > room {
            break;
        }
        taken = with_this;
        kept.push(decided);
    }
    (kept, taken)
}

/// What a decision takes, with its comma.
fn length(decided: &Decided) -> usize {
    serde_json::to_string(decided).map_or(usize::MAX, |text| text.len() + 1)
}

fn without_evidence(decided: &Decided) -> Decided {
    Decided { change: Change { evidence: None, ..decided.change.clone() }, ..decided.clone() }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use pointsman_config::{Route, Split, Version};
    use pointsman_rollout::{Cause, Decision, PhaseName, Rollout, Summary, Time};
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn fence(term: u64, holder: &str) -> Fence {
        Fence { term, holder: holder.to_owned() }
    }

    fn version(name: &str) -> VersionId {
        name.parse().unwrap()
    }

    fn rollout() -> Rollout {
        let versions = ["v1", "v2"].map(|name| (version(name), Version::at(Vec::new())));
        let route = Route::new("shop".parse().unwrap(), version("v1"), versions.into());
        Rollout::start(Arc::new(route), Time::default()).0
    }

    pub(crate) fn saved() -> Saved {
        rollout().saved(Time::default())
    }

    fn evidence() -> Summary {
        rollout().summary()
    }

    pub(crate) fn decided(id: u64, reason: &str, evidence: Option<Summary>) -> Decided {
        let whole = Split::Whole(version("v1"));
        let change = Change {
            decision: Decision::Pause,
            from: PhaseName::Shifting,
            to: PhaseName::Paused,
            stable: version("v1"),
            canary: Some(version("v2")),
            before: whole.clone(),
            after: whole,
            cause: Cause::Operator { actor: "ann".to_owned(), reason: reason.to_owned() },
            evidence,
        };
        Decided { id, at: "2026-01-01T00:00:00.000Z".to_owned(), change }
    }

    pub(crate) fn state(decisions: Vec<Decided>) -> State {
        State {
            route: "shop".parse().unwrap(),
            serial: 1,
            selector: [("app", "model"), ("version", "v1")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            retired: None,
            scaled: None,
            saved: saved(),
            decisions,
            cut: 0,
        }
    }

    #[test]
    fn a_state_is_read_back_as_it_was_written() {
        let state = state(vec![decided(1, "first", Some(evidence())), decided(2, "second", None)]);
        assert_eq!(State::decode(&state.encode().unwrap()).unwrap(), state);
    }

    #[test]
    fn the_oldest_decisions_make_room_and_their_number_is_told() {
        let many: Vec<Decided> = (0..200).map(|id| decided(id, &"x".repeat(400), Some(evidence()))).collect();
        let text = state(many).encode().unwrap();
        assert!(text.len() <= WITH_DECISIONS_BYTES, "{} bytes", text.len());
        let read = State::decode(&text).unwrap();
        assert_eq!(read.decisions.last().unwrap().id, 199);
        assert_eq!(read.decisions.first().unwrap().id, read.cut);
        assert!(read.cut > 100, "{} were cut", read.cut);
        assert!(read.decisions.last().unwrap().change.evidence.is_some());
        assert!(read.decisions.first().unwrap().change.evidence.is_none());
    }

    #[test]
    fn what_was_cut_before_is_counted_on() {
        let text = State { cut: 7, ..state(vec![decided(1, &"x".repeat(40_000), None)]) }.encode().unwrap();
        let read = State::decode(&text).unwrap();
        assert_eq!((read.decisions.len(), read.cut), (0, 8));
    }

    #[test]
    fn a_state_that_no_annotation_holds_is_refused_in_words() {
        let selector = BTreeMap::from([("app".to_owned(), "x".repeat(LIMIT_BYTES))]);
        let error = State { selector, ..state(Vec::new()) }.encode().unwrap_err();
        assert!(error.to_string().contains("pointsman retry shop"), "{error}");
    }

    #[test]
    fn a_text_that_is_not_ours_says_why() {
        let check = |text: &str, words: &str| {
            let error = State::decode(text).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        check("", "not what Pointsman writes");
        check("{\"phase\": \"steady\"}", "not what Pointsman writes");
        check("{\"format\": 2}", "format 2");
        check("{\"format\": 1}", "missing field");
        let last = u64::MAX;
        let text = state(Vec::new()).encode().unwrap().replace("\"serial\":1,", &format!("\"serial\":{last},"));
        check(&text, "nothing counts up to 18446744073709551615");
        check(&"[".repeat(100_000), "recursion limit");
    }

    #[test]
    fn a_fence_gives_way_to_its_own_and_to_later_terms_only() {
        let seven = fence(7, "a");
        assert!(seven.may_replace(&fence(7, "a")));
        assert!(seven.may_replace(&fence(6, "b")));
        assert!(!seven.may_replace(&fence(7, "b")));
        assert!(!seven.may_replace(&fence(8, "a")));
        assert_eq!("7/a".parse(), Ok(seven));
        for text in ["7", "7/", "/a", "seven/a", "", "-1/a", "2147483648/a", "18446744073709551615/a"] {
            assert!(text.parse::<Fence>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn whatever_was_decided_the_text_stays_small_and_the_newest_are_kept(
            reasons in prop::collection::vec((0..6_000_usize, any::<bool>()), 0..60), cut in 0..1_000_u64,
        ) {
            let evidence = evidence();
            let decisions: Vec<Decided> = (0..).zip(&reasons)
                .map(|(id, (length, full))| decided(id, &"\"".repeat(*length), full.then(|| evidence.clone()))).collect();
            let text = State { cut, ..state(decisions.clone()) }.encode().unwrap();
            prop_assert!(text.len() <= WITH_DECISIONS_BYTES);
            let read = State::decode(&text).unwrap();
            let kept: Vec<u64> = read.decisions.iter().map(|decided| decided.id).collect();
            let newest: Vec<u64> = decisions.iter().rev().take(kept.len()).rev().map(|decided| decided.id).collect();
            prop_assert_eq!(kept, newest);
            prop_assert_eq!(read.cut, cut + u64::try_from(decisions.len() - read.decisions.len()).unwrap());
        }
    }
}
