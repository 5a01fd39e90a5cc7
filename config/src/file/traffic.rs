//! Who gets which version, what is repeated and what is copied, as written.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::plan::ErrorKind;
use crate::read::Written;
use crate::scalar::{CookieName, Count, Factor, Gate, HeaderName, Percent, Pointer, Size, Text, Value};
use crate::{Replay, Share, VersionId};

use super::List;

/// What makes a user: exactly one of `header`, `cookie` and `client_ip`. A user who is in at 5% is in at 25%, and each
/// rollout draws its users anew.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "`sticky`")]
#[schemars(rename = "Sticky")]
pub(crate) struct StickyFile {
    /// The value of this header. A request without it is assigned by chance.
    pub(crate) header: Value<HeaderName>,
    /// A cookie of this name, which the edge sets and signs.
    pub(crate) cookie: Value<CookieName>,
    /// How long browsers keep the cookie; 30d, if left out. With `cookie` only.
    pub(crate) max_age: Value<Duration>,
    /// File with the secret that signs the cookie; several edges of one site share it. With `cookie` only. If left out, the
    /// edge makes one and keeps it with its state.
    pub(crate) secret_file: Value<PathBuf>,
    /// `true`: the client's address, IPv6 by its /64.
    pub(crate) client_ip: Value<bool>,
}

/// Has requests go to a version: by a value that names it (`header` or `cookie` alone), or by one value that asks for one
/// version (`value` and `version` as well).
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "an override")]
#[schemars(rename = "Override")]
pub(crate) struct OverrideFile {
    /// The header that is looked at. Either this or `cookie`.
    pub(crate) header: Value<HeaderName>,
    /// The cookie that is looked at. Either this or `header`.
    pub(crate) cookie: Value<CookieName>,
    /// The value that asks for `version`, to the letter; the value names the version, if left out.
    pub(crate) value: Value<String>,
    /// The version it asks for, one of `versions`. With `value` only.
    pub(crate) version: Value<VersionId>,
}

/// When a failed attempt is repeated: on another endpoint, or on stable when the canary failed. The failure counts against
/// the version that failed; the client sees the good answer.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "`retries`")]
#[schemars(rename = "Retries")]
pub(crate) struct RetriesFile {
    /// Which requests may be repeated once a version can have seen them. `never`: none. `idempotent`: those whose method
    /// says so (RFC 9110: GET, HEAD, PUT, DELETE, OPTIONS and TRACE). `predictions`: POST as well; with it you promise that
    /// this route changes nothing, so that serving one request twice does no harm.
    #[schemars(extend("default" = "idempotent"))]
    pub(crate) replay: Written<Replay>,
    /// Attempts on one request, the first included, 1 to 10; 1 turns retries off.
    #[schemars(extend("default" = 3))]
    pub(crate) attempts: Value<Count>,
    /// How many retries there may be.
    pub(crate) budget: Written<BudgetFile>,
    /// The largest body that is kept to be sent again, at most 64KiB; a request with a larger one is not repeated.
    #[schemars(extend("default" = "64KiB"))]
    pub(crate) body: Value<Size>,
    /// How long one attempt may take to its answer's head; as long as the whole request, if left out.
    pub(crate) per_try_timeout: Value<Duration>,
    /// Which failures are repeated; at least one.
    #[schemars(extend("default" = ["5xx", "timeout", "connect", "reset"]))]
    pub(crate) on: List<ErrorKind>,
}

/// How many retries there may be, so that they do not finish off what is overloaded already.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "`budget`")]
#[schemars(rename = "RetryBudget")]
pub(crate) struct BudgetFile {
    /// Retries per request in the long run.
    #[schemars(extend("default" = "10%"))]
    pub(crate) share: Value<Share>,
    /// Retries per second that are allowed however few requests there are, at most 1000.
    #[schemars(extend("default" = 3))]
    pub(crate) floor: Value<Count>,
}

/// Copies of stable's requests for another version. Nobody waits for them: they never slow a request or make it fail, and
/// are dropped first when there is too much to do.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "`mirror`")]
#[schemars(rename = "Mirror", extend("required" = ["version", "share"]))]
pub(crate) struct MirrorFile {
    /// Who gets the copies: one of `versions`, not `stable`.
    pub(crate) version: Value<VersionId>,
    /// The share of stable's requests that are copied, more than 0%.
    pub(crate) share: Value<Share>,
    /// Copies under way at a time, 1 to 10000; what comes above is not copied.
    #[schemars(extend("default" = 64))]
    pub(crate) concurrent: Value<Count>,
    /// The largest body that is copied, and the largest answer that is compared, at most 16MiB.
    #[schemars(extend("default" = "256KiB"))]
    pub(crate) body: Value<Size>,
    /// How long a copy may take.
    #[schemars(extend("default" = "5s"))]
    pub(crate) timeout: Value<Duration>,
    /// How answers are compared.
    pub(crate) compare: Written<CompareFile>,
}

/// When two answers agree: the same class of status and, where both are JSON, numbers that are close. Numbers differ if they
/// are further apart than `relative` and than `absolute`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "`compare`")]
#[schemars(rename = "Compare")]
pub(crate) struct CompareFile {
    /// Where the numbers stand in an answer: each a number, or a list of numbers. At most 32.
    #[schemars(extend("default" = ["/prediction", "/predictions"]))]
    pub(crate) fields: List<Text<Pointer>>,
    /// This part of stable's number is no difference.
    #[schemars(extend("default" = "1%"))]
    pub(crate) relative: Value<Percent>,
    /// Neither is this much.
    #[schemars(extend("default" = 0.000_001))]
    pub(crate) absolute: Value<Factor>,
    /// This part of the copies is sent to stable again, to learn how often stable disagrees with itself.
    #[schemars(extend("default" = "10%"))]
    pub(crate) noise: Value<Share>,
    /// Disagreement above stable's own that holds a promotion, more than 0%; `off`: it is only shown.
    #[schemars(extend("default" = "1%"))]
    pub(crate) gate: Value<Gate>,
}
