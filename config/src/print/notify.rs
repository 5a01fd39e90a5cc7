//! Who outside is told of changes, as YAML. Secrets are named by where they stand, never written out.

use crate::units::print_duration;
use crate::{Config, NewsKind, SecretSource, Webhook, WebhookFormat, WebhookUrl};

use super::{Page, quote, quote_path};

impl Page {
    pub(super) fn notifications(&mut self, config: &Config) {
        if config.notifications.is_empty() {
            return;
        }
        self.line(0, "notifications:");
        config.notifications.iter().for_each(|webhook| self.webhook(webhook));
    }

    fn webhook(&mut self, webhook: &Webhook) {
        self.line(1, format!("- name: {}", quote(&webhook.name)));
        self.line(2, url(&webhook.url));
        let format = match webhook.format {
            WebhookFormat::Json => "json",
            WebhookFormat::Slack => "slack",
        };
        self.line(2, format!("format: {format}"));
        if let Some(source) = &webhook.secret {
            self.line(2, secret("secret", source));
        }
        let events: Vec<_> = webhook.events.iter().copied().map(NewsKind::as_str).collect();
        self.line(2, format!("events: [{}]", events.join(", ")));
        self.line(2, format!("timeout: {}", print_duration(webhook.timeout)));
        self.line(2, format!("give_up_after: {}", print_duration(webhook.give_up_after)));
    }
}

/// `url: …`, `url_file: …` or `url_env: …`.
pub(super) fn url(url: &WebhookUrl) -> String {
    match url {
        WebhookUrl::Plain(url) => format!("url: {}", quote(url)),
        WebhookUrl::Secret(source) => secret("url", source),
    }
}

/// `secret_file: …` or `secret_env: …`.
pub(super) fn secret(key: &str, source: &SecretSource) -> String {
    match source {
        SecretSource::File(file) => format!("{key}_file: {}", quote_path(file)),
        SecretSource::Env(name) => format!("{key}_env: {}", quote(name)),
    }
}
