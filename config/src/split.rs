//! Names of versions and routes, and shares of traffic that add up by construction.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{text}` is no name; use 1 to 63 of a-z, A-Z, 0-9, `-`, `_` and `.`, starting with a letter or digit")]
pub struct NameError {
    /// What was written.
    pub text: String,
}

/// Checks one name: 1 to 63 characters, safe in a metric label, a URL path and a Kubernetes label value.
fn checked_name(text: &str) -> Result<Arc<str>, NameError> {
    let bytes = text.as_bytes();
    let starts_well = bytes.first().is_some_and(u8::is_ascii_alphanumeric);
    let all_plain = bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if starts_well && all_plain && bytes.len() <= 63 {
        Ok(Arc::from(text))
    } else {
        Err(NameError { text: text.to_owned() })
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as it was written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                checked_name(text).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }
    };
}

name_type! {
    /// The name of one version of a model, such as `v2`; cheap to clone.
    VersionId
}
name_type! {
    /// The name of a route, such as `delivery-time`; cheap to clone.
    RouteName
}

name_type! {
    /// The name of something else that an operator names, such as a webhook; cheap to clone.
    Name
}

/// A share of traffic in parts per million, from nothing to all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Share(u32);

/// Why a number or text is no share of traffic.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{text}` is no share of traffic; write 0% to 100%, in steps of 0.0001%")]
pub struct ShareError {
    /// What was written.
    pub text: String,
}

impl Share {
    /// No traffic.
    pub const ZERO: Self = Self(0);
    /// All traffic.
    pub const WHOLE: Self = Self(Self::PARTS);
    /// How many parts make the whole.
    pub const PARTS: u32 = 1_000_000;

    /// A share of `ppm` parts per million.
    ///
    /// # Errors
    /// If `ppm` is more than [`Share::PARTS`].
    pub fn from_ppm(ppm: u32) -> Result<Self, ShareError> {
        if ppm <= Self::PARTS { Ok(Self(ppm)) } else { Err(ShareError { text: format!("{ppm} ppm") }) }
    }

    /// Parts per million, 0 to 1,000,000.
    pub fn ppm(self) -> u32 {
        self.0
    }

    /// The share as a ratio, 0 to 1.
    pub fn ratio(self) -> f64 {
        f64::from(self.0) / f64::from(Self::PARTS)
    }

    /// The share as a percentage, 0 to 100.
    pub fn percent(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }

    /// What is left of the whole.
    #[must_use]
    pub fn rest(self) -> Self {
        Self(Self::PARTS - self.0)
    }
}

impl fmt::Display for Share {
    /// As the config file writes it: `5%`, `0.0001%`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&percent_of_ppm(self.0.into()))
    }
}

/// Parts per million as a percentage: 50,000 is `5%`. Sums of shares can be more than the whole.
pub(crate) fn percent_of_ppm(ppm: u64) -> String {
    let text = format!("{}.{:04}", ppm / 10_000, ppm % 10_000);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

impl FromStr for Share {
    type Err = ShareError;

    /// Reads `5%`, `0.0001%`, `100 %`; a bare number is refused, since 5 could mean 5 % or 500 %.
    fn from_str(text: &str) -> Result<Self, ShareError> {
        parse_percent_ppm(text)
            .and_then(|ppm| Self::from_ppm(ppm).ok())
            .ok_or_else(|| ShareError { text: text.to_owned() })
    }
}

/// `12.5%` to 125,000 without going through floating point.
fn parse_percent_ppm(text: &str) -> Option<u32> {
    let number = text.trim().strip_suffix('%')?.trim_end();
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.trim_end_matches('0').len() > 4 {
        return None;
    }
    let fraction: u32 = format!("{:0<4}", fraction.trim_end_matches('0')).parse().ok()?;
    whole.parse::<u32>().ok()?.checked_mul(10_000)?.checked_add(fraction)
}

impl TryFrom<u32> for Share {
    type Error = ShareError;

    fn try_from(ppm: u32) -> Result<Self, ShareError> {
        Self::from_ppm(ppm)
    }
}

impl From<Share> for u32 {
    fn from(share: Share) -> Self {
        share.0
    }
}

/// How a route's traffic is divided; the parts add up by construction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// All traffic to one version.
    Whole(VersionId),
    /// `share` to the canary, the rest to stable.
    Canary {
        /// Who serves the rest.
        stable: VersionId,
        /// Who is being tried; never the same as `stable`.
        canary: VersionId,
        /// The canary's share, 0 to 100 %.
        share: Share,
    },
}

impl Split {
    /// `share` of the traffic to `canary`, the rest to `stable`; whole if both names are the same.
    pub fn canary(stable: VersionId, canary: VersionId, share: Share) -> Self {
        if stable == canary { Self::Whole(stable) } else { Self::Canary { stable, canary, share } }
    }

    /// The share of one version; nothing for a version that the split does not name.
    pub fn share_of(&self, version: &VersionId) -> Share {
        match self {
            Self::Whole(all) if all == version => Share::WHOLE,
            Self::Canary { canary, share, .. } if canary == version => *share,
            Self::Canary { stable, share, .. } if stable == version => share.rest(),
            Self::Whole(_) | Self::Canary { .. } => Share::ZERO,
        }
    }
}
