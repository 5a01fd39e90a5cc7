//! Active checks: every endpoint is asked at its interval whether it is ready; what changes goes to the control loop.
//!
//! Line: (endpoints) ► **health** ► control ► pool. The checks run beside the loop and know nothing of weights. What comes up
//! answers its golden calls first ([`warm_up`]), where the route has some. What a check found and when stays in its
//! [`Proof`]; while somebody rests on the golden answers they are asked for again, beside the checks.

pub(crate) mod call;
mod features;
mod proof;
mod warm_up;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use pointsman_config::{Golden as Examples, HealthCheck, RouteName, Signature, VersionId, WarmUp};
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

pub(crate) use self::features::Takes;
pub(crate) use self::proof::{Golden, Proof};

use self::call::{CallError, Callee};
use self::warm_up::{WarmUpError, answer_again, described, warm_up};
use crate::control::standstill::STANDSTILL;
use crate::control::state::in_words;
use crate::upstream::Speech;

/// Checks under way at a time; the others wait for their turn.
const CONCURRENT: usize = 256;
/// Endpoints that are warmed up at a time, apart from the checks of all others.
const WARMING: usize = 64;
/// How often at least an endpoint's description of its model is read again: so long it may be unknown that one was
/// replaced without missing a check.
const DESCRIBED_EVERY: Duration = Duration::from_secs(15);
/// And after so many checks at most, since whoever checks more often wants to know sooner.
const CHECKS_PER_DESCRIPTION: u32 = 15;
/// After so many checks without news the standing is told all the same, so that whatever was missed is put right.
const CHECKS_PER_REPEAT: u32 = 10;

/// One address of one version of one route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Target {
    /// Of which route.
    pub(crate) route: RouteName,
    /// Of which version.
    pub(crate) version: VersionId,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

/// How a target is checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Check {
    /// Another number is another check, even of the same target; what an earlier one still says is outdated.
    pub(crate) number: u64,
    /// How often, and how.
    pub(crate) how: HealthCheck,
    /// What it speaks.
    pub(crate) speech: Speech,
    /// What it must answer whenever it comes up.
    pub(crate) warm_up: Option<WarmUp>,
    /// The Host header: the endpoint as the file writes it.
    pub(crate) host: String,
    /// What it counts as until checks say otherwise.
    pub(crate) starts_up: bool,
    /// What it found last.
    pub(crate) proof: Proof,
}

/// Where a target stands: told after its first check, whenever that changes, and now and then without any change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Turned {
    /// Which.
    pub(crate) target: Target,
    /// Which check found it: [`Check::number`].
    pub(crate) number: u64,
    /// Whether it is up now.
    pub(crate) up: bool,
    /// What the last check found, if it failed.
    pub(crate) problem: Option<String>,
}

impl Check {
    /// Whether `other` asks the same in the same way.
    pub(crate) fn asks_as(&self, other: &Self) -> bool {
        self.how == other.how && self.speech == other.speech && self.warm_up == other.warm_up && self.host == other.host
    }

    /// Whether what it takes is held against what stable takes.
    pub(crate) fn compares_features(&self) -> bool {
        let compares = |plan: &WarmUp| matches!(plan.golden, Examples::Model(_)) && plan.signature == Signature::Same;
        self.warm_up.as_ref().is_some_and(compares)
    }

    /// Whether its endpoint tells which model it serves.
    fn reads_descriptions(&self) -> bool {
        self.warm_up.as_ref().is_some_and(|plan| matches!(plan.golden, Examples::Model(_)))
    }

    /// What came of golden calls. What this process lacks says nothing of the endpoint, and neither does a call that it had
    /// no room or no time for: its last answers grow older.
    fn found(&self, answered: &Result<(), WarmUpError>) {
        match answered {
            Err(error) if error.is_ours() || error.is_for_want_of_time() => {}
            Err(error) => self.proof.answers(Err(in_words(error))),
            Ok(()) => self.proof.answers(Ok(())),
        }
    }
}

