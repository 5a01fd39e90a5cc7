//! Following a set of objects: list, watch, and everything that interrupts it.
//!
//! Whatever goes wrong (a lost connection, 410 Gone, 403, an answer that cannot be read), the set stays as it was last
//! known, the link is told to be lost, and after a pause everything is listed anew. A new list replaces the set at once
//! and whole.

use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures_util::{Stream, StreamExt};
use kube::runtime::reflector::store::{self, Writer};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use crate::error::{CallError, innermost};
use crate::trouble::Trouble;

/// The first pause before a list is asked for again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest one.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Calls that a list may take, for one page each.
const LIST_CALLS: u32 = 3;
/// The status that says that history was forgotten.
const GONE: u16 = 410;
/// The status that says that a right is missing.
const FORBIDDEN: u16 = 403;

/// How things stand with the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// Nothing was heard yet.
    Connecting,
    /// What is shown is at most as old as a watch takes.
    Live,
    /// What is shown is what was last heard.
    Lost {
        /// Since when.
        since: Instant,
        /// Why, for people.
        why: String,
    },
}

impl Link {
    /// The link once it is lost; it stays lost since when it was.
    pub(crate) fn lost(&self, why: String) -> Self {
        match self {
            Self::Lost { since, .. } => Self::Lost { since: *since, why },
            Self::Connecting | Self::Live => Self::Lost { since: Instant::now(), why },
        }
    }
}

/// What was heard.
#[derive(Debug)]
pub(crate) enum Heard<K> {
    /// All objects, as they are now.
    Now(Vec<Arc<K>>),
    /// Nothing is heard any more, and why.
    Lost(String),
}

/// What is followed, and how patiently.
pub(crate) struct Following<K> {
    /// Of which kind, where.
    pub(crate) api: Api<K>,
    /// Which of them.
    pub(crate) config: watcher::Config,
    /// For one call.
    pub(crate) call: Duration,
    /// For the log: what is followed.
    pub(crate) what: String,
}

/// Why a watch is over.
enum Ending {
    /// The API server no longer knows what happened since (410): list anew at once.
    Forgotten,
    /// Something is wrong.
    Lost(String),
    /// It is not allowed, which does not change from one moment to the next.
    Forbidden(String),
}

/// Follows without end, and tells `hear` everything.
pub(crate) async fn follow<K>(following: Following<K>, mut hear: impl FnMut(Heard<K>))
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let (mut pauses, mut trouble) = (pauses(), Trouble::default());
    loop {
        let mut was_heard = false;
        let ending = until_over(&following, |objects| {
            was_heard = true;
            heard_again(&mut trouble, &following.what);
            hear(Heard::Now(objects));
        })
        .await;
        if was_heard && !matches!(ending, Ending::Forbidden(_)) {
            pauses = self::pauses();
        }
        match ending {
            Ending::Forgotten if was_heard => continue,
            Ending::Forgotten => {}
            Ending::Lost(why) | Ending::Forbidden(why) => {
                not_heard(&mut trouble, &following.what, &why);
                hear(Heard::Lost(why));
            }
        }
        tokio::time::sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
    }
}

fn heard_again(trouble: &mut Trouble, what: &str) {
    if trouble.is_over() {
        info!(%what, "the API server is heard again");
    }
}

fn not_heard(trouble: &mut Trouble, what: &str, why: &str) {
    if trouble.is_news() {
        warn!(%what, %why, "the API server is not heard; going on with what was last known");
    }
}

/// Lists and watches until that is over.
async fn until_over<K>(following: &Following<K>, mut hear: impl FnMut(Vec<Arc<K>>)) -> Ending
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let (reader, mut writer) = store::store::<K>();
    let mut events = pin!(watcher::watcher(following.api.clone(), following.config.clone()));
    let patience = following.call * LIST_CALLS;
    match timeout(patience, listed((&mut events, &following.what), &mut writer)).await {
        Ok(Ok(())) => hear(reader.state()),
        Ok(Err(ending)) => return ending,
        Err(_elapsed) => {
            let late = CallError::Deadline { call: format!("list {}", following.what), after: patience };
            return Ending::Lost(late.to_string());
        }
    }
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                writer.apply_watcher_event(&event);
                if matches!(event, Event::Apply(_) | Event::Delete(_) | Event::InitDone) {
                    hear(reader.state());
                }
            }
            Err(error) => return ending(&format!("watch {}", following.what), &error),
        }
    }
    Ending::Lost("the watch ended".to_owned())
}

/// The events up to the end of the first list.
async fn listed<K>(
    (events, what): (&mut (impl Stream<Item = watcher::Result<Event<K>>> + Unpin), &str),
    writer: &mut Writer<K>,
) -> Result<(), Ending>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    while let Some(event) = events.next().await {
        let event = event.map_err(|error| ending(&format!("list {what}"), &error))?;
        writer.apply_watcher_event(&event);
        if matches!(event, Event::InitDone) {
            return Ok(());
        }
    }
    Err(Ending::Lost("the list ended too soon".to_owned()))
}

fn ending(call: &str, error: &watcher::Error) -> Ending {
    let status = match error {
        watcher::Error::WatchError(status)
        | watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => Some(status),
        watcher::Error::InitialListFailed(_)
        | watcher::Error::WatchStartFailed(_)
        | watcher::Error::WatchFailed(_)
        | watcher::Error::NoResourceVersion => None,
    };
    let Some(status) = status else {
        return Ending::Lost(CallError::Unreachable { call: call.to_owned(), reason: innermost(error) }.to_string());
    };
    let why = CallError::of_status(call.to_owned(), status).to_string();
    match status.code {
        GONE => Ending::Forgotten,
        FORBIDDEN => Ending::Forbidden(why),
        _ => Ending::Lost(why),
    }
}

/// 100 ms, doubled up to 5 s, each with chance added: a crowd of edges does not come back all at once.
fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .without_max_times()
        .with_jitter()
        .build()
}
