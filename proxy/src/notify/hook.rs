//! One webhook: what waits for it, what became of the rest, and where it is at present.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use pointsman_config::{Name, Webhook, WebhookFormat};

use super::news::News;
use crate::control::events::now_in_words;
use crate::view::{DeliveryFailureView, WebhookView};

/// Rows that wait; beyond, the oldest goes, since the newest says where things stand.
pub(super) const QUEUE: usize = 256;

/// One webhook.
#[derive(Debug)]
pub(super) struct Hook {
    name: Name,
    settings: ArcSwap<Webhook>,
    queue: Mutex<Queue>,
    changed: Condvar,
    counts: Counts,
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Arc<News>>,
    in_hand: bool,
    /// Rows that were lost since the last one that was delivered.
    missed: u64,
    is_closed: bool,
    /// Counts up with each change of the settings.
    edition: u64,
}

/// What became of rows since the process started.
#[derive(Debug, Default)]
struct Counts {
    delivered: AtomicU64,
    given_up: AtomicU64,
    dropped: AtomicU64,
    retries: AtomicU64,
}

#[derive(Debug, Default)]
struct Last {
    failure: Option<DeliveryFailureView>,
    delivered_at: Option<String>,
    is_failing: bool,
}

/// What ended a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Woken {
    /// Its time was over, or the hook is somewhere else now.
    TryAgain,
    /// Nobody wants this hook any more.
    Closed,
}

impl Hook {
    pub(super) fn new(settings: Webhook) -> Self {
        Self {
            name: settings.name.clone(),
            settings: ArcSwap::from_pointee(settings),
            queue: Mutex::default(),
            changed: Condvar::new(),
            counts: Counts::default(),
            last: Mutex::default(),
        }
    }

    pub(super) fn name(&self) -> &Name {
        &self.name
    }

    pub(super) fn settings(&self) -> Arc<Webhook> {
        self.settings.load_full()
    }

    /// It is here now; what waits is tried at once.
    pub(super) fn set(&self, settings: &Webhook) {
        if **self.settings.load() == *settings {
            return;
        }
        self.settings.store(Arc::new(settings.clone()));
        self.lock().edition += 1;
        self.changed.notify_all();
    }

    /// Nobody wants it any more.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    /// Held for a push or a pop only, never while anything is sent.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a row wait, if it is wanted.
    pub(super) fn put(&self, news: &Arc<News>) {
        if !news.is_of(&self.settings.load().events) {
            return;
        }
        let mut queue = self.lock();
        if queue.waiting.len() >= QUEUE {
            queue.waiting.pop_front();
            queue.missed += 1;
            self.counts.dropped.fetch_add(1, Relaxed);
        }
        queue.waiting.push_back(Arc::clone(news));
        drop(queue);
        self.changed.notify_all();
    }

    /// The next row, when there is one, and how many were lost since the last one that was delivered; none when there will
    /// be none any more.
    pub(super) fn next(&self) -> Option<(Arc<News>, u64)> {
        let is_idle = |queue: &mut Queue| queue.waiting.is_empty() && !queue.is_closed;
        let mut queue = self.changed.wait_while(self.lock(), is_idle).unwrap_or_else(PoisonError::into_inner);
        let news = queue.waiting.pop_front()?;
        queue.in_hand = true;
        Some((news, queue.missed))
    }

    /// The row in hand is delivered; it told of `told` lost ones.
    pub(super) fn delivered(&self, told: u64) {
        self.counts.delivered.fetch_add(1, Relaxed);
        let mut last = self.last();
        last.delivered_at = Some(now_in_words());
        last.is_failing = false;
        drop(last);
        let mut queue = self.lock();
        queue.in_hand = false;
        queue.missed = queue.missed.saturating_sub(told);
    }

    /// A try failed.
    pub(super) fn failed(&self, event: &str, problem: &str) {
        let mut last = self.last();
        last.is_failing = true;
        last.failure =
            Some(DeliveryFailureView { at: now_in_words(), event: event.to_owned(), problem: problem.to_owned() });
    }

    /// The row in hand is tried again.
    pub(super) fn tried_again(&self) {
        self.counts.retries.fetch_add(1, Relaxed);
    }

    /// The row in hand is given up.
    pub(super) fn given_up(&self) {
        self.counts.given_up.fetch_add(1, Relaxed);
        let mut queue = self.lock();
        queue.in_hand = false;
        queue.missed += 1;
    }

