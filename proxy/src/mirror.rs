//! Copies of stable's requests for another version, whose answers are compared and thrown away.
//!
//! Stands beside the line: edge ► **mirror** ► (pool, endpoint, upstream). The request on its way only keeps what it sees
//! anyway, and lets go of it: the copy is sent by a task of its own, which nobody waits for, once the request is whole. If
//! too many are under way there is none. So a mirrored version that hangs costs samples, and the user nothing.

pub mod books;
mod compare;
mod send;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, EXPECT, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};
use pingora_error::Result;
use pingora_http::RequestHeader;
use pointsman_config::{Protocol, Route, Share};
use tokio::sync::oneshot;

use self::books::{MirrorBooks, MirrorResult, Permit, Target};
use self::compare::{Answer, Body};
pub(crate) use self::send::Copier;
use self::send::{Copy, Told};
use crate::outcome::Outcome;
use crate::pool::Pool;
use crate::recorder::{Arm, AssignedBy, Assignment};
use crate::retry::AnswerSigns;
use crate::snapshot::ServedRoute;

/// Marks a copy, so that a version that acts on requests can leave that; a client's own is cut.
pub(crate) const MIRROR: HeaderName = HeaderName::from_static("x-pointsman-mirror");

/// Where a route's copies go.
#[derive(Debug)]
pub(crate) struct ServedMirror {
    pub(crate) books: Arc<MirrorBooks>,
    pub(crate) pool: Arc<Pool>,
}

/// The copy of one request, as far as it has come.
#[derive(Debug)]
pub(crate) enum Copying {
    /// The request is not whole.
    Gathering(Box<Gathering>),
    /// The copy was sent; what stable says is kept to be compared.
    Answering(Box<Answering>),
}

/// What will be sent.
#[derive(Debug)]
pub(crate) struct Gathering {
    permit: Permit,
    target: Target,
    route: Arc<ServedRoute>,
    head: Option<RequestHeader>,
    body: Vec<Bytes>,
    body_bytes: u64,
}

/// What stable has said so far.
#[derive(Debug)]
pub(crate) struct Answering {
    tell: oneshot::Sender<Told>,
    limit_bytes: u64,
    told: Option<Told>,
}

impl Copying {
    /// Begins a copy of a request to stable, if it is drawn and there is a place for it.
    pub(crate) fn begin(route: &Arc<ServedRoute>, assignment: Assignment, draining: &AtomicBool) -> Option<Self> {
        let (served, mirror) = (route.mirror.as_ref()?, route.settings.mirror.as_ref()?);
        let is_evidence = matches!(assignment.by, AssignedBy::Chance | AssignedBy::User(_));
        if assignment.arm != Arm::Stable || !is_evidence || !is_drawn(mirror.share) {
            return None;
        }
        let target = if is_drawn(mirror.compare.noise) { Target::Noise } else { Target::Mirror };
        let permit = served.books.begin(mirror.concurrent).filter(|_| !draining.load(Relaxed));
        let Some(permit) = permit else {
            served.books.note(target, MirrorResult::Dropped);
            return None;
        };
        let route = Arc::clone(route);
        let gathering = Gathering { permit, target, route, head: None, body: Vec::new(), body_bytes: 0 };
        Some(Self::Gathering(Box::new(gathering)))
    }

    /// An attempt begins with this head; what an earlier one gathered comes again.
    ///
    /// # Errors
    /// Never in practice: the value is a constant.
    pub(crate) fn sets_out(copying: &mut Option<Self>, head: &RequestHeader) -> Result<()> {
        if head.headers.contains_key(UPGRADE) {
            *copying = None;
        }
        let Some(Self::Gathering(gathering)) = copying else { return Ok(()) };
        let mut head = head.clone();
        head.remove_header(&EXPECT);
        // What is compared has to be read.
        head.remove_header(&ACCEPT_ENCODING);
        head.insert_header(MIRROR, HeaderValue::from_static("1"))?;
        gathering.head = Some(head);
        gathering.body.clear();
        gathering.body_bytes = 0;
        Ok(())
    }

