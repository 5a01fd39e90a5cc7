//! The trace that a request belongs to (W3C Trace Context, <https://www.w3.org/TR/trace-context/>): its client's if that
//! names a sound one, else a new one.
//!
//! Line: admission ► **trace** ► forward. Decided once for a request, whatever becomes of its attempts. Where the edge
//! makes a span of its own, the version gets that as its parent; where it makes none, it stands in nobody's way.

use http::{HeaderName, HeaderValue};

use crate::forward::hex;

/// Names the trace, the sender's span and whether it is kept.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What tracing systems add; it belongs to its `traceparent`.
pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// The bit of the flags that says that a trace is kept.
const SAMPLED: u8 = 1;
/// The flags that mean something today; others must not be passed on under version 00.
const KNOWN_FLAGS: u8 = 3;

/// The trace of one request, and the edge's place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trace {
    /// Never zero.
    pub(crate) id: u128,
    /// The client's span; none for a trace that begins here.
    pub(crate) parent: Option<u64>,
    /// The edge's span, never zero; in a trace that is not kept it is only a number.
    pub(crate) span: u64,
    /// Whether the edge writes its span down.
    pub(crate) is_kept: bool,
    flags: u8,
}

impl Trace {
    /// The trace of a request that came with this one `traceparent`, or none. `sample` is the part of new traces that the
    /// edge keeps; without it the edge makes no spans at all.
    pub(crate) fn of(given: Option<&[u8]>, sample: Option<f64>) -> Self {
        match given.and_then(parse) {
            Some((id, parent, flags)) => {
                let is_kept = sample.is_some() && flags & SAMPLED != 0;
                Self { id, parent: Some(parent), span: new_id(), is_kept, flags: flags & KNOWN_FLAGS }
            }
            None => Self::begin(sample.is_some_and(|part| rand::random::<f64>() < part)),
        }
    }

    fn begin(is_kept: bool) -> Self {
        // The lowest bit is set, so that the id is not zero.
        Self { id: rand::random::<u128>() | 1, parent: None, span: new_id(), is_kept, flags: u8::from(is_kept) }
    }

    /// The `traceparent` for the version; none if the client's own goes on as it came.
    pub(crate) fn onward(&self) -> Option<HeaderValue> {
        if self.parent.is_some() && !self.is_kept {
            return None;
        }
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        let (id, span, flags) = (hex(self.id), hex(u128::from(self.span)), hex(u128::from(self.flags)));
        let fields: [(usize, &[u8]); 3] = [(3, &id), (36, last_digits(&span, 16)), (53, last_digits(&flags, 2))];
        for (at, digits) in fields {
            if let Some(place) = text.get_mut(at..at + digits.len()) {
                place.copy_from_slice(digits);
            }
        }
        // Hexadecimal digits and dashes always make a header value.
        HeaderValue::from_bytes(&text).ok()
    }

    /// Whether the client's `tracestate` belongs to it.
    pub(crate) fn keeps_state(&self) -> bool {
        self.parent.is_some()
    }

    /// The flags as they go on.
    pub(crate) fn flags(&self) -> u8 {
        self.flags
    }
}

fn last_digits(digits: &[u8; 32], count: usize) -> &[u8] {
    digits.split_at_checked(32 - count).map_or(digits.as_slice(), |(_, last)| last)
}

fn new_id() -> u64 {
    rand::random::<u64>() | 1
}

/// Section 3.2: `00-<32 hex>-<16 hex>-<2 hex>`, neither id zero; later versions may add fields. Gives trace, span and
/// flags.
fn parse(given: &[u8]) -> Option<(u128, u64, u8)> {
    let mut fields = given.split(|byte| *byte == b'-');
    let mut field = |digits: usize| {
        let text = fields.next().filter(|text| text.len() == digits && text.iter().all(|byte| is_lower_hex(*byte)))?;
        u128::from_str_radix(str::from_utf8(text).ok()?, 16).ok()
    };
    let (version, trace, span, flags) = (field(2)?, field(32)?, field(16)?, field(2)?);
    let ends_well = match version {
        0 => given.len() == 55,
        0xff => false,
        _ => given.len() == 55 || given.get(55) == Some(&b'-'),
    };
    let whole = ends_well && trace != 0 && span != 0;
    whole.then_some((trace, u64::try_from(span).ok()?, u8::try_from(flags).ok()?))
}

fn is_lower_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

    fn of(given: &str, sample: Option<f64>) -> Trace {
        Trace::of(Some(given.as_bytes()), sample)
    }

    #[test]
    fn an_edge_without_spans_lets_a_clients_trace_pass_as_it_came() {
        let trace = of(PARENT, None);
        assert_eq!((trace.id, trace.parent), (0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, Some(0xb7ad_6b71_6920_3331)));
        assert_eq!((trace.onward(), trace.keeps_state(), trace.is_kept), (None, true, false));
    }

    #[test]
    fn a_kept_trace_goes_on_with_the_edges_span_as_the_parent() {
        let trace = of(PARENT, Some(0.0));
        assert!(trace.is_kept && trace.keeps_state(), "the client decides");
        let expected = format!("00-0af7651916cd43dd8448eb211c80319c-{:016x}-01", trace.span);
        assert_eq!(trace.onward().unwrap(), expected);
        assert_ne!(trace.span, 0xb7ad_6b71_6920_3331);
        assert!(!of(UNSAMPLED, Some(1.0)).is_kept, "the client decides");
        assert_eq!(of(UNSAMPLED, Some(1.0)).onward(), None);
    }

    #[test]
    fn a_trace_begins_here_where_there_is_none_and_is_kept_as_the_sample_says() {
        for (sample, kept) in [(None, false), (Some(0.0), false), (Some(1.0), true)] {
            let trace = Trace::of(None, sample);
            assert_eq!((trace.is_kept, trace.parent, trace.keeps_state()), (kept, None, false));
            let onward = trace.onward().unwrap();
            let (id, span, flags) = parse(onward.as_bytes()).unwrap();
            assert_eq!((id, span, flags == 1), (trace.id, trace.span, kept));
        }
    }

    #[test]
    fn an_unsound_trace_is_none() {
        let zeros = "00-00000000000000000000000000000000-b7ad6b7169203331-01";
        let no_span = "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01";
        let later_without_border = format!("01{}more", &PARENT[2..]);
        for given in [
            "",
            "x",
            zeros,
            no_span,
            &PARENT.to_uppercase(),
            &format!("ff{}", &PARENT[2..]),
            &format!("{PARENT}-x"),
            &later_without_border,
        ] {
            assert_eq!(parse(given.as_bytes()), None, "{given}");
        }
        assert!(parse(format!("01{}-more", &PARENT[2..]).as_bytes()).is_some(), "a later version may say more");
        let later = of(&format!("cc{}fe-more", &PARENT[2..53]), Some(1.0));
        assert!(!later.is_kept);
        assert_eq!(of(&format!("cc{}ff-more", &PARENT[2..53]), Some(1.0)).flags(), 3, "no flag that nobody knows");
    }
}
