//! What is written down about single requests, for who asked for it: a line of the access log, a span of a trace.
//!
//! Line: outcome ► **observe** ► (log file, collector). The data path makes a [`Record`] of a request that ended, if one is
//! wanted, and puts it into bounded queues; it never waits. Whoever empties them is a thread of its own, and what does not
//! fit is dropped, counted and told.

mod access_log;
mod spans;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderValue, Version};
use pointsman_config::{Config, RouteName, VersionId};
use tracing::error;

use self::access_log::AccessLog;
use self::spans::Spans;
use crate::admission::RequestHead;
use crate::listen::Client;
use crate::outcome::Outcome;
use crate::recorder::AssignedBy;
use crate::trace::Trace;

/// Everybody who is told of requests; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Observers {
    access_log: Option<AccessLog>,
    spans: Option<Spans>,
    counts: Arc<Counts>,
}

/// What became of records since the process started.
#[derive(Debug, Default)]
struct Counts {
    lines: Fates,
    spans: Fates,
}

/// What became of the records of one kind.
#[derive(Debug, Default)]
struct Fates {
    sent: AtomicU64,
    dropped: AtomicU64,
}

impl Fates {
    fn sent(&self, count: usize) {
        self.sent.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Relaxed);
    }

    fn dropped(&self, count: usize) {
        self.dropped.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Relaxed);
    }
}

/// What became of records since the process started, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ObserverCounts {
    /// Lines of the access log that were written.
    pub lines_written: u64,
    /// Lines that were not: the queue was full, or the file could not be written.
    pub lines_dropped: u64,
    /// Spans that the collector took.
    pub spans_exported: u64,
    /// Spans that it did not: the queue was full, it refused them, or it could not be reached for too long.
    pub spans_dropped: u64,
}

/// What has to be remembered of a request from its beginning, for who is told of its end.
#[derive(Debug)]
pub(crate) struct Seen {
    at: SystemTime,
    started: Instant,
    method: Box<str>,
    path: Box<str>,
    host: Option<Box<str>>,
    protocol: Version,
    client: HeaderValue,
    is_secure: bool,
}

impl Seen {
    /// The request with this head, whose first byte came at `started`.
    pub(crate) fn new(head: &impl RequestHead, client: &Client, started: Instant) -> Self {
        Self {
            at: SystemTime::now().checked_sub(started.elapsed()).unwrap_or_else(SystemTime::now),
            started,
            method: head.method().into(),
            path: head.path().into(),
            host: head.host().map(Box::from),
            protocol: head.version(),
            client: client.name.clone(),
            is_secure: client.is_secure,
        }
    }
}

/// A request that was refused before it was one.
#[derive(Debug)]
pub(crate) struct Unread<'a> {
    /// As far as it could be read.
    pub(crate) method: &'a str,
    /// The same, without the query.
    pub(crate) path: &'a str,
    pub(crate) protocol: Version,
    pub(crate) status: u16,
    pub(crate) request_id: HeaderValue,
}

/// What came of a request.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) route: Option<RouteName>,
    /// Who answered, or should have.
    pub(crate) version: Option<VersionId>,
    pub(crate) assigned_by: Option<AssignedBy>,
    pub(crate) outcome: Outcome,
    /// None if the client got no answer.
    pub(crate) status: Option<u16>,
    pub(crate) request_id: HeaderValue,
    pub(crate) trace: Trace,
    pub(crate) attempts: u32,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    /// From the last attempt's sending to its answer's head; none without one.
    pub(crate) upstream_head: Option<Duration>,
}

/// A request that ended.
#[derive(Debug)]
pub(crate) struct Record {
    seen: Box<Seen>,
    took: Duration,
    ended: Ended,
}

impl Observers {
    /// These observers as `config` wants them: who is wanted as before goes on.
    pub(crate) fn adjusted(&self, config: &Config) -> Self {
        let counts = Arc::clone(&self.counts);
        let access_log = config.access_log.as_ref().and_then(|wanted| match &self.access_log {
            Some(present) if present.is(wanted) => Some(present.clone()),
            Some(_) | None => started("access log", AccessLog::start(wanted.clone(), Arc::clone(&counts))),
        });
        let spans = config.traces.as_ref().and_then(|wanted| match &self.spans {
            Some(present) if present.is(wanted) => Some(present.clone()),
            Some(_) | None => started("traces", Spans::start(wanted.clone(), Arc::clone(&counts))),
        });
        Self { access_log, spans, counts }
    }

