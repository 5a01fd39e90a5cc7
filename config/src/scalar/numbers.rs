//! The single values that are numbers, or a number and a word.

use schemars::{Schema, json_schema};

use crate::Concurrency;
use crate::error::{Words, quoted};
use crate::units;

use super::{PERCENT_PATTERN, Scalar};

/// A whole number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Count(pub(crate) u32);

impl Scalar for Count {
    const NAME: &'static str = "whole number";

    fn read(text: &str) -> Result<Self, Words> {
        whole_number(text).map(Self).ok_or_else(|| {
            Words::new(format!("{} is no whole number", quoted(text)), "write one from 0 to 4294967295, such as 3")
        })
    }

    fn schema() -> Schema {
        json_schema!({ "type": "integer", "minimum": 0, "maximum": u32::MAX, "description": "A whole number, such as 3." })
    }
}

/// Digits alone: no sign, no point, no unit.
fn whole_number(text: &str) -> Option<u32> {
    let text = text.trim();
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// A number that may be below zero.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SignedNumber(pub(crate) f64);

impl Scalar for SignedNumber {
    const NAME: &'static str = "signed number";

    fn read(text: &str) -> Result<Self, Words> {
        match text.trim().strip_prefix('-') {
            Some(rest) => units::parse_number(rest).map(|number| Self(-number)),
            None => units::parse_number(text).map(Self),
        }
        .map_err(|_refused| Words::new(format!("{} is no number", quoted(text)), "write one such as 31.7 or -0.5"))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "number", "description": "A plain number, such as 31.7 or -0.5." })
    }
}

/// `off`, or a ratio above which a promotion waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gate(pub(crate) Option<f64>);

impl Scalar for Gate {
    const NAME: &'static str = "gate";

    fn read(text: &str) -> Result<Self, Words> {
        if text.trim() == "off" {
            return Ok(Self(None));
        }
        units::parse_percent(text).map(|ratio| Self(Some(ratio))).map_err(|_refused| {
            Words::new(format!("{} is no gate", quoted(text)), "write a percentage such as 1%, or off")
        })
    }

    fn schema() -> Schema {
        json_schema!({
            "anyOf": [{ "type": "string", "pattern": PERCENT_PATTERN }, { "const": "off" }],
            "description": "A percentage, or `off`.",
        })
    }
}

impl Scalar for Concurrency {
    const NAME: &'static str = "concurrency";

    fn read(text: &str) -> Result<Self, Words> {
        match (text.trim(), whole_number(text)) {
            ("adaptive", _) => Ok(Self::Adaptive),
            (_, Some(most @ 1..)) => Ok(Self::Fixed(most)),
            (_, Some(0) | None) => Err(Words::new(
                format!("{} is no number of requests", quoted(text)),
                "write a whole number of 1 or more, such as 512, or adaptive",
            )),
        }
    }

    fn schema() -> Schema {
        json_schema!({
            "anyOf": [{ "type": "integer", "minimum": 1 }, { "const": "adaptive" }],
            "description": "A whole number of 1 or more, or `adaptive`.",
        })
    }
}
