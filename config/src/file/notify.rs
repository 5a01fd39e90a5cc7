//! Who outside is told of changes, as written in the file.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::read::Written;
use crate::scalar::{EnvName, Value, WebUrl};
use crate::split::Name;
use crate::{NewsKind, WebhookFormat};

use super::List;

/// A webhook that is told of changes, by the edge that decides. Where it is stands in one of `url`, `url_file` and
/// `url_env`. What is posted, signed and tried again stands in docs/notifications.md.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "a webhook")]
#[schemars(rename = "Webhook", extend("required" = ["name"]))]
pub(crate) struct WebhookFile {
    /// Its unique name; metrics and `pointsman notify test` use it.
    pub(crate) name: Value<Name>,
    /// Where rows are posted. It is shown to whoever may read the admin API, so it must hold no secret.
    pub(crate) url: Value<WebUrl>,
    /// File with the URL; for one that is a secret, as those of chats are. Read anew for each row.
    pub(crate) url_file: Value<PathBuf>,
    /// Environment variable with the URL.
    pub(crate) url_env: Value<EnvName>,
    /// What is posted: the row for programs, or a message for people as Slack takes it.
    #[schemars(extend("default" = "json"))]
    pub(crate) format: Written<WebhookFormat>,
    /// File with the secret that rows are signed with (HMAC-SHA256), of 16 bytes at least. Read anew for each row.
    pub(crate) secret_file: Value<PathBuf>,
    /// Environment variable with that secret. With neither, rows are not signed.
    pub(crate) secret_env: Value<EnvName>,
    /// What is told, by the names of docs/notifications.md; everything, if left out.
    pub(crate) events: List<NewsKind>,
    /// How long one try may take, 100ms to 10s.
    #[schemars(extend("default" = "5s"))]
    pub(crate) timeout: Value<Duration>,
    /// A row that could not be delivered is tried again until it is so old, 24h at most; 0s: it is tried once.
    #[schemars(extend("default" = "15m"))]
    pub(crate) give_up_after: Value<Duration>,
}
