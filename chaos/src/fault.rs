//! What may go wrong with a request, and how often. The words here are values; [`FaultSwitch`] draws from them,
//! [`FaultProxy`] plays them between an edge and a model server.

use std::ops::RangeInclusive;
use std::str::FromStr;

use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use thiserror::Error;

mod control;
mod proxy;
mod switch;

pub use control::Control;
pub use proxy::{Addresses, FaultProxy};
pub use switch::{Counts, FaultSwitch};

/// Shares may add up to a hair more than 1, as 0.7 + 0.2 + 0.1 do in binary.
const ROUNDING: f64 = 1e-9;

/// The 99th percentile of the standard normal distribution.
const NORMAL_P99: f64 = 2.326_347_874_040_841;

/// Why faults make no sense.
#[derive(Debug, Error)]
pub enum FaultsError {
    /// A share that is none.
    #[error("{share} is no share of requests; write a number from 0 to 1")]
    Share {
        /// What was asked.
        share: f64,
    },
    /// More requests should end badly than there are.
    #[error(
        "the shares of fail, reset, torn, hang, garbage, wrong and trickle add up to {sum}; keep them within 1, each request ends one way"
    )]
    Sum {
        /// What they add up to.
        sum: f64,
    },
    /// A status that ends no exchange.
    #[error("{status} is no status to fail with; write one from 200 to 599")]
    Status {
        /// What was asked.
        status: u16,
    },
    /// No number of requests that fail in a row.
    #[error("0 requests in a row are none; write `together` as 1 or more")]
    Together,
    /// A latency that has no distribution.
    #[error("no latency has a median of {median} ms and a p99 of {p99} ms; write a median above 0 and a p99 above it")]
    Latency {
        /// Median in milliseconds.
        median: f64,
        /// 99th percentile in milliseconds.
        p99: f64,
    },
    /// A range of delays that runs backwards.
    #[error("a delay from {from} to {to} ms runs backwards; write the smaller number first")]
    Range {
        /// Start in milliseconds.
        from: u64,
        /// End in milliseconds.
        to: u64,
    },
    /// Text that is no JSON of faults.
    #[error(
        "the faults cannot be read; write for example {{\"fail\":{{\"share\":0.5,\"status\":500}},\"delay\":{{\"share\":1,\"ms\":50}}}}"
    )]
    Json(#[source] serde_json::Error),
}

/// What goes wrong, and for which share of requests. The ends of a request (fail, reset, torn, hang, garbage, wrong, trickle)
/// exclude each other, so their shares add up to 1 at most; a delay comes on top of any end.
///
/// As JSON: `{"fail":{"share":0.5,"status":500},"delay":{"share":1,"ms":[20,80]},"reset":{"share":0.1,
/// "when":"mid_body"},"hang":{"share":0.1},"garbage":{"share":0.1},"wrong":{"share":0.1,"prediction":-1.0},
/// "torn":{"share":0.1},"trickle":{"share":0.1},"latency":{"median_ms":20,"p99_ms":200},"probes":true}`, each part optional.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Faults(Written);

/// The JSON form, not yet checked.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(skip_serializing_if = "Option::is_none")]
    fail: Option<Fail>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reset: Option<Reset>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hang: Option<Plain>,
    #[serde(skip_serializing_if = "Option::is_none")]
    garbage: Option<Plain>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wrong: Option<Wrong>,
    #[serde(skip_serializing_if = "Option::is_none")]
    torn: Option<Plain>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trickle: Option<Plain>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency: Option<Latency>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay: Option<Delay>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    probes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fail {
    share: f64,
    #[serde(default = "internal_server_error")]
    status: u16,
    /// So many requests in a row fail; the share stays what it is.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    together: u32,
}

fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
fn is_one(together: &u32) -> bool {
    *together == 1
}

fn internal_server_error() -> u16 {
    StatusCode::INTERNAL_SERVER_ERROR.as_u16()
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reset {
    share: f64,
    #[serde(default)]
    when: When,
}

/// When a connection is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// After the request, before any byte of an answer.
    #[default]
    BeforeAnswer,
    /// After status, headers and half of the body.
    MidBody,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plain {
    share: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wrong {
    share: f64,
    prediction: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Delay {
    share: f64,
    ms: Millis,
}

/// A log-normal distribution.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Latency {
    median_ms: f64,
    p99_ms: f64,
}

/// A fixed time, or one drawn evenly from a range.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Millis {
    Fixed(u64),
    Between(u64, u64),
}

/// How one request ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum End {
    /// As it should.
    Good,
    /// Together with so many that come next.
    Fail(StatusCode, u32),
    Reset(When),
    Hang,
    Garbage,
    Wrong(f64),
    Trickle,
}

