//! What others say of a canary, and when nothing goes forward, as written in the file.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::outside::Template;
use crate::read::Written;
use crate::scalar::{CollectorUrl, Count, CronText, EnvName, SignedNumber, TimeZone, Value, WebUrl};
use crate::split::Name;
use crate::{Before, Compared, Otherwise, RouteName};

use super::List;

/// A number that a Prometheus server counts, such as orders a minute. While there is no clear answer (no data, NaN, several
/// series, a timeout, a server that is away) it holds steps and promotions; `breaches` in a row outside its limits take the
/// canary back. It has no guarantee against chance as the edge's own evidence has. At least one of `max` and `min`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "a query")]
#[schemars(rename = "Query", extend("required" = ["name", "prometheus", "query"]))]
pub(crate) struct QueryFile {
    /// Its name, unique among the route's queries and gates.
    pub(crate) name: Value<Name>,
    /// Where the server is.
    pub(crate) prometheus: Value<CollectorUrl>,
    /// What is asked for the canary, in PromQL; it must give one number.
    pub(crate) query: Value<Template>,
    /// What is asked for stable, with `compare`; `query` with stable as its version, if left out.
    pub(crate) baseline_query: Value<Template>,
    /// What the limits are about: the canary's number, or it over or minus stable's.
    #[schemars(extend("default" = "value"))]
    pub(crate) compare: Written<Compared>,
    /// More than this is a breach.
    pub(crate) max: Value<SignedNumber>,
    /// Less than this is a breach.
    pub(crate) min: Value<SignedNumber>,
    /// Between two times at which it is asked, 1s to 1h.
    #[schemars(extend("default" = "30s"))]
    pub(crate) every: Value<Duration>,
    /// So many breaches in a row take the canary back, 1 to 100; fewer hold it.
    #[schemars(extend("default" = 3))]
    pub(crate) breaches: Value<Count>,
    /// Until the canary has had traffic for so long, a breach only holds and is not counted, at most 1d: what `rate(…[5m])`
    /// says in the first five minutes is about the build before, or about nothing yet. Left out: twice `every`, or as
    /// far back as the query looks, whichever is longer.
    pub(crate) delay: Value<Duration>,
    /// How long an answer may take, 100ms to 30s.
    #[schemars(extend("default" = "5s"))]
    pub(crate) timeout: Value<Duration>,
    /// File with what stands in the header `authorization`, such as `Bearer …`. Read anew for each question.
    pub(crate) authorization_file: Value<PathBuf>,
    /// Environment variable with that.
    pub(crate) authorization_env: Value<EnvName>,
}

/// Somebody outside who is asked before a step or a promotion, from the beginning of each step on: the decision is posted as
/// JSON, and `{"allow": true}` or `{"allow": false, "reason": "…"}` answered. It can hold, and never keeps anything from going
/// back. Where it is stands in one of `url`, `url_file` and `url_env`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "a gate")]
#[schemars(rename = "OutsideGate", extend("required" = ["name"]))]
pub(crate) struct OutsideGateFile {
    /// Its name, unique among the route's queries and gates.
    pub(crate) name: Value<Name>,
    /// Where the question is posted. It is shown to whoever may read the admin API, so it must hold no secret.
    pub(crate) url: Value<WebUrl>,
    /// File with the URL. Read anew for each question.
    pub(crate) url_file: Value<PathBuf>,
    /// Environment variable with the URL.
    pub(crate) url_env: Value<EnvName>,
    /// Before what it is asked; at least one.
    #[schemars(extend("default" = ["step", "promotion"]))]
    pub(crate) before: List<Before>,
    /// What it counts as while it gives no clear answer.
    #[serde(rename = "default")]
    #[schemars(rename = "default", extend("default" = "hold"))]
    pub(crate) otherwise: Written<Otherwise>,
    /// Between two times at which it is asked, 1s to 1h.
    #[schemars(extend("default" = "30s"))]
    pub(crate) every: Value<Duration>,
    /// How long an answer may take, 100ms to 30s.
    #[schemars(extend("default" = "5s"))]
    pub(crate) timeout: Value<Duration>,
    /// File with the secret that questions are signed with, as notifications are.
    pub(crate) secret_file: Value<PathBuf>,
    /// Environment variable with that secret.
    pub(crate) secret_env: Value<EnvName>,
    /// File with what stands in the header `authorization`.
    pub(crate) authorization_file: Value<PathBuf>,
    /// Environment variable with that.
    pub(crate) authorization_env: Value<EnvName>,
}

/// Windows in which no step is taken and nothing is promoted; a rollback is. `pointsman promote --force` goes past it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "a freeze")]
#[schemars(rename = "Freeze", extend("required" = ["name", "cron", "duration"]))]
pub(crate) struct FreezeFile {
    /// Its unique name.
    pub(crate) name: Value<Name>,
    /// When each window begins.
    pub(crate) cron: Value<CronText>,
    /// How long it lasts, at most 365d, in real time whatever the clock does meanwhile.
    pub(crate) duration: Value<Duration>,
    /// Whose clock `cron` is about.
    #[schemars(extend("default" = "UTC"))]
    pub(crate) time_zone: Value<TimeZone>,
    /// Which routes; all, if left out.
    pub(crate) routes: List<crate::scalar::Text<RouteName>>,
}
