//! One row of news: what changed, said so that neither a program nor a person has to ask what it means.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use pointsman_config::{NewsKind, RouteName};
use pointsman_rollout::{Cause, Change, Decision};
use serde::Serialize;

use crate::control::events::now_in_words;
use crate::view::{ConfigView, DecisionRow, RouteView};

/// Problems that a row holds; `pointsman check` shows all.
const MOST_PROBLEMS: usize = 10;

/// How soon somebody should look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Severity {
    /// When there is time.
    Info,
    /// Today.
    Warning,
    /// Now.
    Critical,
}

/// One row of news.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct News {
    /// No other row has it, and every try of this one.
    pub(super) id: String,
    /// When it happened (RFC 3339, milliseconds, UTC).
    pub(super) at: String,
    /// What happened, by its name in `events`; `test` for a test.
    pub(super) event: &'static str,
    pub(super) severity: Severity,
    /// Which edge says so.
    edge: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) route: Option<RouteName>,
    /// One sentence.
    pub(super) text: String,
    /// What to type next.
    pub(super) next: String,
    /// What is wrong with a config file, or what of it waits for a restart.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) problems: Vec<String>,
    /// The row of the decision log, as the admin API gives it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) decision: Option<Arc<DecisionRow>>,
    /// What it counts as.
    #[serde(skip)]
    kinds: Vec<NewsKind>,
    #[serde(skip)]
    pub(super) created: Instant,
}

impl News {
    fn new(event: &'static str, kinds: Vec<NewsKind>, text: String) -> Self {
        Self {
            id: format!("{:032x}", rand::random::<u128>()),
            at: now_in_words(),
            event,
            severity: Severity::Info,
            edge: String::new(),
            route: None,
            text,
            next: "pointsman status".to_owned(),
            problems: Vec::new(),
            decision: None,
            kinds,
            created: Instant::now(),
        }
    }

    /// That something of this kind happened.
    pub(crate) fn of(kind: NewsKind, text: String) -> Self {
        Self::new(kind.as_str(), vec![kind], text)
    }

    /// A decision.
    pub(crate) fn of_decision(row: &Arc<DecisionRow>) -> Self {
        let change = &row.change;
        let kind = kind_of(change.decision);
        let explains = matches!(change.decision, Decision::Rollback | Decision::Alert | Decision::Pause);
        let next = if explains {
            format!("pointsman explain {} {}", row.route, row.id)
        } else {
            format!("pointsman status {}", row.route)
        };
        let kinds = [Some(kind), cause_of(&change.cause)].into_iter().flatten().collect();
        Self {
            at: row.at.clone(),
            severity: severity(change),
            route: Some(row.route.clone()),
            next,
            decision: Some(Arc::clone(row)),
            ..Self::new(kind.as_str(), kinds, row.sentence.clone())
        }
    }

    /// A rollout is held.
    pub(crate) fn of_hold(route: &RouteView) -> Self {
        let canary = route.canary.as_ref().map_or("the canary", |canary| canary.as_str());
        Self {
            severity: Severity::Warning,
            route: Some(route.name.clone()),
            next: format!("pointsman status {}", route.name),
            ..Self::of(NewsKind::Hold, format!("{canary} is held where it stands ({}): {}", route.phase, route.why))
        }
    }

    /// The config file is in force.
    pub(crate) fn of_config(config: &ConfigView, routes: usize) -> Self {
        let text = format!(
            "the config file was changed and is in force: generation {}, {routes} route{}",
            config.generation,
            if routes == 1 { "" } else { "s" }
        );
        Self { problems: config.needs_restart.clone(), ..Self::of(NewsKind::ConfigAccepted, text) }
    }

    /// The config file is refused.
    pub(crate) fn of_refused_config(config: &ConfigView, problems: &[String]) -> Self {
        let text = "the config file was changed and refused; what was in force before stays in force".to_owned();
        Self {
            severity: Severity::Warning,
            next: format!("pointsman check {}", config.file),
            problems: problems.iter().take(MOST_PROBLEMS).cloned().collect(),
            ..Self::of(NewsKind::ConfigRefused, text)
        }
    }

    /// A test of the hook `name`, asked for by `by`.
    pub(super) fn test(name: &str, by: &str) -> Self {
        let text = format!("a test of webhook {name}, asked for by {by}; nothing has changed");
        Self::new("test", Vec::new(), text)
    }

    /// The same, said by the edge `name`.
    pub(crate) fn said_by(self, name: &str) -> Self {
        Self { edge: name.to_owned(), ..self }
    }

    /// Whether it is something of `wanted`.
    pub(super) fn is_of(&self, wanted: &BTreeSet<NewsKind>) -> bool {
        self.kinds.iter().any(|kind| wanted.contains(kind))
    }

    pub(super) fn edge(&self) -> &str {
        &self.edge
    }
}

const fn kind_of(decision: Decision) -> NewsKind {
    match decision {
        Decision::Start => NewsKind::Start,
        Decision::Step => NewsKind::Step,
        Decision::Pause => NewsKind::Pause,
        Decision::Hold => NewsKind::Hold,
        Decision::Resume => NewsKind::Resume,
        Decision::Promote => NewsKind::Promote,
        Decision::Flip => NewsKind::Flip,
        Decision::Bake => NewsKind::Bake,
        Decision::Finish => NewsKind::Finish,
        Decision::Rollback => NewsKind::Rollback,
        Decision::RollbackDone => NewsKind::RollbackDone,
        Decision::Alert => NewsKind::Alert,
        Decision::SetWeights => NewsKind::SetWeights,
        Decision::Retry => NewsKind::Retry,
        Decision::Edit => NewsKind::Edit,
    }
}

