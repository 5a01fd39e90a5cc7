//! Active checks: every endpoint is asked at its interval whether it is ready; what changes goes to the control loop.
//!
//! Line: (endpoints) ► **health** ► control ► pool. The checks run beside the loop and know nothing of weights; two
//! failures in a row take an endpoint out, one success brings it back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use http::{Request, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use nix::errno::Errno;
use pointsman_config::{HealthCheck, RouteName, VersionId};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::control::state::in_words;

/// Failures in a row that take an endpoint out.
const FAILURES_TO_DOWN: u32 = 2;
/// Checks under way at a time; the others wait for their turn.
const CONCURRENT: usize = 256;
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Check {
    /// Another number is another check, even of the same target; what an earlier one still says is outdated.
    pub(crate) number: u64,
    /// How often, and how.
    pub(crate) how: HealthCheck,
    /// The Host header: the endpoint as the file writes it.
    pub(crate) host: String,
    /// What it counts as until checks say otherwise.
    pub(crate) starts_up: bool,
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

/// Why a check failed.
#[derive(Debug, Error)]
enum CheckError {
    #[error("no connection")]
    Connect(#[source] std::io::Error),
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error("the answer is no HTTP")]
    Http(#[source] hyper::Error),
    #[error("`{path}` cannot be asked for")]
    Path { path: String, source: http::Error },
    #[error("`{path}` answered {status}")]
    Status { path: String, status: u16 },
}

impl CheckError {
    /// Whether this process lacks something to ask with, which says nothing of the endpoint.
    fn is_ours(&self) -> bool {
        let first: &dyn std::error::Error = self;
        std::iter::successors(Some(first), |error| error.source())
            .filter_map(|error| error.downcast_ref::<std::io::Error>()?.raw_os_error())
            .any(|code| {
                let lacking = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::EADDRNOTAVAIL, Errno::ENOMEM];
                lacking.contains(&Errno::from_raw(code))
            })
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
    let common = Common { places: Arc::new(Semaphore::new(CONCURRENT)), unasked: Arc::default(), turned };
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
    let mut standing = Standing::new(check.starts_up);
    let mut unasked = None;
    // Checks of many endpoints that appeared together spread over the interval after the first one.
    let mut pause = check.how.interval.mul_f64(rand::random_range(0.5..1.0));
    loop {
        let found = {
            // The semaphore is never closed.
            let _place = common.places.acquire().await;
            ask(target.address, &check).await
        };
        let due = match found.err() {
            Some(error) if error.is_ours() => {
                unasked.get_or_insert_with(|| Unasked::begin(&common.unasked, &error));
                false
            }
            problem => {
                unasked = None;
                standing.note(problem.map(|error| in_words(&error)))
            }
        };
        if due {
            let (up, problem) = (standing.up, standing.problem.clone());
            let news = Turned { target: target.clone(), number: check.number, up, problem };
            if common.turned.send(news).is_err() {
                return;
            }
        }
        sleep(pause).await;
        pause = check.how.interval;
    }
}

/// What the checks of one target have found so far.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Standing {
    up: bool,
    failures: u32,
    problem: Option<String>,
    /// Checks since it was last told; none before the first time.
    untold: Option<u32>,
}

impl Standing {
    fn new(up: bool) -> Self {
        Self { up, failures: 0, problem: None, untold: None }
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
            None => (self.up, self.failures, self.problem) = (true, 0, None),
            Some(problem) => {
                self.failures = self.failures.saturating_add(1);
                self.up &= self.failures < FAILURES_TO_DOWN;
                self.problem = Some(problem);
            }
        }
        (self.up, &self.problem) != (before.up, &before.problem)
    }
}

async fn ask(address: SocketAddr, check: &Check) -> Result<(), CheckError> {
    let asked = async {
        let stream = TcpStream::connect(address).await.map_err(CheckError::Connect)?;
        match &check.how.path {
            Some(path) => get(stream, path, &check.host).await,
            None => Ok(()),
        }
    };
    timeout(check.how.timeout, asked).await.unwrap_or(Err(CheckError::Timeout(check.how.timeout)))
}

async fn get(stream: TcpStream, path: &str, host: &str) -> Result<(), CheckError> {
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::CONNECTION, "close")
        .header(header::USER_AGENT, "pointsman-health");
    let request = request
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|source| CheckError::Path { path: path.to_owned(), source })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(CheckError::Http)?;
    tokio::pin!(connection);
    let answer = sender.send_request(request);
    tokio::pin!(answer);
    let head = tokio::select! {
        head = &mut answer => head,
        ended = &mut connection => match ended {
            Ok(()) => answer.await,
            Err(error) => Err(error),
        },
    };
    let status = head.map_err(CheckError::Http)?.status();
    if status.is_success() {
        Ok(())
    } else {
        Err(CheckError::Status { path: path.to_owned(), status: status.as_u16() })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "stands beside `None`")]
    fn failed() -> Option<String> {
        Some("no".to_owned())
    }

    #[test]
    fn one_failure_is_told_and_the_second_takes_out() {
        let mut standing = Standing::new(true);
        assert!(standing.note(None), "the first result is always told");
        assert!(!standing.note(None), "nothing new");
        assert!(standing.note(failed()), "a problem is news");
        assert!(standing.up);
        assert!(standing.note(failed()), "down is news");
        assert!(!standing.up);
        assert!(!standing.note(failed()), "still down");
        assert!(standing.note(None));
        assert_eq!(standing, Standing { untold: Some(0), ..Standing::new(true) });
    }

    #[test]
    fn a_standing_without_news_is_told_again_after_ten_checks() {
        let mut standing = Standing::new(true);
        let told: Vec<_> = (0..=20).filter(|_| standing.note(None)).collect();
        assert_eq!(told, [0, 10, 20]);
    }

    #[test]
    fn failures_must_come_in_a_row() {
        let mut standing = Standing::new(true);
        for problem in [failed(), None, failed(), None, failed()] {
            standing.note(problem);
            assert!(standing.up);
        }
    }

    #[test]
    fn what_starts_as_not_ready_needs_one_success() {
        let mut standing = Standing::new(false);
        standing.note(failed());
        assert!(!standing.up);
        assert!(standing.note(None));
        assert!(standing.up);
    }

    fn by_path(path: Option<&str>) -> Check {
        let how = HealthCheck {
            path: path.map(str::to_owned),
            interval: Duration::from_millis(20),
            timeout: Duration::from_millis(500),
            ..HealthCheck::default()
        };
        Check { number: 1, how, host: "model:80".to_owned(), starts_up: false }
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
        assert!(matches!(ask(closed, &by_path(None)).await, Err(CheckError::Connect(_))));
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut check = by_path(Some("/ready"));
        check.how.timeout = Duration::from_millis(30);
        assert!(matches!(ask(silent.local_addr().unwrap(), &check).await, Err(CheckError::Timeout(_))));
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
            assert_eq!(CheckError::Connect(code.into()).is_ours(), ours, "{code}");
        }
        assert!(!CheckError::Timeout(Duration::ZERO).is_ours());
    }

    #[test]
    fn targets_that_cannot_be_asked_are_counted_while_that_lasts() {
        let all = Arc::default();
        let lacks = CheckError::Connect(Errno::EMFILE.into());
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
}