/// Why a check failed.
#[derive(Debug, Error)]
enum CheckError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("`{path}` answered {status}")]
    Status { path: String, status: u16 },
    #[error(transparent)]
    WarmUp(#[from] WarmUpError),
    #[error("`{path}` describes another model than before, which has to prove itself first")]
    AnotherModel { path: String },
    #[error("no check of it ends in time, again and again: this process stands still, or its machine is too slow")]
    StoodStill,
}

impl CheckError {
    /// Whether this process lacks something to ask with, which says nothing of the endpoint.
    fn is_ours(&self) -> bool {
        match self {
            Self::Call(error) => error.is_ours(),
            Self::WarmUp(error) => error.is_ours(),
            Self::Status { .. } | Self::AnotherModel { .. } | Self::StoodStill => false,
        }
    }
}

/// A target that cannot be checked for want of something of ours, for as long as it lives. Shared is their number.
#[derive(Debug)]
struct Unasked(Arc<AtomicUsize>);

impl Unasked {
    /// Told once, however many targets cannot be checked.
    fn begin(all: &Arc<AtomicUsize>, error: &CheckError) -> Self {
        if all.fetch_add(1, Relaxed) == 0 {
            warn!(
                error = in_words(error),
                "endpoints cannot be checked for want of local resources; they stay as they were. Raise the limit of open \
                 files or give the machine more ports or memory"
            );
        }
        Self(Arc::clone(all))
    }
}

impl Drop for Unasked {
    fn drop(&mut self) {
        if self.0.fetch_sub(1, Relaxed) == 1 {
            info!("endpoints are checked again");
        }
    }
}

/// What all checks share.
#[derive(Debug, Clone)]
struct Common {
    places: Arc<Semaphore>,
    warming: Arc<Semaphore>,
    unasked: Arc<AtomicUsize>,
    turned: mpsc::UnboundedSender<Turned>,
}

/// What is checked; handed to the checks whenever it changes.
#[derive(Debug)]
pub(crate) struct HealthChecks {
    wanted: watch::Sender<BTreeMap<Target, Check>>,
}

impl HealthChecks {
    /// Starts the checks on `runtime`; what they find goes to `turned`.
    pub(crate) fn start(runtime: &tokio::runtime::Handle, turned: mpsc::UnboundedSender<Turned>) -> Self {
        let (wanted, changes) = watch::channel(BTreeMap::new());
        runtime.spawn(follow(changes, turned));
        Self { wanted }
    }

    /// Checks just these from now on; a new one is checked at once.
    pub(crate) fn set(&self, checks: BTreeMap<Target, Check>) {
        self.wanted.send_replace(checks);
    }
}

/// Keeps one task for each target until the loop is gone.
async fn follow(mut changes: watch::Receiver<BTreeMap<Target, Check>>, turned: mpsc::UnboundedSender<Turned>) {
    let (places, warming) = (Arc::new(Semaphore::new(CONCURRENT)), Arc::new(Semaphore::new(WARMING)));
    let common = Common { places, warming, unasked: Arc::default(), turned };
    let mut running: BTreeMap<Target, (Check, JoinHandle<()>)> = BTreeMap::new();
    while changes.changed().await.is_ok() {
        let wanted = changes.borrow_and_update().clone();
        running.retain(|target, (check, task)| {
            let stays = wanted.get(target).is_some_and(|wanted| wanted.number == check.number);
            if !stays {
                task.abort();
            }
            stays
        });
        for (target, check) in wanted {
            running.entry(target).or_insert_with_key(|target| {
                let task = tokio::spawn(check_for_ever(target.clone(), check.clone(), common.clone()));
                (check, task)
            });
        }
    }
    for (_, task) in running.into_values() {
        task.abort();
    }
}

