//! What others say of a canary, and when nothing goes forward: what each key means.

use std::time::Duration;

use pointsman_config::{Before, Compared, Config, Otherwise, SecretSource, Standing};

use crate::read_and_printed;

fn text(top: &str, guard: &str) -> String {
    format!(
        "listeners: [{{ address: 127.0.0.1:0 }}]
{top}
routes:
  - name: r
    stable: v1
    versions: {{ v1: {{ endpoints: [127.0.0.1:9001] }} }}
    guard: {{ {guard} }}
"
    )
}

#[test]
fn a_query_says_where_what_how_often_and_what_it_may_be() {
    let config = read_and_printed(&text(
        "",
        "queries: [{ name: orders, prometheus: 'http://p:9090/prefix/', query: 'sum(rate(o{v=\"{{version}}\"}[5m]))', compare: ratio, min: 0.9, max: 2, every: 10s, breaches: 5, timeout: 2s, authorization_env: TOKEN }, { name: fees, prometheus: 'https://p', query: 'fees{v=\"{{canary}}\"}', baseline_query: 'old_fees', compare: difference, max: -0.5 }]",
    ));
    let [orders, fees] = &config.routes[0].guard.queries[..] else { panic!("two queries") };
    assert_eq!((orders.prometheus.as_str(), orders.compare), ("http://p:9090/prefix", Compared::Ratio));
    assert_eq!((orders.min, orders.max, orders.breaches), (Some(0.9), Some(2.0), 5));
    assert_eq!((orders.every, orders.timeout), (Duration::from_secs(10), Duration::from_secs(2)));
    assert_eq!(orders.authorization, Some(SecretSource::Env("TOKEN".to_owned())));
    assert_eq!(fees.baseline_query.as_ref().unwrap().to_string(), "old_fees");
    assert_eq!((fees.max, fees.every, fees.breaches), (Some(-0.5), Duration::from_secs(30), 3));
    assert_eq!((orders.delay, fees.delay), (Duration::from_mins(5), Duration::from_mins(1)), "as far back as it looks");
}

#[test]
fn a_query_counts_breaches_from_when_it_says() {
    let queries = "queries: [{ name: a, prometheus: 'http://p', query: 'rate(x{v=\"{{version}}\"}[5m])', max: 1, delay: 0s }, \
                   { name: b, prometheus: 'http://p', query: 'x{v=\"{{version}}\"}', baseline_query: 'rate(y[7d])', compare: ratio, max: 1 }]";
    let config = read_and_printed(&text("", queries));
    let delays: Vec<_> = config.routes[0].guard.queries.iter().map(|query| query.delay).collect();
    assert_eq!(delays, [Duration::ZERO, Duration::from_hours(24)]);
}

#[test]
fn a_gate_says_before_what_and_what_its_silence_means() {
    let config = read_and_printed(&text(
        "",
        "gates: [{ name: board, url_file: board-url, before: [promotion], default: allow, secret_file: s }, { name: both, url: 'https://g' }]",
    ));
    let [board, both] = &config.routes[0].guard.gates[..] else { panic!("two gates") };
    assert_eq!((&board.before, board.otherwise), (&[Before::Promotion].into(), Otherwise::Allow));
    assert_eq!((&both.before, both.otherwise), (&[Before::Step, Before::Promotion].into(), Otherwise::Hold));
    let mut config = config.clone();
    let paths: Vec<_> = config.paths_mut().map(|path| path.display().to_string()).collect();
    assert_eq!(paths[1..], ["board-url", "s"]);
}

#[test]
fn a_freeze_says_when_how_long_and_for_whom() {
    let config = read_and_printed(&text(
        "freeze: [{ name: weekend, cron: 0 18 * * FRI, duration: 62h, time_zone: Europe/Berlin, routes: [r] }, { name: all, cron: '0 0 24-26 12 *', duration: 1d }]",
        "",
    ));
    let [weekend, all] = &config.freeze[..] else { panic!("two freezes") };
    let moment = |text: &str| chrono::DateTime::parse_from_rfc3339(text).unwrap().to_utc();
    let until = moment("2026-02-02T07:00:00Z");
    assert_eq!(weekend.windows.standing(moment("2026-02-01T12:00:00Z")), Standing::Frozen { until });
    assert!(weekend.is_of(&"r".parse().unwrap()) && !weekend.is_of(&"other".parse().unwrap()));
    assert!(all.is_of(&"other".parse().unwrap()));
}

#[test]
fn what_never_ends_never_begins_or_never_tells_versions_apart_is_warned_of() {
    let warnings = |top: &str, guard: &str| -> Vec<String> {
        let parsed = Config::parse(&text(top, guard), "o.yaml").unwrap_or_else(|errors| panic!("{errors}"));
        parsed.warnings.into_iter().map(|warning| warning.what).collect()
    };
    let freeze = |rest: &str| warnings(&format!("freeze: [{{ name: f, {rest} }}]"), "");
    assert_eq!(freeze("cron: '0 0 * * *', duration: 23h59m"), Vec::<String>::new());
    assert!(freeze("cron: '0 0 * * *', duration: 1d1s")[0].contains("never ends"));
    assert!(freeze("cron: '* * * * *', duration: 1m")[0].contains("never ends"));
    assert!(freeze("cron: '0 0 31 2 *', duration: 1d")[0].contains("never begins"));
    let blind = warnings("", "queries: [{ name: q, prometheus: 'http://p', query: up, max: 1 }]");
    assert!(blind[0].contains("which version"), "{blind:?}");
}
