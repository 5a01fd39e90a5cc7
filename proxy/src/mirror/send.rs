//! Sends copies and compares what comes back.
//!
//! Line: **copier** ► pool ► endpoint ► upstream, with connections of its own. Every worker has one; its tasks run beside
//! the requests of that worker, and nothing waits for them.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use http::header::CONTENT_LENGTH;
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use pingora_error::{Error, ErrorType, Result};
use pingora_http::RequestHeader;
use tokio::sync::oneshot;

use super::books::{MirrorResult, Permit, Target};
use super::compare::{self, Answer, Body, Verdict};
use super::{is_shed, kind_of};
use crate::answer::REQUEST_ID;
use crate::endpoint::Endpoint;
use crate::snapshot::ServedRoute;

/// Sends the copies of one worker.
#[derive(Default)]
pub(crate) struct Copier {
    /// Made for the first copy: most edges mirror nothing.
    connector: OnceLock<Arc<Connector>>,
}

impl std::fmt::Debug for Copier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Copier").finish_non_exhaustive()
    }
}

/// What an answer was, and how long its head took.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) answer: Answer,
    pub(super) time: Duration,
    /// Whether the version refused the request for load.
    pub(super) is_shed: bool,
}

/// A copy that is ready to be sent.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) permit: Permit,
    pub(super) target: Target,
    pub(super) route: Arc<ServedRoute>,
    pub(super) head: RequestHeader,
    pub(super) body: Vec<Bytes>,
    /// Gets what stable says.
    pub(super) told: oneshot::Receiver<Told>,
}

impl Copier {
    /// Sends a copy, now and by itself.
    pub(super) fn send(&self, copy: Copy) {
        let connector = Arc::clone(self.connector.get_or_init(|| Arc::new(Connector::new(None))));
        tokio::spawn(async move { copy.run(&connector).await });
    }
}

impl Copy {
    /// Asks, compares, and books what came of it. The place of the copy is free again when stable has answered too, or takes
    /// longer than a copy may.
    async fn run(mut self, connector: &Connector) {
        let Some(mirror) = self.route.settings.mirror.clone() else { return };
        self.frame();
        let Some(endpoint) = self.endpoint() else {
            return self.permit.books().note(self.target, MirrorResult::Dropped);
        };
        let answered = tokio::time::timeout(mirror.timeout, self.ask(connector, &endpoint, mirror.body_bytes)).await;
        let books = self.permit.books();
        // An endpoint that has gone down, or sheds load, answers for itself and not for its model.
        let answered = answered.ok().and_then(Result::ok).filter(|copy| !copy.is_shed && endpoint.is_up());
        let Some(copy) = answered else { return books.note(self.target, MirrorResult::Failed) };
        let told = tokio::time::timeout(mirror.timeout, &mut self.told).await;
        let stable = told.ok().and_then(Result::ok).filter(|stable| !stable.is_shed);
        let Some(stable) = stable else { return books.note(self.target, MirrorResult::Uncompared) };
        books.note_times(self.target, stable.time, copy.time);
        let result = match compare::compare(&mirror.compare, &stable.answer, &copy.answer) {
            Verdict::Agreed => MirrorResult::Agreed,
            Verdict::Uncompared => MirrorResult::Uncompared,
            Verdict::Disagreed(difference) => {
                if self.target == Target::Mirror {
                    books.remember(self.request_id(), difference);
                }
                MirrorResult::Disagreed
            }
        };
        books.note(self.target, result);
    }

    /// Who gets the copy; none while nobody is ready.
    fn endpoint(&self) -> Option<Arc<Endpoint>> {
        let pool = match self.target {
            Target::Mirror => &self.route.mirror.as_ref()?.pool,
            Target::Noise => &self.route.stable,
        };
        pool.pick_up(Instant::now()).cloned()
    }

    fn request_id(&self) -> &str {
        self.head.headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default()
    }

    /// The body is all here: its length says where it ends, whatever said so before.
    fn frame(&mut self) {
        let bytes: usize = self.body.iter().map(Bytes::len).sum();
        let has_length = bytes > 0 || matches!(self.head.method, Method::POST | Method::PUT | Method::PATCH);
        if has_length {
            // A number is a header value.
            let framed = self.head.insert_header(CONTENT_LENGTH, bytes);
            debug_assert!(framed.is_ok(), "a number is a header value");
        }
    }

    async fn ask(&self, connector: &Connector, endpoint: &Arc<Endpoint>, limit_bytes: u64) -> Result<Told> {
        let nowhere = || Error::new(ErrorType::ConnectNoRoute);
        let _in_flight = endpoint.enter();
        let peer = |fresh| self.route.upstream.peer(endpoint.address(), &self.route.settings, fresh);
        let kept = peer(false).ok_or_else(nowhere)?;
        let (session, reused) = connector.get_http_session(&*kept).await?;
        let answered = self.exchange(connector, &kept, session, limit_bytes).await;
        if answered.is_ok() || !reused {
            return answered;
        }
        // Its server may have closed it just then.
        let fresh = peer(true).ok_or_else(nowhere)?;
        let (session, _) = connector.get_http_session(&*fresh).await?;
        self.exchange(connector, &kept, session, limit_bytes).await
    }

    async fn exchange(
        &self,
        connector: &Connector,
        peer: &HttpPeer,
        mut session: HttpSession,
        limit_bytes: u64,
    ) -> Result<Told> {
        let sent = Instant::now();
        session.write_request_header(Box::new(self.head.clone())).await?;
        for chunk in &self.body {
            session.write_request_body(chunk.clone(), false).await?;
        }
        session.finish_request_body().await?;
        let (status, mut body, is_shed) = loop {
            session.read_response_header().await?;
            let head = session.response_header().ok_or_else(|| Error::new(ErrorType::InvalidHTTPHeader))?;
            if !head.status.is_informational() {
                break (head.status.as_u16(), kind_of(&head.headers), is_shed(head.status.as_u16(), &head.headers));
            }
        };
        let time = sent.elapsed();
        // A body that is not compared is read all the same, so that the connection can be kept, but not without end.
        let mut left = limit_bytes;
        while let Some(chunk) = session.read_response_body().await? {
            body.push(&chunk, limit_bytes);
            let length = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            if body == Body::TooLarge || length > left {
                return Ok(Told { answer: Answer { status, body }, time, is_shed });
            }
            left -= length;
        }
        connector.release_http_session(session, peer, peer.idle_timeout()).await;
        Ok(Told { answer: Answer { status, body }, time, is_shed })
    }
}
