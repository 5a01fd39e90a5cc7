//! Findings from outside: what somebody beside the comparison says of the canary, and what that holds or takes back.
//!
//! Line: (shell) ► **findings** ► phase. A *gate* is a question that the route's guard asks of somebody: a drift report, a
//! query, a program, a calendar. A shell asks, off the data path and on the leader only, and hands every gate of the route
//! to each tick ([`Seen::gates`](crate::Seen::gates)), with the last [`Finding`] if there is one. This module says what
//! that means at `now`:
//!
//! - *passes*: nothing is in the way;
//! - *holds*: no step and no promotion by itself, and never a rollback. Holding is also what comes of a gate without a
//!   finding, of a finding about another version or trial, and of one older than the gate allows: not to know is no pass
//!   and no failure. Whoever asks and gets an error finds [`Outcome::Holds`], with the error as its words;
//! - *fails*: the canary goes back, by the same way as a regression that the comparison proves
//!   (`guard.on_regression` counts, and so does whether stable can take the traffic).
//!
//! A gate that is asked [`WithTraffic`](Asked::WithTraffic) means nothing while the canary has none, so it cannot keep the
//! first request from it; in blue-green it has its say during the bake, when it can only take back, and which does not end while
//! something [speaks against](Finding::is_suspicion) the canary that may count soon. An operator's order
//! goes past a gate that holds, as past every other doubt. Nothing of this is kept: a new leader, and an edge that starts
//! anew, holds until it has been told afresh.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pointsman_config::VersionId;
use serde::{Deserialize, Serialize};

use crate::change::Cause;
use crate::status::span_in_words;
use crate::time::Time;

/// Added before a span is cut to seconds, so that it is rounded.
const HALF_A_SECOND: Duration = Duration::from_millis(500);

/// A question about the canary that somebody else answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    /// Its name among those of the route, such as `drift`; the value of the metric label `gate`.
    pub name: String,
    /// When its answer counts.
    pub asked: Asked,
    /// A finding older than this says nothing any more.
    pub stale_after: Duration,
    /// The last answer; none if there has been none.
    pub finding: Option<Finding>,
}

/// When a gate's answer counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// From the beginning of a rollout on, the first step included.
    Always,
    /// While the canary has traffic: the answer rests on what it did with that.
    WithTraffic,
    /// As [`Asked::Always`]; what it says was known beforehand, so no deadline ends while it holds.
    OfTheCalendar,
}

/// What was found, about what, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// About which version.
    pub version: VersionId,
    /// About which trial of it ([`Rollout::trial`](crate::Rollout::trial)): what was found out about a former build, or
    /// before the evidence began anew, says nothing about the present one.
    pub trial: u64,
    /// What follows from it.
    pub outcome: Outcome,
    /// Whether it holds by something that speaks against the canary, and does not count yet or not often enough: a bake does
    /// not end on that. It is over soon, by an end of what speaks against it or by a failure.
    pub is_suspicion: bool,
    /// What was found, for people, as the end of a sentence: figures, limits, what was asked.
    pub words: String,
    /// When it was observed, which is when the asking began.
    pub at: Time,
}

/// What follows from a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Nothing is in the way.
    Passes,
    /// No step and no promotion for now.
    Holds,
    /// The canary must go back.
    Fails,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 3] = [Self::Passes, Self::Holds, Self::Fails];

    /// One word: the value of the metric label `outcome`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passes => "passes",
            Self::Holds => "holds",
            Self::Fails => "fails",
        }
    }
}

/// Where a gate stands at one moment, as a value to store, show and explain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateSummary {
    /// The gate.
    pub gate: String,
    /// What follows from it now.
    pub outcome: Outcome,
    /// Why, for people.
    pub words: String,
    /// For how long it has stood so, in seconds.
    pub for_seconds: f64,
    /// How long ago the finding was observed, in seconds; none without one about this trial.
    pub observed_seconds_ago: Option<f64>,
}

/// What findings must be about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The canary.
    pub version: VersionId,
    /// Its present trial.
    pub trial: u64,
    /// Since when at least it is granted traffic; none while it is not.
    pub traffic_since: Option<Time>,
}

/// The gates of a route as of the last tick.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gates {
    asked: Vec<Gate>,
    subject: Option<Subject>,
    /// Where each that counts stands, in the order of the gates.
    standings: Vec<Standing>,
    /// Those of which it was told that they hold what would go on otherwise.
    told: BTreeSet<String>,
    /// When they were last looked at.
    at: Time,
    /// When the calendar last held; none if it has not.
    frozen_at: Option<Time>,
}

/// Where one gate stands.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Standing {
    gate: String,
    outcome: Outcome,
    is_suspicion: bool,
    words: String,
    since: Time,
    observed: Option<Time>,
}

impl Gates {
    /// What is known at `now` about the canary of `subject`; without one no gate counts.
    pub(crate) fn look(&mut self, gates: &[Gate], subject: Option<Subject>, now: Time) {
        if self.asked.is_empty() && gates.is_empty() {
            return;
        }
        self.at = now;
        if self.asked != gates {
            self.asked = gates.to_vec();
        }
        if self.subject != subject {
            self.subject = subject;
        }
        let before: BTreeMap<String, (Outcome, Time)> =
            self.standings.drain(..).map(|standing| (standing.gate, (standing.outcome, standing.since))).collect();
        let Some(subject) = &self.subject else { return };
        for gate in self.asked.iter().filter(|gate| gate.counts_for(subject)) {
            let mut standing = gate.stand(subject, now);
            if let Some((_, since)) = before.get(&gate.name).filter(|(outcome, _)| *outcome == standing.outcome) {
                standing.since = *since;
            }
            if gate.asked == Asked::OfTheCalendar && standing.outcome != Outcome::Passes {
                self.frozen_at = Some(now);
            }
            self.standings.push(standing);
        }
    }

