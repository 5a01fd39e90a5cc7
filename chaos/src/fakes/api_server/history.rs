//! What was written, in order: what watchers are told, and what lists of an earlier revision are made from.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::{Value, json};

use super::event_form::from_stored;
use super::refusal::Refusal;
use super::resource::{Key, Resource};
use super::selector::Selection;

/// Changes kept at most, whether or not anybody forgets them sooner.
const MAX_CHANGES: usize = 50_000;

/// One write: it made the revision after the one before it.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) revision: u64,
    pub(super) key: Key,
    pub(super) before: Option<Arc<Value>>,
    /// `None` when it was deleted.
    pub(super) after: Option<Arc<Value>>,
    /// The object as a watcher sees it last: after the change, or as it was deleted, with the revision of this.
    pub(super) last: Arc<Value>,
}

/// The changes that are remembered.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    changes: VecDeque<Change>,
    /// Up to and with this revision nothing is remembered.
    forgotten: u64,
}

impl History {
    pub(super) fn push(&mut self, change: Change) {
        self.changes.push_back(change);
        if self.changes.len() > MAX_CHANGES
            && let Some(oldest) = self.changes.pop_front()
        {
            self.forgotten = oldest.revision;
        }
    }

    /// Forgets everything up to this revision.
    pub(super) fn forget(&mut self, up_to: u64) {
        while self.changes.front().is_some_and(|oldest| oldest.revision <= up_to) {
            self.changes.pop_front();
        }
        self.forgotten = self.forgotten.max(up_to);
    }

    /// The oldest revision from which changes can be told.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Changes after a revision, oldest first; `None` when some of them are forgotten.
    pub(super) fn after(&self, revision: u64) -> Option<impl DoubleEndedIterator<Item = &Change>> {
        let start = self.changes.partition_point(|change| change.revision <= revision);
        (revision >= self.forgotten).then(|| self.changes.range(start..))
    }
}

/// What a watcher is told.
#[derive(Debug, Clone, PartialEq)]
pub enum WatchEvent {
    /// It is there now, among what is watched.
    Added(Value),
    /// It changed.
    Modified(Value),
    /// It is gone, or no more among what is watched.
    Deleted(Value),
    /// Nothing more up to this revision.
    Bookmark {
        /// What is watched.
        resource: Resource,
        /// Up to here everything was told.
        revision: u64,
        /// It ends the events that tell what was there at the start.
        ends_initial: bool,
    },
    /// The watch is over.
    Error(Refusal),
}

impl WatchEvent {
    /// As the server sends it.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Added(object) => json!({ "type": "ADDED", "object": object }),
            Self::Modified(object) => json!({ "type": "MODIFIED", "object": object }),
            Self::Deleted(object) => json!({ "type": "DELETED", "object": object }),
            Self::Error(refusal) => json!({ "type": "ERROR", "object": refusal.to_status() }),
            Self::Bookmark { resource, revision, ends_initial } => {
                let mut metadata = json!({ "resourceVersion": revision.to_string(), "creationTimestamp": null });
                if *ends_initial {
                    super::object::set(&mut metadata, &["annotations", "k8s.io/initial-events-end"], "true");
                }
                let object =
                    json!({ "kind": resource.kind(), "apiVersion": resource.api_version(), "metadata": metadata });
                json!({ "type": "BOOKMARK", "object": object })
            }
        }
    }
}

/// What a watcher of this selection is told of a change, if anything.
pub(super) fn told(change: &Change, selection: &Selection) -> Option<WatchEvent> {
    if !selection.covers(&change.key) {
        return None;
    }
    let is_selected = |object: &Option<Arc<Value>>| object.as_ref().is_some_and(|object| selection.selects(object));
    let last = || from_stored(selection.resource, &change.last);
    match (is_selected(&change.before), is_selected(&change.after)) {
        (false, false) => None,
        (false, true) => Some(WatchEvent::Added(last())),
        (true, true) => Some(WatchEvent::Modified(last())),
        (true, false) => Some(WatchEvent::Deleted(last())),
    }
}
