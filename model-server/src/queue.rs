//! Where requests wait for the model, and the threads that own it. What costs less than handing it over is calculated
//! on the thread that read it. Everything else waits here, bounded by the work that it is expected to be: what would
//! wait longer than the limit, or than its client does, is turned away at once. A large request goes through the model
//! in parts, and goes to the end of the line after each, so that nobody waits for all of it. A client that leaves takes
//! its request with it.
//!
//! `deployment` hands rows in; `backlog` says how long they would wait; `batching` says what goes together; the model
//! calculates.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroUsize;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use thiserror::Error;
use tokio::sync::oneshot;
use tracing::error;

use crate::backlog;
use crate::batching::{Costs, Policy, Waiting};
use crate::health::{Health, Stage};
use crate::http::chain;
use crate::model::{Model, ModelError};
use crate::panics::Panics;
use crate::schema::Rows;

/// What is expected to take no longer than this is calculated where it was read: two threads would need a good part
/// of it only to wake each other.
const AT_ONCE: Duration = Duration::from_micros(200);

/// How long others wait for a part of a large request: what is expected to take longer, and has several rows, goes
/// through the model in parts. It is far above what a pass costs beside its rows.
const PART: Duration = Duration::from_millis(100);

/// How long a client is at least asked to stay away.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// What requests are held to while they wait.
#[derive(Debug, Clone, Copy)]
pub struct QueueLimits {
    /// How much work may wait for each worker, in the time it is expected to take.
    pub wait: Duration,
    /// How much goes through the model at once.
    pub policy: Policy,
    /// How many panics within a minute end the server.
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
    /// Those before it, of a request that went through the model in parts.
    pub earlier: Vec<Calculation>,
}

/// One pass through the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calculation {
    /// Rows, of all requests.
    pub rows: usize,
    /// How long it took.
    pub took: Duration,
    /// When it was done.
    pub ended: Instant,
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
    workers: usize,
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

/// Who waits, first come first served, and what is under way.
struct Line {
    costs: Costs,
    waiting: VecDeque<Job>,
    /// What all that wait count for together.
    work: Duration,
    /// Of each worker that calculates.
    under_way: BTreeMap<usize, Pass>,
    next: u64,
}

/// What a worker does.
struct Pass {
    began: Instant,
    estimate: Duration,
    is_oversized: bool,
}

