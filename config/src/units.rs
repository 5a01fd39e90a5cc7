//! Durations, sizes and percentages as the file writes them: `1h30m`, `64KiB`, `0.08%`. Each is parsed without
//! rounding and printed back so that parsing gives the same value again.

use std::time::Duration;

use thiserror::Error;

/// Why a text is no duration, size, percentage or number.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UnitError {
    /// No duration.
    #[error("{text} is no duration; write a whole number with a unit such as 250ms, 30s, 5m or 1h30m")]
    Duration {
        /// What was written, between backticks.
        text: String,
    },
    /// A duration that no setting can need.
    #[error("{text} is too long; the longest duration is 365d")]
    TooLong {
        /// What was written, between backticks.
        text: String,
    },
    /// No size.
    #[error("{text} is no size; write a whole number with a unit such as 512B, 64KiB, 10MiB or 1GB")]
    Size {
        /// What was written, between backticks.
        text: String,
    },
    /// No percentage.
    #[error("{text} is no percentage; write 0% to 100% such as 5% or 0.08%")]
    Percent {
        /// What was written, between backticks.
        text: String,
    },
    /// No number.
    #[error("{text} is no number; write one such as 1.1")]
    Number {
        /// What was written, between backticks.
        text: String,
    },
}

/// Units of time, longest first, with their length in nanoseconds.
const TIME_UNITS: [(&str, u64); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// The longest duration that parses: 365 days.
const LONGEST: Duration = Duration::from_hours(365 * 24);

/// Units of size, largest first, with their length in bytes.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

/// Reads `250ms`, `5m`, `1h30m`: whole numbers with units d, h, m, s, ms, us, ns, the longer unit first.
///
/// # Errors
/// If the text is none, or is longer than 365 days.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let refusal = || UnitError::Duration { text: crate::error::quoted(text) };
    let mut rest = text.trim();
    let mut nanos: u64 = 0;
    let mut longest_allowed = u64::MAX;
    while !rest.is_empty() || longest_allowed == u64::MAX {
        let (count, unit, after) = first_part(rest).ok_or_else(refusal)?;
        if unit >= longest_allowed {
            return Err(refusal());
        }
        let part = count.checked_mul(unit).and_then(|part| nanos.checked_add(part));
        nanos = part.ok_or_else(|| UnitError::TooLong { text: crate::error::quoted(text) })?;
        longest_allowed = unit;
        rest = after;
    }
    let duration = Duration::from_nanos(nanos);
    if duration <= LONGEST { Ok(duration) } else { Err(UnitError::TooLong { text: crate::error::quoted(text) }) }
}

/// `1h30m` to 1, the length of an hour, and `30m`.
fn first_part(text: &str) -> Option<(u64, u64, &str)> {
    let (count, rest) = leading_number(text)?;
    let unit_end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    let (name, after) = rest.split_at_checked(unit_end)?;
    let (_, length) = TIME_UNITS.iter().find(|(unit, _)| *unit == name)?;
    Some((count, *length, after))
}

/// `64KiB` to 64 and `KiB`. A number that no `u64` holds is the largest, and overflows with any unit above 1.
fn leading_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    if digits.is_empty() { None } else { Some((digits.parse().unwrap_or(u64::MAX), rest)) }
}

