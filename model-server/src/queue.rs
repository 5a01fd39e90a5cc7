//! Where requests wait for the model, and the threads that own it. What costs less than handing it over is calculated
//! on the thread that read it. Everything else waits here, bounded by the work that it is expected to be: what would
//! wait longer than the limit, or than its client does, is turned away at once. A client that leaves takes its
//! request with it.
//!
//! `deployment` hands rows in; `batching` says what goes together; the model calculates.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use thiserror::Error;
use tokio::sync::oneshot;
use tracing::error;

use crate::batching::{Costs, Policy, Waiting};
use crate::health::{Health, Stage};
use crate::http::chain;
use crate::model::{Model, ModelError};
use crate::panics::Panics;
use crate::schema::Rows;

/// What is expected to take no longer than this is calculated where it was read: two threads would need a good part
/// of it only to wake each other.
const AT_ONCE: Duration = Duration::from_micros(200);

/// How long a client is at least asked to stay away.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// What requests are held to while they wait.
#[derive(Debug, Clone, Copy)]
pub struct QueueLimits {
    /// How much work may wait for each worker, in the time it is expected to take.
    pub wait: Duration,
    /// How much goes through the model at once.
    pub policy: Policy,
    /// How many panics within a minute make the server not ready.
    pub panics: NonZeroUsize,
}

/// Rows and what the model made of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Predictions {
    /// The rows.
    pub rows: Rows,
    /// The predictions, one behind the other.
    pub values: Vec<f32>,
    /// The calculation, with one of the requests that it was made for.
    pub calculation: Option<Calculation>,
}

/// One pass through the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calculation {
    /// Rows, of all requests.
    pub rows: usize,
    /// How long it took.
    pub took: Duration,
}

/// Why rows were not calculated.
#[derive(Debug, Error)]
pub enum QueueError {
    /// Too much waits already.
    #[error("too many requests wait; come again in {} s", retry_after.as_secs())]
    Busy {
        /// When it is worth another try.
        retry_after: Duration,
    },
    /// The client does not wait any more.
    #[error("the deadline passed before the model was free")]
    Deadline,
    /// The model failed.
    #[error("the model failed")]
    Model(#[from] ModelError),
    /// The model panicked.
    #[error("the model panicked: {0}")]
    Panicked(String),
}

type Outcome = Result<Predictions, QueueError>;

/// The queue, its workers, and the model that they own.
#[derive(Clone)]
pub struct Queue {
    shared: Arc<Shared>,
}

struct Shared {
    model: Arc<dyn Model>,
    /// As measured at the start: enough to tell what is done at once, without a lock.
    measured: Costs,
    limits: QueueLimits,
    workers: u32,
    health: Arc<Health>,
    line: Mutex<Line>,
    arrived: Condvar,
    panics: Mutex<Panics>,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("limits", &self.shared.limits).finish_non_exhaustive()
    }
}

/// Who waits, first come first served.
struct Line {
    costs: Costs,
    waiting: VecDeque<Job>,
    /// The work that waits or is under way, in seconds of one worker.
    work: Duration,
    next: u64,
}

/// One request that waits.
struct Job {
    number: u64,
    rows: Rows,
    weight: usize,
    estimate: Duration,
    deadline: Option<Instant>,
    answer: oneshot::Sender<Outcome>,
}

/// A place in the line, given back when its client leaves.
struct Place<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut line = self.shared.line();
        if let Some(position) = line.waiting.iter().position(|job| job.number == self.number)
            && let Some(job) = line.waiting.remove(position)
        {
            line.work = line.work.saturating_sub(job.estimate);
        }
    }
}

impl Queue {
    /// Starts the workers. They end with the process.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        model: Arc<dyn Model>,
        costs: Costs,
        limits: QueueLimits,
        (workers, health): (NonZeroUsize, Arc<Health>),
    ) -> io::Result<Self> {
        let line = Line { costs, waiting: VecDeque::new(), work: Duration::ZERO, next: 0 };
        let shared = Arc::new(Shared {
            model,
            measured: costs,
            limits,
            workers: u32::try_from(workers.get()).unwrap_or(u32::MAX),
            health,
            line: Mutex::new(line),
            arrived: Condvar::new(),
            panics: Mutex::new(Panics::new(limits.panics)),
        });
        for number in 0..workers.get() {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name(format!("model-{number}")).spawn(move || shared.work())?;
        }
        Ok(Self { shared })
    }

    /// What the model makes of some rows, at once or after those who came before.
    ///
    /// # Errors
    /// When too much waits, the deadline passes, or the model fails.
    pub async fn calculate(&self, rows: Rows, deadline: Option<Instant>) -> Outcome {
        if self.shared.measured.estimate(self.shared.model.weight(&rows)) <= AT_ONCE {
            return self.shared.calculate(rows);
        }
        let (place, outcome) = self.shared.enter(rows, deadline)?;
        let outcome = match deadline {
            None => outcome.await,
            Some(deadline) => {
                tokio::time::timeout_at(deadline.into(), outcome).await.unwrap_or(Ok(Err(QueueError::Deadline)))
            }
        };
        drop(place);
        outcome.unwrap_or_else(|_cut_off| Err(QueueError::Panicked("its worker ended".to_owned())))
    }

    /// How many requests wait.
    pub fn depth(&self) -> usize {
        self.shared.line().waiting.len()
    }
}

