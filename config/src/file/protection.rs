//! What a route lets in and how long it waits, as written.

use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use crate::Concurrency;
use crate::read::{Either, Written};
use crate::scalar::{Count, HeaderName, RateKeyWord, Size, Text, Value};

use super::List;

/// How long each part of a request may take.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "`timeouts`")]
#[schemars(rename = "Timeouts")]
pub(crate) struct TimeoutsFile {
    /// To open a connection to an endpoint.
    #[schemars(extend("default" = "1s"))]
    pub(crate) connect: Value<Duration>,
    /// Between two reads from an endpoint, the first answer byte included; a client that stalls in its body this long gets 408.
    #[schemars(extend("default" = "30s"))]
    pub(crate) read: Value<Duration>,
    /// From the request's first byte to the answer's last.
    #[schemars(extend("default" = "1m"))]
    pub(crate) total: Value<Duration>,
    /// How long a client's idle connection is kept.
    #[schemars(extend("default" = "1m"))]
    pub(crate) idle: Value<Duration>,
    /// How long a stream may be silent once its answer has begun: server-sent events, gRPC, WebSocket. `read` and `total`
    /// end with the answer's head there.
    #[schemars(extend("default" = "5m"))]
    pub(crate) stream_idle: Value<Duration>,
}

/// How large, how many and how often requests may be.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "`limits`")]
#[schemars(rename = "Limits")]
pub(crate) struct LimitsFile {
    /// Largest body; a larger one is answered 413.
    #[schemars(extend("default" = "64MiB"))]
    pub(crate) body: Value<Size>,
    /// Largest request head (request line and headers), 1KiB to 1000KB; a larger one is answered 431.
    #[schemars(extend("default" = "64KiB"))]
    pub(crate) headers: Value<Size>,
    /// Requests that each version of the route works on at a time; more are answered 503. `adaptive` finds out how many a
    /// version takes without getting slower. No limit, if left out.
    pub(crate) concurrent_requests: Value<Concurrency>,
    /// How often requests may come; more are answered 429. Each limit of the list counts, at most 16.
    pub(crate) rate: List<RateFile>,
}

/// How often requests may come: `requests` in `per`, evenly spread, and `burst` of them at once.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "a rate limit")]
#[schemars(rename = "RateLimit", extend("required" = ["requests", "per"]))]
pub(crate) struct RateFile {
    /// So many requests, at least 1.
    pub(crate) requests: Value<Count>,
    /// In this time.
    pub(crate) per: Value<Duration>,
    /// How many may come at once, at least 1; as many as `requests`, if left out.
    pub(crate) burst: Value<Count>,
    /// Whose requests are counted together.
    #[schemars(extend("default" = "route"))]
    pub(crate) key: Written<RateKeyFile>,
}

/// A word, or the name of a header.
pub(crate) type RateKeyFile = Either<Text<RateKeyWord>, RateHeaderFile>;

/// A header whose values are counted apart.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "`key`")]
#[schemars(rename = "RateHeader", extend("required" = ["header"]))]
pub(crate) struct RateHeaderFile {
    /// Its name. Requests without it are counted together.
    pub(crate) header: Value<HeaderName>,
}

impl JsonSchema for RateKeyFile {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "rate-key".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let header = generator.subschema_for::<RateHeaderFile>();
        json_schema!({
            "anyOf": [{ "enum": ["route", "client_ip"] }, header],
            "description": "`route` counts all requests of the route together, `client_ip` those of one client address (IPv6 by its /64), `{ header: x-api-key }` those with the same value of a header.",
        })
    }
}