/// A cause that can be asked for by name.
fn cause_of(cause: &Cause) -> Option<NewsKind> {
    if matches!(cause, Cause::ForeignChange { .. }) {
        Some(NewsKind::ForeignChange)
    } else {
        matches!(cause, Cause::Tripped { .. }).then_some(NewsKind::Trip)
    }
}

/// How soon somebody should look at a decision; what an operator did is known to somebody already.
fn severity(change: &Change) -> Severity {
    let is_known = matches!(change.cause, Cause::Operator { .. } | Cause::File);
    match change.decision {
        _ if is_known => Severity::Info,
        Decision::Rollback | Decision::Alert => Severity::Critical,
        Decision::Pause | Decision::Hold => Severity::Warning,
        _ if matches!(change.cause, Cause::ForeignChange { .. }) => Severity::Warning,
        Decision::Start
        | Decision::Step
        | Decision::Resume
        | Decision::Promote
        | Decision::Flip
        | Decision::Bake
        | Decision::Finish
        | Decision::RollbackDone
        | Decision::SetWeights
        | Decision::Retry
        | Decision::Edit => Severity::Info,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use pointsman_config::{Share, Split};
    use pointsman_rollout::{PhaseName, Regression};

    use super::*;
    use crate::recorder::Failure;

    /// A decision about v2, which had 5 %.
    pub(in super::super) fn row(decision: Decision, cause: Cause) -> Arc<DecisionRow> {
        let (v1, v2) = ("v1".parse().unwrap(), "v2".parse().unwrap());
        let before = Split::canary("v1".parse().unwrap(), "v2".parse().unwrap(), Share::from_ppm(50_000).unwrap());
        let change = Change {
            decision,
            from: PhaseName::Shifting,
            to: PhaseName::RollingBack,
            stable: v1,
            canary: Some(v2),
            before,
            after: Split::Whole("v1".parse().unwrap()),
            cause,
            evidence: None,
        };
        let failure =
            Failure { request_id: "id-1".to_owned(), outcome: "error".to_owned(), status: Some(500), at_unix_ms: 1 };
        Arc::new(DecisionRow {
            id: 43,
            at: "2026-01-31T03:12:09.123Z".to_owned(),
            route: "delivery-time".parse().unwrap(),
            sentence: change.sentence(),
            change,
            failures: vec![failure],
        })
    }

    fn worse() -> Cause {
        Cause::Evidence { regression: Regression::ErrorRegression }
    }

    #[test]
    fn every_decision_is_told_by_its_own_name() {
        for decision in Decision::ALL {
            assert_eq!(kind_of(decision).as_str(), decision.as_str());
        }
    }

    #[test]
    fn what_nobody_asked_for_is_told_louder_than_what_somebody_did() {
        let by_hand = || Cause::Operator { actor: "anna".to_owned(), reason: String::new() };
        assert_eq!(severity(&row(Decision::Rollback, worse()).change), Severity::Critical);
        assert_eq!(severity(&row(Decision::Rollback, by_hand()).change), Severity::Info);
        assert_eq!(
            severity(&row(Decision::Pause, Cause::Deadline { waiting_for: String::new() }).change),
            Severity::Warning
        );
        assert_eq!(severity(&row(Decision::Step, Cause::File).change), Severity::Info);
    }

    #[test]
    fn a_cause_can_be_asked_for_whatever_was_decided() {
        let tripped = Cause::Tripped { by: "edge-2".to_owned(), why: "it fails".to_owned() };
        let news = News::of_decision(&row(Decision::Rollback, tripped));
        assert!(news.is_of(&[NewsKind::Trip].into()) && news.is_of(&[NewsKind::Rollback].into()));
        assert!(!news.is_of(&[NewsKind::Step, NewsKind::Pause].into()));
    }

    #[test]
    fn a_row_holds_the_whole_decision_and_what_to_type() {
        let news = News::of_decision(&row(Decision::Rollback, worse())).said_by("edge-1");
        let json = serde_json::to_value(&news).unwrap();
        assert_eq!(json["event"], "rollback");
        assert_eq!(json["severity"], "critical");
        assert_eq!((&json["edge"], &json["route"]), (&"edge-1".into(), &"delivery-time".into()));
        assert_eq!(json["at"], "2026-01-31T03:12:09.123Z", "when it happened, not when it is told");
        assert_eq!(json["next"], "pointsman explain delivery-time 43");
        assert_eq!(json["decision"]["change"]["decision"], "rollback");
        assert_eq!(json["id"].as_str().unwrap().len(), 32);
        assert!(json.get("kinds").is_none() && json.get("problems").is_none(), "{json}");
    }

    #[test]
    fn no_two_rows_have_one_id() {
        let ids: BTreeSet<_> = (0..100).map(|_| News::of(NewsKind::Hold, String::new()).id).collect();
        assert_eq!(ids.len(), 100);
    }
}