async fn check_for_ever(target: Target, check: Check, common: Common) {
    let mut standing = Standing::new(&check);
    let (mut unasked, mut asking) = (None, None);
    // Checks of many endpoints that appeared together spread over the interval after the first one.
    let mut pause = check.how.interval.mul_f64(rand::random_range(0.5..1.0));
    loop {
        let due = match common.examine(&target, &check, &mut standing).await.err() {
            Some(error) if error.is_ours() => {
                unasked.get_or_insert_with(|| Unasked::begin(&common.unasked, &error));
                false
            }
            problem => {
                unasked = None;
                standing.hear(problem.as_ref())
            }
        };
        if due && !common.tell(&target, &check, (standing.up, standing.problem.clone())) {
            return;
        }
        if standing.up && standing.problem.is_none() {
            common.ask_again_if_due(&target, &check, &mut asking);
        }
        sleep(pause).await;
        pause = check.how.interval;
    }
}

impl Common {
    /// One check; the golden calls as well if it would bring the target up, or follow upon a failure: what did not answer for
    /// a moment may have been replaced.
    async fn examine(&self, target: &Target, check: &Check, standing: &mut Standing) -> Result<(), CheckError> {
        {
            // The semaphore is never closed.
            let _place = self.places.acquire().await;
            let began = Instant::now();
            let asked = ask(target.address, check).await;
            asked.map_err(|error| if was_late(began.elapsed(), check) { CheckError::StoodStill } else { error })?;
        }
        check.proof.passes();
        let Some(plan) = &check.warm_up else { return Ok(()) };
        if !standing.has_to_prove_itself() {
            return self.look_again(target, check, standing).await;
        }
        let _place = self.warming.acquire().await;
        if !standing.up {
            let under_way = format!("its check passes; {} golden calls are under way", plan.calls);
            standing.untold = None;
            // If nobody listens any more, the next word is the last one.
            _ = self.tell(target, check, (false, Some(under_way)));
            check.proof.describes(None);
        }
        let callee = callee(target.address, check);
        let answered = warm_up(callee, plan).await;
        check.found(&answered);
        match answered {
            Err(error) if standing.up && error.is_for_want_of_time() => {
                // It passed its check, and to have too much to do is no fault of its model: only another one is.
                check.proof.doubts_description();
                return compare_description(target, check, standing).await;
            }
            other => other?,
        }
        if check.reads_descriptions() {
            check.proof.describes(described(callee, plan).await);
        }
        Ok(())
    }

    /// Reads the description of the model now and then: at first since what counted as up from the start was never asked,
    /// later since a model can be replaced between two checks. Not to learn it is no fault of the endpoint's.
    async fn look_again(&self, target: &Target, check: &Check, standing: &mut Standing) -> Result<(), CheckError> {
        let after = DESCRIBED_EVERY.min(check.how.interval * CHECKS_PER_DESCRIPTION);
        if !standing.up || !check.reads_descriptions() || !check.proof.was_described_before(after) {
            return Ok(());
        }
        let _place = self.places.acquire().await;
        compare_description(target, check, standing).await
    }

    /// Asks for golden answers beside the checks, which must not wait for them.
    fn ask_again_if_due(&self, target: &Target, check: &Check, asking: &mut Option<AbortOnDropHandle<()>>) {
        let Some(plan) = check.warm_up.clone().filter(|_| check.proof.is_golden_due()) else { return };
        if asking.as_ref().is_some_and(|asking| !asking.is_finished()) {
            return;
        }
        let (warming, address, check) = (Arc::clone(&self.warming), target.address, check.clone());
        let ask = async move {
            // The semaphore is never closed.
            let _place = warming.acquire().await;
            check.found(&answer_again(callee(address, &check), &plan).await);
        };
        *asking = Some(AbortOnDropHandle::new(tokio::spawn(ask)));
    }

    /// False if nobody listens any more.
    fn tell(&self, target: &Target, check: &Check, (up, problem): (bool, Option<String>)) -> bool {
        self.turned.send(Turned { target: target.clone(), number: check.number, up, problem }).is_ok()
    }
}

/// Holds the description of the model against the one before. One that cannot be read is asked for again by the next check.
async fn compare_description(target: &Target, check: &Check, standing: &mut Standing) -> Result<(), CheckError> {
    let Some(plan @ WarmUp { golden: Examples::Model(path), .. }) = &check.warm_up else { return Ok(()) };
    let Some(card) = described(callee(target.address, check), plan).await else { return Ok(()) };
    if check.proof.is_another_model(&card) {
        standing.up = false;
        return Err(CheckError::AnotherModel { path: path.clone() });
    }
    check.proof.describes(Some(card));
    Ok(())
}

