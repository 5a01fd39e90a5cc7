//! What `check` foresees of a plan, in words: how long it takes, what a bad canary costs, and which steps cannot decide.

use pointsman_config::{Place, Problem, Route, Severity, place_of};
use pointsman_rollout::{Doubt, Expected, Failing, Foresight, Healthy, StepAhead, foresee};
use serde::Serialize;

use super::words::{BOLD, CAREFUL, DIM, Say, factor, grouped, paint, paragraph, percent_in_text, signed_points, span};

/// Canaries that a forecast is made for, by the share of requests that they fail.
const FAILING: [f64; 3] = [0.01, 0.05, 0.5];

/// The forecast of one route.
#[derive(Debug, Serialize)]
pub(super) struct Forecast {
    route: String,
    #[serde(flatten)]
    foresight: Foresight,
}

impl Forecast {
    /// Of one route; none if it tries no version, or gets no traffic.
    pub(super) fn of(route: &Route, expected: Expected) -> Option<Self> {
        Some(Self { route: route.name.to_string(), foresight: foresee(route, expected, &FAILING)? })
    }

    /// What is doubtful, as warnings of the file `text`, in which the route has number `index`.
    pub(super) fn warnings(&self, (text, origin): (&str, &str), index: usize) -> Vec<Problem> {
        let warning = |doubt: &Doubt| {
            let path = path(index, doubt);
            let place: Place = place_of(text, origin, &path);
            let (what, way_out) = words(doubt);
            Problem { severity: Severity::Warning, place, what, way_out, path }
        };
        self.foresight.doubts.iter().map(warning).collect()
    }

    /// A paragraph for people.
    pub(super) fn in_words(&self) -> String {
        let Foresight { expected, healthy, steps, failing, .. } = &self.foresight;
        let mut page = format!("\n{}\n", paint(BOLD, &format!("What to expect of {}", self.route)));
        page.push_str(&paragraph(
            &format!(
                "At {} requests/s, with {} errors and {} slow answers on both versions:",
                rate(expected.requests_per_s),
                percent_in_text(expected.error_rate),
                percent_in_text(expected.slow_rate)
            ),
            2,
        ));
        page.push_str(&table_of_steps(steps));
        page.extend(healthy.as_ref().map(|healthy| paragraph(&fate(healthy), 2)));
        page.push_str(&table_of_failures(failing));
        page
    }
}

fn path(index: usize, doubt: &Doubt) -> String {
    let route = format!("routes[{index}]");
    match doubt.step() {
        Some(step) => format!("{route}.rollout.steps[{}]", step.saturating_sub(1)),
        None => format!("{route}.rollout"),
    }
}

/// What is wrong, and the way out.
fn words(doubt: &Doubt) -> (String, String) {
    match doubt {
        Doubt::TooFewRequests { step, expected, needed, takes_s } => (
            format!(
                "step {step} gives the canary about {expected:.0} requests in its hold, and takes {needed}: it lasts {} instead",
                span(*takes_s)
            ),
            format!("hold it for {} or give it more weight", span(*takes_s)),
        ),
        Doubt::NeverEnough { step, needed, takes_s, pauses_s } => (
            format!(
                "step {step} takes {needed} requests of the canary, which come in {}: it pauses after {} instead",
                span(*takes_s),
                span(*pauses_s)
            ),
            "give it more weight, or a longer `step_deadline`".to_owned(),
        ),
        Doubt::HoldTooShort { step, rate, passes, hold_s } => (
            format!(
                "step {step} is over before a canary that fails {} is found: {} of such canaries get more traffic",
                percent_in_text(*rate),
                percent_in_text(*passes)
            ),
            hold_s.map_or("give it more weight".to_owned(), |hold_s| {
                format!("hold it for {}, which finds nine of ten", span(hold_s))
            }),
        ),
        Doubt::AddsNothing { step, factor: times } => (
            format!("step {step} has {} times the weight of the one before, and tells hardly more", factor(*times)),
            "leave one of them out, or double the weight from step to step".to_owned(),
        ),
        Doubt::NotProven { of, takes_s, difference, would_do } => {
            let what = if of == "latency" { "share of slow answers" } else { "error rate" };
            let takes = takes_s.map_or("never comes".to_owned(), |takes_s| format!("takes {}", span(takes_s)));
            (
                format!(
                    "a good canary is not proven to be one in time: with `promotion.difference` at {} points the proof by its {what} {takes}, since that is within the noise of the baseline",
                    points(*difference)
                ),
                would_do.map_or("give the last step more weight, and `promotion.max_duration` more time".to_owned(), |would_do| {
                    format!("a `promotion.difference` of {}% is proven in time, or give `promotion.max_duration` more time", points(would_do))
                }),
            )
        }
    }
}

