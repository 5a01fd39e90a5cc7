//! What of all that happens here is told to webhooks, and by whom: the edge that decides.
//!
//! Line: events ► **news** ► notify.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pointsman_config::{NewsKind, RouteName};
use pointsman_rollout::{Decision, Time};

use super::Control;
use super::replicas::Replication;
use crate::cluster;
use crate::notify::{News, Notifier};
use crate::view::DecisionRow;

/// A rollout that something holds for so long is told of.
const HELD_FOR: Duration = Duration::from_secs(10);
/// One that went on for so long may be told of again.
const FREE_FOR: Duration = Duration::from_mins(1);

/// What webhooks are told, and were told.
#[derive(Debug)]
pub(super) struct Newsroom {
    pub(super) notifier: Notifier,
    /// The name of this edge where it is alone.
    name: String,
    holds: Holds,
    lead: Lead,
}

impl Newsroom {
    pub(super) fn new(notifier: Notifier) -> Self {
        Self { notifier, name: cluster::instance(), holds: Holds::default(), lead: Lead::default() }
    }
}

impl Control {
    /// Whether this edge decides.
    fn leads(&self) -> bool {
        self.replication.as_ref().is_none_or(Replication::leads)
    }

    /// Whether this edge is to tell, and anybody to be told.
    fn has_readers(&self) -> bool {
        self.newsroom.notifier.has_hooks() && self.leads()
    }

    pub(super) fn tell_news(&self, news: News) {
        if self.has_readers() {
            let name = self.replication.as_ref().map_or(self.newsroom.name.as_str(), Replication::name);
            self.newsroom.notifier.tell(news.said_by(name));
        }
    }

    /// Tells of a decision that is in force.
    pub(super) fn tell_of_decision(&mut self, row: &Arc<DecisionRow>) {
        if row.change.decision == Decision::Hold {
            let now = self.now();
            self.newsroom.holds.was_told(&row.route, now);
        }
        if self.has_readers() {
            self.tell_news(News::of_decision(row));
        }
    }

    /// Tells that this edge decides from now on, where others could.
    pub(super) fn tell_of_lead(&mut self) {
        let leads = self.leads();
        let is_news = self.newsroom.lead.is_taken(leads);
        if let Some(replication) = self.replication.as_ref().filter(|_| is_news) {
            let text = format!("the edge {} decides from now on", replication.name());
            self.tell_news(News::of(NewsKind::Leader, text));
        }
    }

    /// Tells, once, of a rollout that something holds.
    pub(super) fn tell_of_hold(&mut self, position: usize) {
        let now = self.now();
        let Some(route) = self.routes.get(position) else { return };
        let Some(look) = self.looks.get(&route.route().name) else { return };
        if self.newsroom.holds.note(&look.name, route.is_held(), now) {
            self.tell_news(News::of_hold(look));
        }
    }

    /// Forgets the holds of routes that are gone.
    pub(super) fn forget_news_of(&mut self, route: &RouteName) {
        self.newsroom.holds.held.remove(route);
    }
}

/// Whether this edge led when that was looked at last.
#[derive(Debug, Default)]
struct Lead(bool);

impl Lead {
    /// Whether it `leads` that did not a moment ago.
    fn is_taken(&mut self, leads: bool) -> bool {
        let led = std::mem::replace(&mut self.0, leads);
        leads && !led
    }
}

/// Which rollouts are held, since when, and whether that was told.
#[derive(Debug, Default)]
struct Holds {
    held: BTreeMap<RouteName, Held>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    since: Time,
    last: Time,
    was_told: bool,
}

impl Holds {
    /// Somebody was told of it in other words.
    fn was_told(&mut self, route: &RouteName, now: Time) {
        self.held.insert(route.clone(), Held { since: now, last: now, was_told: true });
    }

    /// Notes whether `route` is held at `now`; true once, when it has been for long enough.
    fn note(&mut self, route: &RouteName, is_held: bool, now: Time) -> bool {
        let Some(held) = self.held.get_mut(route) else {
            if is_held {
                self.held.insert(route.clone(), Held { since: now, last: now, was_told: false });
            }
            return false;
        };
        if !is_held {
            if !held.was_told || now.since(held.last) >= FREE_FOR {
                self.held.remove(route);
            }
            return false;
        }
        held.last = now;
        let is_news = !held.was_told && now.since(held.since) >= HELD_FOR;
        held.was_told |= is_news;
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::after_start(Duration::from_secs(seconds))
    }

    /// The seconds at which a hold is told, looked at once a second.
    fn told(seconds: u64, is_held: impl Fn(u64) -> bool) -> Vec<u64> {
        let (mut holds, route) = (Holds::default(), "r".parse().unwrap());
        (0..seconds).filter(|second| holds.note(&route, is_held(*second), at(*second))).collect()
    }

    #[test]
    fn every_time_an_edge_takes_the_lead_is_told() {
        let mut lead = Lead::default();
        let taken = [false, true, true, false, false, true, true].map(|leads| lead.is_taken(leads));
        assert_eq!(taken, [false, true, false, false, false, true, false]);
    }

    #[test]
    fn a_hold_is_told_once_it_has_lasted() {
        assert_eq!(told(60, |_| true), [10]);
        assert!(told(60, |second| second < 9).is_empty());
        assert!(told(60, |second| second % 5 != 0).is_empty(), "what comes and goes is no news");
    }

    #[test]
    fn a_hold_that_flickers_is_told_again_only_after_a_minute_without() {
        assert_eq!(told(400, |second| !(20..=40).contains(&second)), [10]);
        assert_eq!(told(400, |second| !(20..=100).contains(&second)), [10, 111]);
    }
}