/// What the checks of one target have found so far.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Standing {
    up: bool,
    /// Good checks in a row that bring it up.
    healthy_after: u32,
    /// Bad checks in a row that take it down.
    unhealthy_after: u32,
    successes: u32,
    failures: u32,
    /// Whether the last check was late because this process stood still.
    was_late: bool,
    problem: Option<String>,
    /// Checks since it was last told; none before the first time.
    untold: Option<u32>,
}

impl Standing {
    fn new(check: &Check) -> Self {
        let (healthy_after, unhealthy_after) = (check.how.healthy_after, check.how.unhealthy_after);
        let up = check.starts_up;
        let (successes, failures, was_late) = (0, 0, false);
        Self { up, healthy_after, unhealthy_after, successes, failures, was_late, problem: None, untold: None }
    }

    /// Whether its golden answers are to be known before one more good check counts.
    fn has_to_prove_itself(&self) -> bool {
        if self.up { self.failures > 0 } else { self.is_about_to_come_up() }
    }

    /// Whether one more good check brings it up.
    fn is_about_to_come_up(&self) -> bool {
        !self.up && self.successes.saturating_add(1) >= self.healthy_after
    }

    /// One more check ended; true if its result is to be told. One that was late because this process stood still says nothing
    /// of the endpoint, but only the first in a row: where none ends in time, an endpoint that hangs would be up for ever.
    fn hear(&mut self, problem: Option<&CheckError>) -> bool {
        let is_late = matches!(problem, Some(CheckError::StoodStill));
        let was_late = std::mem::replace(&mut self.was_late, is_late);
        let is_excused = is_late && !was_late;
        !is_excused && self.note(problem.map(|error| in_words(error)))
    }

    /// One more result; true if it is to be told.
    fn note(&mut self, problem: Option<String>) -> bool {
        let news = self.take_in(problem);
        let untold = self.untold.map_or(CHECKS_PER_REPEAT, |untold| untold + 1);
        let due = news || untold >= CHECKS_PER_REPEAT;
        self.untold = Some(if due { 0 } else { untold });
        due
    }

    /// True if it came up, went down, or fails for another reason.
    fn take_in(&mut self, problem: Option<String>) -> bool {
        let before = self.clone();
        match problem {
            None => {
                self.up |= self.is_about_to_come_up();
                self.successes = self.successes.saturating_add(1);
                (self.failures, self.problem) = (0, None);
            }
            Some(problem) => {
                self.failures = self.failures.saturating_add(1);
                self.up &= self.failures < self.unhealthy_after;
                (self.successes, self.problem) = (0, Some(problem));
            }
        }
        (self.up, &self.problem) != (before.up, &before.problem)
    }
}

fn callee(address: SocketAddr, check: &Check) -> Callee<'_> {
    Callee { address, host: &check.host, speech: &check.speech, patience: check.how.timeout }
}

/// Whether a check took longer than it ever does, which is as long as its patience lasts: what ended it is that this process
/// stood still.
fn was_late(took: Duration, check: &Check) -> bool {
    took > check.how.timeout + STANDSTILL
}