impl Faults {
    /// Nothing goes wrong.
    pub fn none() -> Self {
        Self::default()
    }

    /// A share of requests is answered with `status` instead of being worked on.
    ///
    /// # Errors
    /// When the share, the sum of shares or the status (200 to 599) is out of range.
    pub fn failing(mut self, share: f64, status: u16) -> Result<Self, FaultsError> {
        self.0.fail = Some(Fail { share, status, together: 1 });
        self.0.try_into()
    }

    /// Those that fail, fail so many in a row.
    ///
    /// # Errors
    /// When it is 0.
    pub fn together(mut self, together: u32) -> Result<Self, FaultsError> {
        if let Some(fail) = &mut self.0.fail {
            fail.together = together;
        }
        self.0.try_into()
    }

    /// A share of requests loses its connection in the middle of the answer's body, beside [`Faults::resetting`].
    ///
    /// # Errors
    /// When the share or the sum of shares is out of range.
    pub fn tearing(mut self, share: f64) -> Result<Self, FaultsError> {
        self.0.torn = Some(Plain { share });
        self.0.try_into()
    }

    /// A share of requests gets its answer's body byte by byte, 25 ms apart.
    ///
    /// # Errors
    /// When the share or the sum of shares is out of range.
    pub fn trickling(mut self, share: f64) -> Result<Self, FaultsError> {
        self.0.trickle = Some(Plain { share });
        self.0.try_into()
    }

    /// Every request waits for as long as a log-normal distribution says, in milliseconds.
    ///
    /// # Errors
    /// When there is no such distribution.
    pub fn taking(mut self, median_ms: f64, p99_ms: f64) -> Result<Self, FaultsError> {
        self.0.latency = Some(Latency { median_ms, p99_ms });
        self.0.try_into()
    }

    /// A share of requests loses its connection, by RST.
    ///
    /// # Errors
    /// When the share or the sum of shares is out of range.
    pub fn resetting(mut self, share: f64, when: When) -> Result<Self, FaultsError> {
        self.0.reset = Some(Reset { share, when });
        self.0.try_into()
    }

    /// A share of requests is read and never answered.
    ///
    /// # Errors
    /// When the share or the sum of shares is out of range.
    pub fn hanging(mut self, share: f64) -> Result<Self, FaultsError> {
        self.0.hang = Some(Plain { share });
        self.0.try_into()
    }

    /// A share of requests is answered with bytes that are no HTTP.
    ///
    /// # Errors
    /// When the share or the sum of shares is out of range.
    pub fn garbling(mut self, share: f64) -> Result<Self, FaultsError> {
        self.0.garbage = Some(Plain { share });
        self.0.try_into()
    }

    /// A share of requests is answered 200 with this `prediction` in place of the model's.
    ///
    /// # Errors
    /// When the share or the sum of shares is out of range.
    pub fn predicting_wrong(mut self, share: f64, prediction: f64) -> Result<Self, FaultsError> {
        self.0.wrong = Some(Wrong { share, prediction });
        self.0.try_into()
    }

    /// A share of requests waits before anything else happens to it: so many milliseconds, drawn evenly.
    ///
    /// # Errors
    /// When the share is out of range or the range of times runs backwards.
    pub fn delaying(mut self, share: f64, ms: RangeInclusive<u64>) -> Result<Self, FaultsError> {
        let (from, to) = ms.into_inner();
        let ms = if from == to { Millis::Fixed(from) } else { Millis::Between(from, to) };
        self.0.delay = Some(Delay { share, ms });
        self.0.try_into()
    }

    /// Probes (`/health` and `/ready`) meet faults too; by default they are spared, so that what fails is the
    /// model's answers and not the process.
    #[must_use]
    pub fn with_probes(mut self) -> Self {
        self.0.probes = true;
        self
    }

    /// Whether a request to this path may meet faults at all.
    pub(crate) fn concern(&self, path: &str) -> bool {
        self.0.probes || !matches!(path, "/health" | "/ready")
    }

    /// How a request ends whose draw, even over 0 to 1, is `draw`: shares lie end to end, good answers last.
    pub(crate) fn end(&self, draw: f64) -> End {
        let mut upper = 0.0;
        for (share, end) in self.0.ends().into_iter().flatten() {
            upper += share;
            if draw < upper {
                return end;
            }
        }
        End::Good
    }

