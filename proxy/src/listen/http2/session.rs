//! One HTTP/2 stream: what the framework reads a request from and writes its answer to.
//!
//! Line: http2 ► **session** ► edge. As with HTTP/1.1, the framework owns a session that it may drop at any time, and the
//! accept loop keeps the [`Http2Stream`] behind it, so that it can still answer.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, Method, Response, StatusCode};
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::HttpTask;
use pingora_core::protocols::http::body_buffer::FixedBuffer;
use pingora_core::protocols::http::custom::CustomMessageWrite;
use pingora_core::protocols::http::custom::server::Session;
use pingora_core::protocols::http::date::get_cached_date;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_error::{Error, ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};

use crate::answer::LastWords;
use crate::listen::exchange::Exchange;

/// How much of a body is kept so that it can be sent again; as much as the framework keeps for HTTP/1.1.
const RETRY_BYTES: usize = 64 << 10;
/// Headers that belong to one connection of HTTP/1.1 (RFC 9113, section 8.2.2).
static OF_CONNECTION: [HeaderName; 5] = [
    CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// The answering side of a stream.
#[derive(Debug)]
pub(super) struct Http2Stream {
    /// The request, shared with the edge.
    pub(super) exchange: Arc<Exchange>,
    answer: Mutex<AnswerSide>,
    /// Whether the client reads refusals as gRPC has them.
    is_grpc: bool,
    given_up: AtomicBool,
}

#[derive(Debug)]
enum AnswerSide {
    Awaited(SendResponse<Bytes>),
    Begun(SendStream<Bytes>),
    Ended,
}

impl Http2Stream {
    pub(super) fn new(exchange: Arc<Exchange>, respond: SendResponse<Bytes>, is_grpc: bool) -> Self {
        let answer = Mutex::new(AnswerSide::Awaited(respond));
        Self { exchange, answer, is_grpc, given_up: AtomicBool::new(false) }
    }

    fn answer(&self) -> MutexGuard<'_, AnswerSide> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the client reset the stream before its answer was whole.
    pub(super) fn was_given_up(&self) -> bool {
        self.given_up.load(Relaxed)
    }

    /// Answers with a refusal, if nothing has been answered yet.
    pub(super) fn tell(&self, words: &LastWords) {
        let (answer, body) = (words.answer(), words.answer().body());
        if self.is_grpc {
            // A client that has gone does not hear it.
            drop(answer.grpc_head().map(|head| self.begin_answer(&head, true)));
            return;
        }
        let Ok(head) = answer.head(body.len()) else { return };
        if self.begin_answer(&head, words.to_head_request).is_err() {
            return;
        }
        let mut side = self.answer();
        if let AnswerSide::Begun(send) = &mut *side {
            // It is small: if the client lets nothing in, the codec keeps it until it does, or the connection ends.
            if send.send_data(body, true).is_ok() {
                *side = AnswerSide::Ended;
            }
        }
    }

    /// Ends the stream. An answer that is not whole is broken off, so that nobody takes it for one.
    pub(super) fn close(&self) {
        self.reset(Reason::INTERNAL_ERROR);
    }

    fn reset(&self, reason: Reason) {
        // What has been ended properly is not touched by this.
        match &mut *self.answer() {
            AnswerSide::Awaited(respond) => respond.send_reset(reason),
            AnswerSide::Begun(send) => send.send_reset(reason),
            AnswerSide::Ended => {}
        }
    }

    /// An interim answer; those that switch protocols do not exist here.
    fn interim(&self, status: StatusCode, headers: HeaderMap) -> Result<(), h2::Error> {
        let AnswerSide::Awaited(respond) = &mut *self.answer() else { return Ok(()) };
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(());
        }
        let mut interim = Response::new(());
        *interim.status_mut() = status;
        *interim.headers_mut() = headers;
        respond.send_informational(interim)
    }

    fn begin_answer(&self, head: &ResponseHeader, end: bool) -> Result<(), h2::Error> {
        let mut side = self.answer();
        let AnswerSide::Awaited(respond) = &mut *side else { return Ok(()) };
        let mut answer = Response::new(());
        *answer.status_mut() = head.status;
        *answer.headers_mut() = head.headers.clone();
        for name in &OF_CONNECTION {
            answer.headers_mut().remove(name);
        }
        answer.headers_mut().entry(DATE).or_insert_with(get_cached_date);
        let send = respond.send_response(answer, end)?;
        self.exchange.note_sent();
        *side = if end { AnswerSide::Ended } else { AnswerSide::Begun(send) };
        Ok(())
    }

    /// Passes on what the client lets in of `data`; ready when all of it is.
    fn poll_send(&self, cx: &mut Context<'_>, data: &mut Bytes, end: bool) -> Poll<Result<(), h2::Error>> {
        let mut side = self.answer();
        loop {
            let AnswerSide::Begun(send) = &mut *side else { return Poll::Ready(Ok(())) };
            if !data.is_empty() && send.capacity() == 0 {
                send.reserve_capacity(data.len());
                let capacity = send.poll_capacity(cx);
                self.exchange.set_client_stalls(capacity.is_pending());
                match ready!(capacity) {
                    Some(Ok(_)) => continue,
                    Some(Err(error)) => return Poll::Ready(Err(error)),
                    None => return Poll::Ready(Err(Reason::CANCEL.into())),
                }
            }
            let chunk = data.split_to(data.len().min(send.capacity()));
            let is_last = data.is_empty();
            if !chunk.is_empty() || (end && is_last) {
                send.send_data(chunk, end && is_last)?;
                self.exchange.note_sent();
            }
            if is_last {
                if end {
                    *side = AnswerSide::Ended;
                }
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn send_trailers(&self, trailers: HeaderMap) -> Result<(), h2::Error> {
        let mut side = self.answer();
        let AnswerSide::Begun(send) = &mut *side else { return Ok(()) };
        send.send_trailers(trailers)?;
        *side = AnswerSide::Ended;
        Ok(())
    }

    /// Ready when the client has given the stream up, or the present attempt is over: the only way to have the framework
    /// fail an attempt that waits for its answer.
    fn poll_given_up(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.exchange.is_attempt_over() {
            return Poll::Ready(());
        }
        let reset = match &mut *self.answer() {
            AnswerSide::Awaited(respond) => respond.poll_reset(cx),
            AnswerSide::Begun(send) => send.poll_reset(cx),
            AnswerSide::Ended => return Poll::Pending,
        };
        reset.map(|_reason| self.given_up.store(true, Relaxed))
    }
}

/// What came of writing, as the framework understands it: if it failed, the client has gone.
fn written<T>(result: Result<T, h2::Error>, doing: &'static str) -> Result<T> {
    result.or_err(ErrorType::WriteError, doing).map_err(Error::into_down)
}

/// A request as the framework sees it.
pub(super) struct Http2Session {
    request: RequestHeader,
    body: RecvStream,
    stream: Arc<Http2Stream>,
    answered: Option<Box<ResponseHeader>>,
    bytes_read: usize,
    bytes_sent: usize,
    retry: Option<FixedBuffer>,
}

impl Http2Session {
    pub(super) fn new(request: RequestHeader, body: RecvStream, stream: Arc<Http2Stream>) -> Self {
        Self { request, body, stream, answered: None, bytes_read: 0, bytes_sent: 0, retry: None }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        let exchange = &self.stream.exchange;
        let data = self.body.poll_data(cx);
        exchange.set_awaits_client(data.is_pending());
        match ready!(data) {
            Some(Ok(data)) => {
                self.bytes_read += data.len();
                // An error means that the stream is over, which the next read tells.
                drop(self.body.flow_control().release_capacity(data.len()));
                if self.body.is_end_stream() {
                    exchange.set_body_left(0);
                }
                if let Some(retry) = &mut self.retry {
                    retry.write_to_buffer(&data);
                }
                Poll::Ready(Ok(Some(data)))
            }
            Some(Err(error)) => {
                self.stream.given_up.store(true, Relaxed);
                let error = Error::because(ErrorType::ReadError, "reading the body of a stream", error);
                Poll::Ready(Err(error.into_down()))
            }
            None => {
                exchange.set_body_left(0);
                Poll::Ready(Ok(None))
            }
        }
    }

    async fn send(&mut self, mut data: Bytes, end: bool) -> Result<()> {
        let length = data.len();
        let stream = &self.stream;
        let sent = std::future::poll_fn(|cx| stream.poll_send(cx, &mut data, end)).await;
        written(sent, "writing the body of an answer")?;
        self.bytes_sent += length;
        Ok(())
    }

    fn begin(&mut self, head: Box<ResponseHeader>, end: bool) -> Result<()> {
        if head.status.is_informational() {
            return written(self.stream.interim(head.status, head.headers.clone()), "writing an interim answer");
        }
        // What was asked with HEAD has no body, whoever answers.
        let end = end || self.request.method == Method::HEAD;
        written(self.stream.begin_answer(&head, end), "writing the head of an answer")?;
        self.answered = Some(head);
        Ok(())
    }

    /// Passes one piece of an answer on; true if it was the last.
    async fn pass(&mut self, task: HttpTask) -> Result<bool> {
        match task {
            HttpTask::Header(head, end) => {
                self.begin(head, end)?;
                Ok(end)
            }
            HttpTask::Body(data, end) => {
                self.send(data.unwrap_or_default(), end).await?;
                Ok(end)
            }
            HttpTask::UpgradedBody(..) => Error::e_explain(ErrorType::InternalError, "a tunnel in an HTTP/2 stream"),
            HttpTask::Trailer(trailers) => {
                if let Some(trailers) = trailers {
                    written(self.stream.send_trailers(*trailers), "writing the trailers of an answer")?;
                }
                Ok(true)
            }
            HttpTask::Done => Ok(true),
            HttpTask::Failed(error) => Err(error),
        }
    }
}

#[async_trait]
impl Session for Http2Session {
    fn req_header(&self) -> &RequestHeader {
        &self.request
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        &mut self.request
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        std::future::poll_fn(|cx| self.poll_body(cx)).await
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        while self.read_body_bytes().await?.is_some() {}
        Ok(())
    }

    async fn write_response_header(&mut self, head: Box<ResponseHeader>, end: bool) -> Result<()> {
        self.begin(head, end)
    }

    async fn write_response_header_ref(&mut self, head: &ResponseHeader, end: bool) -> Result<()> {
        self.begin(Box::new(head.clone()), end)
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.send(data, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        written(self.stream.send_trailers(trailers), "writing the trailers of an answer")
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut is_whole = false;
        for task in tasks {
            is_whole |= self.pass(task).await?;
        }
        if is_whole {
            self.finish().await?;
        }
        Ok(is_whole)
    }

    // Deadlines are the exchange's.

    fn set_read_timeout(&mut self, _timeout: Option<Duration>) {}

    fn get_read_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_write_timeout(&mut self, _timeout: Option<Duration>) {}

    fn get_write_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_total_drain_timeout(&mut self, _timeout: Option<Duration>) {}

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        None
    }

    fn request_summary(&self) -> String {
        let host = self.request.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        format!("{} {}, Host: {host}", self.request.method, self.request.uri)
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.answered.as_deref()
    }

    async fn shutdown(&mut self, code: u32, _doing: &str) {
        self.stream.reset(Reason::from(code));
    }

    async fn abandon(&mut self, _doing: &str) {
        self.stream.reset(Reason::INTERNAL_ERROR);
    }

    fn is_body_done(&mut self) -> bool {
        self.is_body_empty() || self.body.is_end_stream()
    }

    /// Ends an answer that has begun; one that has not is left to others.
    async fn finish(&mut self) -> Result<()> {
        self.send(Bytes::new(), true).await
    }

    fn is_body_empty(&mut self) -> bool {
        let says_none = || self.request.headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0");
        self.bytes_read == 0 && (self.body.is_end_stream() || says_none())
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        if !no_body_expected && !self.is_body_done() {
            return self.read_body_bytes().await;
        }
        let stream = &self.stream;
        std::future::poll_fn(|cx| stream.poll_given_up(cx)).await;
        Error::e_explain(ErrorType::ConnectionClosed, "the client gave the stream up").map_err(Error::into_down)
    }

    fn body_bytes_sent(&self) -> usize {
        self.bytes_sent
    }

    fn body_bytes_read(&self) -> usize {
        self.bytes_read
    }

    fn digest(&self) -> Option<&Digest> {
        None
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        None
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        Bytes::new()
    }

    fn enable_retry_buffering(&mut self) {
        self.retry.get_or_insert_with(|| FixedBuffer::new(RETRY_BYTES));
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.retry.as_ref().is_some_and(FixedBuffer::is_truncated)
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        self.retry.as_ref().filter(|retry| !retry.is_truncated()).and_then(FixedBuffer::get_buffer)
    }

    // What a framework's own protocol could send beside a request, HTTP/2 cannot.

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        None
    }

    fn restore_custom_message_reader(
        &mut self,
        _reader: Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>,
    ) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _writer: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}
