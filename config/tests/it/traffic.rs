//! What the keys of a route and of the file's top mean, once they are read.

use std::path::PathBuf;
use std::time::Duration;

use pointsman_config::{
    AccessLog, Ask, CertificateFiles, Concurrency, Config, Example, Golden, ListenerTls, Override, OverrideSource,
    Protocol, RateKey, RateLimit, Replay, Route, Signature, Sticky, StickyCookie, UpstreamTls,
};

use crate::read_and_printed;

/// A config with one route that has these keys besides the required ones.
#[track_caller]
fn config(top: &str, keys: &str) -> Config {
    read_and_printed(&format!(
        "listeners: [{{ address: 127.0.0.1:0 }}]\n{top}\nroutes:\n  - name: r\n    stable: v1\n    versions: {{ v1: {{ endpoints: [a:1] }}, v2: {{ endpoints: [a:2] }} }}\n{keys}\n"
    ))
}

#[track_caller]
fn route(keys: &str) -> Route {
    config("", &format!("    {keys}")).routes.remove(0)
}

#[test]
fn one_of_three_things_makes_a_user() {
    assert_eq!(route("sticky: { header: X-User }").sticky, Some(Sticky::Header("x-user".to_owned())));
    assert_eq!(route("sticky: { client_ip: true }").sticky, Some(Sticky::ClientIp));
    let cookie =
        |max_age, secret_file| Some(Sticky::Cookie(StickyCookie { name: "Id".to_owned(), max_age, secret_file }));
    let days = |days: u64| Duration::from_hours(24 * days);
    assert_eq!(route("sticky: { cookie: Id }").sticky, cookie(days(30), None));
    let written = route("sticky: { cookie: Id, max_age: 7d, secret_file: keys/cookie }").sticky;
    assert_eq!(written, cookie(days(7), Some(PathBuf::from("keys/cookie"))), "relative paths stay relative");
    assert_eq!(route("version_header: true").sticky, None);
}

#[test]
fn overrides_keep_their_order_and_name_versions_or_values() {
    let overrides =
        route("overrides: [{ header: X-Version }, { cookie: beta, value: 1, version: v2 }, { cookie: beta }]")
            .overrides;
    let ask = Ask { value: "1".to_owned(), version: "v2".parse().unwrap() };
    let beta = || OverrideSource::Cookie("beta".to_owned());
    assert_eq!(
        overrides,
        [
            Override { source: OverrideSource::Header("x-version".to_owned()), ask: None },
            Override { source: beta(), ask: Some(ask) },
            Override { source: beta(), ask: None },
        ]
    );
}

#[test]
fn retries_read_every_key() {
    let retries = route(
        "retries: { replay: predictions, attempts: 2, budget: { share: 0.5%, floor: 0 }, body: 1KiB, per_try_timeout: 250ms, on: [connect] }",
    )
    .retries;
    assert_eq!((retries.replay, retries.attempts), (Replay::Predictions, 2));
    assert_eq!((retries.budget_ppm, retries.budget_floor, retries.body_bytes), (5_000, 0, 1024));
    assert_eq!(retries.per_try, Some(Duration::from_millis(250)));
    assert_eq!(retries.on.len(), 1);
}

#[test]
fn a_gate_can_be_off_and_numbers_tiny() {
    let mirror = |gate: &str| {
        route(&format!("mirror: {{ version: v2, share: 1%, compare: {{ gate: {gate}, absolute: 1e-9 }} }}"))
            .mirror
            .unwrap()
    };
    assert_eq!(mirror("off").compare.gate, None);
    assert_eq!(mirror("0.5%").compare.gate.map(f64::to_bits), Some(0.005_f64.to_bits()));
    assert_eq!(mirror("off").compare.absolute.to_bits(), 1e-9_f64.to_bits());
}

#[test]
fn a_warm_up_takes_the_models_examples_or_the_files() {
    assert_eq!(route("warm_up: { model: /v1/model }").warm_up.unwrap().golden, Golden::Model("/v1/model".to_owned()));
    let signature = |keys: &str| route(&format!("warm_up: {{ model: /v1/model{keys} }}")).warm_up.unwrap().signature;
    assert_eq!((signature(""), signature(", signature: any")), (Signature::Same, Signature::Any));
    let examples =
        route("warm_up: { examples: [{ body: '{\"a\":\"é\"}', expect: -3.5, tolerance: 0 }, { body: '1' }] }");
    let example = |body: &str, expect, tolerance| Example { body: body.to_owned(), expect, tolerance };
    let wanted = vec![example("{\"a\":\"é\"}", Some(-3.5), 0.0), example("1", None, 1e-6)];
    assert_eq!(examples.warm_up.unwrap().golden, Golden::Examples(wanted));
}

#[test]
fn ejection_and_slow_start_can_be_turned_off() {
    let route =
        route("ejection: { consecutive_failures: 0, success_rate_deviations: 0, max_ejected: 0% }\n    slow_start: 0s");
    assert_eq!((route.ejection.consecutive_failures, route.ejection.max_ejected_ppm), (0, 0));
    assert!(route.ejection.success_rate_deviations <= 0.0 && route.slow_start.is_zero());
}

