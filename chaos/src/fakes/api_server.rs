//! A Kubernetes API server without a cluster: real HTTP over a pure [`Store`], with the words and codes of the real
//! one as far as anything here may meet them, and with faults that a test puts in force. The contract suite of the
//! crate `pointsman-kubernetes` holds it to what a real server does.
//!
//! A request goes `call → access → fault → store → answer`. Beside requests there are two controllers, of
//! `EndpointSlices` and of namespaces that end.

mod access;
mod admission;
mod answering;
mod call;
mod discovery;
mod event_form;
mod faults;
mod history;
mod object;
mod ownership;
mod patch;
mod refusal;
mod resource;
mod selector;
mod slices;
mod store;
mod watching;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hyper::{Request, Response, StatusCode};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use access::{Access, Grant};
pub use call::Verb;
pub use faults::{Effect, Faults, Rule, RuleId};
pub use history::WatchEvent;
pub use patch::Patch;
pub use refusal::{Cause, Refusal};
pub use resource::{Key, Part, Resource, Target};
pub use selector::{FieldSelector, LabelSelector, Selection};
pub use slices::{SERVICE_LABEL, SliceChange, slice_changes};
pub use store::{Deletion, Listing, Page, Store, Writer};
pub use watching::WatchEnd;

use crate::serve::{self, AnswerBody, Cut, Server};
use call::Call;
use watching::Wish;

/// How long after a change the controller of namespaces looks at them.
const NAMESPACES_AFTER: Duration = Duration::from_millis(20);

/// How the server behaves that a test starts.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Takes endpoints on 127.0.0.0/8, which the real server refuses.
    pub allow_loopback: bool,
    /// Runs controllers beside the server, of `EndpointSlices` and of namespaces that end. Without them it is what a
    /// control plane of API server and etcd alone is.
    pub has_controllers: bool,
    /// How often a watcher that wants bookmarks gets one; the real server sends one a minute.
    pub bookmark_every: Duration,
    /// How long after a change of pods or Services the controller of `EndpointSlices` begins to write.
    pub slices_after: Duration,
    /// How long it waits between two slices: longer mixed states.
    pub slices_apart: Duration,
    /// Endpoints in one slice at most.
    pub endpoints_per_slice: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            allow_loopback: false,
            has_controllers: true,
            bookmark_every: Duration::from_secs(1),
            slices_after: Duration::from_millis(5),
            slices_apart: Duration::from_millis(1),
            endpoints_per_slice: 100,
        }
    }
}

/// A fake API server on a loopback port, over plain HTTP. A bearer token is the name of its user.
///
/// It runs on the runtime that it was started on. Dropped, it closes its port and resets its connections.
#[derive(Debug)]
pub struct ApiServer {
    addr: SocketAddr,
    shared: Arc<Shared>,
    server: Option<Server>,
    /// Ends with this.
    _controllers: JoinSet<()>,
}

/// What requests share.
#[derive(Debug)]
struct Shared {
    store: Mutex<Store>,
    revision: watch::Sender<u64>,
    wish: watch::Sender<Wish>,
    /// How often late requests were let go.
    landings: watch::Sender<u64>,
    faults: Faults,
    access: Access,
    journal: Mutex<Vec<Exchange>>,
    bookmark_every: Duration,
    endpoints_per_slice: usize,
    /// The controller of `EndpointSlices` writes nothing of itself.
    are_slices_held: watch::Sender<bool>,
}

/// One request as it was answered, for a test that counts them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// What was asked for.
    pub verb: Verb,
    /// Of what.
    pub target: Target,
    /// By whom.
    pub user: String,
    /// Whether it was only tried.
    pub dry_run: bool,
    /// The status of the answer; `None` when there was none, or none yet.
    pub status: Option<u16>,
}

/// The store, for as long as this is held; watchers are told of what changed when it is dropped.
#[derive(Debug)]
pub struct StoreGuard<'a> {
    store: MutexGuard<'a, Store>,
    revision: &'a watch::Sender<u64>,
}

impl Deref for StoreGuard<'_> {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

impl DerefMut for StoreGuard<'_> {
    fn deref_mut(&mut self) -> &mut Store {
        &mut self.store
    }
}

impl Drop for StoreGuard<'_> {
    fn drop(&mut self) {
        let present = self.store.revision();
        self.revision.send_if_modified(|known| std::mem::replace(known, present) != present);
    }
}

