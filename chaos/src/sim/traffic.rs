//! Requests of a simulated world: when they come, who gets them, and when what comes of them is known.

use std::collections::BTreeMap;
use std::time::Duration;

use pointsman_config::{Share, Split, VersionId};
use pointsman_rollout::{Drawn, Observed, Requests, Row, Tally};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Binomial, Distribution, Poisson};

use super::TICK;
use super::books::Books;
use super::checks::Checks;
use super::fleet::{Answers, Fleet};
use super::users::{Sent, Users};
use crate::count::{as_u64, exact};
use crate::scenario::{CLIENTS_WAIT, Event, Scenario, Swell};

/// The stream of requests, and those whose outcome is not known yet.
pub(super) struct Traffic {
    chance: ChaCha8Rng,
    rate: f64,
    /// From when, until when, and how.
    swells: Vec<(Duration, Option<Duration>, Swell)>,
    /// How long after its assignment a slow answer comes, and one that never comes is given up.
    slow_after: Duration,
    hangs_for: Duration,
    /// By the time at which they become known: at which edge, and what.
    coming: BTreeMap<Duration, Vec<(usize, Observed)>>,
    /// Assigned in this tick.
    assigned: Vec<(VersionId, u64)>,
    /// Who sends them, where users are assigned.
    users: Option<Users>,
    /// At edges that stand still.
    waiting: BTreeMap<usize, Waiting>,
}

/// What clients wait for at an edge that stands still.
#[derive(Default)]
struct Waiting {
    /// Assigned before, and not ended then.
    under_way: Vec<Observed>,
    /// Sent since: when, and how many.
    unread: Vec<(Duration, u64)>,
}

/// An edge that takes requests.
pub(super) struct Serving<'a> {
    pub(super) edge: usize,
    /// How it divides them, and for which trial.
    pub(super) applied: &'a Split,
    pub(super) trial: u64,
    /// What it knows of endpoints.
    pub(super) checks: &'a Checks,
}

/// What comes of one version's requests of one tick, by when it is known.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Fates {
    pub(super) at_once: Tally,
    pub(super) slow: Tally,
    pub(super) hung: Tally,
}

/// What of some fates becomes known at the same time.
type PartOf = fn(&Fates) -> Tally;

impl Traffic {
    pub(super) fn new(scenario: &Scenario, chance: ChaCha8Rng) -> Self {
        let route = &scenario.route;
        Self {
            chance,
            rate: scenario.rate,
            swells: Vec::new(),
            slow_after: route.guard.latency_threshold + TICK,
            hangs_for: route.timeouts.read.min(route.timeouts.total),
            coming: BTreeMap::new(),
            assigned: Vec::new(),
            users: scenario.users.as_ref().map(|users| Users::new(users.count)),
            waiting: BTreeMap::new(),
        }
    }

    /// An event has begun; it is in force by its own times.
    pub(super) fn begin(&mut self, event: &Event) {
        self.swells.extend(event.what.swell().map(|swell| (event.at, event.until, *swell)));
    }

    /// How many requests come in this tick.
    pub(super) fn arrivals(&mut self, now: Duration) -> u64 {
        let mean = self.mean(now);
        self.poisson(mean)
    }

    /// Requests of one tick, on the average.
    fn mean(&self, now: Duration) -> f64 {
        let is_now = |(from, until, _): &&(Duration, Option<Duration>, Swell)| {
            *from <= now && until.is_none_or(|until| now < until)
        };
        let swells = self.swells.iter().filter(is_now);
        let times: f64 = swells.map(|(from, _, swell)| swell.after(now.saturating_sub(*from))).product();
        self.rate * times * TICK.as_secs_f64()
    }

