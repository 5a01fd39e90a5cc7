//! One test binary: the examples, the broken files, the reference, and text that nobody would write.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod bad;
mod cluster;
mod examples;
mod notify;
mod outside;
mod places;
mod reference;
mod traffic;

use pointsman_config::Config;

/// The config that a text is, which means the same when it is printed.
#[track_caller]
fn read_and_printed(text: &str) -> Config {
    let parsed = Config::parse(text, "keys.yaml").unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    assert_eq!(parsed.warnings, [], "{text}");
    let printed = parsed.config.to_yaml();
    let again = Config::parse(&printed, "printed.yaml").unwrap_or_else(|errors| panic!("{errors}\n{printed}"));
    assert_eq!(again.config, parsed.config, "{printed}");
    parsed.config
}