    /// Why the canary must go back, by each of them that says so.
    pub(crate) fn failures(&self) -> impl Iterator<Item = Cause> {
        let failed = self.standings.iter().filter(|standing| standing.outcome == Outcome::Fails);
        failed.map(|failed| Cause::GateFails { gate: failed.gate.clone(), found: failed.words.clone() })
    }

    /// Whether a deadline of `span` may end: what the calendar holds is no delay, and afterwards there is as long again.
    pub(crate) fn let_end(&self, span: Duration, now: Time) -> bool {
        self.thawed_for(now).is_none_or(|thawed| thawed >= span)
    }

    /// How long ago the calendar last held; none if it has not.
    pub(crate) fn thawed_for(&self, now: Time) -> Option<Duration> {
        self.frozen_at.map(|frozen_at| now.since(frozen_at))
    }

    /// The calendar held until then, as somebody else saw who decided.
    pub(crate) fn recall_freeze(&mut self, frozen_at: Option<Time>) {
        self.frozen_at = self.frozen_at.max(frozen_at);
    }

    /// Of one that is told nothing any more: no finding counts, and when the calendar held stays known.
    pub(crate) fn without_findings(&self) -> Self {
        Self { frozen_at: self.frozen_at, ..Self::default() }
    }

    /// Whether all that count let the rollout go on.
    pub(crate) fn are_open(&self) -> bool {
        self.standings.iter().all(|standing| standing.outcome == Outcome::Passes)
    }

    /// Whether something speaks against the canary that may count soon.
    pub(crate) fn are_suspicious(&self) -> bool {
        self.standings.iter().any(|standing| standing.is_suspicion)
    }

    /// The first one that keeps the rollout from going on, in words: which, why, for how long.
    pub(crate) fn hold_in_words(&self) -> Option<String> {
        self.first_closed().map(|closed| {
            let span = span_in_words(self.at.since(closed.since));
            format!("the gate `{}` {} for {span}: {}", closed.gate, closed.outcome.as_str(), closed.words)
        })
    }

    /// What holds the rollout back that would go on otherwise; told of each gate once, until [`Self::forget_told`].
    pub(crate) fn tell_hold(&mut self) -> Option<Cause> {
        let untold = |standing: &&Standing| standing.outcome != Outcome::Passes && !self.told.contains(&standing.gate);
        let held = self.standings.iter().find(untold)?;
        let (gate, why) = (held.gate.clone(), held.words.clone());
        let seconds = self.at.since(held.since).saturating_add(HALF_A_SECOND).as_secs();
        self.told.insert(gate.clone());
        Some(Cause::GateHolds { gate, why, seconds })
    }

    /// The rollout stands elsewhere: what holds it there is told anew.
    pub(crate) fn forget_told(&mut self) {
        self.told.clear();
    }

    /// Where every gate that counts stands.
    pub(crate) fn summaries(&self) -> Vec<GateSummary> {
        let summary = |standing: &Standing| GateSummary {
            gate: standing.gate.clone(),
            outcome: standing.outcome,
            words: standing.words.clone(),
            for_seconds: self.at.since(standing.since).as_secs_f64(),
            observed_seconds_ago: standing.observed.map(|at| self.at.since(at).as_secs_f64()),
        };
        self.standings.iter().map(summary).collect()
    }

    fn first_closed(&self) -> Option<&Standing> {
        self.standings.iter().find(|standing| standing.outcome != Outcome::Passes)
    }
}

impl Gate {
    fn counts_for(&self, subject: &Subject) -> bool {
        match self.asked {
            Asked::Always | Asked::OfTheCalendar => true,
            Asked::WithTraffic => subject.traffic_since.is_some(),
        }
    }

    /// Where it stands, from `now` on.
    fn stand(&self, subject: &Subject, now: Time) -> Standing {
        let about_it = |finding: &&Finding| finding.version == subject.version && finding.trial == subject.trial;
        let finding = self.finding.as_ref().filter(about_it);
        let fresh = finding.filter(|finding| now.since(finding.at) <= self.stale_after);
        let (outcome, words) = match (fresh, finding) {
            (Some(fresh), _) => (fresh.outcome, fresh.words.clone()),
            (None, Some(old)) => (Outcome::Holds, self.stale_in_words(old)),
            (None, None) => (Outcome::Holds, "nothing has been found out yet".to_owned()),
        };
        let is_suspicion = fresh.is_some_and(|fresh| fresh.is_suspicion);
        let observed = finding.map(|finding| finding.at);
        Standing { gate: self.name.clone(), outcome, is_suspicion, words, since: now, observed }
    }

    fn stale_in_words(&self, old: &Finding) -> String {
        let limit = span_in_words(self.stale_after);
        format!("its last finding is older than {limit} and counts no more; it was: {}", old.words)
    }
}
