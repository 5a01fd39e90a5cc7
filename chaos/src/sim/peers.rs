//! How peers would decide: thresholds on scraped success rates, as their documentation sets them up.
//!
//! Both see the world through a scraper, as they do: counters are read every 15 s, and a rate over a window is the difference
//! of the last reading and the one that long before. What they do not see at all is left out in their favour: a window
//! without a request counts for nothing, neither as a failure nor as an error.
//!
//! Sources: the analysis page of Argo Rollouts 1.10 (`success-rate`, `interval: 5m`, `result[0] >= 0.95`,
//! `failureLimit: 3`: more than so many failures end it; its example goes by `setWeight` 20, 40, 60, 80 with `pause` of 10m each,
//! `startingStep: 2` at 40 %, and takes `irate`, which looks at the last two readings), and the metrics and canary pages of Flagger 1.x (`interval: 1m`,
//! `threshold: 5`, `stepWeight: 10`, `maxWeight: 50`, `request-success-rate` at least 99, `request-duration` P99 at
//! most 500 ms).

use std::collections::VecDeque;
use std::time::Duration;

use pointsman_config::{Plan, Share, Split, Step, Strategy, VersionId};
use pointsman_rollout::{Decision, Tally, Time};

use super::policy::{Policy, ReadyMap, Seen, Told};
use crate::count::exact;
use crate::scenario::Scenario;

const SCRAPE_EVERY: Duration = Duration::from_secs(15);

/// One version's counters as a scraper has them.
struct Scraped {
    total: Tally,
    readings: VecDeque<(Duration, Tally)>,
    keeps: Duration,
}

impl Scraped {
    fn new(keeps: Duration) -> Self {
        Self { total: Tally::default(), readings: VecDeque::from([(Duration::ZERO, Tally::default())]), keeps }
    }

    fn tick(&mut self, seen: &[Option<Seen<'_>>], version: &VersionId, now: Duration) {
        for row in seen.iter().flatten().flat_map(|seen| seen.rows) {
            if row.canary.as_ref() == Some(version) {
                self.total += row.row.canary;
            } else if row.stable == *version {
                self.total += row.row.stable;
            }
        }
        let last = self.readings.back().map_or(Duration::ZERO, |(at, _)| *at);
        if now.saturating_sub(last) >= SCRAPE_EVERY {
            self.readings.push_back((now, self.total));
            while self.readings.get(1).is_some_and(|(at, _)| *at + self.keeps <= now) {
                self.readings.pop_front();
            }
        }
    }

    /// What came in the window before the last reading; none without a request.
    fn window(&self, window: Duration) -> Option<Tally> {
        let (at, last) = self.readings.back()?;
        let is_old = |(then, _): &&(Duration, Tally)| *then + window <= *at;
        let (_, before) = self.readings.iter().rev().find(is_old).or_else(|| self.readings.front())?;
        let between = Tally {
            requests: last.requests - before.requests,
            errors: last.errors - before.errors,
            slow: last.slow - before.slow,
        };
        (between.requests > 0).then_some(between)
    }
}

fn share_of(part: u64, tally: Tally) -> f64 {
    exact(part) / exact(tally.requests)
}

/// What both have: two versions, a weight, and an end.
struct Course {
    stable: VersionId,
    canary: VersionId,
    weight: Share,
    is_over: bool,
}

impl Course {
    fn new(scenario: &Scenario) -> Self {
        let stable = scenario.route.stable.clone();
        Self { canary: scenario.canary().unwrap_or(&stable).clone(), stable, weight: Share::ZERO, is_over: false }
    }

    fn split(&self) -> Split {
        if self.weight == Share::WHOLE {
            Split::Whole(self.canary.clone())
        } else {
            Split::canary(self.stable.clone(), self.canary.clone(), self.weight)
        }
    }

    fn move_to(&mut self, weight: Share, decision: Decision, why: &str) -> Told {
        self.weight = weight;
        self.is_over |= decision != Decision::Step;
        Told { decision: Some(decision), sentence: format!("{} now gets {weight}: {why}", self.canary), change: None }
    }
}

/// Steps and holds of the plan, a success rate in the background.
pub(super) struct Argo {
    course: Course,
    steps: Vec<Step>,
    /// Which step comes next, and since when the present one lasts.
    next: usize,
    since: Duration,
    scraped: Scraped,
    every: Duration,
    window: Duration,
    at_least: f64,
    failures_allowed: u32,
    failures: u32,
    /// When it measures next.
    due: Duration,
}

impl Argo {
    pub(super) fn documented(scenario: &Scenario) -> Self {
        Self::new(scenario, Duration::from_mins(5), Duration::from_mins(5), (0.95, 3))
    }

