//! The config in the `ConfigMap` is one that the edge takes, and fits the objects around it.

use std::collections::BTreeSet;

use pointsman_config::Config;
use serde_json::Value;

use crate::Finding;
use crate::objects::{Labels, Object, Objects, Read, selects};
use crate::quantity::seconds;

/// The `ConfigMap`, Deployment and `ServiceAccount` of the edge.
const EDGE: &str = "pointsman";
/// The key of the config in its `ConfigMap`.
const FILE: &str = "pointsman.yaml";
/// How long the old version stays warm after a promotion where the config does not say, in seconds.
const BAKE: u64 = 600;

/// What the edge's config names in the cluster.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// The live Services.
    pub(crate) live: BTreeSet<String>,
    /// The Leases that decide who leads.
    pub(crate) leases: BTreeSet<String>,
    /// The Deployments of versions, which may be scaled.
    pub(crate) workloads: BTreeSet<String>,
}

impl Names {
    pub(crate) fn read(objects: &Objects) -> Self {
        let config = config(objects).unwrap_or_default();
        let mut names = Self::default();
        names.leases.insert(config.text("/state/kubernetes/lease").to_owned());
        for route in config.items("/routes") {
            names.live.insert(route.text("/kubernetes/service").to_owned());
            names.workloads.extend(route.entries("/versions").map(|(_, version)| workload(version).to_owned()));
        }
        names
    }
}

/// Every URL that the edge's config has it ask: numbers of Prometheus, gates, webhooks, a collector of spans.
pub(crate) fn asked(objects: &Objects) -> Vec<String> {
    let config = config(objects).unwrap_or_default();
    let mut asked = vec![config.text("/traces/endpoint").to_owned()];
    asked.extend(config.items("/notifications").iter().map(|webhook| webhook.text("/url").to_owned()));
    for route in config.items("/routes") {
        asked.extend(route.items("/guard/queries").iter().map(|query| query.text("/prometheus").to_owned()));
        asked.extend(route.items("/guard/gates").iter().map(|gate| gate.text("/url").to_owned()));
    }
    asked.retain(|url| !url.is_empty());
    asked
}

fn workload(version: &Value) -> &str {
    let named = version.text("/workload");
    if named.is_empty() { version.text("/service") } else { named }
}

/// The edge's config as plain values; none if there is no such `ConfigMap`, or its text cannot be read.
fn config(objects: &Objects) -> Option<Value> {
    serde_saphyr::from_str(text(objects.find("ConfigMap", EDGE)?)).ok()
}

fn text(config_map: &Object) -> &str {
    config_map.0.entries("/data").find(|(key, _)| *key == FILE).and_then(|(_, text)| text.as_str()).unwrap_or_default()
}

/// Whatever in the config does not fit.
pub fn check(objects: &Objects) -> Vec<Finding> {
    let Some(config_map) = objects.find("ConfigMap", EDGE) else {
        return vec![Finding { object: format!("ConfigMap/{EDGE}"), problem: "is not there".to_owned() }];
    };
    let Some(config) = config(objects) else {
        return vec![config_map.finding("is no YAML")];
    };
    let mut found = said(text(config_map));
    found.extend(replicas(&config, objects));
    found.extend(ports(&config, objects));
    found.extend(tokens(&config, objects));
    for route in config.items("/routes") {
        found.extend(live(route, objects));
        found.extend(route.entries("/versions").flat_map(|named| version(named, route, objects)));
    }
    if config.text("/state/kubernetes/namespace") != config_map.namespace() {
        found.push("keeps its state in another namespace than its own".to_owned());
    }
    found.into_iter().map(|problem| config_map.finding(problem)).collect()
}

/// What the edge itself says to its config, warnings included.
fn said(text: &str) -> Vec<String> {
    let problems = match Config::parse(text, FILE) {
        Ok(parsed) => parsed.warnings,
        Err(errors) => errors.into_problems(),
    };
    problems.iter().map(ToString::to_string).collect()
}

/// The Service through which edges find each other.
fn replicas(config: &Value, objects: &Objects) -> Vec<String> {
    let name = config.text("/replicas/service");
    let Some(service) = objects.find("Service", name) else {
        return vec![format!("finds other edges through the Service `{name}`, which is not there")];
    };
    let mut found = Vec::new();
    if service.0.text("/spec/clusterIP") != "None"
        || service.0.at("/spec/publishNotReadyAddresses") != &Value::from(true)
    {
        found.push(format!("finds other edges through `{name}`, which must be headless and publish all of them"));
    }
    if !service.0.items("/spec/ports").iter().any(|port| port.text("/targetPort") == "replicas") {
        found.push(format!("finds other edges through `{name}`, which does not list their port"));
    }
    found
}

/// The config listens where the pod says it does.
fn ports(config: &Value, objects: &Objects) -> Vec<String> {
    let Some(edge) = objects.find("Deployment", EDGE) else {
        return vec![format!("is for the Deployment `{EDGE}`, which is not there")];
    };
    let address = |place: &str| config.text(place).rsplit_once(':').and_then(|(_, port)| port.parse::<u64>().ok());
    let listens = [("http", "/listeners/0/address"), ("admin", "/admin/address"), ("replicas", "/replicas/address")];
    let differ = listens.iter().filter(|(name, place)| edge.pod_ports().get(name).copied() != address(place));
    differ.map(|(name, place)| format!("{place} is not the port `{name}` of {edge}")).collect()
}