fn points(ratio: f64) -> String {
    let text = signed_points(ratio);
    text.trim_start_matches('+').to_owned()
}

fn rate(requests_per_s: f64) -> String {
    if requests_per_s >= 10.0 { format!("{requests_per_s:.0}") } else { format!("{requests_per_s:.2}") }
}

fn table_of_steps(steps: &[StepAhead]) -> String {
    if steps.is_empty() {
        return String::new();
    }
    let head = format!("  {:<6} {:>9} {:>14} {:>12} {:>16}", "step", "weight", "hold", "requests", "lasts");
    let mut page = format!("{}\n", paint(DIM, &head));
    for ahead in steps {
        let lasts = ahead.lasts_s.map_or("-".to_owned(), span);
        page.say(format_args!(
            "  {:<6} {:>9} {:>14} {:>12} {:>16}\n",
            ahead.step,
            ahead.weight.to_string(),
            span(ahead.hold_s),
            format!("{:.0}", ahead.requests),
            lasts
        ));
    }
    page
}

/// What becomes of a healthy canary.
fn fate(healthy: &Healthy) -> String {
    let Healthy { runs, promoted, taken_back, stuck, stuck_on, seconds } = healthy;
    let mut text = match seconds {
        Some(seconds) => format!(
            "A canary as good as stable is promoted after {} ({} to {}) in {promoted} of {runs} simulated runs",
            span(seconds.median),
            span(seconds.low),
            span(seconds.high)
        ),
        None => format!("A canary as good as stable is never promoted in {runs} simulated runs"),
    };
    if *taken_back > 0 {
        text.say(format_args!("; in {taken_back} it is taken back"));
    }
    if let Some(on) = stuck_on {
        text.say(format_args!("; in {stuck} it stops: {on}"));
    }
    text.push('.');
    text
}

fn table_of_failures(failing: &[Failing]) -> String {
    let head = format!("  {:<26} {:>16} {:>14} {:>16}", "canary that fails", "rollback after", "bad answers", "found");
    let mut page = format!("{}\n", paint(DIM, &head));
    for ahead in failing {
        let from = ahead.from_step.map_or(String::new(), |step| format!(" from step {step} on"));
        let after = ahead.seconds.map_or("-".to_owned(), |seconds| format!("{:.1} s", seconds.median));
        let after =
            ahead.seconds.filter(|seconds| seconds.median >= 100.0).map_or(after, |seconds| span(seconds.median));
        let found = format!("{} of {} runs", ahead.found, ahead.runs);
        let found =
            if ahead.found < ahead.runs { paint(CAREFUL, &format!("{found:>16}")) } else { format!("{found:>16}") };
        page.say(format_args!(
            "  {:<26} {after:>16} {:>14} {found}\n",
            format!("{}{from}", percent_in_text(ahead.rate)),
            bad(ahead.bad_answers.mean)
        ));
    }
    page
}

fn bad(mean: f64) -> String {
    let rounded = format!("{mean:.0}");
    rounded.parse().map_or(rounded, grouped)
}