impl Shared {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(
        &self,
        rows: Rows,
        deadline: Option<Instant>,
    ) -> Result<(Place<'_>, oneshot::Receiver<Outcome>), QueueError> {
        let (answer, outcome) = oneshot::channel();
        let weight = self.model.weight(&rows);
        let mut line = self.line();
        let estimate = line.costs.estimate(weight);
        let wait = line.work / self.workers;
        let too_long = !line.work.is_zero() && wait + estimate > self.limits.wait;
        let too_late = deadline.is_some_and(|deadline| Instant::now() + wait > deadline);
        if too_long || too_late {
            return Err(QueueError::Busy { retry_after: wait.max(SHORTEST_PAUSE) });
        }
        let number = line.next;
        line.next += 1;
        line.work += estimate;
        line.waiting.push_back(Job { number, rows, weight, estimate, deadline, answer });
        drop(line);
        self.arrived.notify_one();
        Ok((Place { shared: self, number }, outcome))
    }

    /// A worker's life. What a model may panic over is caught where it is called, so the thread goes on.
    fn work(&self) {
        loop {
            let jobs = self.next_batch();
            let estimate: Duration = jobs.iter().map(|job| job.estimate).sum();
            self.serve(jobs);
            let mut line = self.line();
            line.work = line.work.saturating_sub(estimate);
        }
    }

