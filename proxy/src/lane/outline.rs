//! Where the parts of a request head stand, as the guard found them, so that nobody has to parse it again.
//!
//! Line: guard ► **outline** ► lane. It also says whether the request is plain: one that can be carried on with nothing
//! but a look at each of its header lines.

use std::ops::Range;

use http::{HeaderName, Version};

use crate::admission::RequestHead;

/// What a header line is to an edge that carries it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The version's business.
    Other,
    /// `host`.
    Host,
    /// Means something to this connection only (RFC 9110, section 7.6.1); not carried on.
    HopByHop,
    /// For the edge alone to say: replaced by what it knows better, or cut.
    Replaced,
    /// `traceparent`: carried on if it is sound.
    Trace,
    /// `tracestate`: carried on if `traceparent` is.
    TraceState,
    /// `expect`: somebody has to answer before the body comes.
    Expect,
    /// `connection`: what it names is not carried on.
    Connection,
    /// `upgrade`: the connection may turn into something else.
    Upgrade,
    /// `content-length`.
    Length,
    /// `transfer-encoding`: the body is not plain.
    Encoding,
}

/// Every name that is not the version's business alone, in lower case. The hop-by-hop ones are those that the framework
/// cuts.
const KNOWN: [(&[u8], Kind); 22] = [
    (b"host", Kind::Host),
    (b"content-length", Kind::Length),
    (b"connection", Kind::Connection),
    (b"upgrade", Kind::Upgrade),
    (b"expect", Kind::Expect),
    (b"transfer-encoding", Kind::Encoding),
    (b"keep-alive", Kind::HopByHop),
    (b"proxy-connection", Kind::HopByHop),
    (b"proxy-authenticate", Kind::HopByHop),
    (b"proxy-authorization", Kind::HopByHop),
    (b"te", Kind::HopByHop),
    (b"trailer", Kind::HopByHop),
    (b"http2-settings", Kind::HopByHop),
    (b"x-forwarded-for", Kind::Replaced),
    (b"x-forwarded-proto", Kind::Replaced),
    (b"x-forwarded-host", Kind::Replaced),
    (b"forwarded", Kind::Replaced),
    (b"x-request-id", Kind::Replaced),
    (b"x-pointsman-mirror", Kind::Replaced),
    (b"x-pointsman-golden", Kind::Replaced),
    (b"traceparent", Kind::Trace),
    (b"tracestate", Kind::TraceState),
];

/// What a header of this name is to the edge.
pub(crate) fn kind_of(name: &[u8]) -> Kind {
    KNOWN.iter().find(|(known, _)| name.eq_ignore_ascii_case(known)).map_or(Kind::Other, |(_, kind)| *kind)
}

/// One header line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Field {
    /// Where its name stands in the head.
    pub(crate) name: Range<usize>,
    /// Where its value stands, without the blanks around it.
    pub(crate) value: Range<usize>,
    /// What it is.
    pub(crate) kind: Kind,
}

/// The parts of one head.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outline {
    /// Where the method stands.
    pub(crate) method: Range<usize>,
    /// Where the request target stands.
    pub(crate) target: Range<usize>,
    /// The header lines, in their order.
    pub(crate) fields: Vec<Field>,
    is_odd: bool,
    wants_close: bool,
}

impl Outline {
    /// Forgets the head, and keeps the room.
    pub(crate) fn clear(&mut self) {
        self.fields.clear();
        *self = Self { fields: std::mem::take(&mut self.fields), ..Self::default() };
    }

    /// Notes the request line. Only what every server takes for the same is plain: a path, in HTTP/1.1.
    pub(crate) fn set_request_line(&mut self, method: Range<usize>, target: Range<usize>, is_plain: bool) {
        self.method = method;
        self.target = target;
        self.is_odd |= !is_plain;
    }

    /// Notes a header line with the given value.
    pub(crate) fn add(&mut self, field: Field, value: &[u8]) {
        match field.kind {
            Kind::Expect | Kind::Upgrade | Kind::Encoding => self.is_odd = true,
            Kind::Connection => self.connection(value),
            Kind::Other
            | Kind::Host
            | Kind::Length
            | Kind::HopByHop
            | Kind::Replaced
            | Kind::Trace
            | Kind::TraceState => {}
        }
        self.fields.push(field);
    }

    /// Whoever names more than the connection itself wants headers cut, which is the framework's business.
    fn connection(&mut self, value: &[u8]) {
        for token in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if token.eq_ignore_ascii_case(b"close") {
                self.wants_close = true;
            } else if !token.eq_ignore_ascii_case(b"keep-alive") {
                self.is_odd = true;
            }
        }
    }

    /// Whether the lane can carry the request on: HTTP/1.1 with a path, a known length, and nothing that would have to be
    /// negotiated.
    pub(crate) fn is_plain(&self) -> bool {
        !self.is_odd
    }

    /// Whether the client wants the connection closed after the answer.
    pub(crate) fn wants_close(&self) -> bool {
        self.wants_close
    }
}

/// A head and where its parts stand in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outlined<'a> {
    /// The head as it was received.
    pub(crate) head: &'a [u8],
    /// Its parts.
    pub(crate) outline: &'a Outline,
}

impl<'a> Outlined<'a> {
    /// The bytes of a part.
    pub(crate) fn part(self, place: &Range<usize>) -> &'a [u8] {
        self.head.get(place.clone()).unwrap_or_default()
    }

    /// The values of the header lines of a kind.
    pub(crate) fn of_kind(self, kind: Kind) -> impl Iterator<Item = &'a [u8]> {
        self.outline.fields.iter().filter(move |field| field.kind == kind).map(move |field| self.part(&field.value))
    }
}

impl RequestHead for Outlined<'_> {
    fn host(&self) -> Option<&str> {
        self.of_kind(Kind::Host).next().and_then(|host| std::str::from_utf8(host).ok())
    }

    fn path(&self) -> &str {
        let target = std::str::from_utf8(self.part(&self.outline.target)).unwrap_or_default();
        target.split('?').next().unwrap_or_default()
    }

    fn method(&self) -> &str {
        std::str::from_utf8(self.part(&self.outline.method)).unwrap_or_default()
    }

    /// Nothing else is plain.
    fn version(&self) -> Version {
        Version::HTTP_11
    }

    fn values(&self, name: &HeaderName) -> impl Iterator<Item = &[u8]> {
        let name = name.as_str().as_bytes();
        let fields = self.outline.fields.iter();
        fields
            .filter(move |field| self.part(&field.name).eq_ignore_ascii_case(name))
            .map(|field| self.part(&field.value))
    }
}
