//! Where a chunked body ends, and that it is framed as RFC 9112, section 7.1 has it, to the byte.
//!
//! Line: listener ► guard ► **chunks** ► edge. The bytes pass on to the framework, which takes the chunks apart and is
//! more lenient (it reads a missing size as zero); what it would have to guess never gets there.

/// The most digits of a chunk's size: 2^60 bytes are enough.
const MAX_SIZE_DIGITS: u8 = 15;
/// The most bytes of extensions of one chunk, and of all trailers.
const MAX_ASIDE_BYTES: u32 = 8 << 10;

/// A body that is not framed as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Follows a chunked body, however it is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChunkScanner {
    at: Place,
    aside_bytes: u32,
}

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Size {
        digits: u8,
        value: u64,
    },
    Extension {
        value: u64,
    },
    SizeLf {
        value: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// At the beginning of a trailer line, or of the empty line that ends the body.
    LineStart,
    Trailer,
    TrailerLf,
    EndLf,
    End,
}

const SIZE: Place = Place::Size { digits: 0, value: 0 };

impl Default for ChunkScanner {
    fn default() -> Self {
        Self { at: SIZE, aside_bytes: 0 }
    }
}

impl ChunkScanner {
    /// Follows the body through `bytes`, which come next; gives how many of them are the body's, if it ends in them.
    ///
    /// # Errors
    /// If this can be no chunked body.
    pub(crate) fn scan(&mut self, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        let mut rest = bytes;
        while self.at != Place::End {
            if let Place::Data { left } = self.at {
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                rest = rest.get(here..).unwrap_or_default();
                self.at = match left - u64::try_from(here).unwrap_or(left) {
                    0 => Place::DataCr,
                    left => Place::Data { left },
                };
            }
            let Some((byte, after)) = rest.split_first() else { return Ok(None) };
            self.at = self.step(*byte)?;
            rest = after;
        }
        Ok(Some(bytes.len() - rest.len()))
    }

    fn step(&mut self, byte: u8) -> Result<Place, Malformed> {
        match (self.at, byte) {
            (Place::Size { digits: 1.., value } | Place::Extension { value }, b'\r') => Ok(Place::SizeLf { value }),
            (Place::Size { digits: 1.., value }, b';') => Ok(Place::Extension { value }),
            (Place::Size { digits, value }, _) => size_digit(digits, value, byte),
            (Place::SizeLf { value: left @ 1.. }, b'\n') => Ok(Place::Data { left }),
            (Place::DataCr, b'\r') => Ok(Place::DataLf),
            (Place::DataLf, b'\n') => {
                self.aside_bytes = 0;
                Ok(SIZE)
            }
            (Place::SizeLf { value: 0 } | Place::TrailerLf, b'\n') => Ok(Place::LineStart),
            (Place::LineStart, b'\r') => Ok(Place::EndLf),
            (Place::Trailer, b'\r') => Ok(Place::TrailerLf),
            (Place::EndLf, b'\n') => Ok(Place::End),
            (Place::Extension { value }, _) => self.aside(byte, Place::Extension { value }),
            (Place::LineStart | Place::Trailer, _) if !is_fold(self.at, byte) => self.aside(byte, Place::Trailer),
            (_, _) => Err(Malformed),
        }
    }

    /// A byte that says nothing about the body, as an extension or a trailer has them.
    fn aside(&mut self, byte: u8, place: Place) -> Result<Place, Malformed> {
        self.aside_bytes += 1;
        let sound = byte == b'\t' || (byte >= b' ' && byte != 0x7f);
        if sound && self.aside_bytes <= MAX_ASIDE_BYTES { Ok(place) } else { Err(Malformed) }
    }
}

/// A line that goes on in the next one.
fn is_fold(at: Place, byte: u8) -> bool {
    at == Place::LineStart && matches!(byte, b' ' | b'\t')
}

fn size_digit(digits: u8, value: u64, byte: u8) -> Result<Place, Malformed> {
    let digit = char::from(byte).to_digit(16).ok_or(Malformed)?;
    if digits == MAX_SIZE_DIGITS {
        return Err(Malformed);
    }
    Ok(Place::Size { digits: digits + 1, value: value * 16 + u64::from(digit) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scan(body: &str) -> Result<Option<usize>, Malformed> {
        ChunkScanner::default().scan(body.as_bytes())
    }

    #[track_caller]
    fn ends(body: &str) {
        assert_eq!(scan(&format!("{body}GET /next")), Ok(Some(body.len())), "{body:?}");
        for cut in 0..body.len() {
            assert_eq!(scan(&body[..cut]), Ok(None), "{body:?} cut at {cut}");
        }
    }

    #[test]
    fn a_sound_body_ends_at_its_last_byte() {
        ends("0\r\n\r\n");
        ends("5\r\nhello\r\n0\r\n\r\n");
        ends("00A;name=\"a b\"\r\n0\r\n\r\n56789\r\n000\r\n\r\n");
        ends("1\r\nx\r\n0\r\nTrailer: a\r\nB: c\r\n\r\n");
    }

    #[test]
    fn whatever_would_have_to_be_guessed_is_malformed() {
        for body in [
            "\r\nab",
            "zz",
            "+2",
            "-1",
            "0x2",
            " 2",
            "2 \r\n",
            "2\nab",
            "2\r\r",
            "2\r\nabcd",
            "2\r\nab\n",
            "2\r\nabx",
            "2;a\nb",
            "fffffffffffffffff",
            "0\r\n\n",
            "0\r\nA: b\n",
            "0\r\n\rx",
            "0\r\n folded",
            "2;a\0b",
            ";ext\r\n",
        ] {
            assert_eq!(scan(body), Err(Malformed), "{body:?}");
        }
        assert_eq!(scan(&format!("1;{}", "x".repeat(9_000))), Err(Malformed));
        assert_eq!(scan(&format!("0\r\n{}", "A: b\r\n".repeat(2_500))), Err(Malformed));
    }

    proptest! {
        #[test]
        fn any_body_ends_where_it_was_ended_however_it_is_cut(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6),
            cuts in proptest::collection::vec(0..300_usize, 0..6),
        ) {
            let mut body = Vec::new();
            for chunk in &chunks {
                body.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                body.extend_from_slice(chunk);
                body.extend_from_slice(b"\r\n");
            }
            body.extend_from_slice(b"0\r\n\r\n");
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut < body.len()).collect();
            cuts.sort_unstable();
            let (mut scanner, mut from) = (ChunkScanner::default(), 0);
            for cut in cuts {
                prop_assert_eq!(scanner.scan(&body[from..cut]), Ok(None));
                from = cut;
            }
            let rest = [&body[from..], b"surplus"].concat();
            prop_assert_eq!(scanner.scan(&rest), Ok(Some(body.len() - from)));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Some(end)) = ChunkScanner::default().scan(&bytes) {
                prop_assert!(bytes[..end].ends_with(b"\r\n"));
            }
        }
    }
}
