//! What the demo measured: for people, and as JSON.

use serde::Serialize;

use super::Act;

/// The figures of one act. Counts are those of the load, which knows nothing of the edge's own books.
#[derive(Debug, Clone, Serialize)]
pub(super) struct ActFigures {
    /// Which act.
    pub(super) act: Act,
    /// Whether it ended as it should.
    pub(super) ok: bool,
    /// How long it took.
    pub(super) seconds: f64,
    /// Requests that were answered, or not.
    pub(super) requests: u64,
    /// Those that a client would call an error.
    pub(super) errors: u64,
    /// Errors among stable's answers.
    pub(super) errors_on_stable: u64,
    /// Decisions to take a canary back.
    pub(super) rollbacks: u64,
    /// Milliseconds from the first bad answer of the canary to weight 0 being in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) first_bad_answer_to_weight_0_ms: Option<f64>,
    /// What was asked for in the file and what traffic did.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) edits: Vec<EditFigures>,
}

/// One edit of weights.
#[derive(Debug, Clone, Serialize)]
pub(super) struct EditFigures {
    /// The canary's share in the file, in percent.
    pub(super) asked_percent: f64,
    /// Its share of the answers that clients got, in percent.
    pub(super) observed_percent: f64,
    /// How far chance alone would take it, in points (four standard deviations).
    pub(super) sampling_error_points: f64,
    /// Answers it was observed over.
    pub(super) answers: u64,
    /// Milliseconds from the write of the file to the new config being in force.
    pub(super) in_force_ms: f64,
}

/// The figures of the demo.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Figures {
    /// By act.
    pub(super) acts: Vec<ActFigures>,
    /// Requests over all acts.
    pub(super) requests: u64,
    /// Errors that clients saw over all acts.
    pub(super) errors: u64,
    /// Milliseconds from the first bad answer to weight 0; none if that act was not played to its end.
    pub(super) first_bad_answer_to_weight_0_ms: Option<f64>,
    /// Rollbacks outside of the act with a failing canary.
    pub(super) false_rollbacks: u64,
    /// What went otherwise than it should; none if nothing did.
    pub(super) failure: Option<String>,
}

impl Figures {
    /// The sums over `acts`.
    pub(super) fn of(acts: Vec<ActFigures>, failure: Option<String>) -> Self {
        let sum = |count: fn(&ActFigures) -> u64| acts.iter().map(count).sum();
        let false_rollbacks = acts.iter().filter(|act| act.act != Act::Failing).map(|act| act.rollbacks).sum();
        Self {
            requests: sum(|act| act.requests),
            errors: sum(|act| act.errors),
            first_bad_answer_to_weight_0_ms: acts.iter().find_map(|act| act.first_bad_answer_to_weight_0_ms),
            false_rollbacks,
            failure,
            acts,
        }
    }

    /// The closing table.
    pub(super) fn in_words(&self) -> String {
        let head = "\n  act        ended well  requests  errors seen by clients  of them on stable\n".to_owned();
        let acts = self.acts.iter().map(ActFigures::in_words);
        let speed =
            self.first_bad_answer_to_weight_0_ms.map(|ms| format!("\n  first bad answer to weight 0: {ms:.0} ms\n"));
        let closing = format!("  false rollbacks: {}\n", self.false_rollbacks);
        std::iter::once(head).chain(acts).chain(speed).chain([closing]).collect()
    }
}

impl ActFigures {
    fn in_words(&self) -> String {
        let name = match self.act {
            Act::Healthy => "healthy",
            Act::Failing => "failing",
            Act::Edit => "edit",
        };
        let ok = if self.ok { "yes" } else { "NO" };
        let Self { requests, errors, errors_on_stable, .. } = self;
        format!("  {name:<10} {ok:>10}  {requests:>8}  {errors:>22}  {errors_on_stable:>17}\n")
    }
}