/// Token files lie in a Secret that is mounted, and in it if its keys are known.
fn tokens(config: &Value, objects: &Objects) -> Vec<String> {
    let Some(edge) = objects.find("Deployment", EDGE) else {
        return Vec::new();
    };
    let files = ["/admin/token_file", "/replicas/token_file"].map(|place| (place, config.text(place)));
    files
        .iter()
        .filter(|(_, file)| !is_mounted(file, edge, objects))
        .map(|(place, _)| format!("{place} is in no Secret that is mounted"))
        .collect()
}

fn is_mounted(file: &str, edge: &Object, objects: &Objects) -> bool {
    let Some((folder, key)) = file.rsplit_once('/') else {
        return false;
    };
    let mounts = edge.pod().items("/containers").iter().flat_map(|container| container.items("/volumeMounts"));
    let Some(mount) = mounts.into_iter().find(|mount| mount.text("/mountPath") == folder) else {
        return false;
    };
    let volume = edge.pod().items("/volumes").iter().find(|volume| volume.text("/name") == mount.text("/name"));
    let secret = volume.map(|volume| volume.text("/secret/secretName")).unwrap_or_default();
    match objects.find("Secret", secret) {
        Some(known) => known.0.entries("/data").any(|(name, _)| name == key),
        None => !secret.is_empty(),
    }
}

/// The live Service begins with stable, and can select every version.
fn live(route: &Value, objects: &Objects) -> Vec<String> {
    let name = route.text("/kubernetes/service");
    let Some(service) = objects.find("Service", name) else {
        return vec![format!("flips the Service `{name}`, which is not there")];
    };
    let mut found = Vec::new();
    let (key, stable) = (selector_key(route), route.text("/stable"));
    let mut selector = service.0.labels("/spec/selector");
    if selector.remove(key).as_deref() != Some(stable) {
        found.push(format!("begins with `{stable}`, and the Service `{name}` with another version"));
    }
    if service.0.labels("/metadata/labels").get("pointsman.dev/live-service").map(String::as_str) != Some("true") {
        found.push(format!("flips the Service `{name}`, which has no label pointsman.dev/live-service"));
    }
    for (version, written) in route.entries("/versions") {
        let pods = behind(written, objects).map(Object::pod_labels).unwrap_or_default();
        if !selects(&selector, &pods) {
            found.push(format!("flips the Service `{name}`, which cannot select the pods of `{version}`"));
        }
    }
    found
}

fn selector_key(route: &Value) -> &str {
    let key = route.text("/kubernetes/selector_key");
    if key.is_empty() { "version" } else { key }
}

/// The one Deployment behind a version's Service.
fn behind<'a>(version: &Value, objects: &'a Objects) -> Option<&'a Object> {
    let service = objects.find("Service", version.text("/service"))?;
    match objects.selected(&service.0.labels("/spec/selector")).as_slice() {
        [one] => Some(*one),
        _ => None,
    }
}

fn version((name, version): (&str, &Value), route: &Value, objects: &Objects) -> Vec<String> {
    let service = version.text("/service");
    let Some(deployment) = behind(version, objects) else {
        return vec![format!("has version `{name}` behind the Service `{service}`, which must select one Deployment")];
    };
    let mut found = Vec::new();
    let labels: Labels = deployment.pod_labels();
    if labels.get(selector_key(route)).map(String::as_str) != Some(name) {
        found.push(format!("has version `{name}`, and {deployment} does not say so in its labels"));
    }
    if deployment.name() != workload(version) {
        found.push(format!("would scale `{}`, and version `{name}` runs in {deployment}", workload(version)));
    }
    let ports = objects.find("Service", service).map(|one| one.0.items("/spec/ports")).unwrap_or_default();
    let port = version.at("/port");
    // A number is that of the pods, as in the slices of the Service.
    let leads_to = |one: &Value| match port.as_u64() {
        Some(number) => deployment.pod_port(one.at("/targetPort")) == Some(number),
        None => one.at("/name") == port,
    };
    if !ports.iter().any(leads_to) {
        found.push(format!("asks `{service}` at the port {port}, which it does not have"));
    }
    found.extend(shrinks_early(deployment, route, objects).map(|problem| format!("version `{name}`: {problem}")));
    found
}

/// An autoscaler that takes the old version's pods away while it is still the way back.
fn shrinks_early(deployment: &Object, route: &Value, objects: &Objects) -> Option<String> {
    let autoscaler = objects
        .of("HorizontalPodAutoscaler")
        .find(|one| one.0.text("/spec/scaleTargetRef/name") == deployment.name())?;
    let window = autoscaler.0.at("/spec/behavior/scaleDown/stabilizationWindowSeconds").as_u64().unwrap_or(300);
    let bake = seconds(route.text("/rollout/bake")).unwrap_or(BAKE);
    (window <= bake).then(|| format!("{autoscaler} shrinks it before the bake of {bake} s is over"))
}