impl ApiServer {
    /// Starts on a free loopback port, with two empty namespaces, `default` and `kube-system`.
    ///
    /// # Errors
    /// When no port can be listened on.
    pub async fn start() -> io::Result<Self> {
        Self::start_with(Settings::default()).await
    }

    /// Starts with these settings.
    ///
    /// # Errors
    /// When no port can be listened on.
    pub async fn start_with(settings: Settings) -> io::Result<Self> {
        let store = if settings.allow_loopback { Store::new().allowing_loopback() } else { Store::new() };
        let shared = Arc::new(Shared {
            revision: watch::Sender::new(store.revision()),
            store: Mutex::new(store),
            wish: watch::Sender::default(),
            landings: watch::Sender::default(),
            faults: Faults::default(),
            access: Access::default(),
            journal: Mutex::default(),
            bookmark_every: settings.bookmark_every,
            endpoints_per_slice: settings.endpoints_per_slice,
            are_slices_held: watch::Sender::default(),
        });
        let server = serve_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &shared).await?;
        let mut controllers = JoinSet::new();
        if settings.has_controllers {
            controllers.spawn(keep_slices(Arc::clone(&shared), settings.slices_after, settings.slices_apart));
            controllers.spawn(end_namespaces(Arc::clone(&shared)));
        }
        Ok(Self { addr: server.addr(), shared, server: Some(server), _controllers: controllers })
    }

    /// Where it listens, or listened before [`ApiServer::stop`].
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// A kubeconfig file for this user, whose default namespace is this one.
    pub fn kubeconfig(&self, user: &str, namespace: &str) -> String {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "fake", "cluster": { "server": self.url() } }],
            "users": [{ "name": user, "user": { "token": user } }],
            "contexts": [{ "name": "fake", "context": { "cluster": "fake", "user": user, "namespace": namespace } }],
            "current-context": "fake",
        });
        format!("{config:#}\n")
    }

    /// The objects, to be read and written directly.
    pub fn store(&self) -> StoreGuard<'_> {
        self.shared.store()
    }

    /// The faults in force.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// Who may do what.
    pub fn access(&self) -> &Access {
        &self.shared.access
    }

    /// Every request so far that named something the server has, in order.
    pub fn journal(&self) -> Vec<Exchange> {
        self.shared.journal().clone()
    }

    /// Changes with every change of an object.
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.shared.revisions()
    }

    /// Lets the requests go that wait to be done late.
    pub fn land(&self) {
        self.shared.landings.send_modify(|landings| *landings += 1);
    }

    /// Ends every watch that is open.
    pub fn end_watches(&self, end: WatchEnd) {
        self.shared.wish.send_modify(|wish| {
            wish.number += 1;
            wish.end = Some(end);
        });
    }

    /// Leaves watches open and tells them nothing, or (`false`) all that they missed.
    pub fn silence_watches(&self, is_silent: bool) {
        self.shared.wish.send_modify(|wish| wish.is_silent = is_silent);
    }

    /// Has the controller of `EndpointSlices` wait, or (`false`) go on.
    pub fn hold_slices(&self, is_held: bool) {
        self.shared.are_slices_held.send_replace(is_held);
    }

    /// Lets the controller write one slice, held or not; gives whether there was one to write.
    ///
    /// # Errors
    /// What the store says against the slice.
    pub fn write_one_slice(&self) -> Result<bool, Refusal> {
        self.shared.write_slice(0)
    }

    /// Closes the listener and resets all connections; returns when done. Objects, faults and rules stay.
    pub async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop().await;
        }
    }

    /// Stops, and listens again on the same port.
    ///
    /// # Errors
    /// When somebody else took the port meanwhile.
    pub async fn restart(&mut self) -> io::Result<()> {
        self.stop().await;
        self.server = Some(serve_on(self.addr, &self.shared).await?);
        Ok(())
    }
}