    /// Waits for `pause`, or until the hook is somewhere else, or wanted no more.
    pub(super) fn rest(&self, pause: Duration) -> Woken {
        let until = Instant::now() + pause;
        let queue = self.lock();
        let edition = queue.edition;
        let rests = |queue: &mut Queue| !queue.is_closed && queue.edition == edition;
        let rested = self.changed.wait_timeout_while(queue, until.saturating_duration_since(Instant::now()), rests);
        let (queue, _) = rested.unwrap_or_else(PoisonError::into_inner);
        if queue.is_closed { Woken::Closed } else { Woken::TryAgain }
    }

    /// Rows that are neither delivered nor given up.
    pub(super) fn waiting(&self) -> usize {
        let queue = self.lock();
        queue.waiting.len() + usize::from(queue.in_hand)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting() == 0
    }

    /// Rows that were dropped since the process started.
    pub(super) fn dropped(&self) -> u64 {
        self.counts.dropped.load(Relaxed)
    }

    /// For people.
    pub(super) fn view(&self) -> WebhookView {
        let last = self.last();
        let format = match self.settings.load().format {
            WebhookFormat::Json => "json",
            WebhookFormat::Slack => "slack",
        };
        WebhookView {
            name: self.name.to_string(),
            format: format.to_owned(),
            delivered: self.counts.delivered.load(Relaxed),
            given_up: self.counts.given_up.load(Relaxed),
            dropped: self.dropped(),
            retries: self.counts.retries.load(Relaxed),
            waiting: u64::try_from(self.waiting()).unwrap_or(u64::MAX),
            failing: last.is_failing,
            last_failure: last.failure.clone(),
            last_delivered_at: last.delivered_at.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use pointsman_config::{Config, NewsKind};

    use super::*;

    fn settings(rest: &str) -> Webhook {
        let text = format!(
            "listeners: [{{ address: 127.0.0.1:0 }}]
notifications: [{{ name: a, url_env: A {rest} }}]
routes: [{{ name: r, stable: v1, versions: {{ v1: {{ endpoints: [127.0.0.1:1] }} }} }}]"
        );
        Config::parse(&text, "test").unwrap().config.notifications.remove(0)
    }

    fn news(kind: NewsKind, text: &str) -> Arc<News> {
        Arc::new(News::of(kind, text.to_owned()))
    }

    #[test]
    fn only_what_is_wanted_waits() {
        let hook = Hook::new(settings(", events: [rollback]"));
        hook.put(&news(NewsKind::Step, "s"));
        assert!(hook.is_idle());
        hook.put(&news(NewsKind::Rollback, "r"));
        assert_eq!((hook.next().unwrap().0.text.as_str(), hook.waiting()), ("r", 1));
        hook.delivered(0);
        assert!(hook.is_idle());
    }

    #[test]
    fn of_too_many_the_oldest_go_and_the_next_row_says_how_many() {
        let hook = Hook::new(settings(""));
        for number in 0..QUEUE + 3 {
            hook.put(&news(NewsKind::Step, &number.to_string()));
        }
        assert_eq!((hook.waiting(), hook.view().dropped), (QUEUE, 3));
        let (first, missed) = hook.next().unwrap();
        assert_eq!((first.text.as_str(), missed), ("3", 3));
        hook.given_up();
        let (_, missed) = hook.next().unwrap();
        assert_eq!(missed, 4, "what is given up is missed as well");
        hook.delivered(missed);
        assert_eq!(hook.next().unwrap().1, 0, "it is told once");
    }

    #[test]
    fn a_pause_ends_when_the_hook_moves_or_goes() {
        let hook = Arc::new(Hook::new(settings("")));
        let rests = |hook: &Arc<Hook>| {
            let hook = Arc::clone(hook);
            std::thread::spawn(move || hook.rest(Duration::from_mins(1)))
        };
        let moved = rests(&hook);
        // Whichever comes first: the change is seen by who rests later, since it rests on the edition it found.
        while !moved.is_finished() {
            let other = if hook.settings().timeout == Duration::from_secs(1) { "" } else { ", timeout: 1s" };
            hook.set(&settings(other));
            std::thread::yield_now();
        }
        assert_eq!(moved.join().unwrap(), Woken::TryAgain);
        let gone = rests(&hook);
        hook.close();
        assert_eq!(gone.join().unwrap(), Woken::Closed);
        assert!(hook.next().is_none());
    }
}
