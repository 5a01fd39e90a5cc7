//! What is said of a cluster, as YAML.

use crate::units::print_duration;
use crate::{Backends, LiveService, Peers, Replicas, Retire, ServicePort, State};

use super::{Page, inline, quote, quote_path};

impl Page {
    pub(super) fn state(&mut self, state: &State) {
        match state {
            State::File(file) => self.line(1, format!("file: {}", quote_path(file))),
            State::Kubernetes(state) => {
                let lease = Some(format!("lease: {}", quote(&state.lease)));
                let duration = Some(format!("lease_duration: {}", print_duration(state.lease_duration)));
                let parts = [namespace(state.namespace.as_deref()), lease, duration];
                self.line(1, format!("kubernetes: {}", inline(&parts)));
            }
        }
    }

    pub(super) fn replicas(&mut self, replicas: &Replicas) {
        self.line(0, "replicas:");
        self.line(1, format!("address: {}", quote(replicas.address)));
        match &replicas.peers {
            Peers::Service(service) => self.line(1, format!("service: {}", quote(service))),
            Peers::Endpoints(endpoints) => {
                let endpoints: Vec<String> = endpoints.iter().map(quote).collect();
                self.line(1, format!("endpoints: [{}]", endpoints.join(", ")));
            }
        }
        self.line(1, format!("token_file: {}", quote_path(&replicas.token_file)));
    }

    pub(super) fn live_service(&mut self, live: &LiveService) {
        let retire = match live.retire {
            Retire::None => "retire: none".to_owned(),
            Retire::ScaleTo(replicas) => format!("retire: {{ scale_to: {replicas} }}"),
        };
        let parts = [
            Some(format!("service: {}", quote(&live.service))),
            Some(format!("selector_key: {}", quote(&live.selector_key))),
            namespace(live.namespace.as_deref()),
            Some(retire),
        ];
        self.line(2, format!("kubernetes: {}", inline(&parts)));
    }
}

fn namespace(name: Option<&str>) -> Option<String> {
    name.map(|name| format!("namespace: {}", quote(name)))
}

/// Where a version answers, as the parts of a mapping.
pub(super) fn backends(backends: &Backends) -> String {
    match backends {
        Backends::Endpoints(endpoints) => {
            let endpoints: Vec<String> = endpoints.iter().map(quote).collect();
            format!("endpoints: [{}]", endpoints.join(", "))
        }
        Backends::Service(service) => {
            let port = match &service.port {
                ServicePort::Name(name) => quote(name),
                ServicePort::Number(number) => number.to_string(),
            };
            format!("service: {}, port: {port}, workload: {}", quote(&service.service), quote(&service.workload))
        }
    }
}
