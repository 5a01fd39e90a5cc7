//! How long a client waits, as it says itself: in milliseconds over HTTP, in the units of gRPC there. `http` and `oip`
//! ask; `queue` keeps to it.

use std::time::Duration;

use hyper::header::HeaderMap;
use thiserror::Error;

/// The header with the milliseconds.
pub const HEADER: &str = "x-request-timeout-ms";

/// The longest deadline that is meant seriously, in milliseconds: an hour.
pub const LONGEST_MS: u64 = 3_600_000;

/// The header of gRPC.
const GRPC_HEADER: &str = "grpc-timeout";

/// A deadline that cannot be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the header {name} must say {form}; leave it out to wait as long as it takes")]
pub struct DeadlineError {
    /// The header.
    name: &'static str,
    /// What it takes, in words.
    form: &'static str,
}

/// What a request over HTTP says.
///
/// # Errors
/// When the header is no whole number of milliseconds from 1 to [`LONGEST_MS`].
pub fn of_http(headers: &HeaderMap) -> Result<Option<Duration>, DeadlineError> {
    let Some(value) = headers.get(HEADER) else {
        return Ok(None);
    };
    let number = value.to_str().ok().and_then(digits);
    match number {
        Some(millis) if (1..=LONGEST_MS).contains(&millis) => Ok(Some(Duration::from_millis(millis))),
        _ => Err(DeadlineError { name: HEADER, form: "1 to 3600000 milliseconds" }),
    }
}

/// What a call of gRPC says: up to eight digits and a unit.
///
/// # Errors
/// When the header has another form.
pub fn of_grpc(headers: &HeaderMap) -> Result<Option<Duration>, DeadlineError> {
    let Some(value) = headers.get(GRPC_HEADER) else {
        return Ok(None);
    };
    let wrong = DeadlineError { name: GRPC_HEADER, form: "up to eight digits and one of H, M, S, m, u, n" };
    let text = value.to_str().unwrap_or_default();
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or(wrong)?;
    let count = digits(number).filter(|_| number.len() <= 8).ok_or(wrong)?;
    match unit {
        "H" => Ok(Some(Duration::from_secs(count * 3600))),
        "M" => Ok(Some(Duration::from_secs(count * 60))),
        "S" => Ok(Some(Duration::from_secs(count))),
        "m" => Ok(Some(Duration::from_millis(count))),
        "u" => Ok(Some(Duration::from_micros(count))),
        "n" => Ok(Some(Duration::from_nanos(count))),
        _ => Err(wrong),
    }
}

/// Digits alone: no sign, no white space.
fn digits(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        [(name.parse().unwrap(), value.parse().unwrap())].into_iter().collect()
    }

    #[test]
    fn milliseconds_are_whole_positive_and_bounded() {
        assert_eq!(of_http(&HeaderMap::new()), Ok(None));
        assert_eq!(of_http(&headers(HEADER, "250")), Ok(Some(Duration::from_millis(250))));
        for wrong in ["", "0", "-1", "+1", "1.5", "1s", "3600001", "99999999999999999999"] {
            assert!(of_http(&headers(HEADER, wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_units_of_grpc_are_understood() {
        for (text, wanted) in [
            ("1H", Duration::from_hours(1)),
            ("2M", Duration::from_mins(2)),
            ("3S", Duration::from_secs(3)),
            ("4m", Duration::from_millis(4)),
            ("5u", Duration::from_micros(5)),
            ("99999999n", Duration::from_nanos(99_999_999)),
        ] {
            assert_eq!(of_grpc(&headers(GRPC_HEADER, text)), Ok(Some(wanted)), "{text}");
        }
        for wrong in ["", "S", "1", "1s", "123456789S", "-1S"] {
            assert!(of_grpc(&headers(GRPC_HEADER, wrong)).is_err(), "{wrong}");
        }
    }
}
