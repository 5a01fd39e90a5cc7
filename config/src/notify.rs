//! Who outside is told of changes: webhooks, and what they are told of.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::split::Name;

/// One receiver of news.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Webhook {
    /// Its unique name.
    pub name: Name,
    /// Where rows are posted.
    pub url: WebhookUrl,
    /// As what.
    pub format: WebhookFormat,
    /// What rows are signed with; none: they are not.
    pub secret: Option<SecretSource>,
    /// What is told; at least one. Default all.
    pub events: BTreeSet<NewsKind>,
    /// How long one try may take. Default 5 s.
    pub timeout: Duration,
    /// How old a row may become before it is given up; it is tried once in any case. Default 15 min.
    pub give_up_after: Duration,
}

/// Where rows are posted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookUrl {
    /// Here, for everybody to read.
    Plain(String),
    /// At what stands there: whoever knows such a URL can post.
    Secret(SecretSource),
}

/// Where a secret stands; it is read when it is needed, and never shown.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretSource {
    /// In this file, but for white space around it.
    File(PathBuf),
    /// In this environment variable of the edge.
    Env(String),
}

/// What a row is posted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WebhookFormat {
    /// The row as it is, for programs.
    Json,
    /// A message for people, as Slack's incoming webhooks and those of like chats take it.
    Slack,
}

/// What can be told: the decisions of the log by their names, what caused some of them, and what is no decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NewsKind {
    /// A rollout began.
    Start,
    /// The canary was given its first or its next weight.
    Step,
    /// The rollout stopped where it stood.
    Pause,
    /// It went on.
    Resume,
    /// The canary was given all traffic.
    Promote,
    /// The live Service follows.
    Flip,
    /// All traffic has moved.
    Bake,
    /// The canary is the new stable.
    Finish,
    /// The canary was taken back.
    Rollback,
    /// No new request goes to it.
    RollbackDone,
    /// Someone should look.
    Alert,
    /// An operator set the weights.
    SetWeights,
    /// A quarantine was lifted.
    Retry,
    /// The config file changed the weights.
    Edit,
    /// A decision that is caused by somebody else's hand on the live Service, whatever else it is.
    ForeignChange,
    /// A decision that is caused by what another edge found by itself, whatever else it is.
    Trip,
    /// Something has held a rollout for ten seconds.
    Hold,
    /// The config file was changed and is in force.
    ConfigAccepted,
    /// It was changed and refused.
    ConfigRefused,
    /// Another edge decides from now on.
    Leader,
}

impl NewsKind {
    /// Everything that can be told.
    pub const ALL: [Self; 20] = [
        Self::Start,
        Self::Step,
        Self::Pause,
        Self::Resume,
        Self::Promote,
        Self::Flip,
        Self::Bake,
        Self::Finish,
        Self::Rollback,
        Self::RollbackDone,
        Self::Alert,
        Self::SetWeights,
        Self::Retry,
        Self::Edit,
        Self::ForeignChange,
        Self::Trip,
        Self::Hold,
        Self::ConfigAccepted,
        Self::ConfigRefused,
        Self::Leader,
    ];

    /// As the file and a row have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Step => "step",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Promote => "promote",
            Self::Flip => "flip",
            Self::Bake => "bake",
            Self::Finish => "finish",
            Self::Rollback => "rollback",
            Self::RollbackDone => "rollback_done",
            Self::Alert => "alert",
            Self::SetWeights => "set_weights",
            Self::Retry => "retry",
            Self::Edit => "edit",
            Self::ForeignChange => "foreign_change",
            Self::Trip => "trip",
            Self::Hold => "hold",
            Self::ConfigAccepted => "config_accepted",
            Self::ConfigRefused => "config_refused",
            Self::Leader => "leader",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_told_is_named_in_the_file_as_in_a_row() {
        let named: BTreeSet<_> = NewsKind::ALL.into_iter().map(NewsKind::as_str).collect();
        assert_eq!(named.len(), NewsKind::ALL.len());
        for kind in NewsKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}
