//! Leader election over one Lease of the API server.
//!
//! The rules are in [`Election`], which is pure; here a task looks and writes as they say and tells who leads. A leader
//! that hears nothing stops by itself before anybody else may begin.

mod election;

use std::pin::Pin;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use pointsman_rollout::Time;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

pub use election::{Election, LeaseTimes, LeaseTimesError, Move, Record};

use crate::annotation::Fence;
use crate::client::Cluster;
use crate::error::CallError;
use crate::live_service::FIELD_MANAGER;
use crate::trouble::Trouble;

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leadership {
    /// This process does.
    Leading {
        /// Its proof.
        fence: Fence,
        /// Not a moment longer than until then, unless this is told again.
        until: Instant,
    },
    /// Another does, or nobody.
    Following {
        /// Who, as far as is known.
        leader: Option<String>,
    },
}

impl Leadership {
    /// The proof of this process, if it leads at this moment.
    pub fn fence(&self) -> Option<&Fence> {
        match self {
            Self::Leading { fence, until } if Instant::now() < *until => Some(fence),
            Self::Leading { .. } | Self::Following { .. } => None,
        }
    }

    fn term(&self) -> Option<u64> {
        match self {
            Self::Leading { fence, .. } => Some(fence.term),
            Self::Following { .. } => None,
        }
    }
}

enum Order {
    RaiseAbove(u64),
    Resign(oneshot::Sender<()>),
}

/// A standing candidacy for one Lease, for as long as it lives. Dropped without [`Candidacy::resign`], it leaves the Lease
/// to run out.
#[derive(Debug)]
pub struct Candidacy {
    leadership: watch::Receiver<Leadership>,
    problem: watch::Receiver<Option<String>>,
    orders: mpsc::UnboundedSender<Order>,
    _task: AbortOnDropHandle<()>,
}