    /// The range of milliseconds that a request waits whose draw is `draw`; `None` for no wait.
    pub(crate) fn delay(&self, draw: f64) -> Option<RangeInclusive<u64>> {
        let delay = self.0.delay.filter(|delay| draw < delay.share)?;
        Some(delay.ms.range())
    }

    /// The share of requests that fail.
    pub(crate) fn fail_share(&self) -> f64 {
        self.0.fail.map_or(0.0, |fail| fail.share)
    }

    /// How long a request takes, in milliseconds, whose draw from the standard normal distribution is `normal`; `None` for no
    /// time at all.
    pub(crate) fn latency_ms(&self, normal: f64) -> Option<f64> {
        let Latency { median_ms, p99_ms } = self.0.latency?;
        Some(median_ms * ((p99_ms / median_ms).ln() / NORMAL_P99 * normal).exp())
    }
}

/// How a fault strikes, as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Strike {
    Failed,
    Delayed,
    Reset,
    Hung,
    Garbage,
    Wrong,
    Trickled,
}

impl Strike {
    pub(crate) const ALL: [Self; 7] =
        [Self::Failed, Self::Delayed, Self::Reset, Self::Hung, Self::Garbage, Self::Wrong, Self::Trickled];
}

impl Faults {
    /// The share of requests that is struck like this.
    pub(crate) fn share_of(&self, strike: Strike) -> f64 {
        let Written { fail, reset, hang, garbage, wrong, torn, trickle, latency, delay, probes: _ } = self.0;
        let of = |plain: Option<Plain>| plain.map_or(0.0, |plain| plain.share);
        match strike {
            Strike::Failed => fail.map_or(0.0, |fail| fail.share),
            Strike::Delayed if latency.is_some() => 1.0,
            Strike::Delayed => delay.map_or(0.0, |delay| delay.share),
            Strike::Reset => reset.map_or(0.0, |reset| reset.share) + of(torn),
            Strike::Hung => of(hang),
            Strike::Garbage => of(garbage),
            Strike::Wrong => wrong.map_or(0.0, |wrong| wrong.share),
            Strike::Trickled => of(trickle),
        }
    }
}

impl Millis {
    fn range(self) -> RangeInclusive<u64> {
        match self {
            Self::Fixed(ms) => ms..=ms,
            Self::Between(from, to) => from..=to,
        }
    }
}

impl Written {
    fn ends(&self) -> [Option<(f64, End)>; 7] {
        [
            self.fail.map(|fail| (fail.share, End::Fail(fail.code(), fail.together))),
            self.reset.map(|reset| (reset.share, End::Reset(reset.when))),
            self.hang.map(|hang| (hang.share, End::Hang)),
            self.garbage.map(|garbage| (garbage.share, End::Garbage)),
            self.wrong.map(|wrong| (wrong.share, End::Wrong(wrong.prediction))),
            self.torn.map(|torn| (torn.share, End::Reset(When::MidBody))),
            self.trickle.map(|trickle| (trickle.share, End::Trickle)),
        ]
    }

    fn check(&self) -> Result<(), FaultsError> {
        let delay = self.delay.map(|delay| delay.share);
        let shares = self.ends().map(|end| end.map(|(share, _)| share));
        for share in shares.into_iter().chain([delay]).flatten() {
            if !(0.0..=1.0).contains(&share) {
                return Err(FaultsError::Share { share });
            }
        }
        let sum: f64 = shares.into_iter().flatten().sum();
        if sum > 1.0 + ROUNDING {
            return Err(FaultsError::Sum { sum });
        }
        self.check_status()?;
        self.check_latency()?;
        self.check_delay()
    }

    fn check_latency(&self) -> Result<(), FaultsError> {
        match self.latency {
            Some(Latency { median_ms: median, p99_ms: p99 }) if !(median > 0.0 && p99 >= median && p99.is_finite()) => {
                Err(FaultsError::Latency { median, p99 })
            }
            Some(_) | None => Ok(()),
        }
    }

    fn check_status(&self) -> Result<(), FaultsError> {
        match self.fail {
            Some(Fail { status, .. }) if !(200..=599).contains(&status) => Err(FaultsError::Status { status }),
            Some(Fail { together: 0, .. }) => Err(FaultsError::Together),
            Some(_) | None => Ok(()),
        }
    }

    fn check_delay(&self) -> Result<(), FaultsError> {
        match self.delay.map(|delay| delay.ms) {
            Some(Millis::Between(from, to)) if from > to => Err(FaultsError::Range { from, to }),
            Some(_) | None => Ok(()),
        }
    }
}

