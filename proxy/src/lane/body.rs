//! Where the body of a version's answer ends.
//!
//! Line: answer ► **body** ► relay.

use super::Malformed;
use crate::chunks::ChunkScanner;

/// What is left of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Body {
    /// So many bytes; none once it is over.
    Length(u64),
    /// Chunks, passed on as they stand.
    Chunked(ChunkScanner),
    /// Everything until the version closes.
    UntilClose,
}

/// How much of what was read is the body's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) bytes: usize,
    /// Whether the body ends with it.
    pub(super) is_last: bool,
}

impl Body {
    /// No body at all.
    pub(super) const NONE: Self = Self::Length(0);

    /// Takes what belongs to the body from the start of `bytes`, which come next.
    ///
    /// # Errors
    /// If chunks are not framed as they should be.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<Part, Malformed> {
        match self {
            Self::Length(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= u64::try_from(taken).unwrap_or(*left);
                Ok(Part { bytes: taken, is_last: *left == 0 })
            }
            Self::Chunked(chunks) => {
                let end = chunks.scan(bytes).map_err(|_chunks| Malformed)?;
                Ok(Part { bytes: end.unwrap_or(bytes.len()), is_last: end.is_some() })
            }
            Self::UntilClose => Ok(Part { bytes: bytes.len(), is_last: false }),
        }
    }

    /// Whether the end of the version's stream is the end of the body.
    pub(super) fn ends_with_stream(&self) -> bool {
        *self == Self::UntilClose
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_body_ends_where_its_framing_says() {
        let part = |bytes, is_last| Ok(Part { bytes, is_last });
        let mut none = Body::NONE;
        assert_eq!(none.take(b"HTTP/1.1"), part(0, true));
        let mut length = Body::Length(5);
        assert_eq!((length.take(b"he"), length.take(b"llo, you")), (part(2, false), part(3, true)));
        let mut chunked = Body::Chunked(ChunkScanner::default());
        assert_eq!((chunked.take(b"2\r\nab"), chunked.take(b"\r\n0\r\n\r\nHTTP")), (part(5, false), part(7, true)));
        assert_eq!(Body::Chunked(ChunkScanner::default()).take(b"zz"), Err(Malformed));
        assert_eq!(Body::UntilClose.take(b"hello"), part(5, false));
    }

    proptest! {
        #[test]
        fn a_length_is_kept_to_however_the_bytes_are_cut(length in 0..500_u64, cuts in proptest::collection::vec(0..60_usize, 0..40)) {
            let (mut body, mut taken) = (Body::Length(length), 0);
            for cut in cuts {
                let part = body.take(&vec![b'x'; cut]).unwrap();
                taken += u64::try_from(part.bytes).unwrap();
                prop_assert_eq!(part.is_last, taken == length);
            }
            prop_assert!(taken <= length);
        }
    }
}
