//! What others say of a canary, and when nothing goes forward, as YAML.

use crate::{Before, Compared, Config, Freeze, Guard, Otherwise, OutsideGate, Query};

use super::notify::{secret, url};
use super::{Page, quote};

impl Page {
    pub(super) fn outside(&mut self, guard: &Guard) {
        if !guard.queries.is_empty() {
            self.line(3, "queries:");
            guard.queries.iter().for_each(|query| self.query(query));
        }
        if !guard.gates.is_empty() {
            self.line(3, "gates:");
            guard.gates.iter().for_each(|gate| self.outside_gate(gate));
        }
    }

    fn query(&mut self, query: &Query) {
        let compare = match query.compare {
            Compared::Value => "value",
            Compared::Ratio => "ratio",
            Compared::Difference => "difference",
        };
        self.line(4, format!("- name: {}", quote(&query.name)));
        self.line(5, format!("prometheus: {}", quote(&query.prometheus)));
        self.line(5, format!("query: {}", quote(&query.query)));
        if let Some(baseline) = &query.baseline_query {
            self.line(5, format!("baseline_query: {}", quote(baseline)));
        }
        self.line(5, format!("compare: {compare}"));
        for (key, limit) in [("max", query.max), ("min", query.min)] {
            if let Some(limit) = limit {
                self.line(5, format!("{key}: {limit}"));
            }
        }
        self.line(5, format!("breaches: {}", query.breaches));
        self.durations(5, [("every", query.every), ("delay", query.delay), ("timeout", query.timeout)]);
        if let Some(source) = &query.authorization {
            self.line(5, secret("authorization", source));
        }
    }

    fn outside_gate(&mut self, gate: &OutsideGate) {
        let word = |before: &Before| match before {
            Before::Step => "step",
            Before::Promotion => "promotion",
        };
        let otherwise = match gate.otherwise {
            Otherwise::Hold => "hold",
            Otherwise::Allow => "allow",
        };
        self.line(4, format!("- name: {}", quote(&gate.name)));
        self.line(5, url(&gate.url));
        self.line(5, format!("before: [{}]", gate.before.iter().map(word).collect::<Vec<_>>().join(", ")));
        self.line(5, format!("default: {otherwise}"));
        self.durations(5, [("every", gate.every), ("timeout", gate.timeout)]);
        for (key, source) in [("secret", &gate.secret), ("authorization", &gate.authorization)] {
            if let Some(source) = source {
                self.line(5, secret(key, source));
            }
        }
    }

    pub(super) fn freezes(&mut self, config: &Config) {
        if !config.freeze.is_empty() {
            self.line(0, "freeze:");
            config.freeze.iter().for_each(|freeze| self.freeze(freeze));
        }
    }

    fn freeze(&mut self, freeze: &Freeze) {
        let [cron, zone, lasts] = freeze.windows.written();
        self.line(1, format!("- name: {}", quote(&freeze.name)));
        self.line(2, format!("cron: {}", quote(cron)));
        self.line(2, format!("time_zone: {}", quote(zone)));
        self.line(2, format!("duration: {lasts}"));
        if !freeze.routes.is_empty() {
            let routes: Vec<_> = freeze.routes.iter().map(quote).collect();
            self.line(2, format!("routes: [{}]", routes.join(", ")));
        }
    }
}
