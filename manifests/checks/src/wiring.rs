//! Names, selectors and ports meet something that is there.

use crate::Finding;
use crate::objects::{Labels, Object, Objects, Read, match_labels, selects};

/// Kinds that belong to no namespace.
const CLUSTER_WIDE: [&str; 3] = ["Namespace", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"];

/// Whatever points at nothing; `external` are Secrets that are made by hand.
pub fn check(objects: &Objects, external: &[&str]) -> Vec<Finding> {
    let mut found = Vec::new();
    for object in &objects.0 {
        let problems = match object.kind() {
            "Deployment" => deployment(object, objects, external),
            "Service" => service(object, objects),
            "PodDisruptionBudget" => one_deployment(object, objects, "/spec/selector"),
            "HorizontalPodAutoscaler" => autoscaler(object, objects),
            "ServiceMonitor" => service_monitor(object, objects),
            "PodMonitor" => pod_monitor(object, objects),
            "RoleBinding" => role_binding(object, objects),
            "ValidatingAdmissionPolicyBinding" => policy_binding(object, objects),
            _ => Vec::new(),
        };
        found.extend(problems.into_iter().chain(namespace(object, objects)).map(|problem| object.finding(problem)));
    }
    found
}

fn namespace(object: &Object, objects: &Objects) -> Option<String> {
    let expected = objects.of("Namespace").map(Object::name).next().unwrap_or_default();
    let expected = if CLUSTER_WIDE.contains(&object.kind()) { "" } else { expected };
    (object.namespace() != expected)
        .then(|| format!("is in the namespace `{}`, not in `{expected}`", object.namespace()))
}

fn deployment(object: &Object, objects: &Objects, external: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let labels = object.pod_labels();
    if !match_labels(object.0.at("/spec/selector")).is_some_and(|selector| selects(&selector, &labels)) {
        found.push("does not select its own pods".to_owned());
    }
    for constraint in object.pod().items("/topologySpreadConstraints") {
        if !match_labels(constraint.at("/labelSelector")).is_some_and(|selector| selects(&selector, &labels)) {
            found.push("spreads pods that are not its own".to_owned());
        }
    }
    let budgets = objects.of("PodDisruptionBudget").filter_map(|budget| match_labels(budget.0.at("/spec/selector")));
    if budgets.filter(|selector| selects(selector, &labels)).count() != 1 {
        found.push("needs exactly one PodDisruptionBudget".to_owned());
    }
    let scaled =
        objects.of("HorizontalPodAutoscaler").any(|one| one.0.text("/spec/scaleTargetRef/name") == object.name());
    if scaled == object.0.has("/spec/replicas") {
        found.push("has its number of replicas from the manifest and an autoscaler, or from neither".to_owned());
    }
    found.extend(references(object, objects, external));
    found
}

/// `ConfigMaps`, Secrets and `ServiceAccounts` that a pod names and that are not there.
fn references(object: &Object, objects: &Objects, external: &[&str]) -> Vec<String> {
    let pod = object.pod();
    let mut named = vec![("ServiceAccount", pod.text("/serviceAccountName"))];
    for volume in pod.items("/volumes") {
        named.push(("ConfigMap", volume.text("/configMap/name")));
        named.push(("Secret", volume.text("/secret/secretName")));
    }
    for container in pod.items("/initContainers").iter().chain(pod.items("/containers")) {
        for value in container.items("/env") {
            named.push(("ConfigMap", value.text("/valueFrom/configMapKeyRef/name")));
            named.push(("Secret", value.text("/valueFrom/secretKeyRef/name")));
        }
        for source in container.items("/envFrom") {
            named.push(("ConfigMap", source.text("/configMapRef/name")));
            if source.at("/secretRef/optional") != &serde_json::Value::from(true) {
                named.push(("Secret", source.text("/secretRef/name")));
            }
        }
    }
    let there =
        |kind: &str, name: &str| objects.find(kind, name).is_some() || (kind == "Secret" && external.contains(&name));
    let given = named.into_iter().filter(|(kind, name)| !name.is_empty() || *kind == "ServiceAccount");
    given
        .filter(|(kind, name)| !there(kind, name))
        .map(|(kind, name)| format!("names the {kind} `{name}`, which is not there"))
        .collect()
}

fn service(object: &Object, objects: &Objects) -> Vec<String> {
    let behind = objects.selected(&object.0.labels("/spec/selector"));
    if behind.is_empty() {
        return vec!["selects no pods".to_owned()];
    }
    let mut found = Vec::new();
    for port in object.0.items("/spec/ports") {
        for deployment in &behind {
            if deployment.pod_port(port.at("/targetPort")).is_none() {
                found.push(format!("sends `{}` to a port that {deployment} does not have", port.text("/name")));
            }
        }
    }
    found
}

fn one_deployment(object: &Object, objects: &Objects, place: &str) -> Vec<String> {
    let selector = match_labels(object.0.at(place)).unwrap_or_default();
    match objects.selected(&selector).len() {
        1 => Vec::new(),
        count => vec![format!("selects the pods of {count} Deployments, not of one")],
    }
}

fn autoscaler(object: &Object, objects: &Objects) -> Vec<String> {
    let mut found = Vec::new();
    let target = object.0.text("/spec/scaleTargetRef/name");
    if objects.find(object.0.text("/spec/scaleTargetRef/kind"), target).is_none() {
        found.push(format!("scales `{target}`, which is not there"));
    }
    let (least, most) = (object.0.at("/spec/minReplicas").as_u64(), object.0.at("/spec/maxReplicas").as_u64());
    if least < Some(2) || most <= least {
        found.push("must keep two replicas at least, and be able to add some".to_owned());
    }
    found
}

fn service_monitor(object: &Object, objects: &Objects) -> Vec<String> {
    let selector = match_labels(object.0.at("/spec/selector")).unwrap_or_default();
    let labels = |service: &&Object| service.0.labels("/metadata/labels");
    let services: Vec<&Object> = objects.of("Service").filter(|service| selects(&selector, &labels(service))).collect();
    let has = |name: &str| {
        services.iter().any(|one| one.0.items("/spec/ports").iter().any(|port| port.text("/name") == name))
    };
    let mut found: Vec<String> = scraped(object, "/spec/endpoints", has);
    if services.len() != 1 {
        found.push(format!("scrapes {} Services, not one", services.len()));
    }
    found
}

fn pod_monitor(object: &Object, objects: &Objects) -> Vec<String> {
    let deployments = objects.selected(&match_labels(object.0.at("/spec/selector")).unwrap_or_default());
    let has = |name: &str| !deployments.is_empty() && deployments.iter().all(|one| one.pod_ports().contains_key(name));
    scraped(object, "/spec/podMetricsEndpoints", has)
}

/// Ports that are scraped and not there, and labels of ours that Prometheus would rename.
fn scraped(object: &Object, place: &str, has: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for endpoint in object.0.items(place) {
        if !has(endpoint.text("/port")) {
            found.push(format!("scrapes the port `{}`, which is not there", endpoint.text("/port")));
        }
        if endpoint.at("/honorLabels") != &serde_json::Value::from(true) {
            found.push("renames our label `endpoint`; honorLabels: true".to_owned());
        }
    }
    found
}

fn role_binding(object: &Object, objects: &Objects) -> Vec<String> {
    let mut found = Vec::new();
    let role = (object.0.text("/roleRef/kind"), object.0.text("/roleRef/name"));
    if objects.find(role.0, role.1).is_none() {
        found.push(format!("binds {}/{}, which is not there", role.0, role.1));
    }
    for subject in object.0.items("/subjects") {
        if objects.find(subject.text("/kind"), subject.text("/name")).is_none() {
            found.push(format!("binds to {}/{}, which is not there", subject.text("/kind"), subject.text("/name")));
        }
        if subject.text("/namespace") != object.namespace() {
            found.push("binds to a subject of another namespace".to_owned());
        }
    }
    found
}

fn policy_binding(object: &Object, objects: &Objects) -> Vec<String> {
    let mut found = Vec::new();
    let policy = object.0.text("/spec/policyName");
    if objects.find("ValidatingAdmissionPolicy", policy).is_none() {
        found.push(format!("binds the policy `{policy}`, which is not there"));
    }
    let selector: Labels = match_labels(object.0.at("/spec/matchResources/objectSelector")).unwrap_or_default();
    if !objects.of("Service").any(|service| selects(&selector, &service.0.labels("/metadata/labels"))) {
        found.push("guards no Service".to_owned());
    }
    found
}
