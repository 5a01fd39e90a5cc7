//! The faults in force, changed while requests pass, and what they did so far.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hyper::header::CONTENT_LENGTH;
use hyper::{Response, StatusCode};
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{End, Faults, Strike, When};
use crate::clock::unix_us;
use crate::serve::{self, Answer, Cut};

/// What was done to requests since the start. A request counts in `requests` when it comes, in the others when
/// its fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Requests received, probes included.
    pub requests: u64,
    /// Those that could meet a fault: probes are spared unless faults are for them as well.
    #[serde(default)]
    pub exposed: u64,
    /// Answered with the status of a `fail`.
    pub failed: u64,
    /// Made to wait.
    pub delayed: u64,
    /// Connections reset, before or in the middle of an answer.
    pub reset: u64,
    /// Left without an answer.
    pub hung: u64,
    /// Answered with bytes that are no HTTP.
    pub garbage: u64,
    /// Answered with a wrong number.
    pub wrong: u64,
    /// Answered drop by drop.
    #[serde(default)]
    pub trickled: u64,
    /// Reset because the real upstream gave no answer; nobody asked for these.
    pub upstream_errors: u64,
    /// When the first fault struck since the faults were last changed; microseconds since 1970.
    pub first_fault_unix_us: Option<u64>,
    /// When the last fault struck; microseconds since 1970.
    pub last_fault_unix_us: Option<u64>,
}

impl Counts {
    /// How many were struck like this.
    pub(crate) const fn of(&self, strike: Strike) -> u64 {
        match strike {
            Strike::Failed => self.failed,
            Strike::Delayed => self.delayed,
            Strike::Reset => self.reset,
            Strike::Hung => self.hung,
            Strike::Garbage => self.garbage,
            Strike::Wrong => self.wrong,
            Strike::Trickled => self.trickled,
        }
    }
}

/// The switch that faults hang on; clones are the same switch.
#[derive(Debug, Clone, Default)]
pub struct FaultSwitch {
    inside: Arc<Mutex<Inside>>,
}

#[derive(Debug, Default)]
struct Inside {
    faults: Faults,
    counts: Counts,
    /// So many of the next requests fail together with one before, with this status.
    row: Option<(u32, StatusCode)>,
}

/// What one request meets.
struct Fate {
    delay: Option<Duration>,
    end: End,
}

impl Inside {
    /// What fails together takes as many with it as it needs; those that begin a row are so much rarer.
    fn end(&mut self) -> End {
        if let Some((left, status)) = self.row.take() {
            self.row = left.checked_sub(1).filter(|left| *left > 0).map(|left| (left, status));
            return End::Fail(status, 1);
        }
        let end = self.faults.end(rand::random());
        if let End::Fail(status, together) = end
            && together > 1
        {
            return self.begin_row(status, together);
        }
        end
    }

    /// One of `share` begins a row with a chance that keeps the share of failures as it was asked.
    fn begin_row(&mut self, status: StatusCode, together: u32) -> End {
        let share = self.faults.fail_share();
        let length = f64::from(together);
        // So many good requests lie between two rows, on the average, that failures are `share` of all.
        let begins = (1.0 / (length * (1.0 - share) + share)).min(1.0);
        if rand::random::<f64>() >= begins {
            return End::Good;
        }
        self.row = Some((together - 1, status));
        End::Fail(status, together)
    }
}

impl FaultSwitch {
    /// The faults in force.
    pub fn faults(&self) -> Faults {
        self.lock().faults
    }

    /// Puts other faults in force, for every request that comes from now on.
    pub fn set(&self, faults: Faults) {
        let mut inside = self.lock();
        inside.faults = faults;
        inside.row = None;
        inside.counts.first_fault_unix_us = None;
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        self.lock().counts
    }

    /// Lets a request to `path` meet its fate; `answer` is what it would get, and is only worked out where the
    /// fate needs it.
    pub(crate) async fn meet(&self, path: &str, answer: impl Future<Output = Answer>) -> Answer {
        let fate = self.draw(path);
        if let Some(delay) = fate.delay {
            self.strike(|counts| counts.delayed += 1);
            tokio::time::sleep(delay).await;
        }
        match fate.end {
            End::Good => answer.await,
            End::Fail(status, _) => Ok(self.fail(status)),
            End::Reset(When::BeforeAnswer) => Err(self.cut(Cut::Reset)),
            End::Reset(When::MidBody) => answer.await.and_then(|good| Err(self.cut(Cut::Torn(Box::new(good))))),
            End::Hang => self.hang().await,
            End::Garbage => Err(self.cut(Cut::Garbage)),
            End::Wrong(prediction) => answer.await.map(|good| self.spoil(good, prediction)),
            End::Trickle => answer.await.and_then(|good| Err(self.cut(Cut::Trickled(Box::new(good))))),
        }
    }

