//! Tells webhooks of what changed.
//!
//! Line: control ► **notify** ► (webhooks). The loop puts [`News`] into the queue of each hook, which is bounded and costs a
//! push; a thread of each hook signs and posts it, and tries again where that may help. Whatever the receiver does, nobody
//! waits for it.

mod courier;
mod hook;
mod news;
mod post;
mod schedule;
mod slack;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use pointsman_config::Webhook;
use serde::{Deserialize, Serialize};
use tracing::{error, warn};
use utoipa::ToSchema;

use self::hook::Hook;
pub(crate) use self::news::News;
use crate::outgoing::Secret;
use crate::view::WebhookView;

/// Between two looks at what waits while the process ends.
const LOOK: Duration = Duration::from_millis(10);

/// Everybody outside who is told of changes; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Notifier {
    hooks: Arc<ArcSwap<Vec<Arc<Hook>>>>,
}

/// What came of a test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TestAnswer {
    /// Of which webhook.
    pub webhook: String,
    /// The id of the row, as the receiver got it.
    pub id: String,
    /// Whether the receiver took it.
    pub delivered: bool,
    /// How long that took, in milliseconds.
    pub took_ms: f64,
    /// Why it did not; none if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl Notifier {
    /// Tells those that `wanted` names from now on: a hook of the same name goes on with what waits for it, at its new
    /// place; one that is not named any more tries what waits once.
    pub(crate) fn adjust(&self, wanted: &[Webhook]) {
        let before = self.hooks.load();
        let mut hooks = Vec::new();
        for settings in wanted {
            match before.iter().find(|hook| hook.name() == &settings.name) {
                Some(known) => {
                    known.set(settings);
                    hooks.push(Arc::clone(known));
                }
                None => hooks.extend(started(settings)),
            }
        }
        for gone in before.iter().filter(|hook| wanted.iter().all(|settings| settings.name != *hook.name())) {
            gone.close();
        }
        self.hooks.store(Arc::new(hooks));
    }

    /// Whether anybody is told of anything.
    pub(crate) fn has_hooks(&self) -> bool {
        !self.hooks.load().is_empty()
    }

    /// Tells whoever wants to know; never waits.
    pub(crate) fn tell(&self, news: News) {
        let news = Arc::new(news);
        for hook in self.hooks.load().iter() {
            hook.put(&news);
        }
    }

    /// How things stand with each, for people.
    pub(crate) fn views(&self) -> Vec<WebhookView> {
        self.hooks.load().iter().map(|hook| hook.view()).collect()
    }

    /// The names of all.
    pub(crate) fn names(&self) -> Vec<String> {
        self.hooks.load().iter().map(|hook| hook.name().to_string()).collect()
    }

    /// Posts a test row to the hook called `name`, once, whatever waits for it; none if there is no such hook. Blocks for as
    /// long as one try may take.
    pub(crate) fn test(&self, name: &str, by: &str) -> Option<TestAnswer> {
        let hooks = self.hooks.load_full();
        let hook = hooks.iter().find(|hook| hook.name().as_str() == name)?;
        let news = News::test(name, by);
        let began = std::time::Instant::now();
        let came = post::once(&hook.settings(), &news, 0);
        Some(TestAnswer {
            webhook: name.to_owned(),
            id: news.id.clone(),
            delivered: came.is_ok(),
            took_ms: began.elapsed().as_secs_f64() * 1_000.0,
            problem: came.err().map(|failure| failure.problem),
        })
    }

    /// Waits until everything that was told is posted or given up, for `patience` at most.
    pub(crate) async fn flush(&self, patience: Duration) {
        let hooks = self.hooks.load_full();
        let all = async {
            while !hooks.iter().all(|hook| hook.is_idle()) {
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(patience, all).await.is_err() {
            let waiting: usize = hooks.iter().map(|hook| hook.waiting()).sum();
            warn!(waiting, "notifications are lost, since their receivers did not take them before the end");
        }
    }
}

/// A hook at work; one that cannot be had costs its rows, nothing else.
fn started(settings: &Webhook) -> Option<Arc<Hook>> {
    let secrets = settings.secret.iter().chain(match &settings.url {
        pointsman_config::WebhookUrl::Plain(_) => None,
        pointsman_config::WebhookUrl::Secret(source) => Some(source),
    });
    for problem in secrets.filter_map(|source| Secret::read(source).err()) {
        warn!(webhook = %settings.name, %problem, "webhook cannot be told before this is put right");
    }
    let start = || -> io::Result<Arc<Hook>> {
        let hook = Arc::new(Hook::new(settings.clone()));
        courier::start(Arc::clone(&hook))?;
        Ok(hook)
    };
    start()
        .inspect_err(|error| {
            error!(webhook = %settings.name, %error, "no thread can be started, so this webhook is not told; check the limit on processes (ulimit -u)");
        })
        .ok()
}