/// One request that waits.
struct Job {
    number: u64,
    /// Its rows, without those that went through the model already.
    rows: Rows,
    weight: usize,
    /// What its rows are expected to take.
    estimate: Duration,
    /// Whether it takes longer alone than all that may wait.
    is_oversized: bool,
    /// What went through the model already, of a request that goes in parts.
    done: Option<Predictions>,
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
            line.work = line.work.saturating_sub(job.counts_for());
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
        let (waiting, under_way) = (VecDeque::new(), BTreeMap::new());
        let line = Line { costs, waiting, work: Duration::ZERO, under_way, next: 0 };
        let shared = Arc::new(Shared {
            model,
            measured: costs,
            limits,
            workers: workers.get(),
            health,
            line: Mutex::new(line),
            arrived: Condvar::new(),
            panics: Mutex::new(Panics::new(limits.panics)),
        });
        for number in 0..workers.get() {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name(format!("model-{number}")).spawn(move || shared.work(number))?;
        }
        Ok(Self { shared })
    }

    /// What the model makes of some rows, at once or after those who came before.
    ///
    /// # Errors
    /// When too much waits, the deadline passes, or the model fails.
    pub async fn calculate(&self, rows: Rows, deadline: Option<Instant>) -> Outcome {
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(QueueError::Deadline);
        }
        if self.shared.measured.estimate(self.shared.model.weight(&rows)) <= AT_ONCE {
            let outcome = self.shared.predict(rows);
            if let Err(problem) = &outcome {
                self.shared.count_if_panicked(problem);
            }
            return outcome;
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
        let now = Instant::now();
        let mut line = self.line();
        let estimate = line.costs.estimate(weight);
        let is_oversized = estimate > self.limits.wait;
        let wait = line.wait(now, self.workers);
        let takes = self.expected(estimate, weight, wait);
        let in_time = deadline.is_none_or(|at| at.saturating_duration_since(now) >= wait.saturating_add(takes));
        let has_room = if is_oversized {
            wait <= self.limits.wait && line.oversized() < self.workers
        } else {
            wait.saturating_add(estimate) <= self.limits.wait
        };
        if !in_time || !has_room {
            return Err(QueueError::Busy { retry_after: wait.max(SHORTEST_PAUSE) });
        }
        let number = line.next;
        line.next += 1;
        let done = (rows.count > 1 && estimate > PART).then(Predictions::default);
        line.push(Job { number, rows, weight, estimate, is_oversized, done, deadline, answer });
        drop(line);
        self.arrived.notify_one();
        Ok((Place { shared: self, number }, outcome))
    }

    /// What a request is expected to take once it has its turn. An estimate that went wrong is only put right by doing
    /// the work: where nobody waits, it must not turn away what would be done in time by what was measured at the start.
    fn expected(&self, estimate: Duration, weight: usize, wait: Duration) -> Duration {
        if wait.is_zero() { estimate.min(self.measured.estimate(weight)) } else { estimate }
    }

    /// A worker's life. What a model may panic over is caught where it is called, so the thread goes on.
    fn work(&self, worker: usize) {
        let mut unfinished = None;
        loop {
            let jobs = self.next_batch(worker, unfinished);
            unfinished = self.serve(jobs);
        }
    }

    /// Puts a request of which parts are left to the end of the line, and waits until there is something to do.
    fn next_batch(&self, worker: usize, unfinished: Option<Job>) -> Vec<Job> {
        let mut line = self.line();
        line.under_way.remove(&worker);
        if let Some(job) = unfinished.filter(|job| !job.answer.is_closed()) {
            line.push(job);
        }
        loop {
            let now = Instant::now();
            for late in line.take_expired(now) {
                late.tell(Err(QueueError::Deadline));
            }
            let jobs = line.take(self.limits.policy, now);
            if !jobs.is_empty() {
                let pass = line.pass(&jobs, now);
                line.under_way.insert(worker, pass);
                return jobs;
            }
            line = self.arrived.wait(line).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Calculates what goes together, or a part of what is large; gives a request back of which parts are left.
    fn serve(&self, mut jobs: Vec<Job>) -> Option<Job> {
        if jobs.len() > 1 {
            self.serve_together(jobs);
            return None;
        }
        let mut job = jobs.pop()?;
        if let Some(done) = job.done.take() {
            return self.serve_part(job, done);
        }
        self.serve_alone(job);
        None
    }

    /// Should a batch fail, each request is tried alone, so that only the one that the model cannot bear is refused. A
    /// panic is counted with that one; with the batch only if nobody panics alone.
    fn serve_together(&self, jobs: Vec<Job>) {
        let mut all = Rows::default();
        for job in &jobs {
            all.append(&job.rows);
        }
        match self.measured_pass(all) {
            Ok(predictions) => hand_out(jobs, &predictions),
            Err(problem) => {
                let panicked_alone =
                    jobs.into_iter().map(|job| self.serve_alone(job)).filter(|panicked| *panicked).count();
                if panicked_alone == 0 {
                    self.count_if_panicked(&problem);
                }
            }
        }
    }

    /// Gives whether the model panicked.
    fn serve_alone(&self, mut job: Job) -> bool {
        let outcome = self.measured_pass(std::mem::take(&mut job.rows));
        let panicked = outcome.as_ref().is_err_and(|problem| self.count_if_panicked(problem));
        job.tell(outcome);
        panicked
    }

    /// One part of a large request; gives the request back if there are more.
    fn serve_part(&self, mut job: Job, mut done: Predictions) -> Option<Job> {
        let part = self.next_part(&mut job.rows);
        match self.measured_pass(part) {
            Ok(part) => done.append(part),
            Err(problem) => {
                self.count_if_panicked(&problem);
                job.tell(Err(problem));
                return None;
            }
        }
        if job.rows.count == 0 {
            done.rows.warnings = std::mem::take(&mut job.rows.warnings);
            job.tell(Ok(done));
            return None;
        }
        job.weight = self.model.weight(&job.rows);
        job.estimate = self.line().costs.estimate(job.weight);
        job.done = Some(done);
        Some(job)
    }

    /// As many rows as go through the model before others get their turn: one at least.
    fn next_part(&self, rows: &mut Rows) -> Rows {
        let costs = self.line().costs;
        let (mut count, mut weight) = (0, 0);
        while let Some(row) = rows.row(count) {
            weight += self.model.weight(&row);
            if count > 0 && costs.estimate(weight) > PART {
                break;
            }
            count += 1;
        }
        rows.take_first(count)
    }

    /// One pass of a worker, from which estimates learn. What is calculated where it was read teaches nothing: only what
    /// stalled there would take long enough to be measured.
    fn measured_pass(&self, rows: Rows) -> Outcome {
        let predictions = self.predict(rows)?;
        if let Some(calculation) = predictions.calculation {
            self.line().costs.learn(self.model.weight(&predictions.rows), calculation.took);
        }
        Ok(predictions)
    }

    /// One pass through the model; a panic becomes an error.
    fn predict(&self, rows: Rows) -> Outcome {
        let start = Instant::now();
        let calculated = panic::catch_unwind(AssertUnwindSafe(|| self.model.predict(&rows)));
        let ended = Instant::now();
        let took = ended.duration_since(start);
        let values = calculated.map_err(|cause| panicked(cause.as_ref()))??;
        let calculation = Some(Calculation { rows: rows.count, took, ended });
        Ok(Predictions { rows, values, calculation, earlier: Vec::new() })
    }

    /// Counts a panic, and says whether it was one. Too many end the server.
    fn count_if_panicked(&self, problem: &QueueError) -> bool {
        if !matches!(problem, QueueError::Panicked(_)) {
            return false;
        }
        let too_often = self.panics.lock().unwrap_or_else(PoisonError::into_inner).note(Instant::now());
        if too_often && self.health.advance(Stage::Failing) {
            error!("the model panics again and again, the server ends");
        }
        true
    }
}

/// A panic as an error, and in the log.
fn panicked(cause: &(dyn std::any::Any + Send)) -> QueueError {
    let words = cause.downcast_ref::<&str>().copied().or_else(|| cause.downcast_ref::<String>().map(String::as_str));
    let words = words.unwrap_or("no words").to_owned();
    error!(cause = %words, "the model panicked");
    QueueError::Panicked(words)
}

impl Line {
    /// How long what comes next would wait.
    fn wait(&self, now: Instant, workers: usize) -> Duration {
        backlog::wait(self.work, self.under_way.values().map(|pass| pass.left(now)), workers)
    }

    /// How many wait or are under way that take longer alone than all that may wait.
    fn oversized(&self) -> usize {
        let waiting = self.waiting.iter().filter(|job| job.is_oversized).count();
        waiting + self.under_way.values().filter(|pass| pass.is_oversized).count()
    }

    fn push(&mut self, job: Job) {
        self.work = self.work.saturating_add(job.counts_for());
        self.waiting.push_back(job);
    }

    fn take_expired(&mut self, now: Instant) -> VecDeque<Job> {
        let late = |job: &Job| job.deadline.is_some_and(|deadline| deadline <= now);
        if !self.waiting.iter().any(late) {
            return VecDeque::new();
        }
        let (late, waiting): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.waiting).into_iter().partition(late);
        self.waiting = waiting;
        self.work = self.work.saturating_sub(late.iter().map(Job::counts_for).sum());
        late
    }

    /// What goes through the model next. A request that goes in parts goes alone.
    fn take(&mut self, policy: Policy, now: Instant) -> Vec<Job> {
        let together = self.waiting.iter().position(Job::goes_in_parts).unwrap_or(self.waiting.len()).max(1);
        let seen = self.waiting.iter().take(together).map(|job| Waiting {
            rows: job.rows.count,
            weight: job.weight,
            patience: job.deadline.map(|deadline| deadline.saturating_duration_since(now)),
        });
        let count = policy.take(&self.costs, seen);
        let taken: Vec<Job> = self.waiting.drain(..count.min(self.waiting.len())).collect();
        self.work = self.work.saturating_sub(taken.iter().map(Job::counts_for).sum());
        taken
    }

    fn pass(&self, jobs: &[Job], now: Instant) -> Pass {
        let estimate = match jobs {
            [job] => job.next_pass(),
            _ => self.costs.estimate(jobs.iter().map(|job| job.weight).sum()),
        };
        Pass { began: now, estimate, is_oversized: jobs.iter().any(|job| job.is_oversized) }
    }
}