    /// Counts a request whose upstream gave no answer.
    pub(crate) fn upstream_failed(&self) {
        self.lock().counts.upstream_errors += 1;
    }

    fn draw(&self, path: &str) -> Fate {
        let mut inside = self.lock();
        inside.counts.requests += 1;
        if !inside.faults.concern(path) {
            return Fate { delay: None, end: End::Good };
        }
        inside.counts.exposed += 1;
        let delay = inside.faults.delay(rand::random()).map(|ms| Duration::from_millis(rand::random_range(ms)));
        let takes = inside.faults.latency_ms(StandardNormal.sample(&mut rand::rng()));
        let takes = takes.map(|ms| Duration::try_from_secs_f64(ms / 1e3).unwrap_or(Duration::MAX));
        let delay = delay.into_iter().chain(takes).reduce(|one, other| one + other);
        Fate { delay, end: inside.end() }
    }

    fn fail(&self, status: StatusCode) -> Response<Bytes> {
        self.strike(|counts| counts.failed += 1);
        serve::json(status, &json!({ "error": "a fault, on purpose" }))
    }

    fn cut(&self, cut: Cut) -> Cut {
        self.strike(|counts| match cut {
            Cut::Reset | Cut::Torn(_) => counts.reset += 1,
            Cut::Garbage => counts.garbage += 1,
            Cut::Trickled(_) => counts.trickled += 1,
        });
        cut
    }

    async fn hang(&self) -> Answer {
        self.strike(|counts| counts.hung += 1);
        std::future::pending().await
    }

    fn spoil(&self, good: Response<Bytes>, prediction: f64) -> Response<Bytes> {
        self.strike(|counts| counts.wrong += 1);
        spoiled(good, prediction)
    }

    fn strike(&self, count: impl FnOnce(&mut Counts)) {
        let now = unix_us();
        let counts = &mut self.lock().counts;
        count(counts);
        counts.first_fault_unix_us.get_or_insert(now);
        counts.last_fault_unix_us = Some(now);
    }

    /// A panic while the lock was held leaves plain numbers behind, which are as good as before.
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same answer as a 200 with another prediction; an answer without one becomes nothing but the prediction.
fn spoiled(good: Response<Bytes>, prediction: f64) -> Response<Bytes> {
    let mut value = match serde_json::from_slice(good.body()) {
        Ok(Value::Object(fields)) if good.status() == StatusCode::OK => fields,
        Ok(_) | Err(_) => serde_json::Map::new(),
    };
    value.insert("prediction".to_owned(), json!(prediction));
    let wrong = serve::json(StatusCode::OK, &value);
    let (mut head, _) = good.into_parts();
    head.status = StatusCode::OK;
    head.headers.remove(CONTENT_LENGTH);
    head.headers.extend(wrong.headers().clone());
    Response::from_parts(head, wrong.into_body())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(response: &Response<Bytes>) -> Value {
        serde_json::from_slice(response.body()).unwrap()
    }

    #[test]
    fn a_wrong_answer_keeps_everything_but_the_number() {
        let good = serve::json(StatusCode::OK, &json!({ "prediction": 31.7, "version": "v2" }));
        let wrong = spoiled(good, -5.0);
        assert_eq!(body(&wrong), json!({ "prediction": -5.0, "version": "v2" }));
        assert_eq!(wrong.headers().get_all(hyper::header::CONTENT_TYPE).iter().count(), 1);
    }

    #[test]
    fn a_refusal_becomes_a_wrong_answer_too() {
        let refusal = serve::json(StatusCode::UNPROCESSABLE_ENTITY, &json!({ "detail": [] }));
        let wrong = spoiled(refusal, 2.0);
        assert_eq!((wrong.status(), body(&wrong)), (StatusCode::OK, json!({ "prediction": 2.0 })));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_first_fault_is_stamped_anew_after_a_change() {
        let switch = FaultSwitch::default();
        let good = async || Ok(serve::json(StatusCode::OK, &json!({})));
        switch.meet("/v1/predict", good()).await.unwrap();
        assert_eq!(switch.counts(), Counts { requests: 1, exposed: 1, ..Counts::default() });
        let before = unix_us();
        switch.set(Faults::none().failing(1.0, 500).unwrap());
        switch.meet("/v1/predict", good()).await.unwrap();
        let first = switch.counts().first_fault_unix_us.unwrap();
        assert!((before..=unix_us()).contains(&first));
        switch.set(Faults::none());
        let counts = switch.counts();
        assert_eq!((counts.first_fault_unix_us, counts.last_fault_unix_us), (None, Some(first)));
        assert_eq!((counts.requests, counts.failed), (2, 1));
    }
}
