//! [`Config`] back to text: every setting written out, defaults included, and parsing it gives the same config again.
//! It is what Pointsman runs with, for `GET /api/v1/config` and for people who want to see what a short file means.

use std::collections::BTreeSet;
use std::fmt::{Display, Write};
use std::path::Path;
use std::time::Duration;

use crate::units::{print_duration, print_percent};
use crate::{
    Against, Config, DriftGuard, ErrorKind, Guard, Host, OnDrift, OnRegression, Plan, Promotion, Rollout, Route, Share,
    Split, Step, Strategy, Version, VersionId,
};

mod cluster;
mod notify;
mod outside;
mod traffic;
mod upstream;

impl Config {
    /// The config as YAML, with every default written out.
    pub fn to_yaml(&self) -> String {
        let mut page = Page::default();
        page.line(0, "listeners:");
        for listener in &self.listeners {
            page.line(1, format!("- address: {}", quote(listener.address)));
            page.listener_tls(listener.tls.as_ref());
        }
        page.line(0, "admin:");
        page.line(1, format!("address: {}", quote(self.admin.address)));
        if let Some(file) = &self.admin.token_file {
            page.line(1, format!("token_file: {}", quote_path(file)));
        }
        page.line(0, "state:");
        page.state(&self.state);
        if let Some(replicas) = &self.replicas {
            page.replicas(replicas);
        }
        page.observation(self);
        page.notifications(self);
        page.freezes(self);
        page.line(0, format!("fast_lane: {}", self.fast_lane));
        page.line(0, "routes:");
        self.routes.iter().for_each(|route| page.route(route));
        page.text
    }
}

