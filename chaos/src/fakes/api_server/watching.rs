//! One watcher: tells what was there at the start, if that is asked for, and then each change, until somebody ends it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Response;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::Shared;
use super::call::Call;
use super::history::WatchEvent;
use super::refusal::Refusal;
use super::selector::Selection;
use crate::serve::{AnswerBody, Broken};

/// Events on their way to a client that does not read.
const MAX_QUEUED: usize = 256;

/// A watch without an end of its own ends after this time, as the real server has it at least.
const LONGEST: Duration = Duration::from_mins(30);

/// How watches end when a test ends them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchEnd {
    /// In order, as at the end of their time.
    Closed,
    /// In the middle, as when the network breaks.
    Torn,
    /// With 410: what the watcher waits for is forgotten.
    Expired,
}

/// What watches are told by the test.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wish {
    /// Watches that began before the wish of this number end.
    pub(super) number: u64,
    pub(super) end: Option<WatchEnd>,
    /// Watches stay open and say nothing.
    pub(super) is_silent: bool,
}

/// A watch that was asked for.
#[derive(Debug)]
struct Watch {
    selection: Selection,
    /// What was told up to now.
    revision: u64,
    has_bookmarks: bool,
    ends: Instant,
}

impl Watch {
    fn bookmark(&self, ends_initial: bool) -> WatchEvent {
        WatchEvent::Bookmark { resource: self.selection.resource, revision: self.revision, ends_initial }
    }
}

type Pieces = mpsc::Sender<Result<Bytes, Broken>>;

/// Begins a watch; its events come as they happen.
pub(super) fn begin(shared: &Arc<Shared>, call: &Call) -> Result<Response<AnswerBody>, Refusal> {
    let (watch, first) = opened(shared, call)?;
    let (pieces, body) = mpsc::channel(MAX_QUEUED);
    tokio::spawn(Feed::new(Arc::clone(shared), watch, pieces).run(first));
    let mut response = Response::new(AnswerBody::Pieces(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// The watch, and what it tells first.
fn opened(shared: &Shared, call: &Call) -> Result<(Watch, Vec<WatchEvent>), Refusal> {
    let selection = call.selection()?;
    let has_bookmarks = call.asks("allowWatchBookmarks");
    let sends_initial = call.asks("sendInitialEvents");
    if sends_initial && call.asked("resourceVersionMatch") != Some("NotOlderThan") {
        let words = "sendInitialEvents: Forbidden: resourceVersionMatch must be NotOlderThan for watch";
        return Err(Refusal::bad_request(words));
    }
    let asked = call.revision()?.filter(|revision| *revision > 0);
    let ends = Instant::now() + call.timeout()?.unwrap_or(LONGEST).min(LONGEST);
    let store = shared.store();
    let mut first = Vec::new();
    let mut revision = store.revision();
    match asked {
        Some(asked) if !sends_initial => revision = asked,
        _ => first.extend(store.all(&selection).into_iter().map(WatchEvent::Added)),
    }
    let watch = Watch { selection, revision, has_bookmarks, ends };
    if sends_initial && has_bookmarks {
        first.push(watch.bookmark(true));
    }
    Ok((watch, first))
}

/// A watch on its way to its client.
struct Feed {
    shared: Arc<Shared>,
    watch: Watch,
    pieces: Pieces,
    revisions: watch::Receiver<u64>,
    wishes: watch::Receiver<Wish>,
    /// The wish that was known when it began.
    begun: u64,
    bookmarks: Interval,
}

impl Feed {
    fn new(shared: Arc<Shared>, watch: Watch, pieces: Pieces) -> Self {
        let (revisions, wishes) = (shared.revisions(), shared.wishes());
        let begun = wishes.borrow().number;
        let mut bookmarks = tokio::time::interval_at(Instant::now() + shared.bookmark_every, shared.bookmark_every);
        bookmarks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { shared, watch, pieces, revisions, wishes, begun, bookmarks }
    }

    /// Until the client, its time or a test ends it.
    async fn run(mut self, first: Vec<WatchEvent>) {
        let mut told = tell(&self.pieces, first).await;
        while told.is_ok() {
            told = self.step().await;
        }
    }

    async fn step(&mut self) -> Result<(), Broken> {
        let wish = *self.wishes.borrow_and_update();
        if wish.number > self.begun {
            end(&self.pieces, wish.end).await;
            return Err(Broken);
        }
        if !wish.is_silent {
            self.catch_up().await?;
        }
        let bookmark = self.wait(wish.is_silent).await?;
        tell(&self.pieces, bookmark).await
    }

    /// Tells what happened meanwhile.
    async fn catch_up(&mut self) -> Result<(), Broken> {
        self.revisions.mark_unchanged();
        let (events, revision) = {
            let store = self.shared.store();
            (store.changes(&self.watch.selection, self.watch.revision), store.revision())
        };
        match events {
            Ok(events) => {
                self.watch.revision = self.watch.revision.max(revision);
                tell(&self.pieces, events).await
            }
            Err(refusal) => {
                tell(&self.pieces, vec![WatchEvent::Error(refusal)]).await?;
                Err(Broken)
            }
        }
    }

    /// Until there may be something to tell; gives a bookmark when it is time for one.
    async fn wait(&mut self, is_silent: bool) -> Result<Vec<WatchEvent>, Broken> {
        let has_bookmarks = self.watch.has_bookmarks && !is_silent;
        tokio::select! {
            () = self.pieces.closed() => Err(Broken),
            () = tokio::time::sleep_until(self.watch.ends) => Err(Broken),
            _ = self.wishes.changed() => Ok(Vec::new()),
            _ = self.revisions.changed(), if !is_silent => Ok(Vec::new()),
            _ = self.bookmarks.tick(), if has_bookmarks => Ok(vec![self.watch.bookmark(false)]),
        }
    }
}

async fn tell(pieces: &Pieces, events: Vec<WatchEvent>) -> Result<(), Broken> {
    for event in events {
        let line = Bytes::from(format!("{}\n", event.to_json()));
        pieces.send(Ok(line)).await.map_err(|_gone| Broken)?;
    }
    Ok(())
}

async fn end(pieces: &Pieces, end: Option<WatchEnd>) {
    let last = match end {
        Some(WatchEnd::Closed) | None => return,
        Some(WatchEnd::Torn) => Err(Broken),
        Some(WatchEnd::Expired) => {
            let refusal = Refusal::expired("The resourceVersion for the provided watch is too old.");
            Ok(Bytes::from(format!("{}\n", WatchEvent::Error(refusal).to_json())))
        }
    };
    if pieces.send(last).await.is_err() {
        tracing::debug!("watcher was gone before its watch was ended");
    }
}