    /// The requests of this tick are spread evenly over the edges; each divides its own, and they meet their fates. At those
    /// that stand still they wait.
    pub(super) fn serve(&mut self, (edges, frozen): (&[Serving<'_>], &[usize]), now: Duration, fleet: &Fleet) {
        // A Poisson stream that is divided by independent draws is so many independent Poisson streams.
        let mean = self.mean(now) / exact((edges.len() + frozen.len()).max(1));
        for serving in edges {
            self.serve_at(serving, mean, now, fleet);
        }
        for edge in frozen {
            let sent = self.poisson(mean);
            self.waiting.entry(*edge).or_default().unread.push((now, sent));
        }
    }

    fn serve_at(&mut self, serving: &Serving<'_>, mean: f64, now: Duration, fleet: &Fleet) {
        let (stable, canary, weight) = match serving.applied {
            Split::Whole(whole) => (whole, None, Share::ZERO),
            Split::Canary { stable, canary, share } => (stable, Some(canary), *share),
        };
        let (sent, whose) = self.divide(serving, (canary, weight), mean);
        let answers = |version: &VersionId| fleet.answers(version, serving.checks.thought_dead(version), now);
        let of_stable = self.fates(sent.stable, answers(stable));
        let of_canary = canary.map(|canary| self.fates(sent.canary, answers(canary))).unwrap_or_default();
        self.assigned.push((stable.clone(), sent.stable));
        self.assigned.extend(canary.map(|canary| (canary.clone(), sent.canary)));
        let (edge, trial) = (serving.edge, serving.trial);
        // Where requests are what is drawn and judged, that is all there is to say of them.
        let (mut drawn, mut canary_shown, mut stable_shown) = (sent, of_canary, of_stable);
        if let (Some(whose), Some(users)) = (&whose, &mut self.users) {
            drawn = users.meet(edge, trial, whose);
            canary_shown = users.evidence(edge, trial, &whose.canary, &of_canary);
            stable_shown = users.evidence(edge, trial, &whose.stable, &of_stable);
        }
        let parts: [(Duration, PartOf, Drawn); 3] = [
            (now, |fates| fates.at_once, drawn),
            (now + self.slow_after, |fates| fates.slow, Drawn::default()),
            (now + self.hangs_for, |fates| fates.hung, Drawn::default()),
        ];
        for (known, of, drawn) in parts {
            let requests = Requests { canary: of(&of_canary), stable: of(&of_stable) };
            if requests.canary.requests + requests.stable.requests + drawn.canary + drawn.stable > 0 {
                let observed = Observed {
                    stable: stable.clone(),
                    canary: canary.cloned(),
                    trial,
                    row: Row { weight, canary: of(&canary_shown), stable: of(&stable_shown) },
                    requests: whose.is_some().then_some(requests),
                    drawn,
                };
                self.coming.entry(known).or_default().push((edge, observed));
            }
        }
    }

    /// How many requests of this tick an edge sends where, and whose they are where users are drawn.
    fn divide(
        &mut self,
        serving: &Serving<'_>,
        (canary, weight): (Option<&VersionId>, Share),
        mean: f64,
    ) -> (Drawn, Option<Sent>) {
        let unread = self.waiting.remove(&serving.edge).map_or(0, |waiting| waiting.unread.iter().map(sent_of).sum());
        if let (Some(canary), true) = (canary, self.users.is_some()) {
            let requests = unread + self.poisson(mean);
            let sent = self.users.as_mut().map(|users| users.send(requests, canary, weight, &mut self.chance));
            let count = |side: fn(&Sent) -> &Vec<u32>| sent.as_ref().map_or(0, |sent| as_u64(side(sent).len()));
            return (Drawn { canary: count(|sent| &sent.canary), stable: count(|sent| &sent.stable) }, sent);
        }
        let mut drawn = Drawn {
            canary: canary.map_or(0, |_| self.poisson(mean * weight.ratio())),
            stable: self.poisson(mean * (1.0 - weight.ratio())),
        };
        let of_unread = if canary.is_some() { self.binomial(unread, weight.ratio()) } else { 0 };
        drawn += Drawn { canary: of_unread, stable: unread - of_unread };
        (drawn, None)
    }

    /// What has become known by now at which edge, and into the books with it.
    pub(super) fn known(&mut self, now: Duration, books: &mut Books) -> Vec<(usize, Observed)> {
        for (version, requests) in self.assigned.drain(..) {
            books.assigned(&version, requests);
        }
        let mut rows = Vec::new();
        while let Some(first) = self.coming.first_entry().filter(|first| *first.key() <= now) {
            rows.extend(first.remove());
        }
        for (_, row) in &rows {
            note(row, books);
        }
        rows
    }

    /// Requests whose outcome is still to come.
    pub(super) fn under_way(&self) -> u64 {
        let frozen = self.waiting.values().flat_map(|waiting| &waiting.under_way);
        self.coming.values().flatten().map(|(_, observed)| observed).chain(frozen).map(count_of).sum()
    }

    /// Requests that no edge has read: they wait at one that stands still.
    pub(super) fn unread(&self) -> u64 {
        self.waiting.values().flat_map(|waiting| &waiting.unread).map(sent_of).sum()
    }

    /// An edge stands still: nothing comes of what was under way there until it goes on.
    pub(super) fn freeze(&mut self, edge: usize) {
        let own = self.take_coming(edge);
        self.waiting.entry(edge).or_default().under_way.extend(own);
    }

    /// It goes on: what was under way has ended, and says nothing of any version, since it was the edge that was late. Of
    /// what came since those are gone whose clients had no more patience.
    pub(super) fn go_on(&mut self, edge: usize, now: Duration, books: &mut Books) {
        let Some(waiting) = self.waiting.get_mut(&edge) else { return };
        for ended in waiting.under_way.drain(..) {
            note(&ended, books);
        }
        let has_gone = |(sent, _): &mut (Duration, u64)| now.saturating_sub(*sent) > CLIENTS_WAIT;
        books.unserved += waiting.unread.extract_if(.., has_gone).map(|unread| sent_of(&unread)).sum::<u64>();
    }

    /// An edge that stood still is gone, and with it what waited to be read there.
    pub(super) fn give_up(&mut self, edge: usize) -> u64 {
        self.waiting.remove(&edge).map_or(0, |waiting| waiting.unread.iter().map(sent_of).sum())
    }

    /// Forgets those of an edge: it waited for them, and was killed. What it knew of users is gone as well.
    pub(super) fn cut_off(&mut self, edge: usize) -> u64 {
        if let Some(users) = &mut self.users {
            users.forget(edge);
        }
        let frozen = self.waiting.get_mut(&edge).map(|waiting| std::mem::take(&mut waiting.under_way));
        self.take_coming(edge).iter().chain(frozen.iter().flatten()).map(count_of).sum()
    }

    fn take_coming(&mut self, edge: usize) -> Vec<Observed> {
        let of_edge = |coming: &mut Vec<(usize, Observed)>| -> Vec<_> {
            coming.extract_if(.., |(at, _)| *at == edge).map(|(_, observed)| observed).collect()
        };
        let own = self.coming.values_mut().flat_map(of_edge).collect();
        self.coming.retain(|_, coming| !coming.is_empty());
        own
    }

    fn fates(&mut self, requests: u64, answers: Answers) -> Fates {
        let hung = self.binomial(requests, answers.hang);
        let slow = self.binomial(requests - hung, ratio(answers.slow, 1.0 - answers.hang));
        let rest = requests - hung - slow;
        let share = ratio(answers.errors, 1.0 - answers.hang - answers.slow);
        let errors = self.errors(rest, share, answers.together);
        Fates {
            at_once: Tally { requests: rest, errors, slow: 0 },
            slow: Tally { requests: slow, errors: 0, slow },
            hung: Tally { requests: hung, errors: hung, slow: 0 },
        }
    }

    /// Of `requests` this share fails, `together` at once each time: within a tick, so fewer where fewer come in one.
    fn errors(&mut self, requests: u64, share: f64, together: u32) -> u64 {
        let row = u64::from(together).clamp(1, requests.max(1));
        (row * self.binomial(requests, share / exact(row))).min(requests)
    }

    fn poisson(&mut self, mean: f64) -> u64 {
        // A mean of nothing has no law; it gives nothing.
        Poisson::new(mean).map_or(0, |law| whole(law.sample(&mut self.chance)))
    }

    fn binomial(&mut self, requests: u64, share: f64) -> u64 {
        if requests == 0 || share <= 0.0 {
            return 0;
        }
        Binomial::new(requests, share.min(1.0)).map_or(0, |law| law.sample(&mut self.chance))
    }
}

fn sent_of((_, sent): &(Duration, u64)) -> u64 {
    *sent
}

/// Into the books with it.
fn note(row: &Observed, books: &mut Books) {
    let Requests { canary: of_canary, stable: of_stable } = requests_of(row);
    books.answered(&row.stable, of_stable);
    if let Some(canary) = &row.canary {
        books.answered(canary, of_canary);
    }
}

fn requests_of(observed: &Observed) -> Requests {
    let Row { canary, stable, .. } = observed.row;
    observed.requests.unwrap_or(Requests { canary, stable })
}

fn count_of(observed: &Observed) -> u64 {
    let Requests { canary, stable } = requests_of(observed);
    canary.requests + stable.requests
}

/// `part / whole`, at most 1; nothing of nothing.
fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { (part / whole).min(1.0) } else { 0.0 }
}

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count that was drawn as a float; saturates"
)]
fn whole(drawn: f64) -> u64 {
    drawn as u64
}