#[test]
fn http_2_over_tls_needs_no_more_than_the_protocol() {
    let speaks = |keys: &str| {
        let route = route(keys);
        (route.protocol, route.upstream_tls)
    };
    assert_eq!(speaks("protocol: h2"), (Protocol::H2, Some(UpstreamTls::default())));
    assert_eq!(speaks("protocol: h2c"), (Protocol::H2c, None));
    assert_eq!(speaks("upstream_tls: {}"), (Protocol::Http1, Some(UpstreamTls::default())));
    assert_eq!(speaks("version_header: true"), (Protocol::Http1, None));
    let named = UpstreamTls {
        ca: Some(PathBuf::from("ca.crt")),
        identity: Some(CertificateFiles { certificate: "edge.crt".into(), private_key: "edge.key".into() }),
        server_name: Some("models.internal".to_owned()),
    };
    let keys = "protocol: h2\n    upstream_tls: { ca: ca.crt, certificate: edge.crt, private_key: edge.key, server_name: Models.Internal }";
    assert_eq!(speaks(keys), (Protocol::H2, Some(named)));
}

#[test]
fn an_address_will_do_where_the_name_is_written() {
    let text = "listeners: [{ address: 127.0.0.1:0 }]\nroutes: [{ name: r, stable: v1, versions: { v1: { endpoints: [10.0.0.1:1] } }, upstream_tls: { server_name: 10.0.0.1 } }]";
    let tls = Config::parse(text, "keys.yaml").unwrap().config.routes.remove(0).upstream_tls;
    assert_eq!(tls.and_then(|tls| tls.server_name).as_deref(), Some("10.0.0.1"));
}

#[test]
fn limits_count_by_route_address_or_header() {
    let limits = route(
        "limits: { concurrent_requests: adaptive, rate: [{ requests: 10, per: 1s }, { requests: 5, per: 1m, burst: 2, key: client_ip }, { requests: 1, per: 1s, key: { header: X-Api-Key } }] }",
    )
    .limits;
    assert_eq!(limits.concurrent_requests, Concurrency::Adaptive);
    let rate = |requests, secs, burst, key| RateLimit { requests, per: Duration::from_secs(secs), burst, key };
    assert_eq!(
        limits.rate,
        [
            rate(10, 1, 10, RateKey::Route),
            rate(5, 60, 2, RateKey::ClientIp),
            rate(1, 1, 1, RateKey::Header("x-api-key".to_owned())),
        ]
    );
    let fixed = route("limits: { concurrent_requests: 512 }").limits.concurrent_requests;
    assert_eq!(fixed, Concurrency::Fixed(512));
}

#[test]
fn a_listener_shows_one_certificate_or_several() {
    let tls = |written: &str| {
        let text = format!(
            "listeners: [{{ address: 127.0.0.1:0, tls: {written} }}]\nroutes: [{{ name: r, stable: v1, versions: {{ v1: {{ endpoints: [a:1] }} }} }}]"
        );
        let config = Config::parse(&text, "tls.yaml").unwrap_or_else(|errors| panic!("{errors}")).config;
        let again = Config::parse(&config.to_yaml(), "printed.yaml").unwrap().config;
        assert_eq!(again, config, "{text}");
        config.listeners[0].tls.clone()
    };
    let files = |name: &str| CertificateFiles {
        certificate: format!("{name}.crt").into(),
        private_key: format!("{name}.key").into(),
    };
    let one = ListenerTls { certificates: vec![files("a")], client_ca: Some("clients.crt".into()) };
    assert_eq!(tls("{ certificate: a.crt, private_key: a.key, client_ca: clients.crt }"), Some(one));
    let two = ListenerTls { certificates: vec![files("a"), files("b")], client_ca: None };
    let list =
        "{ certificates: [{ certificate: a.crt, private_key: a.key }, { certificate: b.crt, private_key: b.key }] }";
    assert_eq!(tls(list), Some(two));
}

#[test]
fn nothing_is_written_about_requests_unless_asked_for() {
    let quiet = config("", "");
    assert!(quiet.access_log.is_none() && quiet.traces.is_none() && quiet.fast_lane);
    let all =
        config("access_log: {}\ntraces: { endpoint: \"https://otel.example.com/collect/\" }\nfast_lane: false", "");
    assert_eq!(all.access_log, Some(AccessLog { file: None, sample: 1.0 }));
    let traces = all.traces.unwrap();
    assert_eq!(
        (traces.endpoint.as_str(), traces.service_name.as_str()),
        ("https://otel.example.com/collect", "pointsman")
    );
    assert!(!all.fast_lane);
}

#[test]
fn a_collector_is_a_url_with_a_host() {
    let parse = |url: &str| {
        let text = format!(
            "listeners: [{{ address: 127.0.0.1:0 }}]\ntraces: {{ endpoint: \"{url}\" }}\nroutes: [{{ name: r, stable: v1, versions: {{ v1: {{ endpoints: [a:1] }} }} }}]"
        );
        Config::parse(&text, "url.yaml").is_ok()
    };
    for good in ["http://127.0.0.1:4318", "http://otel", "https://[::1]:4318/v1", "http://[::1]"] {
        assert!(parse(good), "{good}");
    }
    for bad in [
        "otel:4318",
        "grpc://otel:4317",
        "http://",
        "http://user@otel",
        "http://otel:99999",
        "http://otel/?a=1",
        "http://o tel",
        "http://otel//x",
    ] {
        assert!(!parse(bad), "{bad}");
    }
}