impl Fail {
    /// The number was checked when the faults were made.
    fn code(self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl TryFrom<Written> for Faults {
    type Error = FaultsError;

    fn try_from(written: Written) -> Result<Self, FaultsError> {
        written.check()?;
        Ok(Self(written))
    }
}

impl From<Faults> for Written {
    fn from(faults: Faults) -> Self {
        faults.0
    }
}

impl FromStr for Faults {
    type Err = FaultsError;

    fn from_str(text: &str) -> Result<Self, FaultsError> {
        serde_json::from_str::<Written>(text).map_err(FaultsError::Json)?.try_into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn json_reads_and_prints_back() {
        let text = r#"{"fail":{"share":0.5,"status":503},"reset":{"share":0.1,"when":"mid_body"},"hang":{"share":0.1},"garbage":{"share":0.1},"wrong":{"share":0.1,"prediction":-1.0},"delay":{"share":1.0,"ms":[20,80]},"probes":true}"#;
        let faults: Faults = text.parse().unwrap();
        assert_eq!(serde_json::to_string(&faults).unwrap(), text);
        assert_eq!("{}".parse::<Faults>().unwrap(), Faults::none());
    }

    #[test]
    fn a_status_is_500_unless_said_otherwise() {
        let faults: Faults = r#"{"fail":{"share":1}}"#.parse().unwrap();
        assert_eq!(faults.end(0.0), End::Fail(StatusCode::INTERNAL_SERVER_ERROR, 1));
    }

    #[test]
    fn nonsense_is_refused_with_a_way_out() {
        for (text, words) in [
            (r#"{"fail":{"share":1.5}}"#, "from 0 to 1"),
            (r#"{"delay":{"share":-1,"ms":5}}"#, "from 0 to 1"),
            (r#"{"fail":{"share":0.6},"hang":{"share":0.6}}"#, "add up to 1.2"),
            (r#"{"fail":{"share":1,"status":99}}"#, "99 is no status"),
            (r#"{"delay":{"share":1,"ms":[9,3]}}"#, "from 9 to 3 ms"),
            (r#"{"fail":{"share":1,"together":0}}"#, "1 or more"),
            (r#"{"latency":{"median_ms":9,"p99_ms":3}}"#, "a median of 9 ms and a p99 of 3 ms"),
            (r#"{"explode":{"share":1}}"#, "cannot be read"),
            ("half of them", "cannot be read"),
        ] {
            let error = text.parse::<Faults>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn a_latency_has_its_median_in_the_middle_and_its_p99_where_a_normal_has_it() {
        let faults = Faults::none().taking(20.0, 300.0).unwrap();
        for (normal, ms) in [(0.0, 20.0), (NORMAL_P99, 300.0)] {
            assert!((faults.latency_ms(normal).unwrap() - ms).abs() < 1e-9);
        }
        assert_eq!(Faults::none().latency_ms(1.0), None);
    }

    #[test]
    fn probes_are_spared_unless_asked_for() {
        let faults = Faults::none().hanging(1.0).unwrap();
        assert!(!faults.concern("/ready") && !faults.concern("/health") && faults.concern("/v1/predict"));
        assert!(faults.with_probes().concern("/ready"));
    }

    proptest! {
        #[test]
        fn every_end_gets_its_share(shares in proptest::array::uniform6(0.0..0.16_f64)) {
            let [fail, reset, hang, garbage, wrong, trickle] = shares;
            let faults = Faults::none().failing(fail, 500).unwrap().resetting(reset, When::MidBody).unwrap();
            let faults = faults.hanging(hang).unwrap().garbling(garbage).unwrap().predicting_wrong(wrong, 1.0).unwrap();
            let faults = faults.trickling(trickle).unwrap();
            let mut hits = [0_u32; 6];
            for step in 0..10_000 {
                match faults.end(f64::from(step) / 10_000.0) {
                    End::Good => {}
                    End::Fail(..) => hits[0] += 1,
                    End::Reset(_) => hits[1] += 1,
                    End::Hang => hits[2] += 1,
                    End::Garbage => hits[3] += 1,
                    End::Wrong(_) => hits[4] += 1,
                    End::Trickle => hits[5] += 1,
                }
            }
            for (hits, share) in hits.into_iter().zip(shares) {
                prop_assert!((f64::from(hits) / 10_000.0 - share).abs() < 3e-4, "{hits} for {share}");
            }
        }
    }
}