/// Writes a duration as [`parse_duration`] reads it: 90 s is `1m30s`.
pub fn print_duration(duration: Duration) -> String {
    let mut left = duration.as_nanos();
    let mut text = String::new();
    for (unit, length) in TIME_UNITS {
        let count = left / u128::from(length);
        left %= u128::from(length);
        if count > 0 {
            text = format!("{text}{count}{unit}");
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// Reads `512B`, `64KiB`, `10MB` as bytes; `KB` is 1,000 bytes and `KiB` is 1,024.
///
/// # Errors
/// If the text is none, or is more than a `u64` holds.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    size_bytes(text.trim()).ok_or_else(|| UnitError::Size { text: crate::error::quoted(text) })
}

fn size_bytes(text: &str) -> Option<u64> {
    let (count, rest) = leading_number(text)?;
    let (_, length) = SIZE_UNITS.iter().find(|(unit, _)| *unit == rest.trim_start())?;
    count.checked_mul(*length)
}

/// Writes bytes as [`parse_size`] reads them, in the largest unit that divides them: 65,536 is `64KiB`.
pub fn print_size(bytes: u64) -> String {
    let whole = SIZE_UNITS.iter().find(|(_, length)| bytes >= *length && bytes.is_multiple_of(*length));
    whole.map_or_else(|| format!("{bytes}B"), |(unit, length)| format!("{}{unit}", bytes / length))
}

/// Reads `0.08%` as the ratio 0.0008, 0 to 1.
///
/// # Errors
/// If the text is no percentage from 0 % to 100 %.
pub fn parse_percent(text: &str) -> Result<f64, UnitError> {
    let refusal = || UnitError::Percent { text: crate::error::quoted(text) };
    let number = text.trim().strip_suffix('%').ok_or_else(refusal)?.trim_end();
    // Shifting the decimal exponent in the text rounds once; dividing by 100 would round twice.
    let ratio: f64 = plain_decimal(number)
        .then(|| format!("{number}e-2"))
        .and_then(|shifted| shifted.parse().ok())
        .ok_or_else(refusal)?;
    if (0.0..=1.0).contains(&ratio) { Ok(ratio) } else { Err(refusal()) }
}

/// Writes a ratio as [`parse_percent`] reads it: 0.0008 is `0.08%`.
pub fn print_percent(ratio: f64) -> String {
    if ratio <= 0.0 {
        return "0%".to_owned();
    }
    let scientific = format!("{ratio:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    format!("{}%", shift(mantissa, exponent + 2))
}

/// `mantissa`, with one digit before its point, times ten to the power of `exponent`, without an exponent.
fn shift(mantissa: &str, exponent: i32) -> String {
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let zeros = |count: i32| "0".repeat(usize::try_from(count).unwrap_or(0));
    let Ok(point) = usize::try_from(exponent + 1) else {
        return format!("0.{}{digits}", zeros(-exponent - 1));
    };
    match digits.split_at_checked(point) {
        Some(("", fraction)) => format!("0.{fraction}"),
        Some((whole, "")) => whole.to_owned(),
        Some((whole, fraction)) => format!("{whole}.{fraction}"),
        None => format!("{digits}{}", zeros(i32::try_from(point - digits.len()).unwrap_or(0))),
    }
}

/// Reads a decimal number that is not negative, such as `1.1` or `1e-6`.
///
/// # Errors
/// If the text is none.
pub(crate) fn parse_number(text: &str) -> Result<f64, UnitError> {
    let trimmed = text.trim();
    let (mantissa, exponent) = trimmed.split_once(['e', 'E']).unwrap_or((trimmed, "0"));
    let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    let exponent_is_good = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = if plain_decimal(mantissa) && exponent_is_good { trimmed.parse().ok() } else { None };
    number
        .filter(|number: &f64| number.is_finite())
        .ok_or_else(|| UnitError::Number { text: crate::error::quoted(text) })
}

/// Digits with at most one point, and a digit on either side of it.
fn plain_decimal(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    match text.split_once('.') {
        Some((whole, fraction)) => digits(whole) && digits(fraction),
        None => digits(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_print() {
        let check = |text: &str, millis: u64, printed: &str| {
            let duration = parse_duration(text).unwrap();
            assert_eq!(duration, Duration::from_millis(millis), "{text}");
            assert_eq!(print_duration(duration), printed, "{text}");
        };
        check("250ms", 250, "250ms");
        check("5m", 300_000, "5m");
        check("1h30m", 5_400_000, "1h30m");
        check("90s", 90_000, "1m30s");
        check("0s", 0, "0s");
        check(" 7d ", 604_800_000, "7d");
        check("1s500ms", 1_500, "1s500ms");
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in
            ["", "5", "s", "1.5s", "-1s", "1s1h", "1s1s", "5 m", "5min", "1h30", "366d", "99999999999999999999s"]
        {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_read_and_print() {
        let check = |text: &str, bytes: u64, printed: &str| {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
            assert_eq!(print_size(bytes), printed, "{text}");
        };
        check("64KiB", 65_536, "64KiB");
        check("10MB", 10_000_000, "10MB");
        check("10 MiB", 10 << 20, "10MiB");
        check("1025B", 1025, "1025B");
        check("0B", 0, "0B");
        for text in ["", "10", "MiB", "1.5MiB", "10mb", "-1B", "99999999999999999999B2", "18446744073709551615KiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn percentages_are_the_nearest_ratio() {
        for (text, ratio) in [
            ("0.08%", 0.0008),
            ("5%", 0.05),
            ("100 %", 1.0),
            ("0%", 0.0),
            ("99%", 0.99),
            ("12.345%", 0.12345),
            ("0.0001%", 1e-6),
        ] {
            assert_eq!(parse_percent(text).unwrap().to_bits(), f64::to_bits(ratio), "{text}");
            assert_eq!(print_percent(ratio), text.replace(' ', ""), "{text}");
        }
        for text in ["", "5", "%", "101%", "-1%", "1e1%", ".5%", "5.%", "NaN%", "inf%"] {
            assert!(parse_percent(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_are_plain_or_have_an_exponent() {
        for (text, number) in [("1.1", 1.1), ("0", 0.0), ("1e-6", 0.000_001), ("2.5E+3", 2500.0), (" 7 ", 7.0)] {
            assert_eq!(parse_number(text).map(f64::to_bits), Ok(f64::to_bits(number)), "{text}");
        }
        for text in ["", "e1", "1e", "1e+", "-1", "1.", ".5", "NaN", "inf", "1e999", "0x1", "1 e3"] {
            assert!(parse_number(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn printing_loses_nothing(nanos in 0..=31_536_000_000_000_000_u64, bytes: u64, ratio in 0.0..=1.0_f64) {
            assert_eq!(parse_duration(&print_duration(Duration::from_nanos(nanos))), Ok(Duration::from_nanos(nanos)));
            assert_eq!(parse_size(&print_size(bytes)), Ok(bytes));
            assert_eq!(parse_percent(&print_percent(ratio)).map(f64::to_bits), Ok(ratio.to_bits()));
        }
    }
}
