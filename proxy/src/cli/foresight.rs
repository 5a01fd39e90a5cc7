//! What `check` foresees of a plan, in words: how long it takes, what a bad canary costs, and which steps cannot decide.

use pointsman_config::{Place, Problem, Route, Severity, place_of};
use pointsman_rollout::{Doubt, Expected, Foresight, Healthy, StepAhead, foresee, tries_a_version};
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
    /// Whether the plan of `route` is one that is forecast.
    pub(super) fn is_about(route: &Route) -> bool {
        tries_a_version(&route.plan)
    }

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
        let Foresight { expected, healthy, steps, alerts_only, .. } = &self.foresight;
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
        page.extend(healthy.as_ref().map(|healthy| paragraph(&self.fate(healthy), 2)));
        page.push_str(&self.table_of_failures());
        if *alerts_only {
            page.push_str(&paragraph(&self.nobody_takes_it_back(), 2));
        }
        page
    }

    /// What becomes of a healthy canary.
    fn fate(&self, healthy: &Healthy) -> String {
        let Healthy { runs, promoted, taken_back, alerted, stuck, stuck_on, seconds } = healthy;
        let by_hand = self.foresight.promotion_by_hand;
        let comes = if by_hand { "could be promoted by hand" } else { "is promoted" };
        let mut text = match seconds {
            Some(seconds) => format!(
                "A canary as good as stable {comes} after {} ({} to {}) in {promoted} of {runs} simulated runs",
                span(seconds.median),
                span(seconds.low),
                span(seconds.high)
            ),
            None => format!("A canary as good as stable {comes} in none of {runs} simulated runs"),
        };
        if *taken_back > 0 {
            text.say(format_args!("; in {taken_back} it is taken back"));
        }
        if *alerted > 0 {
            text.say(format_args!("; in {alerted} an alert stops it"));
        }
        if let Some(on) = stuck_on {
            text.say(format_args!("; in {stuck} it stops: {on}"));
        }
        text.push('.');
        if by_hand {
            text.say(format_args!(
                " The plan waits for `pointsman promote {}`; what follows is of one that is promoted at once.",
                self.route
            ));
        }
        text
    }

    fn table_of_failures(&self) -> String {
        let Foresight { alerts_only, failing, .. } = &self.foresight;
        let (after, then) = if *alerts_only { ("alert after", Some("then per min")) } else { ("rollback after", None) };
        let head = format!("{} {:>15}", cells(["canary that fails", after, "bad answers"], then), "found");
        let mut page = format!("{}\n", paint(DIM, &head));
        for ahead in failing {
            let from = ahead.from_step.map_or(String::new(), |step| format!(" from step {step} on"));
            let what = format!("{}{from}", percent_in_text(ahead.rate));
            let after = ahead.seconds.map_or("-".to_owned(), |seconds| short_or_long(seconds.median));
            let then = ahead.then_per_minute.map_or("-".to_owned(), whole);
            let line = cells([&what, &after, &whole(ahead.bad_answers.mean)], alerts_only.then_some(then.as_str()));
            let found = format!("{:>15}", format!("{} of {} runs", ahead.found, ahead.runs));
            let found = if ahead.found < ahead.runs { paint(CAREFUL, &found) } else { found };
            page.say(format_args!("{line} {found}\n"));
        }
        page
    }

    fn nobody_takes_it_back(&self) -> String {
        format!(
            "The guard of {0} only alerts: the plan stops and nothing is taken back, so the canary goes on failing until somebody says `pointsman rollback {0}`.",
            self.route
        )
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

/// Which canary, after what time, at what price, and, where nothing takes it back, what each minute costs then.
fn cells([what, after, bad]: [&str; 3], then: Option<&str>) -> String {
    let then = then.map_or(String::new(), |then| format!(" {then:>12}"));
    format!("  {what:<22} {after:>14} {bad:>11}{then}")
}

fn short_or_long(seconds: f64) -> String {
    if seconds < 100.0 { format!("{seconds:.1} s") } else { span(seconds) }
}

/// A mean of counts.
fn whole(mean: f64) -> String {
    let rounded = format!("{mean:.0}");
    rounded.parse().map_or(rounded, grouped)
}
