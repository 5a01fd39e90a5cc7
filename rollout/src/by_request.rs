//! Every request of a comparison whose units are users.
//!
//! Line: tally ► **by request** ► phase, beside the comparison. With sticky assignment only a user's first error of a trial
//! counts, since everything that a user meets carries one label. That keeps the comparison fair and makes it deaf: once
//! most users have had an error, a canary that fails half of its requests adds no error to it. So two things that need no
//! labels are looked at as well, request by request.
//!
//! * *The canary fails more than `max_error_rate` of its requests*: the absolute test that judges a version without a
//!   control group. It is about what the canary's users get, not about whose fault it is: requests of one user hang
//!   together, and a user who fails everywhere counts against the version that was drawn for them. So it is not fed while
//!   stable looks as bad by the same test, the limit stands far above what versions fail, and its caps per tick and per
//!   second are those for bursts.
//! * *Of late the canary fails more than the promotion margin allows beside stable*: no proof, for the same reason; it
//!   takes nothing back and only holds steps and promotion while it lasts.

use pointsman_config::{Guard, PromotionGuard};

use crate::absolute::Alone;
use crate::history::Fading;
use crate::tally::{Requests, Tally, to_f64};

/// How fast "of late" follows traffic: a factor per tick of 100 ms, time constant 60 s.
const RECENT_DECAY: f64 = 0.998_334_721_296_929_5;
/// Fewer recent errors of the canary than this hold nothing.
const RECENT_ERRORS: f64 = 5.0;
/// Standard errors by which the canary's recent rate must exceed what is allowed to hold it.
const RECENT_DEVIATIONS: f64 = 3.0;
/// Odds of 20 to 1, as everywhere for a suspicion: `ln 20`.
const SUSPICION: f64 = 2.995_732_273_553_991;

/// Judges what every request shows.
#[derive(Debug, Clone)]
pub(crate) struct ByRequest {
    margin: PromotionGuard,
    canary: Alone,
    stable: Alone,
    recent_canary: Fading,
    recent_stable: Fading,
}

impl ByRequest {
    /// Nothing seen yet.
    pub(crate) fn new(guard: &Guard) -> Self {
        let alone = || Alone::new(guard.max_error_rate, guard.false_rollback_budget);
        Self {
            margin: guard.promotion,
            canary: alone(),
            stable: alone(),
            recent_canary: Fading::default(),
            recent_stable: Fading::default(),
        }
    }

    /// 100 ms; whether the canary is proven to fail more than is allowed.
    pub(crate) fn tick(&mut self, seen: Requests) -> bool {
        push(&mut self.recent_canary, seen.canary);
        push(&mut self.recent_stable, seen.stable);
        self.stable.tick(seen.stable);
        let excused = self.stable.test().log_evidence() >= SUSPICION;
        !excused && self.canary.tick(seen.canary)
    }

    /// The canary as it is judged by itself.
    pub(crate) fn canary(&self) -> &Alone {
        &self.canary
    }

    /// Whether the canary fails too much to go on, proven or not.
    pub(crate) fn looks_worse(&self) -> bool {
        self.canary.test().log_evidence() >= SUSPICION || self.is_outside_margin()
    }

    fn is_outside_margin(&self) -> bool {
        let (rate, requests) = (self.recent_canary.rate(), self.recent_canary.requests());
        let allowed = (self.margin.ratio * self.recent_stable.rate() + self.margin.difference).min(1.0);
        let noise = RECENT_DEVIATIONS * (allowed * (1.0 - allowed) / requests.max(1.0)).sqrt();
        rate * requests >= RECENT_ERRORS && rate > allowed + noise
    }
}

fn push(recent: &mut Fading, tally: Tally) {
    recent.push(RECENT_DECAY, to_f64(tally.requests), to_f64(tally.errors));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(canary: (u64, u64), stable: (u64, u64)) -> Requests {
        let tally = |(requests, errors)| Tally { requests, errors, slow: 0 };
        Requests { canary: tally(canary), stable: tally(stable) }
    }

    /// Seconds until the canary is proven to fail too much; none within ten minutes.
    fn seconds_to_alarm(judge: &mut ByRequest, seen: Requests) -> Option<f64> {
        (1_u32..=6_000).find(|_| judge.tick(seen)).map(|ticks| f64::from(ticks) / 10.0)
    }

    #[test]
    fn a_canary_that_fails_half_of_its_requests_is_found_in_seconds() {
        let mut judge = ByRequest::new(&Guard::default());
        assert_eq!(seconds_to_alarm(&mut judge, requests((20, 0), (80, 0))), None);
        let seconds = seconds_to_alarm(&mut judge, requests((20, 10), (80, 0))).unwrap();
        assert!(seconds < 10.0, "{seconds}");
        assert!(judge.looks_worse());
    }

    #[test]
    fn while_stable_fails_as_well_the_canary_is_not_blamed() {
        let mut judge = ByRequest::new(&Guard::default());
        assert_eq!(seconds_to_alarm(&mut judge, requests((20, 10), (80, 40))), None);
    }

    #[test]
    fn a_canary_below_the_limit_but_far_from_stable_is_held_until_it_is_well_again() {
        let mut judge = ByRequest::new(&Guard::default());
        assert_eq!(seconds_to_alarm(&mut judge, requests((100, 3), (400, 1))), None, "3 % is below the limit of 5 %");
        assert!(judge.looks_worse());
        assert_eq!(seconds_to_alarm(&mut judge, requests((400, 1), (400, 1))), None);
        assert!(!judge.looks_worse());
    }

    #[test]
    fn single_errors_hold_nothing() {
        let mut judge = ByRequest::new(&Guard::default());
        for second in 0..600 {
            judge.tick(requests((10, u64::from(second % 300 == 0)), (90, 0)));
            assert!(!judge.looks_worse(), "{second}");
        }
    }
}