impl Pass {
    fn left(&self, now: Instant) -> Duration {
        self.estimate.saturating_sub(now.saturating_duration_since(self.began))
    }
}

impl Job {
    fn goes_in_parts(&self) -> bool {
        self.done.is_some()
    }

    /// What it takes before others get their turn.
    fn next_pass(&self) -> Duration {
        if self.goes_in_parts() { self.estimate.min(PART) } else { self.estimate }
    }

    /// What it adds to the wait of others: all of it. Of an oversized one, of which there are but few, its next pass, since
    /// it lets others go before it after each.
    fn counts_for(&self) -> Duration {
        if self.is_oversized { self.next_pass() } else { self.estimate }
    }

    /// Whoever left is told nothing.
    fn tell(self, outcome: Outcome) {
        if let Err(Err(problem)) = self.answer.send(outcome) {
            error!(error = %chain(&problem), "prediction failed, and nobody waits for it any more");
        }
    }
}

impl Predictions {
    /// Puts those of further rows behind these.
    fn append(&mut self, part: Self) {
        self.rows.append(&part.rows);
        self.values.extend(part.values);
        self.earlier.extend(self.calculation.take());
        self.calculation = part.calculation;
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
        let values = own.to_vec();
        job.tell(Ok(Predictions { rows, values, calculation: calculation.take(), earlier: Vec::new() }));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::batching::Trial;

    const POLICY: Policy = Policy { most_rows: 8, most_weight: 1000 };

    /// Gives each column back, doubled. It tells when it begins a pass, and how many rows that has; it ends it only when it
    /// is let, unless its columns are below 1, and panics over negative ones and over both 7 and 8.
    struct Gated {
        let_go: Mutex<mpsc::Receiver<()>>,
        began: Mutex<mpsc::Sender<usize>>,
    }

    impl Model for Gated {
        fn predict(&self, rows: &Rows) -> Result<Vec<f32>, ModelError> {
            self.began.lock().unwrap().send(rows.count).unwrap();
            if rows.columns.iter().any(|column| !(0.0..1.0).contains(column)) {
                self.let_go.lock().unwrap().recv().unwrap();
            }
            assert!(rows.columns.iter().all(|column| *column >= 0.0), "a negative column");
            assert!(![7.0, 8.0].iter().all(|column| rows.columns.contains(column)), "seven and eight");
            Ok(rows.columns.iter().map(|column| column * 2.0).collect())
        }
    }

    struct Scene {
        queue: Queue,
        health: Arc<Health>,
        gate: mpsc::Sender<()>,
        passes: mpsc::Receiver<usize>,
    }

    /// A column costs 1 ms alone and half of it in a batch; so much may wait.
    fn queue(wait_ms: u64) -> Scene {
        queue_of(wait_ms, 1)
    }

    fn queue_of(wait_ms: u64, workers: usize) -> Scene {
        queue_costing(wait_ms, workers, Duration::from_millis(1))
    }

    /// A column costs so much alone and half of it in a batch.
    fn queue_costing(wait_ms: u64, workers: usize, column: Duration) -> Scene {
        let (gate, let_go) = mpsc::channel();
        let (began, passes) = mpsc::channel();
        let model = Arc::new(Gated { let_go: let_go.into(), began: began.into() });
        let costs = Costs::measured(
            Trial { rows: 1, weight: 1, took: column },
            Trial { rows: 32, weight: 32, took: column * 16 },
        );
        let panics = NonZeroUsize::new(2).unwrap();
        let limits = QueueLimits { wait: Duration::from_millis(wait_ms), policy: POLICY, panics };
        let health = Arc::new(Health::new());
        let workers = NonZeroUsize::new(workers).unwrap();
        let queue = Queue::start(model, costs, limits, (workers, Arc::clone(&health))).unwrap();
        Scene { queue, health, gate, passes }
    }

    /// One row that takes so many seconds.
    fn long_row(seconds: usize) -> Rows {
        Rows { columns: vec![1.0; seconds * 2000], count: 1, ..Rows::default() }
    }

    fn rows(columns: &[f32]) -> Rows {
        Rows { columns: columns.to_vec(), count: columns.len(), ..Rows::default() }
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    }

    impl Scene {
        fn ask(&self, columns: &[f32], deadline: Option<Instant>) -> impl Future<Output = Outcome> + Send + use<> {
            self.hand_in(rows(columns), deadline)
        }

        fn hand_in(&self, rows: Rows, deadline: Option<Instant>) -> impl Future<Output = Outcome> + Send + use<> {
            let queue = self.queue.clone();
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

    /// A thread that reads was stopped in the middle of a calculation that takes it next to nothing.
    #[test]
    fn what_stalls_where_it_was_read_changes_no_estimate() {
        let stage = queue_costing(1000, 1, Duration::from_micros(10));
        runtime().block_on(async {
            let stalled = tokio::spawn(stage.ask(&[1.0], None));
            assert_eq!(stage.passes.recv().unwrap(), 1);
            let since = Instant::now();
            while since.elapsed() < AT_ONCE * 2 {
                std::hint::spin_loop();
            }
            stage.gate.send(()).unwrap();
            assert_eq!(stalled.await.unwrap().unwrap().values, [2.0]);
            assert_eq!(stage.queue.shared.line().costs, stage.queue.shared.measured);
        });
    }

    #[test]
    fn what_would_wait_too_long_is_turned_away_at_once_and_counted_by_its_work() {
        let stage = queue(100_000);
        runtime().block_on(async {
            let under_way = tokio::spawn(stage.hand_in(long_row(60), None));
            assert_eq!(stage.passes.recv().unwrap(), 1);
            let small = tokio::spawn(stage.ask(&[1.0], None));
            stage.until_waiting(1).await;
            let refused = stage.hand_in(long_row(60), None).await;
            assert!(matches!(refused, Err(QueueError::Busy { retry_after }) if retry_after >= SHORTEST_PAUSE));
            stage.gate.send(()).unwrap();
            stage.gate.send(()).unwrap();
            assert!(under_way.await.unwrap().is_ok());
            assert!(small.await.unwrap().is_ok());
        });
    }

    /// One worker is busy for an hour; the other one takes what comes, as it comes.
    #[test]
    fn who_can_go_to_a_free_worker_does_not_wait_for_a_busy_one() {
        let stage = queue_of(1000, 2);
        runtime().block_on(async {
            let long = tokio::spawn(stage.hand_in(long_row(3600), None));
            assert_eq!(stage.passes.recv().unwrap(), 1);
            for _ in 0..50 {
                let soon = Some(Instant::now() + Duration::from_secs(20));
                assert_eq!(stage.ask(&[0.5], soon).await.unwrap().values, [1.0]);
            }
            stage.gate.send(()).unwrap();
            assert!(long.await.unwrap().is_ok());
        });
    }

    #[test]
    fn a_large_request_goes_in_parts_and_lets_others_go_between() {
        let stage = queue(100_000);
        runtime().block_on(async {
            let columns: Vec<f32> = (0_u16..500).map(|column| f32::from(column) + 10.0).collect();
            let large = tokio::spawn(stage.ask(&columns, None));
            let first = stage.passes.recv().unwrap();
            assert!(first < 250, "a part of {first} rows");
            let small = tokio::spawn(stage.ask(&[0.5], None));
            stage.until_waiting(1).await;
            stage.gate.send(()).unwrap();
            assert_eq!(stage.passes.recv().unwrap(), 1, "the small one has its turn");
            assert_eq!(small.await.unwrap().unwrap().values, [1.0]);
            for _ in 0..500 {
                stage.gate.send(()).unwrap();
            }
            let predictions = large.await.unwrap().unwrap();
            let wanted: Vec<f32> = columns.iter().map(|column| column * 2.0).collect();
            assert_eq!((predictions.rows.columns, predictions.values), (columns, wanted));
            let parts: Vec<usize> = [first].into_iter().chain(stage.passes.try_iter()).collect();
            let calculations = predictions.earlier.iter().chain(&predictions.calculation);
            assert_eq!(calculations.map(|calculation| calculation.rows).collect::<Vec<_>>(), parts);
            assert_eq!((predictions.rows.count, parts.iter().sum::<usize>()), (500, 500));
        });
    }

    #[test]
    fn a_large_request_ends_with_the_part_at_which_its_client_leaves() {
        let stage = queue(100_000);
        runtime().block_on(async {
            let large = tokio::spawn(stage.ask(&[1.0; 500], None));
            stage.passes.recv().unwrap();
            large.abort();
            assert!(large.await.unwrap_err().is_cancelled());
            stage.gate.send(()).unwrap();
            assert_eq!(stage.ask(&[0.5], None).await.unwrap().values, [1.0]);
            assert_eq!(stage.passes.try_iter().collect::<Vec<_>>(), [1]);
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
    fn what_is_larger_than_the_whole_queue_gets_its_turn_among_small_ones_but_not_beside_another() {
        let stage = queue(1000);
        runtime().block_on(async {
            let small = tokio::spawn(stage.ask(&[1.0], None));
            assert_eq!(stage.passes.recv().unwrap(), 1);
            let another = tokio::spawn(stage.ask(&[1.0], None));
            stage.until_waiting(1).await;
            let large = tokio::spawn(stage.ask(&[0.5; 4000], None));
            stage.until_waiting(2).await;
            assert!(matches!(stage.ask(&[0.5; 4000], None).await, Err(QueueError::Busy { .. })));
            let last = tokio::spawn(stage.ask(&[0.5], None));
            stage.until_waiting(3).await;
            stage.gate.send(()).unwrap();
            stage.gate.send(()).unwrap();
            for asked in [small, another, last] {
                assert!(asked.await.unwrap().is_ok());
            }
            assert_eq!(large.await.unwrap().unwrap().values, [1.0; 4000]);
        });
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
    fn a_deadline_leaves_time_for_the_calculation_itself() {
        let stage = queue(100_000);
        runtime().block_on(async {
            let soon = || Some(Instant::now() + Duration::from_secs(30));
            let hopeless = stage.hand_in(long_row(60), soon()).await;
            assert!(matches!(hopeless, Err(QueueError::Busy { .. })), "{hopeless:?}");
            let passed = stage.ask(&[0.5], Some(Instant::now())).await;
            assert!(matches!(passed, Err(QueueError::Deadline)), "{passed:?}");
            // What was slow for a while costs sixteen times as much from then on, says the estimate.
            for _ in 0..1000 {
                stage.queue.shared.line().costs.learn(1, Duration::from_hours(1));
            }
            stage.gate.send(()).unwrap();
            assert!(stage.hand_in(long_row(10), soon()).await.is_ok(), "an idle server tries it all the same");
        });
    }

    #[test]
    fn a_panic_is_the_answer_of_one_request_only_and_is_counted_once() {
        let stage = queue(1000);
        runtime().block_on(async {
            let panics = |stage: &Scene| stage.health.stage() == Stage::Failing;
            for _ in 0..2 {
                assert!(!panics(&stage), "one panic is not two");
                let first = tokio::spawn(stage.ask(&[1.0], None));
                while stage.passes.recv().unwrap() != 1 {}
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
                assert!(
                    matches!(&refused, Err(QueueError::Panicked(why)) if why == "a negative column"),
                    "{refused:?}"
                );
                stage.passes.try_iter().count();
            }
            assert!(panics(&stage));
            stage.gate.send(()).unwrap();
            assert!(stage.ask(&[3.0], None).await.is_ok());
        });
    }

    #[test]
    fn a_batch_that_panics_although_each_of_it_is_served_alone_is_counted_as_one() {
        let stage = queue(1000);
        runtime().block_on(async {
            for is_failing in [false, true] {
                let first = tokio::spawn(stage.ask(&[1.0], None));
                while stage.passes.recv().unwrap() != 1 {}
                let pair = [7.0, 8.0].map(|column| tokio::spawn(stage.ask(&[column], None)));
                stage.until_waiting(2).await;
                for _ in 0..4 {
                    stage.gate.send(()).unwrap();
                }
                assert!(first.await.unwrap().is_ok());
                for asked in pair {
                    assert!(asked.await.unwrap().is_ok());
                }
                // It is counted once the last of them has its answer.
                stage.gate.send(()).unwrap();
                assert!(stage.ask(&[3.0], None).await.is_ok());
                stage.passes.try_iter().count();
                assert_eq!(stage.health.stage() == Stage::Failing, is_failing);
            }
        });
    }
}