/// Lines of YAML, indented by two spaces a level.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, level: usize, content: impl Display) {
        // Writing to a `String` cannot fail.
        writeln!(self.text, "{:indent$}{content}", "", indent = level * 2).unwrap_or_default();
    }

    fn route(&mut self, route: &Route) {
        self.line(1, format!("- name: {}", quote(&route.name)));
        let host = match &route.matches.host {
            Host::Any => String::new(),
            Host::Exact(name) => format!("host: {}, ", quote(name)),
            Host::Suffix(name) => format!("host: {}, ", quote(format!("*.{name}"))),
        };
        self.line(2, format!("match: {{ {host}path_prefix: {} }}", quote(&route.matches.path_prefix)));
        self.line(2, format!("stable: {}", quote(&route.stable)));
        self.line(2, "versions:");
        route.versions.iter().for_each(|(id, version)| self.version(id, version));
        match &route.plan {
            Plan::Weights(split) => self.weights(split),
            Plan::Rollout(rollout) => self.rollout(rollout),
        }
        if let Some(live) = &route.live_service {
            self.live_service(live);
        }
        self.guard(&route.guard);
        self.traffic(route);
        self.upstream(route);
        self.line(2, format!("version_header: {}", route.version_header));
        self.line(2, format!("server_timing: {}", route.server_timing));
    }

    fn version(&mut self, id: &VersionId, version: &Version) {
        let revision = version.revision.as_ref().map(|text| format!(", revision: {}", quote(text))).unwrap_or_default();
        self.line(3, format!("{}: {{ {}{revision} }}", quote(id), cluster::backends(&version.backends)));
    }

    fn weights(&mut self, split: &Split) {
        let shares = match split {
            Split::Whole(version) => format!("{}: {}", quote(version), Share::WHOLE),
            Split::Canary { stable, canary, share } => {
                format!("{}: {}, {}: {share}", quote(stable), share.rest(), quote(canary))
            }
        };
        self.line(2, format!("weights: {{ {shares} }}"));
    }

    fn rollout(&mut self, rollout: &Rollout) {
        self.line(2, "rollout:");
        self.line(3, format!("canary: {}", quote(&rollout.canary)));
        match &rollout.strategy {
            Strategy::BlueGreen => self.line(3, "strategy: blue-green"),
            Strategy::Canary(steps) => {
                self.line(3, "strategy: canary");
                let step = |step: &Step| format!("{{ weight: {}, hold: {} }}", step.weight, print_duration(step.hold));
                self.line(3, format!("steps: [{}]", steps.iter().map(step).collect::<Vec<_>>().join(", ")));
            }
        }
        let promotion = match rollout.promotion {
            Promotion::Automatic => "automatic",
            Promotion::Manual => "manual",
        };
        self.line(3, format!("promotion: {promotion}"));
        self.durations(3, [("bake", rollout.bake), ("step_deadline", rollout.step_deadline)]);
    }

    fn guard(&mut self, guard: &Guard) {
        let on_regression = match guard.on_regression {
            OnRegression::Rollback => "rollback",
            OnRegression::Alert => "alert",
        };
        self.line(2, "guard:");
        self.line(3, format!("on_regression: {on_regression}"));
        self.line(3, format!("false_rollback_budget: {}", print_percent(guard.false_rollback_budget)));
        self.line(
            3,
            format!(
                "tolerance: {{ ratio: {}, difference: {} }}",
                guard.tolerance.ratio,
                print_percent(guard.tolerance.difference)
            ),
        );
        self.line(3, "promotion:");
        self.line(4, format!("ratio: {}", guard.promotion.ratio));
        self.line(4, format!("difference: {}", print_percent(guard.promotion.difference)));
        self.line(4, format!("confidence: {}", print_percent(guard.promotion.confidence)));
        self.durations(4, [("min_soak", guard.promotion.min_soak), ("max_duration", guard.promotion.max_duration)]);
        self.line(3, format!("max_error_rate: {}", print_percent(guard.max_error_rate)));
        self.line(3, format!("latency: {{ threshold: {} }}", print_duration(guard.latency_threshold)));
        self.line(3, format!("count_as_error: [{}]", error_kinds(&guard.count_as_error)));
        if let Some(drift) = &guard.drift {
            self.drift(drift);
        }
        self.outside(guard);
    }

    fn drift(&mut self, drift: &DriftGuard) {
        let against = match drift.against {
            Against::Stable => "stable",
            Against::Training => "training",
        };
        let action = match drift.action {
            OnDrift::Hold => "hold",
            OnDrift::Rollback => "rollback",
        };
        self.line(3, "drift:");
        self.line(4, format!("path: {}", quote(&drift.path)));
        self.line(4, format!("against: {against}"));
        self.line(4, format!("max_psi: {}", drift.max_psi));
        self.line(4, format!("max_ks: {}", drift.max_ks));
        self.line(4, format!("min_rows: {}", drift.min_rows));
        self.durations(4, [("every", drift.every), ("window", drift.window)]);
        self.line(4, format!("action: {action}"));
    }

    fn durations<const N: usize>(&mut self, level: usize, durations: [(&str, Duration); N]) {
        for (key, duration) in durations {
            self.line(level, format!("{key}: {}", print_duration(duration)));
        }
    }
}

fn error_kinds(kinds: &BTreeSet<ErrorKind>) -> String {
    kinds.iter().map(|kind| error_kind(*kind)).collect::<Vec<_>>().join(", ")
}

fn error_kind(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Status5xx => "5xx",
        ErrorKind::Timeout => "timeout",
        ErrorKind::Connect => "connect",
        ErrorKind::Reset => "reset",
    }
}

/// The parts of a mapping on one line, without those that are left out.
fn inline(parts: &[Option<String>]) -> String {
    let written: Vec<&str> = parts.iter().flatten().map(String::as_str).collect();
    if written.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", written.join(", ")) }
}

fn quote_path(path: &Path) -> String {
    quote(path.display())
}

/// Between double quotes, so that no name is taken for a number, for nothing, or for YAML's own signs.
fn quote(text: impl Display) -> String {
    let mut quoted = String::from('"');
    for character in text.to_string().chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            plain if plain == ' ' || plain.is_ascii_graphic() || plain.is_alphanumeric() => quoted.push(plain),
            other => write!(quoted, "\\U{:08X}", u32::from(other)).unwrap_or_default(),
        }
    }
    quoted.push('"');
    quoted
}