    /// The request goes on with this; sends the copy if that is its end.
    pub(crate) fn request_body(copying: &mut Option<Self>, chunk: Option<&Bytes>, is_end: bool, copier: &Copier) {
        let Some(Self::Gathering(gathering)) = copying else { return };
        if let Some(chunk) = chunk {
            gathering.body_bytes += u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            if gathering.body_bytes > gathering.limit_bytes() {
                gathering.permit.books().note(gathering.target, MirrorResult::Dropped);
                *copying = None;
                return;
            }
            gathering.body.push(chunk.clone());
        }
        if is_end && let Some(Self::Gathering(gathering)) = copying.take() {
            *copying = gathering.send(copier).map(|answering| Self::Answering(Box::new(answering)));
        }
    }

    /// Stable's answer begins, so long after its request set out.
    pub(crate) fn answer_head(copying: &mut Option<Self>, status: u16, headers: &HeaderMap, time: Duration) {
        match copying {
            Some(Self::Answering(answering)) => {
                let answer = Answer { status, body: kind_of(headers) };
                let is_all = !matches!(answer.body, Body::Json(_));
                answering.told = Some(Told { answer, time, is_shed: is_shed(status, headers) });
                // Of what is not compared by its body nothing more is waited for: it may be a stream.
                if is_all {
                    Self::answer_end(copying);
                }
            }
            // Answered before it was whole: there is nothing yet that could be compared with it.
            Some(Self::Gathering(_)) => *copying = None,
            None => {}
        }
    }

    /// Stable's answer goes on.
    pub(crate) fn answer_body(copying: &mut Option<Self>, chunk: &Bytes) {
        let Some(Self::Answering(answering)) = copying else { return };
        let limit_bytes = answering.limit_bytes;
        if let Some(told) = &mut answering.told {
            told.answer.body.push(chunk, limit_bytes);
            if told.answer.body == Body::TooLarge {
                Self::answer_end(copying);
            }
        }
    }

    /// Stable's answer is whole, or all of it that is compared.
    pub(crate) fn answer_end(copying: &mut Option<Self>) {
        if let Some(Self::Answering(answering)) = copying.take() {
            let Answering { tell, told, .. } = *answering;
            if let Some(told) = told {
                // The copy may have failed long since.
                drop(tell.send(told));
            }
        }
    }
}

impl Gathering {
    fn limit_bytes(&self) -> u64 {
        self.route.settings.mirror.as_ref().map_or(0, |mirror| mirror.body_bytes)
    }

    /// Hands the copy to a task of its own.
    fn send(self, copier: &Copier) -> Option<Answering> {
        let (tell, told) = oneshot::channel();
        let limit_bytes = self.limit_bytes();
        let Self { permit, target, route, head, body, .. } = self;
        copier.send(Copy { permit, target, route, head: head?, body, told });
        Some(Answering { tell, limit_bytes, told: None })
    }
}

impl Body {
    /// Takes in some more, up to a limit.
    fn push(&mut self, chunk: &[u8], limit_bytes: u64) {
        match self {
            Self::Json(text) if u64::try_from(text.len() + chunk.len()).is_ok_and(|bytes| bytes <= limit_bytes) => {
                text.extend_from_slice(chunk);
            }
            Self::Json(_) => *self = Self::TooLarge,
            Self::Opaque | Self::TooLarge => {}
        }
    }
}

/// What a body is, by the head of its answer.
fn kind_of(headers: &HeaderMap) -> Body {
    let is_json = |value: &HeaderValue| value.to_str().is_ok_and(|kind| kind.to_ascii_lowercase().contains("json"));
    if headers.get(CONTENT_TYPE).is_none_or(|kind| !is_json(kind)) {
        Body::Opaque
    } else if headers.contains_key(CONTENT_ENCODING) {
        // It would have to be unpacked first.
        Body::TooLarge
    } else {
        Body::Json(Vec::new())
    }
}

/// Whether an answer says that its version refused the request for load.
fn is_shed(status: u16, headers: &HeaderMap) -> bool {
    let signs = AnswerSigns::of(status, |name| headers.get(name).map(HeaderValue::as_bytes));
    signs.outcome() == Outcome::Rejected
}

/// Whether the copies of a route can be sent: they are, over HTTP/1.1.
pub(crate) fn can_be_sent(route: &Route) -> bool {
    match route.protocol {
        Protocol::Http1 => true,
        Protocol::H2c | Protocol::H2 => false,
    }
}

fn is_drawn(share: Share) -> bool {
    rand::random_range(0..Share::PARTS) < share.ppm()
}

/// How long ago something was; zero if it was not.
pub(crate) fn since(moment: Option<Instant>) -> Duration {
    moment.map_or(Duration::ZERO, |moment| moment.elapsed())
}