async fn ask(address: SocketAddr, check: &Check) -> Result<(), CheckError> {
    let callee = callee(address, check);
    let Some(path) = &check.how.path else { return Ok(callee.connect().await?) };
    let status = callee.status(path).await?;
    if status.is_success() { Ok(()) } else { Err(CheckError::Status { path: path.clone(), status: status.as_u16() }) }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::AtomicBool;

    use nix::errno::Errno;
    use pointsman_config::{Example, Golden};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "stands beside `None`")]
    fn failed() -> Option<String> {
        Some("no".to_owned())
    }

    fn standing(starts_up: bool) -> Standing {
        Standing::new(&Check { starts_up, ..by_path(None) })
    }

    #[test]
    fn one_failure_is_told_and_the_second_takes_out() {
        let mut standing = standing(true);
        assert!(standing.note(None), "the first result is always told");
        assert!(!standing.note(None), "nothing new");
        assert!(standing.note(failed()), "a problem is news");
        assert!(standing.up);
        assert!(standing.note(failed()), "down is news");
        assert!(!standing.up);
        assert!(!standing.note(failed()), "still down");
        assert!(standing.note(None));
        assert_eq!((standing.up, standing.failures, standing.problem), (true, 0, None));
    }

    #[test]
    fn a_standing_without_news_is_told_again_after_ten_checks() {
        let mut standing = standing(true);
        let told: Vec<_> = (0..=20).filter(|_| standing.note(None)).collect();
        assert_eq!(told, [0, 10, 20]);
    }

    #[test]
    fn failures_must_come_in_a_row() {
        let mut standing = standing(true);
        for problem in [failed(), None, failed(), None, failed()] {
            standing.note(problem);
            assert!(standing.up);
        }
    }

    #[test]
    fn only_the_first_in_a_row_of_checks_that_were_late_is_excused() {
        let mut standing = standing(true);
        let late = CheckError::StoodStill;
        assert!(standing.hear(None));
        for problem in [Some(&late), None, Some(&late)] {
            assert!(!standing.hear(problem), "no news");
        }
        assert!(standing.hear(Some(&late)) && standing.up);
        assert!(standing.problem.as_ref().is_some_and(|problem| problem.contains("its machine is too slow")));
        assert!(standing.hear(Some(&late)) && !standing.up, "two failures in a row");
        assert!(standing.hear(None) && standing.up);
    }

    #[test]
    fn what_starts_as_not_ready_needs_one_success() {
        let mut standing = standing(false);
        standing.note(failed());
        assert!(!standing.up);
        assert!(standing.note(None));
        assert!(standing.up);
    }

    #[test]
    fn as_many_results_in_a_row_are_needed_as_the_route_says() {
        let mut check = by_path(None);
        (check.how.healthy_after, check.how.unhealthy_after) = (3, 2);
        let mut standing = Standing::new(&check);
        let ups = [None, None, failed(), None, None, None, failed(), None, failed(), failed(), None].map(|result| {
            standing.note(result);
            standing.up
        });
        assert_eq!(ups, [false, false, false, false, false, true, true, true, true, false, false]);
    }

    fn by_path(path: Option<&str>) -> Check {
        let how = HealthCheck {
            path: path.map(str::to_owned),
            interval: Duration::from_millis(20),
            timeout: Duration::from_millis(500),
            ..HealthCheck::default()
        };
        let (host, proof) = ("model:80".to_owned(), Proof::default());
        Check { number: 1, how, speech: plain(), warm_up: None, host, starts_up: false, proof }
    }

    /// HTTP/1.1 in the clear.
    fn plain() -> Speech {
        let stable: VersionId = "v1".parse().unwrap();
        let route = pointsman_config::Route::new("r".parse().unwrap(), stable, BTreeMap::new());
        Speech::of(&route, ([127, 0, 0, 1], 1).into())
    }

    /// A server that gives every connection `answer`, byte for byte.
    async fn server(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0; 1024];
                let read = stream.read(&mut head).await.unwrap_or(0);
                if read > 0 {
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            }
        });
        address
    }

    #[tokio::test]
    async fn answers_are_read_as_they_are_meant() {
        for (answer, fine) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", true),
            ("HTTP/1.1 204 No Content\r\n\r\n", true),
            ("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", false),
            ("HTTP/1.1 302 Found\r\nlocation: /\r\n\r\n", false),
            ("SSH-2.0-OpenSSH\r\n", false),
            ("", false),
        ] {
            let address = server(answer).await;
            let found = ask(address, &by_path(Some("/ready"))).await;
            assert_eq!(found.is_ok(), fine, "{answer:?}: {found:?}");
            assert!(ask(address, &by_path(None)).await.is_ok(), "an open port is enough without a path");
        }
    }

    #[tokio::test]
    async fn a_closed_port_and_a_silent_server_fail() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert!(matches!(ask(closed, &by_path(None)).await, Err(CheckError::Call(CallError::Connect(_)))));
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut check = by_path(Some("/ready"));
        check.how.timeout = Duration::from_millis(30);
        assert!(matches!(
            ask(silent.local_addr().unwrap(), &check).await,
            Err(CheckError::Call(CallError::Timeout(_)))
        ));
    }

    #[test]
    fn what_this_process_lacks_says_nothing_of_an_endpoint() {
        for (code, ours) in [
            (Errno::EMFILE, true),
            (Errno::ENFILE, true),
            (Errno::ENOBUFS, true),
            (Errno::EADDRNOTAVAIL, true),
            (Errno::ENOMEM, true),
            (Errno::ECONNREFUSED, false),
            (Errno::ENETUNREACH, false),
            (Errno::ETIMEDOUT, false),
        ] {
            assert_eq!(CheckError::from(CallError::Connect(code.into())).is_ours(), ours, "{code}");
        }
        assert!(!CheckError::from(CallError::Timeout(Duration::ZERO)).is_ours());
    }

    #[test]
    fn targets_that_cannot_be_asked_are_counted_while_that_lasts() {
        let all = Arc::default();
        let lacks = CheckError::from(CallError::Connect(Errno::EMFILE.into()));
        let two = [Unasked::begin(&all, &lacks), Unasked::begin(&all, &lacks)];
        assert_eq!(all.load(Relaxed), 2);
        drop(two);
        assert_eq!(all.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn an_endpoint_is_followed_down_and_up_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let target = Target { route: "r".parse().unwrap(), version: "v1".parse().unwrap(), address };
        let (tell, mut turned) = mpsc::unbounded_channel();
        let checks = HealthChecks::start(&tokio::runtime::Handle::current(), tell);
        checks.set([(target.clone(), by_path(None))].into());
        assert_eq!(turned.recv().await, Some(Turned { target: target.clone(), number: 1, up: true, problem: None }));
        drop(listener);
        while turned.recv().await.is_some_and(|turned| turned.up) {}
        let _again = TcpListener::bind(address).await.unwrap();
        while !turned.recv().await.unwrap().up {}
        checks.set(BTreeMap::new());
    }

    /// Gone and back between two looks at what is wanted: to whoever wants it, it is a new one.
    #[tokio::test]
    async fn a_target_that_came_back_is_checked_anew_and_its_first_result_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let target = Target { route: "r".parse().unwrap(), version: "v1".parse().unwrap(), address };
        let (tell, mut turned) = mpsc::unbounded_channel();
        let checks = HealthChecks::start(&tokio::runtime::Handle::current(), tell);
        for number in [1, 2] {
            let check = Check { number, starts_up: true, ..by_path(None) };
            checks.set([(target.clone(), check)].into());
            while turned.recv().await.unwrap().number != number {}
        }
        checks.set(BTreeMap::new());
    }

    /// It passes its check at once, but its model is not the one that was trained.
    #[tokio::test]
    async fn an_endpoint_that_answers_a_golden_call_wrongly_stays_down_and_says_why() {
        let body = r#"{"prediction":31.5}"#;
        let answer: &'static str = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).leak();
        let address = server(answer).await;
        let target = Target { route: "r".parse().unwrap(), version: "v1".parse().unwrap(), address };
        let (tell, mut turned) = mpsc::unbounded_channel();
        let checks = HealthChecks::start(&tokio::runtime::Handle::current(), tell);
        let example = |expect| Example { body: "{}".to_owned(), expect: Some(expect), tolerance: 0.1 };
        for (number, second, wrong) in [(1, 40.0, true), (2, 31.55, false)] {
            let golden = Golden::Examples(vec![example(31.5), example(second)]);
            let timeout = Duration::from_secs(5);
            let warm_up =
                Some(WarmUp { path: "/v1/predict".to_owned(), golden, signature: Signature::Same, calls: 3, timeout });
            checks.set([(target.clone(), Check { number, warm_up, ..by_path(Some("/ready")) })].into());
            let mut told: Vec<Turned> = Vec::new();
            while told.len() < 2 {
                let turned = turned.recv().await.unwrap();
                if turned.number == number {
                    told.push(turned);
                }
            }
            assert_eq!(told[0].problem.as_deref(), Some("its check passes; 3 golden calls are under way"));
            let problem = wrong.then_some("warm-up: example 2 should give 40 within 0.1, and gave 31.5");
            assert_eq!((told[1].up, told[1].problem.as_deref()), (!wrong, problem));
        }
        checks.set(BTreeMap::new());
    }

    /// A server that answers by path, at each the first of what it was told to say and the last again and again; and how often
    /// it was asked for its predictions.
    #[derive(Clone, Default)]
    struct Scripted {
        answers: Arc<Mutex<BTreeMap<&'static str, Vec<String>>>>,
        predicted: Arc<AtomicUsize>,
        /// Whether it takes predictions and never answers them.
        hangs: Arc<AtomicBool>,
    }

    impl Scripted {
        fn says(&self, path: &'static str, answers: &[(&str, &str)]) {
            let whole = |(head, body): &(&str, &str)| {
                let length = body.len();
                format!("HTTP/1.1 {head}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
            };
            self.answers.lock().unwrap().insert(path, answers.iter().map(whole).collect());
        }

        fn answer(&self, request: &str) -> String {
            let mut answers = self.answers.lock().unwrap();
            let answers = answers.get_mut(request.split(' ').nth(1).unwrap()).unwrap();
            if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() }
        }

        async fn serve(&self) -> SocketAddr {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (address, script) = (listener.local_addr().unwrap(), self.clone());
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let (mut request, mut some) = (String::new(), [0; 1024]);
                    // Every body of the tests is `{}`.
                    while !(request.ends_with("\r\n\r\n{}")
                        || request.starts_with("GET") && request.ends_with("\r\n\r\n"))
                    {
                        let read = stream.read(&mut some).await.unwrap();
                        assert!(read > 0, "{request}");
                        request += std::str::from_utf8(&some[..read]).unwrap();
                    }
                    if request.starts_with("POST") {
                        assert!(request.contains("x-pointsman-golden: 1\r\n"), "{request}");
                        script.predicted.fetch_add(1, Relaxed);
                        if script.hangs.load(Relaxed) {
                            tokio::spawn(async move {
                                std::future::pending::<()>().await;
                                drop(stream);
                            });
                            continue;
                        }
                    }
                    stream.write_all(script.answer(&request).as_bytes()).await.unwrap();
                }
            });
            address
        }
    }

    /// An endpoint that is up, checked at the pace of tests, with golden examples of its own.
    struct Watched {
        script: Scripted,
        proof: Proof,
        turned: mpsc::UnboundedReceiver<Turned>,
        _checks: HealthChecks,
    }

    const RIGHT: &[(&str, &str)] = &[("200 OK", r#"{"prediction":1}"#)];
    const WRONG: &[(&str, &str)] = &[("200 OK", r#"{"prediction":9}"#)];
    const READY: (&str, &str) = ("200 OK", "{}");
    const NOT_READY: (&str, &str) = ("503 Service Unavailable", "{}");

    fn description(digest: &str) -> String {
        let golden = r#"{"tolerance":0.5,"examples":[{"input":{},"prediction":1}]}"#;
        format!(r#"{{"sha256":"{digest}","golden":{golden}}}"#)
    }

    impl Watched {
        async fn start() -> Self {
            Self::start_with(Duration::from_secs(20)).await
        }

        /// One whose golden calls may take so long.
        async fn start_with(golden_patience: Duration) -> Self {
            let script = Scripted::default();
            script.says("/ready", &[READY]);
            script.says("/v1/model", &[("200 OK", &description("1"))]);
            script.says("/v1/predict", RIGHT);
            let address = script.serve().await;
            let target = Target { route: "r".parse().unwrap(), version: "v1".parse().unwrap(), address };
            let patience = Duration::from_secs(20);
            let warm_up = WarmUp {
                path: "/v1/predict".to_owned(),
                golden: Golden::Model("/v1/model".to_owned()),
                signature: Signature::Same,
                calls: 1,
                timeout: golden_patience,
            };
            let mut check = Check { warm_up: Some(warm_up), starts_up: true, ..by_path(Some("/ready")) };
            check.how.timeout = patience;
            let proof = check.proof.clone();
            let (tell, turned) = mpsc::unbounded_channel();
            let checks = HealthChecks::start(&tokio::runtime::Handle::current(), tell);
            checks.set([(target, check)].into());
            let mut watched = Self { script, proof, turned, _checks: checks };
            watched.until(|turned| turned.up).await;
            while watched.proof.takes().is_none() {
                sleep(Duration::from_millis(1)).await;
            }
            watched
        }

        /// What is told next of which this holds.
        async fn until(&mut self, is_so: impl Fn(&Turned) -> bool) -> Turned {
            let waiting = async {
                loop {
                    let turned = self.turned.recv().await.unwrap();
                    if is_so(&turned) {
                        return turned;
                    }
                }
            };
            tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("it is told")
        }

        async fn until_problem(&mut self, up: bool, words: &str) {
            self.until(|turned| turned.up == up && turned.problem.as_ref().is_some_and(|it| it.contains(words))).await;
        }
    }

    #[tokio::test]
    async fn another_model_at_the_same_address_goes_down_and_proves_itself() {
        let mut watched = Watched::start().await;
        watched.script.says("/v1/predict", WRONG);
        watched.script.says("/v1/model", &[("200 OK", &description("2"))]);
        watched.until_problem(false, "`/v1/model` describes another model than before").await;
        watched.until_problem(false, "example 1 should give 1 within 0.5, and gave 9").await;
        watched.script.says("/v1/predict", RIGHT);
        let turned = watched.until(|turned| turned.up).await;
        assert_eq!(turned.problem, None);
    }

    /// What was away for one check may have come back as something else.
    #[tokio::test]
    async fn after_a_failed_check_the_next_good_one_counts_only_with_golden_answers() {
        let mut watched = Watched::start().await;
        watched.script.says("/v1/predict", WRONG);
        watched.script.says("/ready", &[NOT_READY, READY]);
        watched.until_problem(true, "answered 503").await;
        watched.until_problem(false, "example 1 should give 1 within 0.5, and gave 9").await;
        watched.script.says("/v1/predict", RIGHT);
        watched.until(|turned| turned.up).await;
    }

    const SHED: &[(&str, &str)] = &[("429 Too Many Requests\r\nx-pointsman-shed: 1", "{}")];

    /// One slow check now and then is no failure in a row, however little room there is for golden calls between them.
    #[tokio::test]
    async fn an_endpoint_that_has_no_room_for_golden_calls_stays_up() {
        let mut watched = Watched::start().await;
        watched.script.says("/v1/predict", SHED);
        for _ in 0..3 {
            watched.script.says("/ready", &[NOT_READY, READY]);
            watched.until_problem(true, "answered 503").await;
            assert!(watched.until(|turned| turned.problem.is_none()).await.up);
        }
        assert!(watched.script.predicted.load(Relaxed) >= 3, "it was asked each time");
        assert!(!matches!(watched.proof.golden(), super::Golden::Wrong(_)));
    }

    #[tokio::test]
    async fn an_endpoint_that_has_no_time_for_golden_calls_stays_up_unless_it_is_another_model() {
        let mut watched = Watched::start_with(Duration::from_millis(500)).await;
        watched.script.hangs.store(true, Relaxed);
        watched.script.says("/ready", &[NOT_READY, READY]);
        watched.until_problem(true, "answered 503").await;
        assert!(watched.until(|turned| turned.problem.is_none()).await.up);
        watched.script.says("/v1/model", &[("200 OK", &description("2"))]);
        watched.script.says("/ready", &[NOT_READY, READY]);
        watched.until_problem(false, "`/v1/model` describes another model than before").await;
    }
}
