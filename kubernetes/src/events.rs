//! Kubernetes Events about a live Service, so that `kubectl describe service` tells the story.
//!
//! Line: phase ► **events** ► API server. Whoever tells never waits: what the API server does not take in time is lost,
//! as Events are meant to be; the decision log has everything.

mod journal;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use pointsman_rollout::{Change, Time};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

pub use journal::{Journal, Post, Told};

use crate::client::Cluster;
use crate::error::CallError;
use crate::live_service::FIELD_MANAGER;
use crate::trouble::Trouble;

/// Events that wait for the API server before further ones are lost.
const QUEUE: usize = 256;
/// The name under which Events are written.
const CONTROLLER: &str = "pointsman.dev/pointsman";

/// Writes Events, for as long as it lives.
#[derive(Debug)]
pub struct EventSink {
    queue: mpsc::Sender<(ObjectReference, Told)>,
    _task: AbortOnDropHandle<()>,
}

impl EventSink {
    /// Begins to write, as `instance`: the pod's name. Must run on a tokio runtime; needs `create` and `patch` on `events`
    /// of `events.k8s.io`.
    pub fn start(cluster: &Cluster, instance: &str) -> Self {
        let (queue, mut told) = mpsc::channel(QUEUE);
        let mut writer = Writer {
            cluster: cluster.clone(),
            instance: instance.to_owned(),
            run: format!("{:x}", Timestamp::now().as_nanosecond()),
            began: Instant::now(),
            journal: Journal::new(Time::default()),
            trouble: Trouble::default(),
        };
        let task = tokio::spawn(async move {
            while let Some((regarding, told)) = told.recv().await {
                writer.tell(&regarding, &told).await;
            }
        });
        Self { queue, _task: AbortOnDropHandle::new(task) }
    }

    /// Tells `change` of the object that `regarding` names.
    pub fn tell(&self, regarding: ObjectReference, change: &Change) {
        self.say(regarding, Told::of(change));
    }

    /// Tells anything.
    pub fn say(&self, regarding: ObjectReference, told: Told) {
        // A full queue means an API server that does not answer, which is logged where it is noticed.
        drop(self.queue.try_send((regarding, told)));
    }
}

struct Writer {
    cluster: Cluster,
    instance: String,
    /// Sets the names of this run's Events apart from those of any other.
    run: String,
    began: Instant,
    journal: Journal,
    trouble: Trouble,
}

impl Writer {
    async fn tell(&mut self, regarding: &ObjectReference, told: &Told) {
        let subject = regarding.uid.clone().unwrap_or_default();
        let now = Time::after_start(self.began.elapsed());
        let Some(post) = self.journal.tell(&subject, told, now) else { return };
        match self.post(regarding, post).await {
            Ok(()) if self.trouble.is_over() => info!("Kubernetes Events are written again"),
            Ok(()) => {}
            Err(error) => self.told(&error),
        }
    }

    fn told(&mut self, error: &CallError) {
        if self.trouble.is_news() {
            warn!(%error, "a Kubernetes Event was not written; the decision log has what it said");
        }
    }

    async fn post(&self, regarding: &ObjectReference, post: Post) -> Result<(), CallError> {
        let namespace = regarding.namespace.as_deref().unwrap_or_else(|| self.cluster.namespace());
        let events: Api<Event> = self.cluster.api(namespace);
        match post {
            Post::New { number, told } => {
                let event = self.event(regarding, number, told);
                let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
                self.cluster.call("create Event", Box::pin(events.create(&params, &event))).await.map(drop)
            }
            Post::Again { number, count } => {
                let series = EventSeries { count, last_observed_time: MicroTime(Timestamp::now()) };
                let patch = Patch::Merge(json!({ "series": series }));
                let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
                let name = self.name(regarding, number);
                self.cluster.call("patch Event", Box::pin(events.patch(&name, &params, &patch))).await.map(drop)
            }
        }
    }

    fn event(&self, regarding: &ObjectReference, number: u64, told: Told) -> Event {
        Event {
            metadata: ObjectMeta {
                name: Some(self.name(regarding, number)),
                namespace: regarding.namespace.clone(),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(Timestamp::now())),
            action: Some(told.reason.to_owned()),
            reason: Some(told.reason.to_owned()),
            note: Some(told.note),
            type_: Some(if told.is_warning { "Warning" } else { "Normal" }.to_owned()),
            regarding: Some(regarding.clone()),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            ..Event::default()
        }
    }

    fn name(&self, regarding: &ObjectReference, number: u64) -> String {
        format!("{}.{}-{number:x}", regarding.name.as_deref().unwrap_or("pointsman"), self.run)
    }
}
