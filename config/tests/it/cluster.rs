//! What the keys of a cluster mean, once they are read.

use std::time::Duration;

use pointsman_config::{
    Backends, Config, KubernetesState, LiveService, Peers, Retire, ServicePort, State, VersionService,
};

use crate::read_and_printed;

/// Where the state is in a cluster, edges have others.
const REPLICAS: &str = "replicas: { service: edges, token_file: token }";

/// A config with these keys at its top, and one route with these versions and keys.
#[track_caller]
fn config(top: &str, versions: &str, keys: &str) -> Config {
    read_and_printed(&format!(
        "listeners: [{{ address: 127.0.0.1:0 }}]\n{top}\nroutes:\n  - name: r\n    stable: v1\n    versions: {{ {versions} }}\n    {keys}\n"
    ))
}

fn service(namespace: Option<&str>, name: &str, port: ServicePort, workload: &str) -> VersionService {
    VersionService {
        namespace: namespace.map(str::to_owned),
        service: name.to_owned(),
        port,
        workload: workload.to_owned(),
    }
}

#[test]
fn a_version_is_discovered_by_its_service_without_a_live_one() {
    let found = config("", "v1: { service: a-v1, port: http, revision: r1 }", "");
    let version = found.routes[0].versions.values().next().unwrap();
    let http = || ServicePort::Name("http".to_owned());
    assert_eq!(version.backends, Backends::Service(service(None, "a-v1", http(), "a-v1")));
    assert_eq!((version.endpoints().len(), version.revision.as_deref()), (0, Some("r1")));
    assert_eq!(found.routes[0].live_service, None);
    assert!(found.needs_cluster());
    let numbered = config("", "v1: { service: a-v1, port: 9000, workload: a }", "");
    let version = numbered.routes[0].versions.values().next().unwrap();
    assert_eq!(version.service(), Some(&service(None, "a-v1", ServicePort::Number(9000), "a")));
}

#[test]
fn a_file_without_a_cluster_needs_none() {
    assert!(!config("", "v1: { endpoints: [a:1] }", "").needs_cluster());
}

/// The live Service of a route that says `kubernetes: …`, where the state is in the namespace `models`.
#[track_caller]
fn live(keys: &str) -> (Config, LiveService) {
    let found = config(
        &format!("state: {{ kubernetes: {{ namespace: models }} }}\n{REPLICAS}"),
        "v1: { service: a-v1, port: http }",
        &format!("kubernetes: {keys}"),
    );
    let live = found.routes[0].live_service.clone().unwrap();
    (found, live)
}

#[test]
fn the_namespace_of_the_state_is_that_of_the_services_unless_a_route_says_another() {
    let (found, service) = live("{ service: a }");
    let wanted = LiveService {
        namespace: Some("models".to_owned()),
        service: "a".to_owned(),
        selector_key: "version".to_owned(),
        retire: Retire::None,
    };
    assert_eq!(service, wanted);
    let namespace_of_v1 = |config: &Config| {
        let versions = &config.routes[0].versions;
        versions.values().next().unwrap().service().unwrap().namespace.clone()
    };
    assert_eq!(namespace_of_v1(&found).as_deref(), Some("models"));
    let (found, service) =
        live("{ service: a, namespace: other, selector_key: app.kubernetes.io/version, retire: { scale_to: 0 } }");
    assert_eq!((service.namespace.as_deref(), service.retire), (Some("other"), Retire::ScaleTo(0)));
    assert_eq!(service.selector_key, "app.kubernetes.io/version");
    assert_eq!(namespace_of_v1(&found).as_deref(), Some("other"));
}

#[test]
fn state_in_a_cluster_has_defaults_for_everything() {
    let top = format!("state: {{ kubernetes: {{}} }}\n{REPLICAS}");
    let found = config(&top, "v1: { service: a-v1, port: http }", "kubernetes: { service: a }");
    let wanted =
        KubernetesState { namespace: None, lease: "pointsman".to_owned(), lease_duration: Duration::from_secs(10) };
    assert_eq!(found.state, State::Kubernetes(wanted));
    assert_eq!(found.routes[0].live_service.as_ref().unwrap().namespace, None);
}

#[test]
fn edges_that_know_of_no_other_one_are_warned_of() {
    let check = |top: &str, wanted: &[&str]| {
        let text = format!(
            "listeners: [{{ address: 127.0.0.1:0 }}]\n{top}\nroutes:\n  - {{ name: r, stable: v1, versions: {{ v1: {{ service: a-v1, port: http }} }}, kubernetes: {{ service: a }} }}\n"
        );
        let parsed = Config::parse(&text, "f").unwrap_or_else(|errors| panic!("{errors}\n{text}"));
        let said: Vec<String> = parsed.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(said, wanted, "{top}");
        assert_eq!(parsed.config.replicas.is_none(), !wanted.is_empty());
    };
    let alone = "f:2:22: warning: without `replicas` every edge that has this file decides alone, on the requests that it sees itself; add `replicas`, or run one edge and no more";
    check("state: { kubernetes: {} }", &[alone]);
    check(&format!("state: {{ kubernetes: {{}} }}\n{REPLICAS}"), &[]);
}

#[test]
fn replicas_are_behind_a_service_or_listed() {
    let with = |replicas: &str| {
        let top = format!("state: {{ kubernetes: {{}} }}\nreplicas: {replicas}");
        config(&top, "v1: { service: a-v1, port: http }", "kubernetes: { service: a }").replicas.unwrap()
    };
    let behind = with("{ service: edges, token_file: token }");
    assert_eq!(
        (behind.address.to_string().as_str(), behind.peers),
        ("0.0.0.0:9901", Peers::Service("edges".to_owned()))
    );
    let listed = with("{ address: 127.0.0.1:0, endpoints: [127.0.0.1:1, \"[::1]:2\"], token_file: token }");
    let Peers::Endpoints(endpoints) = listed.peers else { panic!("no endpoints") };
    assert_eq!(endpoints.iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.0.1:1", "[::1]:2"]);
}

#[test]
fn paths_of_a_cluster_are_found_and_there_is_no_state_file_among_them() {
    let top = format!("state: {{ kubernetes: {{}} }}\n{REPLICAS}");
    let mut found = config(&top, "v1: { service: a-v1, port: http }", "kubernetes: { service: a }");
    let paths: Vec<String> = found.paths_mut().map(|path| path.display().to_string()).collect();
    assert_eq!(paths, ["token"]);
}
