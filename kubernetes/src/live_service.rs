//! The live Service of a route: read, followed, and written by compare-and-swap.
//!
//! Line: desired ► **live service** ► API server. What to write is planned by pure functions ([`plan`], [`claim`]); here
//! it is sent, with a deadline, and what became of it is told. Whoever reconciles plans anew from what is observed, as
//! often as it likes: a patch that timed out and lands late is seen, and put right by the next one.

mod observed;
mod patch;
mod writers;

#[cfg(test)]
pub(crate) use observed::tests;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

pub use observed::{Foreign, Found, Observed};
pub use patch::{Document, Obstacle, OnForeign, Selected, Wanted, claim, plan};
pub use writers::{FIELD_MANAGER, Writer};

use crate::client::Cluster;
use crate::discovery::{ServiceName, watch_seconds};
use crate::error::CallError;
use crate::watching::{Following, Heard, Link, follow};

/// The status by which the API server answers a JSON Patch one of whose tests failed, and an object that it will not have.
const UNPROCESSABLE: u16 = 422;

/// What is known of a live Service.
#[derive(Debug, Clone, PartialEq)]
pub struct Followed {
    /// As it was last heard of; none before the first time, and when there is none.
    pub service: Option<Arc<Observed>>,
    /// Whether that is kept up to date.
    pub link: Link,
}

/// Why a write did not land, as far as is known.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum WriteError {
    /// Somebody wrote in between: nothing was done, plan again.
    #[error("somebody else wrote on the Service in between; it is tried again from what stands there now")]
    Moved,
    /// The call failed.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// One live Service, followed for as long as this lives.
#[derive(Debug)]
pub struct LiveService {
    cluster: Cluster,
    name: ServiceName,
    known: Arc<watch::Sender<Followed>>,
    _task: AbortOnDropHandle<()>,
}

impl LiveService {
    /// Begins to follow the Service `name`. Must run on a tokio runtime; needs `get`, `list`, `watch` and `patch` on it.
    pub fn start(cluster: &Cluster, name: ServiceName) -> Self {
        let known = Arc::new(watch::channel(Followed { service: None, link: Link::Connecting }).0);
        let following = Following::<Service> {
            api: cluster.api(&name.namespace),
            config: watcher::Config::default()
                .fields(&format!("metadata.name={}", name.name))
                .timeout(watch_seconds(cluster)),
            call: cluster.deadlines().call,
            what: format!("Service {name}"),
        };
        let told = Arc::clone(&known);
        let task = tokio::spawn(async move { follow(following, |heard| take(&told, heard)).await });
        Self { cluster: cluster.clone(), name, known, _task: AbortOnDropHandle::new(task) }
    }

    /// Which Service.
    pub fn name(&self) -> &ServiceName {
        &self.name
    }

    /// What is known, and every change of it; what [`LiveService::read`] and [`LiveService::write`] learn is told here, too.
    pub fn known(&self) -> watch::Receiver<Followed> {
        self.known.subscribe()
    }

    /// Asks the API server how the Service stands now.
    ///
    /// # Errors
    /// If it does not say so within the deadline.
    pub async fn read(&self) -> Result<Arc<Observed>, CallError> {
        let api = self.api();
        let service =
            self.cluster.call(&format!("get Service {}", self.name), Box::pin(api.get(&self.name.name))).await?;
        Ok(self.learn(&service))
    }

    /// Carries out `document`, or nothing; gives the Service as it is after that.
    ///
    /// # Errors
    /// If it was made from an earlier writing, or the call failed; then it may land yet, unless
    /// [`CallError::may_have_landed`] says no. All within the deadline of one call.
    pub async fn write(&self, document: &Document) -> Result<Arc<Observed>, WriteError> {
        let service = self.send_or_look(document, false, format!("patch Service {}", self.name)).await?;
        Ok(self.learn(&service))
    }

    /// Has the API server do everything that [`LiveService::write`] would have it do (permissions, admission, tests) but
    /// keep the result; gives how long that took.
    ///
    /// # Errors
    /// As [`LiveService::write`]; nothing lands in any case.
    pub async fn rehearse(&self, document: &Document) -> Result<Duration, WriteError> {
        let begun = Instant::now();
        self.send_or_look(document, true, format!("patch Service {} (dry run)", self.name)).await?;
        Ok(begun.elapsed())
    }

    /// Within the deadline of one call.
    async fn send_or_look(&self, document: &Document, dry_run: bool, call: String) -> Result<Service, WriteError> {
        let after = self.cluster.deadlines().call;
        match tokio::time::timeout(after, self.sent_or_moved(document, dry_run, &call)).await {
            Ok(sent) => sent,
            Err(_elapsed) => Err(CallError::Deadline { call, after }.into()),
        }
    }

    /// A test that failed and an object that is refused look alike; another look at the Service tells them apart.
    async fn sent_or_moved(&self, document: &Document, dry_run: bool, call: &str) -> Result<Service, WriteError> {
        let error = match self.send(document, dry_run, call).await {
            Ok(service) => return Ok(service),
            Err(error) => error,
        };
        match error {
            CallError::Conflict { .. } | CallError::Refused { status: UNPROCESSABLE, .. } => {
                let now = self.read().await?;
                if now.resource_version == document.made_from() { Err(error.into()) } else { Err(WriteError::Moved) }
            }
            CallError::Deadline { .. }
            | CallError::Unreachable { .. }
            | CallError::Busy { .. }
            | CallError::Failed { .. }
            | CallError::Forbidden { .. }
            | CallError::NotFound { .. }
            | CallError::Refused { .. }
            | CallError::Unreadable { .. } => Err(error.into()),
        }
    }

    async fn send(&self, document: &Document, dry_run: bool, call: &str) -> Result<Service, CallError> {
        let patch = serde_json::from_value(document.operations().into())
            .map(Patch::Json::<()>)
            .map_err(|error| CallError::Unreadable { call: call.to_owned(), reason: error.to_string() })?;
        let params = PatchParams { dry_run, field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let api = self.api();
        let asked = Box::pin(api.patch(&self.name.name, &params, &patch));
        self.cluster.call(call, asked).await
    }

    fn api(&self) -> Api<Service> {
        self.cluster.api(&self.name.namespace)
    }

    /// Tells what a call gave, unless a watch was faster.
    fn learn(&self, service: &Service) -> Arc<Observed> {
        let before = self.known.borrow().service.clone();
        let observed = Arc::new(Observed::of(service).after(before.as_deref()));
        self.known.send_if_modified(|known| {
            let is_news = known.service.as_ref().is_none_or(|known| observed.is_later_than(known));
            if is_news {
                known.service = Some(Arc::clone(&observed));
            }
            is_news
        });
        observed
    }
}

fn take(known: &watch::Sender<Followed>, heard: Heard<Service>) {
    match heard {
        Heard::Now(services) => {
            known.send_if_modified(|known| {
                let before = known.service.as_deref();
                let service = services.first().map(|service| Arc::new(Observed::of(service).after(before)));
                let now = Followed { service, link: Link::Live };
                let is_news = *known != now;
                if is_news {
                    *known = now;
                }
                is_news
            });
        }
        Heard::Lost(why) => known.send_modify(|known| known.link = known.link.lost(why)),
    }
}
