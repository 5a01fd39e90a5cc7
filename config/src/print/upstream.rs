//! Endpoints, certificates, and what is written down about requests, as YAML.

use crate::units::print_percent;
use crate::{
    CertificateFiles, Config, Ejection, Example, Golden, HealthCheck, ListenerTls, Protocol, Route, Signature,
    UpstreamTls, WarmUp,
};

use super::traffic::percent_of;
use super::{Page, inline, quote, quote_path};

impl Page {
    pub(super) fn listener_tls(&mut self, tls: Option<&ListenerTls>) {
        let Some(tls) = tls else { return };
        self.line(2, "tls:");
        self.line(3, "certificates:");
        tls.certificates.iter().for_each(|files| self.line(4, format!("- {}", inline(&pair(Some(files))))));
        if let Some(file) = &tls.client_ca {
            self.line(3, format!("client_ca: {}", quote_path(file)));
        }
    }

    pub(super) fn observation(&mut self, config: &Config) {
        if let Some(log) = &config.access_log {
            let file = log.file.as_deref().map(|file| format!("file: {}", quote_path(file)));
            let sample = Some(format!("sample: {}", print_percent(log.sample)));
            self.line(0, format!("access_log: {}", inline(&[file, sample])));
        }
        if let Some(traces) = &config.traces {
            self.line(0, "traces:");
            self.line(1, format!("endpoint: {}", quote(&traces.endpoint)));
            self.line(1, format!("sample: {}", print_percent(traces.sample)));
            self.line(1, format!("service_name: {}", quote(&traces.service_name)));
        }
    }

    pub(super) fn upstream(&mut self, route: &Route) {
        self.health_check(&route.health_check);
        if let Some(warm_up) = &route.warm_up {
            self.warm_up(warm_up);
        }
        self.durations(2, [("slow_start", route.slow_start)]);
        self.ejection(&route.ejection);
        let protocol = match route.protocol {
            Protocol::Http1 => "http1",
            Protocol::H2c => "h2c",
            Protocol::H2 => "h2",
        };
        self.line(2, format!("protocol: {protocol}"));
        if let Some(tls) = &route.upstream_tls {
            self.line(2, format!("upstream_tls: {}", upstream_tls(tls)));
        }
    }

    fn health_check(&mut self, check: &HealthCheck) {
        self.line(2, "health_check:");
        if let Some(path) = &check.path {
            self.line(3, format!("path: {}", quote(path)));
        }
        self.durations(3, [("interval", check.interval), ("timeout", check.timeout)]);
        self.line(3, format!("healthy_after: {}", check.healthy_after));
        self.line(3, format!("unhealthy_after: {}", check.unhealthy_after));
    }

    fn warm_up(&mut self, warm_up: &WarmUp) {
        self.line(2, "warm_up:");
        self.line(3, format!("path: {}", quote(&warm_up.path)));
        match &warm_up.golden {
            Golden::Model(path) => {
                let signature = match warm_up.signature {
                    Signature::Same => "same",
                    Signature::Any => "any",
                };
                self.line(3, format!("model: {}", quote(path)));
                self.line(3, format!("signature: {signature}"));
            }
            Golden::Examples(examples) => {
                self.line(3, "examples:");
                for example in examples {
                    self.line(4, format!("- {}", example_line(example)));
                }
            }
        }
        self.line(3, format!("calls: {}", warm_up.calls));
        self.durations(3, [("timeout", warm_up.timeout)]);
    }

    fn ejection(&mut self, ejection: &Ejection) {
        self.line(2, "ejection:");
        self.line(3, format!("consecutive_failures: {}", ejection.consecutive_failures));
        self.line(3, format!("success_rate_deviations: {}", ejection.success_rate_deviations));
        self.line(3, format!("success_rate_requests: {}", ejection.success_rate_requests));
        self.durations(
            3,
            [("interval", ejection.interval), ("base_time", ejection.base_time), ("max_time", ejection.max_time)],
        );
        self.line(3, format!("max_ejected: {}", percent_of(ejection.max_ejected_ppm)));
    }
}

fn pair(files: Option<&CertificateFiles>) -> [Option<String>; 2] {
    [
        files.map(|files| format!("certificate: {}", quote_path(&files.certificate))),
        files.map(|files| format!("private_key: {}", quote_path(&files.private_key))),
    ]
}

fn upstream_tls(tls: &UpstreamTls) -> String {
    let [certificate, private_key] = pair(tls.identity.as_ref());
    inline(&[
        tls.ca.as_deref().map(|file| format!("ca: {}", quote_path(file))),
        certificate,
        private_key,
        tls.server_name.as_ref().map(|name| format!("server_name: {}", quote(name))),
    ])
}

/// A tolerance means something only beside what is expected.
fn example_line(example: &Example) -> String {
    let expect = example.expect.map(|number| format!("expect: {number}"));
    let tolerance = example.expect.map(|_| format!("tolerance: {}", example.tolerance));
    inline(&[Some(format!("body: {}", quote(&example.body))), expect, tolerance])
}