impl Candidacy {
    /// Stands for the Lease `name` in `namespace` as `identity`, which names this process and no other, not even an earlier
    /// one of the same pod. Must run on a tokio runtime; needs `get`, `create` and `update` on the Lease.
    pub fn start(cluster: &Cluster, namespace: &str, name: &str, identity: &str, times: LeaseTimes) -> Self {
        let (tell, leadership) = watch::channel(Leadership::Following { leader: None });
        let (tell_problem, problem) = watch::channel(None);
        let (orders, received) = mpsc::unbounded_channel();
        let candidate = Candidate {
            leases: cluster.api(namespace),
            call: cluster.deadlines().call.min(times.every()),
            cluster: cluster.clone(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            election: Election::new(identity.to_owned(), times),
            times,
            began: Instant::now(),
            last: None,
            trouble: Trouble::default(),
            tell,
            tell_problem,
        };
        let task = tokio::spawn(candidate.stand(received));
        Self { leadership, problem, orders, _task: AbortOnDropHandle::new(task) }
    }

    /// Who leads, and every change of it. A leader whose time is over is told so; ask [`Leadership::fence`] all the same
    /// before each write.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// Why the Lease cannot be read or written at present, for people.
    pub fn problem(&self) -> Option<String> {
        self.problem.borrow().clone()
    }

    /// Has terms go on above `term`, which stands on a Service although this process leads: the Lease was deleted.
    pub fn raise_above(&self, term: u64) {
        // A task that is gone has nobody to lead.
        drop(self.orders.send(Order::RaiseAbove(term)));
    }

    /// Stops to stand, and gives the Lease back if it is held, so that another takes it at once. Waits for that no longer
    /// than one call may take.
    pub async fn resign(self) {
        let (done, heard) = oneshot::channel();
        if self.orders.send(Order::Resign(done)).is_ok() {
            // Either it is done, or the task is gone.
            drop(heard.await);
        }
    }
}

struct Candidate {
    cluster: Cluster,
    leases: Api<Lease>,
    name: String,
    identity: String,
    times: LeaseTimes,
    /// For one call: a renewal that waits longer than until the next one is given up.
    call: Duration,
    election: Election,
    /// The start of the clock that the election is told.
    began: Instant,
    /// The Lease as it was last read or written.
    last: Option<Lease>,
    /// Whether it was told that the Lease cannot be read or written.
    trouble: Trouble,
    tell: watch::Sender<Leadership>,
    tell_problem: watch::Sender<Option<String>>,
}

impl Candidate {
    async fn stand(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        let mut next = Instant::now();
        loop {
            let until = self.election.leads(self.now()).map(|(_, until)| self.instant(until));
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::RaiseAbove(term)) => {
                        self.election.raise_above(term);
                        next = Instant::now();
                    }
                    Some(Order::Resign(done)) => {
                        self.give_back().await;
                        // Whoever asked may have stopped waiting.
                        return done.send(()).unwrap_or_default();
                    }
                    None => return,
                },
                () = sleep_until(until.map_or(next, |until| until.min(next))) => {
                    if Instant::now() >= next {
                        next = Instant::now() + self.times.every();
                        self.turn().await;
                    }
                }
            }
            self.announce();
        }
    }

    /// Looks, and writes what the rules say.
    async fn turn(&mut self) {
        match self.look_and_move().await {
            // Somebody else was faster: that is how elections go.
            Ok(()) | Err(CallError::Conflict { .. }) => self.works(),
            Err(error) => self.fails(&error),
        }
    }

    fn works(&mut self) {
        self.tell_problem.send_if_modified(|problem| problem.take().is_some());
        if self.trouble.is_over() {
            info!(lease = %self.name, "the Lease can be read and written again");
        }
    }

    fn fails(&mut self, error: &CallError) {
        self.tell_problem.send_replace(Some(error.to_string()));
        if self.trouble.is_news() {
            warn!(lease = %self.name, %error, "the Lease cannot be kept; nobody is promoted while nobody leads");
        }
    }

    async fn look_and_move(&mut self) -> Result<(), CallError> {
        self.look().await?;
        match self.election.next(self.now()) {
            Move::Wait => Ok(()),
            Move::Create { term } => {
                let lease = self.claimed(None, term);
                let leases = self.leases.clone();
                self.put("create", Box::pin(async move { leases.create(&params(), &lease).await })).await
            }
            Move::Write { term, .. } => {
                let lease = self.claimed(self.last.clone(), term);
                let (leases, name) = (self.leases.clone(), self.name.clone());
                self.put("update", Box::pin(async move { leases.replace(&name, &params(), &lease).await })).await
            }
        }
    }

    async fn look(&mut self) -> Result<(), CallError> {
        let what = format!("get Lease {}", self.name);
        let asked = Box::pin(self.leases.get_opt(&self.name));
        self.last = self.cluster.call_within(self.call, &what, asked).await?;
        self.election.saw(self.last.as_ref().map(record), self.now());
        Ok(())
    }

    async fn put(
        &mut self,
        verb: &str,
        asked: Pin<Box<dyn Future<Output = kube::Result<Lease>> + Send>>,
    ) -> Result<(), CallError> {
        let sent = self.now();
        let lease = self.cluster.call_within(self.call, &format!("{verb} Lease {}", self.name), asked).await?;
        self.election.accepted(record(&lease), sent, self.now());
        self.last = Some(lease);
        Ok(())
    }

    /// `lease` in our name; the API server accepts it only over the very writing that it was made from.
    fn claimed(&self, lease: Option<Lease>, term: u64) -> Lease {
        let mut lease = lease.unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            spec: None,
        });
        let now = MicroTime(Timestamp::now());
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            spec.acquire_time = Some(now.clone());
        }
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds = i32::try_from(self.times.lasts().as_secs()).ok();
        spec.lease_transitions = i32::try_from(term).ok();
        spec.renew_time = Some(now);
        lease
    }

    async fn give_back(&mut self) {
        if !self.election.is_ours() {
            return;
        }
        let Some(mut lease) = self.last.clone() else { return };
        lease.spec.get_or_insert_default().holder_identity = Some(String::new());
        let (leases, name) = (self.leases.clone(), self.name.clone());
        let asked = Box::pin(async move { leases.replace(&name, &params(), &lease).await });
        if let Err(error) = self.cluster.call_within(self.call, &format!("give back Lease {}", self.name), asked).await
        {
            warn!(lease = %self.name, %error, "the Lease was not given back; it runs out by itself");
        }
    }

    fn announce(&self) {
        let leadership = match self.election.leads(self.now()) {
            Some((fence, until)) => Leadership::Leading { fence, until: self.instant(until) },
            None => Leadership::Following {
                leader: self.election.holder().filter(|_| !self.election.is_ours()).map(str::to_owned),
            },
        };
        self.tell.send_if_modified(|known| {
            let is_news = *known != leadership;
            if is_news {
                told(known, &leadership);
                *known = leadership;
            }
            is_news
        });
    }

    fn now(&self) -> Time {
        Time::after_start(self.began.elapsed())
    }

    fn instant(&self, time: Time) -> Instant {
        self.began + time.since(Time::default())
    }
}

/// One line for each change of leader; a renewal is none.
fn told(before: &Leadership, after: &Leadership) {
    match after {
        Leadership::Leading { fence, .. } if before.term() != after.term() => told_leading(fence),
        Leadership::Leading { .. } => {}
        Leadership::Following { leader } => told_following(leader.as_deref().unwrap_or("nobody")),
    }
}

fn told_leading(fence: &Fence) {
    info!(%fence, "this replica leads");
}

fn told_following(leader: &str) {
    info!(%leader, "this replica follows");
}

fn params() -> PostParams {
    PostParams { dry_run: false, field_manager: Some(FIELD_MANAGER.to_owned()) }
}

fn record(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    let number = |value: Option<i32>| value.and_then(|value| u64::try_from(value).ok()).unwrap_or_default();
    Record {
        holder: spec.holder_identity.unwrap_or_default(),
        term: number(spec.lease_transitions),
        lasts: Duration::from_secs(number(spec.lease_duration_seconds)),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
    }
}