    /// Whether anybody may want to be told of the end of a request with this trace.
    pub(crate) fn want(&self, trace: &Trace) -> bool {
        self.access_log.is_some() || trace.is_kept
    }

    /// The part of new traces that is kept; none if there are no spans.
    pub(crate) fn trace_sample(&self) -> Option<f64> {
        self.spans.as_ref().map(Spans::sample)
    }

    /// Tells of a request that ended; never waits.
    pub(crate) fn tell(&self, seen: Box<Seen>, ended: Ended) {
        let log = self.access_log.as_ref().filter(|log| log.takes(ended.outcome));
        let spans = self.spans.as_ref().filter(|_| ended.trace.is_kept);
        let took = seen.started.elapsed();
        let record = Arc::new(Record { seen, took, ended });
        if let Some(log) = log {
            log.put(Arc::clone(&record));
        }
        if let Some(spans) = spans {
            spans.put(record);
        }
    }

    /// Tells of a request that was refused before it was one; never waits.
    pub(crate) fn tell_unread(&self, unread: Unread<'_>, client: &Client) {
        if self.access_log.is_none() {
            return;
        }
        let seen = Seen {
            at: SystemTime::now(),
            started: Instant::now(),
            method: unread.method.into(),
            path: unread.path.into(),
            host: None,
            protocol: unread.protocol,
            client: client.name.clone(),
            is_secure: client.is_secure,
        };
        let ended = Ended {
            route: None,
            version: None,
            assigned_by: None,
            outcome: Outcome::Rejected,
            status: Some(unread.status),
            request_id: unread.request_id,
            trace: Trace::of(None, None),
            attempts: 0,
            request_bytes: 0,
            response_bytes: 0,
            upstream_head: None,
        };
        self.tell(Box::new(seen), ended);
    }

    /// What became of records since the process started.
    pub(crate) fn counts(&self) -> ObserverCounts {
        let Counts { lines, spans } = &*self.counts;
        ObserverCounts {
            lines_written: lines.sent.load(Relaxed),
            lines_dropped: lines.dropped.load(Relaxed),
            spans_exported: spans.sent.load(Relaxed),
            spans_dropped: spans.dropped.load(Relaxed),
        }
    }

    /// Waits until everything that was told is written and sent, for `patience` at most.
    pub(crate) async fn flush(&self, patience: Duration) {
        let log = self.access_log.as_ref().and_then(AccessLog::flushed);
        let spans = self.spans.as_ref().and_then(Spans::flushed);
        let all = async {
            for done in log.into_iter().chain(spans) {
                // Who is gone has nothing left.
                drop(done.await);
            }
        };
        drop(tokio::time::timeout(patience, all).await);
    }
}

/// An observer that cannot be had costs its records, nothing else.
fn started<T>(what: &str, start: io::Result<T>) -> Option<T> {
    start
        .inspect_err(|error| {
            error!(what, %error, "no thread can be started, so nothing is written; check the limit on processes (ulimit -u)");
        })
        .ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use pingora_http::RequestHeader;

    use super::*;

    /// A request that ended, as somebody tells of it.
    pub(crate) fn record(path: &str) -> Arc<Record> {
        let mut head = RequestHeader::build("GET", path.as_bytes(), None).unwrap();
        head.insert_header("host", "[::1]:80").unwrap();
        let client = Client::new("192.0.2.7".parse().unwrap(), true);
        let seen = Box::new(Seen::new(&head, &client, Instant::now()));
        let ended = Ended {
            route: Some("r".parse().unwrap()),
            version: None,
            assigned_by: Some(AssignedBy::User(1)),
            outcome: Outcome::Timeout,
            status: None,
            request_id: HeaderValue::from_static("id-1"),
            trace: Trace::of(None, Some(1.0)),
            attempts: 2,
            request_bytes: 0,
            response_bytes: 0,
            upstream_head: None,
        };
        Arc::new(Record { seen, took: Duration::from_micros(1_500), ended })
    }
}