    /// The analysis begins with the second weight, and measures at once.
    pub(super) fn on_its_own_plan(scenario: &Scenario) -> Self {
        let hold = Duration::from_mins(10);
        let weights = [200_000, 400_000, 600_000, 800_000].into_iter().filter_map(|ppm| Share::from_ppm(ppm).ok());
        Self {
            steps: weights.map(|weight| Step { weight, hold }).collect(),
            due: hold,
            ..Self::new(scenario, Duration::from_mins(5), SCRAPE_EVERY, (0.95, 3))
        }
    }

    pub(super) fn quick(scenario: &Scenario) -> Self {
        Self::new(scenario, Duration::from_secs(30), Duration::from_mins(1), (0.99, 0))
    }

    fn new(scenario: &Scenario, every: Duration, window: Duration, (at_least, failures_allowed): (f64, u32)) -> Self {
        let steps = match &scenario.route.plan {
            Plan::Rollout(plan) => match &plan.strategy {
                Strategy::Canary(steps) => steps.clone(),
                Strategy::BlueGreen => Vec::new(),
            },
            Plan::Weights(_) => Vec::new(),
        };
        Self {
            course: Course::new(scenario),
            steps,
            next: 0,
            since: Duration::ZERO,
            scraped: Scraped::new(window + SCRAPE_EVERY),
            every,
            window,
            at_least,
            failures_allowed,
            failures: 0,
            due: every,
        }
    }

    /// Whether the analysis has failed.
    fn measure(&mut self, now: Duration) -> bool {
        if now < self.due {
            return false;
        }
        self.due = now + self.every;
        let window = self.scraped.window(self.window);
        let is_low = window.is_some_and(|tally| 1.0 - share_of(tally.errors, tally) < self.at_least);
        self.failures += u32::from(is_low);
        self.failures > self.failures_allowed
    }

    fn advance(&mut self, now: Duration) -> Option<Told> {
        let present = self.next.checked_sub(1).and_then(|index| self.steps.get(index));
        if present.is_some_and(|step| now.saturating_sub(self.since) < step.hold) {
            return None;
        }
        self.since = now;
        let step = self.steps.get(self.next).copied();
        self.next += 1;
        Some(match step {
            Some(step) => self.course.move_to(step.weight, Decision::Step, "the pause is over"),
            None => self.course.move_to(Share::WHOLE, Decision::Promote, "every step is done"),
        })
    }
}

impl Policy for Argo {
    fn split(&self, _edge: usize, _ready: &ReadyMap) -> Split {
        self.course.split()
    }

    fn tick(&mut self, seen: &[Option<Seen<'_>>], now: Time) -> Vec<Told> {
        let now = now.since(Time::default());
        self.scraped.tick(seen, &self.course.canary, now);
        if self.course.is_over {
            return Vec::new();
        }
        if self.measure(now) {
            return vec![self.course.move_to(
                Share::ZERO,
                Decision::Rollback,
                "the success rate was too low too often",
            )];
        }
        self.advance(now).into_iter().collect()
    }
}

/// Steps of its own, one for each good check.
pub(super) struct Flagger {
    course: Course,
    scraped: Scraped,
    failures: u32,
    checked: Duration,
}

impl Flagger {
    const EVERY: Duration = Duration::from_mins(1);
    const THRESHOLD: u32 = 5;
    const STEP_PPM: u32 = 100_000;
    const MAX_PPM: u32 = 500_000;

    pub(super) fn documented(scenario: &Scenario) -> Self {
        let scraped = Scraped::new(Self::EVERY + SCRAPE_EVERY);
        Self { course: Course::new(scenario), scraped, failures: 0, checked: Duration::ZERO }
    }

    fn check(&mut self) -> Told {
        let window = self.scraped.window(Self::EVERY);
        let is_bad = |tally: Tally| share_of(tally.errors, tally) > 0.01 || share_of(tally.slow, tally) > 0.01;
        if self.course.weight > Share::ZERO && window.is_some_and(is_bad) {
            self.failures += 1;
            let weight = self.course.weight;
            return if self.failures >= Self::THRESHOLD {
                self.course.move_to(Share::ZERO, Decision::Rollback, "checks failed too often")
            } else {
                self.course.move_to(weight, Decision::Step, "a check failed, so it stays")
            };
        }
        let next = self.course.weight.ppm() + Self::STEP_PPM;
        match Share::from_ppm(next).ok().filter(|_| next <= Self::MAX_PPM) {
            Some(weight) => self.course.move_to(weight, Decision::Step, "the check passed"),
            None => self.course.move_to(Share::WHOLE, Decision::Promote, "every step is done"),
        }
    }
}

impl Policy for Flagger {
    fn split(&self, _edge: usize, _ready: &ReadyMap) -> Split {
        self.course.split()
    }

    fn tick(&mut self, seen: &[Option<Seen<'_>>], now: Time) -> Vec<Told> {
        let now = now.since(Time::default());
        self.scraped.tick(seen, &self.course.canary, now);
        if self.course.is_over || now.saturating_sub(self.checked) < Self::EVERY {
            return Vec::new();
        }
        self.checked = now;
        vec![self.check()]
    }
}