    /// Waits until there is something to do.
    fn next_batch(&self) -> Vec<Job> {
        let mut line = self.line();
        loop {
            let now = Instant::now();
            for late in line.take_expired(now) {
                late.tell(Err(QueueError::Deadline));
            }
            let jobs = line.take(self.limits.policy, now);
            if !jobs.is_empty() {
                return jobs;
            }
            line = self.arrived.wait(line).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Calculates what goes together. Should that fail, each request is tried alone, so that only the one that the
    /// model cannot bear is refused.
    fn serve(&self, jobs: Vec<Job>) {
        if jobs.len() > 1 {
            let mut all = Rows::default();
            for job in &jobs {
                all.append(&job.rows);
            }
            if let Ok(predictions) = self.calculate(all) {
                return hand_out(jobs, &predictions);
            }
        }
        for mut job in jobs {
            let rows = std::mem::take(&mut job.rows);
            let outcome = self.calculate(rows);
            job.tell(outcome);
        }
    }

    /// One pass through the model; a panic becomes an error.
    fn calculate(&self, rows: Rows) -> Outcome {
        let start = Instant::now();
        let calculated = panic::catch_unwind(AssertUnwindSafe(|| self.model.predict(&rows)));
        let took = start.elapsed();
        let values = calculated.map_err(|cause| self.panicked(cause.as_ref()))??;
        if took > AT_ONCE {
            self.line().costs.learn(self.model.weight(&rows), took);
        }
        let calculation = Some(Calculation { rows: rows.count, took });
        Ok(Predictions { rows, values, calculation })
    }

    fn panicked(&self, cause: &(dyn std::any::Any + Send)) -> QueueError {
        let words =
            cause.downcast_ref::<&str>().copied().or_else(|| cause.downcast_ref::<String>().map(String::as_str));
        let words = words.unwrap_or("no words").to_owned();
        error!(cause = %words, "the model panicked");
        let too_often = self.panics.lock().unwrap_or_else(PoisonError::into_inner).note(Instant::now());
        if too_often && self.health.advance(Stage::Failing) {
            error!("the model panics again and again, not ready any more");
        }
        QueueError::Panicked(words)
    }
}

impl Line {
    fn take_expired(&mut self, now: Instant) -> VecDeque<Job> {
        let late = |job: &Job| job.deadline.is_some_and(|deadline| deadline <= now);
        if !self.waiting.iter().any(late) {
            return VecDeque::new();
        }
        let (late, waiting): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.waiting).into_iter().partition(late);
        self.waiting = waiting;
        self.work = self.work.saturating_sub(late.iter().map(|job| job.estimate).sum());
        late
    }

    fn take(&mut self, policy: Policy, now: Instant) -> Vec<Job> {
        let seen = self.waiting.iter().map(|job| Waiting {
            rows: job.rows.count,
            weight: job.weight,
            patience: job.deadline.map(|deadline| deadline.saturating_duration_since(now)),
        });
        let count = policy.take(&self.costs, seen);
        self.waiting.drain(..count.min(self.waiting.len())).collect()
    }
}

impl Job {
    /// Whoever left is told nothing.
    fn tell(self, outcome: Outcome) {
        if let Err(Err(problem)) = self.answer.send(outcome) {
            error!(error = %chain(&problem), "prediction failed, and nobody waits for it any more");
        }
    }
}

/// Gives each request its own rows' predictions, and no other's.
fn hand_out(jobs: Vec<Job>, all: &Predictions) {
    let each = all.values.len() / all.rows.count.max(1);
    let mut rest = all.values.as_slice();
    let mut calculation = all.calculation;
    for mut job in jobs {
        let (own, others) = rest.split_at_checked(each * job.rows.count).unwrap_or((rest, &[]));
        rest = others;
        let rows = std::mem::take(&mut job.rows);
        job.tell(Ok(Predictions { rows, values: own.to_vec(), calculation: calculation.take() }));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::batching::Trial;

    const POLICY: Policy = Policy { most_rows: 8, most_weight: 1000 };

    /// Gives each row's first column back, doubled. It begins a pass only when it is let, and panics over -1.
    struct Gated {
        let_go: Mutex<mpsc::Receiver<()>>,
        began: Mutex<mpsc::Sender<usize>>,
    }

    impl Model for Gated {
        fn predict(&self, rows: &Rows) -> Result<Vec<f32>, ModelError> {
            self.began.lock().unwrap().send(rows.count).unwrap();
            self.let_go.lock().unwrap().recv().unwrap();
            assert!(rows.columns.iter().all(|column| *column >= 0.0), "a negative column");
            Ok(rows.columns.iter().map(|column| column * 2.0).collect())
        }
    }

    struct Stage1 {
        queue: Queue,
        health: Arc<Health>,
        gate: mpsc::Sender<()>,
        passes: mpsc::Receiver<usize>,
    }

    /// A row costs 1 ms alone and half of it in a batch; so much may wait.
    fn queue(wait_ms: u64) -> Stage1 {
        let (gate, let_go) = mpsc::channel();
        let (began, passes) = mpsc::channel();
        let model = Arc::new(Gated { let_go: let_go.into(), began: began.into() });
        let costs = Costs::measured(
            Trial { rows: 1, weight: 1, took: Duration::from_millis(1) },
            Trial { rows: 32, weight: 32, took: Duration::from_millis(16) },
        );
        let panics = NonZeroUsize::new(2).unwrap();
        let limits = QueueLimits { wait: Duration::from_millis(wait_ms), policy: POLICY, panics };
        let health = Arc::new(Health::new());
        let queue = Queue::start(model, costs, limits, (NonZeroUsize::MIN, Arc::clone(&health))).unwrap();
        Stage1 { queue, health, gate, passes }
    }

    fn rows(columns: &[f32]) -> Rows {
        Rows { columns: columns.to_vec(), count: columns.len(), ..Rows::default() }
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    }

    impl Stage1 {
        fn ask(&self, columns: &[f32], deadline: Option<Instant>) -> impl Future<Output = Outcome> + Send + use<> {
            let (queue, rows) = (self.queue.clone(), rows(columns));
            async move { queue.calculate(rows, deadline).await }
        }

        async fn until_waiting(&self, count: usize) {
            while self.queue.depth() != count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    #[test]
    fn a_lone_request_goes_at_once_and_what_gathers_meanwhile_goes_together() {
        let stage = queue(1000);
        runtime().block_on(async {
            let lone = tokio::spawn(stage.ask(&[1.0], None));
            assert_eq!(stage.passes.recv().unwrap(), 1);
            let others = [&[2.0, 3.0][..], &[4.0], &[5.0]].map(|columns| tokio::spawn(stage.ask(columns, None)));
            stage.until_waiting(3).await;
            stage.gate.send(()).unwrap();
            stage.gate.send(()).unwrap();
            assert_eq!(lone.await.unwrap().unwrap().values, [2.0]);
            assert_eq!(stage.passes.recv().unwrap(), 4);
            let mut calculations = 0;
            for (asked, wanted) in others.into_iter().zip([&[4.0, 6.0][..], &[8.0], &[10.0]]) {
                let predictions = asked.await.unwrap().unwrap();
                assert_eq!(predictions.values, wanted);
                calculations += usize::from(predictions.calculation.is_some());
            }
            assert_eq!(calculations, 1);
        });
    }

    #[test]
    fn what_would_wait_too_long_is_turned_away_at_once_and_counted_by_its_work() {
        let stage = queue(10);
        runtime().block_on(async {
            let under_way = tokio::spawn(stage.ask(&[1.0; 12], None));
            assert_eq!(stage.passes.recv().unwrap(), 12);
            let small = tokio::spawn(stage.ask(&[1.0], None));
            stage.until_waiting(1).await;
            let refused = stage.ask(&[1.0; 12], None).await;
            assert!(matches!(refused, Err(QueueError::Busy { retry_after }) if retry_after >= SHORTEST_PAUSE));
            stage.gate.send(()).unwrap();
            stage.gate.send(()).unwrap();
            assert!(under_way.await.unwrap().is_ok());
            assert!(small.await.unwrap().is_ok());
        });
    }

    #[test]
    fn what_is_larger_than_the_whole_queue_is_served_when_nobody_waits() {
        let stage = queue(1);
        stage.gate.send(()).unwrap();
        let outcome = runtime().block_on(stage.ask(&[1.0; 100], None));
        assert_eq!(outcome.unwrap().values.len(), 100);
    }

    #[test]
    fn a_client_that_leaves_takes_its_request_along() {
        let stage = queue(1000);
        runtime().block_on(async {
            let first = tokio::spawn(stage.ask(&[1.0], None));
            assert_eq!(stage.passes.recv().unwrap(), 1);
            let leaving = tokio::spawn(stage.ask(&[2.0], None));
            stage.until_waiting(1).await;
            leaving.abort();
            stage.until_waiting(0).await;
            stage.gate.send(()).unwrap();
            assert!(first.await.unwrap().is_ok());
            stage.gate.send(()).unwrap();
            assert_eq!(stage.ask(&[3.0], None).await.unwrap().values, [6.0]);
            assert_eq!(stage.passes.try_iter().collect::<Vec<_>>(), [1]);
        });
    }

    #[test]
    fn a_deadline_ends_the_wait_and_one_that_cannot_be_kept_is_said_at_once() {
        let stage = queue(10_000);
        runtime().block_on(async {
            let first = tokio::spawn(stage.ask(&[1.0; 100], None));
            assert_eq!(stage.passes.recv().unwrap(), 100);
            let hopeless = stage.ask(&[2.0], Some(Instant::now() + Duration::from_millis(1))).await;
            assert!(matches!(hopeless, Err(QueueError::Busy { .. })), "{hopeless:?}");
            let late = stage.ask(&[2.0], Some(Instant::now() + Duration::from_millis(200))).await;
            assert!(matches!(late, Err(QueueError::Deadline)), "{late:?}");
            assert_eq!(stage.queue.depth(), 0);
            stage.gate.send(()).unwrap();
            assert!(first.await.unwrap().is_ok());
        });
    }

    #[test]
    fn a_panic_is_the_answer_of_one_request_only_and_too_many_end_readiness() {
        let stage = queue(1000);
        runtime().block_on(async {
            let first = tokio::spawn(stage.ask(&[1.0], None));
            assert_eq!(stage.passes.recv().unwrap(), 1);
            let good = tokio::spawn(stage.ask(&[2.0], None));
            let bad = tokio::spawn(stage.ask(&[-1.0], None));
            stage.until_waiting(2).await;
            // The first one, the two together, each alone.
            for _ in 0..4 {
                stage.gate.send(()).unwrap();
            }
            assert!(first.await.unwrap().is_ok());
            assert_eq!(good.await.unwrap().unwrap().values, [4.0]);
            let refused = bad.await.unwrap();
            assert!(matches!(&refused, Err(QueueError::Panicked(why)) if why == "a negative column"), "{refused:?}");
            assert_eq!(stage.health.stage(), Stage::Failing);
            stage.gate.send(()).unwrap();
            assert!(stage.ask(&[3.0], None).await.is_ok());
        });
    }
}
