//! A plain request as it goes to a version: the client's own lines, less what concerns its connection only, plus what the
//! edge knows.
//!
//! Line: outline ► **request** ► relay. It carries what the framework's way carries ([`crate::forward::to_version`] behind
//! its cut of hop-by-hop headers); only the order of the lines differs.

use bytes::{BufMut, BytesMut};
use http::HeaderValue;

use super::outline::{Kind, Outlined};
use crate::listen::Client;
use crate::trace::Trace;

/// Room for the lines that the edge adds.
const ADDED_BYTES: usize = 320;

/// Writes the head of `request` behind what is in `wire`.
pub(crate) fn write_head(
    wire: &mut BytesMut,
    request: Outlined<'_>,
    client: &Client,
    request_id: &HeaderValue,
    trace: &Trace,
) {
    wire.reserve(request.head.len() + ADDED_BYTES);
    let onward = trace.onward();
    wire.put_slice(request.part(&(request.outline.method.start..request.outline.target.end)));
    wire.put_slice(b" HTTP/1.1\r\n");
    write_kept_lines(wire, request, |kind| match kind {
        Kind::Other | Kind::Host | Kind::Length => true,
        Kind::Trace => onward.is_none(),
        Kind::TraceState => trace.keeps_state(),
        Kind::HopByHop | Kind::Replaced | Kind::Expect | Kind::Connection | Kind::Upgrade | Kind::Encoding => false,
    });
    line(wire, b"x-forwarded-for", client.name.as_bytes());
    line(wire, b"x-forwarded-proto", if client.is_secure { b"https" } else { b"http" });
    if let Some(host) = request.of_kind(Kind::Host).next() {
        line(wire, b"x-forwarded-host", host);
    }
    line(wire, b"x-request-id", request_id.as_bytes());
    if let Some(onward) = &onward {
        line(wire, b"traceparent", onward.as_bytes());
    }
    wire.put_slice(b"\r\n");
}

fn line(wire: &mut BytesMut, name: &[u8], value: &[u8]) {
    wire.put_slice(name);
    wire.put_slice(b": ");
    wire.put_slice(value);
    wire.put_slice(b"\r\n");
}

/// Lines that follow one another are written in one piece.
fn write_kept_lines(wire: &mut BytesMut, request: Outlined<'_>, is_carried_on: impl Fn(Kind) -> bool) {
    let fields = &request.outline.fields;
    let end = request.head.len().saturating_sub(b"\r\n".len());
    let mut kept_from = None;
    for field in fields {
        let start = field.name.start;
        match (kept_from, is_carried_on(field.kind)) {
            (None, true) => kept_from = Some(start),
            (Some(from), false) => {
                wire.put_slice(request.part(&(from..start)));
                kept_from = None;
            }
            (None, false) | (Some(_), true) => {}
        }
    }
    if let Some(from) = kept_from {
        wire.put_slice(request.part(&(from..end)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::RequestHead;
    use crate::guard::HeadReader;
    use crate::trace::TRACEPARENT;

    const ID: HeaderValue = HeaderValue::from_static("id-1");
    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn carried_on(head: &str) -> String {
        let mut reader = HeadReader::default();
        let read = reader.read(head.as_bytes(), 1 << 16).unwrap().unwrap();
        let request = Outlined { head: &head.as_bytes()[..read.bytes], outline: reader.outline() };
        assert!(request.outline.is_plain(), "{head}");
        let mut wire = BytesMut::new();
        let trace = Trace::of(request.only(&TRACEPARENT), None);
        write_head(&mut wire, request, &Client::new("192.0.2.7".parse().unwrap(), false), &ID, &trace);
        String::from_utf8(wire.to_vec()).unwrap()
    }

    #[test]
    fn the_clients_lines_go_on_as_they_stand_but_for_what_the_edge_knows_better() {
        let carried = carried_on(&format!(
            "\r\nPOST /v1?a=b HTTP/1.1\r\nKeep-Alive: 5\r\nHost: M:80\r\nTE: trailers\r\nX-A:  b \r\nX-Forwarded-For: 6.6.6.6\r\nX-Request-Id: x\r\nX-C: d\r\nForwarded: for=1\r\nX-Pointsman-Mirror: 1\r\nContent-Length: 2\r\ntraceparent: {PARENT}\r\nTraceState: a=b\r\nConnection: keep-alive\r\n\r\n"
        ));
        assert_eq!(
            carried,
            format!(
                "POST /v1?a=b HTTP/1.1\r\nHost: M:80\r\nX-A:  b \r\nX-C: d\r\nContent-Length: 2\r\ntraceparent: {PARENT}\r\nTraceState: a=b\r\nx-forwarded-for: 192.0.2.7\r\nx-forwarded-proto: http\r\nx-forwarded-host: M:80\r\nx-request-id: id-1\r\n\r\n"
            )
        );
    }

    #[test]
    fn an_unsound_trace_is_replaced_and_its_state_cut() {
        for trace in
            ["traceparent: x\r\ntracestate: a=b\r\n".to_owned(), format!("traceparent: {PARENT}\r\n").repeat(2)]
        {
            let carried = carried_on(&format!("GET / HTTP/1.1\r\nHost: m\r\n{trace}\r\n"));
            assert_eq!(carried.matches("traceparent: 00-").count(), 1, "{carried}");
            assert!(!carried.contains(PARENT) && !carried.contains("tracestate"), "{carried}");
        }
    }
}