impl Shared {
    fn store(&self) -> StoreGuard<'_> {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        StoreGuard { store, revision: &self.revision }
    }

    fn journal(&self) -> MutexGuard<'_, Vec<Exchange>> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the slice that is to be written after `skipped` others; gives whether there is one.
    fn write_slice(&self, skipped: usize) -> Result<bool, Refusal> {
        let mut store = self.store();
        let mut changes = slice_changes(&store, self.endpoints_per_slice).into_iter().skip(skipped);
        let Some(change) = changes.next() else { return Ok(false) };
        change.apply(&mut store, &Writer::new("kube-controller-manager", SystemTime::now()))?;
        Ok(true)
    }

    /// Writes the first slice that is not refused; gives whether there was one.
    fn write_next_slice(&self, refused: &mut usize) -> bool {
        loop {
            match self.write_slice(*refused) {
                Ok(is_written) => return is_written,
                Err(refusal) => {
                    tracing::debug!(%refusal, "slice not written");
                    *refused += 1;
                }
            }
        }
    }

    fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    fn wishes(&self) -> watch::Receiver<Wish> {
        self.wish.subscribe()
    }

    /// Writes a request down; its answer follows.
    fn note(&self, call: &Call) -> usize {
        let mut journal = self.journal();
        journal.push(Exchange {
            verb: call.verb,
            target: call.target.clone(),
            user: call.user.clone(),
            dry_run: call.dry_run,
            status: None,
        });
        journal.len() - 1
    }

    fn note_answer(&self, place: usize, status: StatusCode) {
        if let Some(exchange) = self.journal().get_mut(place) {
            exchange.status = Some(status.as_u16());
        }
    }
}

/// The controller of `EndpointSlices`.
async fn keep_slices(shared: Arc<Shared>, after: Duration, apart: Duration) {
    let mut revisions = shared.revisions();
    let mut held = shared.are_slices_held.subscribe();
    loop {
        tokio::time::sleep(after).await;
        revisions.mark_unchanged();
        let mut refused = 0;
        while !*held.borrow_and_update() && shared.write_next_slice(&mut refused) {
            tokio::time::sleep(apart).await;
        }
        // The senders are in `shared`, which this task holds.
        tokio::select! {
            _ = revisions.changed() => {}
            _ = held.changed() => {}
        }
    }
}

/// The controller of namespaces: each that is deleted is emptied, a moment later.
async fn end_namespaces(shared: Arc<Shared>) {
    let mut revisions = shared.revisions();
    // The sender is in `shared`, which this task holds.
    while revisions.changed().await.is_ok() {
        tokio::time::sleep(NAMESPACES_AFTER).await;
        revisions.mark_unchanged();
        shared.store().empty_namespaces();
    }
}

async fn serve_on(listen: SocketAddr, shared: &Arc<Shared>) -> io::Result<Server> {
    let shared = Arc::clone(shared);
    Server::start(listen, move |request| {
        let shared = Arc::clone(&shared);
        async move { respond(&shared, request).await }
    })
    .await
}

async fn respond(shared: &Arc<Shared>, request: Request<Bytes>) -> serve::Answer<AnswerBody> {
    if let Some(response) = discovery::answer(&request) {
        return Ok(response.map(AnswerBody::from));
    }
    let call = match Call::read(&request) {
        Ok(call) => call,
        Err(refusal) => return Ok(answering::refused(&refusal)),
    };
    let place = shared.note(&call);
    let response = meet(shared, call).await?;
    shared.note_answer(place, response.status());
    Ok(response)
}

/// Answers, unless the request meets a fault.
async fn meet(shared: &Arc<Shared>, call: Call) -> serve::Answer<AnswerBody> {
    if let Err(refusal) = shared.access.check(&call) {
        return Ok(answering::refused(&refusal));
    }
    match shared.faults.meet(&call) {
        None => Ok(done(shared, &call)),
        Some(Effect::Delay(delay)) => {
            tokio::time::sleep(delay).await;
            Ok(done(shared, &call))
        }
        Some(Effect::Conflict) => Ok(answering::refused(&Refusal::modified(&call.key()))),
        Some(Effect::Refuse(refusal)) => Ok(answering::refused(&refusal)),
        Some(Effect::Hang) => std::future::pending().await,
        Some(Effect::Reset) => Err(Cut::Reset),
        Some(Effect::Late { after, answer }) => {
            do_late(shared, call, after);
            match answer {
                Some(refusal) => Ok(answering::refused(&refusal)),
                None => std::future::pending().await,
            }
        }
    }
}

fn done(shared: &Arc<Shared>, call: &Call) -> Response<AnswerBody> {
    answering::answer(shared, call).unwrap_or_else(|refusal| answering::refused(&refusal))
}

/// Does it after all, whether or not its client is still there.
fn do_late(shared: &Arc<Shared>, call: Call, after: Option<Duration>) {
    let shared = Arc::clone(shared);
    let mut landings = shared.landings.subscribe();
    tokio::spawn(async move {
        match after {
            Some(after) => tokio::time::sleep(after).await,
            // The sender is in `shared`, which this task holds.
            None => drop(landings.changed().await),
        }
        let status = done(&shared, &call).status();
        tracing::debug!(verb = %call.verb, %status, "late request done");
    });
}
