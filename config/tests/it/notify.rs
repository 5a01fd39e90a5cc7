//! Who outside is told of changes: what each key means, and that no secret stands where everybody reads it.

use std::time::Duration;

use pointsman_config::{Config, NewsKind, SecretSource, WebhookFormat, WebhookUrl};

use crate::read_and_printed;

fn text(notifications: &str) -> String {
    format!(
        "listeners: [{{ address: 127.0.0.1:0 }}]
notifications: {notifications}
routes: [{{ name: r, stable: v1, versions: {{ v1: {{ endpoints: [127.0.0.1:9001] }} }} }}]
"
    )
}

#[test]
fn a_webhook_says_where_as_what_signed_by_what_and_of_what() {
    let config = read_and_printed(&text(
        "[{ name: chat, url_env: CHAT_URL, format: slack, events: [rollback, hold], timeout: 250ms, give_up_after: 0s },
          { name: audit, url: 'https://a.example.com/hooks/', secret_file: secret }]",
    ));
    let [chat, audit] = &config.notifications[..] else { panic!("{:?}", config.notifications) };
    assert_eq!((chat.name.as_str(), chat.format), ("chat", WebhookFormat::Slack));
    assert_eq!(chat.url, WebhookUrl::Secret(SecretSource::Env("CHAT_URL".to_owned())));
    assert_eq!(chat.events, [NewsKind::Rollback, NewsKind::Hold].into());
    assert_eq!((chat.timeout, chat.give_up_after), (Duration::from_millis(250), Duration::ZERO));
    assert_eq!(audit.url, WebhookUrl::Plain("https://a.example.com/hooks/".to_owned()), "with its slash");
    assert_eq!(audit.secret, Some(SecretSource::File("secret".into())));
    assert_eq!(audit.events, NewsKind::ALL.into());
}

#[test]
fn rows_that_nobody_can_tell_from_forged_ones_are_warned_of() {
    let parsed = Config::parse(&text("[{ name: a, url: 'http://127.0.0.1:1/' }]"), "n.yaml").unwrap();
    let [warning] = &parsed.warnings[..] else { panic!("{:?}", parsed.warnings) };
    assert!(warning.what.contains("not signed") && warning.place.line == 2, "{warning}");
    let hidden = Config::parse(&text("[{ name: a, url_file: url }]"), "n.yaml").unwrap();
    assert_eq!(hidden.warnings, [], "who knows the URL may post");
}
