//! Who gets which version, what is let in, repeated and copied, as YAML.

use crate::units::{print_duration, print_percent, print_size};
use crate::{
    Compare, Concurrency, Limits, Mirror, Override, OverrideSource, RateKey, RateLimit, Replay, Retries, Route, Share,
    Sticky, StickyCookie, Timeouts,
};

use super::{Page, error_kinds, inline, quote, quote_path};

impl Page {
    pub(super) fn traffic(&mut self, route: &Route) {
        self.timeouts(&route.timeouts);
        self.limits(&route.limits);
        if let Some(sticky) = &route.sticky {
            self.line(2, format!("sticky: {}", sticky_line(sticky)));
        }
        if !route.overrides.is_empty() {
            self.line(2, "overrides:");
            route.overrides.iter().for_each(|one| self.line(3, format!("- {}", override_line(one))));
        }
        self.retries(&route.retries);
        if let Some(mirror) = &route.mirror {
            self.mirror(mirror);
        }
    }

    fn timeouts(&mut self, timeouts: &Timeouts) {
        self.line(2, "timeouts:");
        self.durations(
            3,
            [
                ("connect", timeouts.connect),
                ("read", timeouts.read),
                ("total", timeouts.total),
                ("idle", timeouts.idle),
                ("stream_idle", timeouts.stream_idle),
            ],
        );
    }

    fn limits(&mut self, limits: &Limits) {
        self.line(2, "limits:");
        self.line(3, format!("body: {}", print_size(limits.body_bytes)));
        self.line(3, format!("headers: {}", print_size(limits.header_bytes)));
        match limits.concurrent_requests {
            Concurrency::Unlimited => {}
            Concurrency::Fixed(most) => self.line(3, format!("concurrent_requests: {most}")),
            Concurrency::Adaptive => self.line(3, "concurrent_requests: adaptive"),
        }
        if !limits.rate.is_empty() {
            self.line(3, "rate:");
            limits.rate.iter().for_each(|rate| self.line(4, format!("- {}", rate_line(rate))));
        }
    }

    fn retries(&mut self, retries: &Retries) {
        let replay = match retries.replay {
            Replay::Never => "never",
            Replay::Idempotent => "idempotent",
            Replay::Predictions => "predictions",
        };
        let share = percent_of(retries.budget_ppm);
        self.line(2, "retries:");
        self.line(3, format!("replay: {replay}"));
        self.line(3, format!("attempts: {}", retries.attempts));
        self.line(3, format!("budget: {{ share: {share}, floor: {} }}", retries.budget_floor));
        self.line(3, format!("body: {}", print_size(retries.body_bytes)));
        if let Some(per_try) = retries.per_try {
            self.durations(3, [("per_try_timeout", per_try)]);
        }
        self.line(3, format!("on: [{}]", error_kinds(&retries.on)));
    }

    fn mirror(&mut self, mirror: &Mirror) {
        self.line(2, "mirror:");
        self.line(3, format!("version: {}", quote(&mirror.version)));
        self.line(3, format!("share: {}", mirror.share));
        self.line(3, format!("concurrent: {}", mirror.concurrent));
        self.line(3, format!("body: {}", print_size(mirror.body_bytes)));
        self.durations(3, [("timeout", mirror.timeout)]);
        self.compare(&mirror.compare);
    }

    fn compare(&mut self, compare: &Compare) {
        let fields: Vec<String> = compare.fields.iter().map(quote).collect();
        self.line(3, "compare:");
        self.line(4, format!("fields: [{}]", fields.join(", ")));
        self.line(4, format!("relative: {}", print_percent(compare.relative)));
        self.line(4, format!("absolute: {}", compare.absolute));
        self.line(4, format!("noise: {}", compare.noise));
        self.line(4, format!("gate: {}", compare.gate.map_or_else(|| "off".to_owned(), print_percent)));
    }
}

/// A share of traffic, or of anything else that is told in parts per million.
pub(super) fn percent_of(ppm: u32) -> Share {
    Share::from_ppm(ppm).unwrap_or(Share::WHOLE)
}

fn sticky_line(sticky: &Sticky) -> String {
    match sticky {
        Sticky::Header(name) => format!("{{ header: {} }}", quote(name)),
        Sticky::Cookie(StickyCookie { name, max_age, secret_file }) => inline(&[
            Some(format!("cookie: {}", quote(name))),
            Some(format!("max_age: {}", print_duration(*max_age))),
            secret_file.as_deref().map(|file| format!("secret_file: {}", quote_path(file))),
        ]),
        Sticky::ClientIp => "{ client_ip: true }".to_owned(),
    }
}

fn override_line(one: &Override) -> String {
    let source = match &one.source {
        OverrideSource::Header(name) => format!("header: {}", quote(name)),
        OverrideSource::Cookie(name) => format!("cookie: {}", quote(name)),
    };
    let value = one.ask.as_ref().map(|ask| format!("value: {}", quote(&ask.value)));
    let version = one.ask.as_ref().map(|ask| format!("version: {}", quote(&ask.version)));
    inline(&[Some(source), value, version])
}

fn rate_line(rate: &RateLimit) -> String {
    let key = match &rate.key {
        RateKey::Route => "route".to_owned(),
        RateKey::ClientIp => "client_ip".to_owned(),
        RateKey::Header(name) => format!("{{ header: {} }}", quote(name)),
    };
    let per = print_duration(rate.per);
    format!("{{ requests: {}, per: {per}, burst: {}, key: {key} }}", rate.requests, rate.burst)
}
