//! Every rule finds what breaks it: the production overlay with one thing changed.

use pointsman_manifests::{Objects, findings};
use serde_json::{Value, json};

use crate::overlays::BY_HAND;
use crate::render::guarded_production;

const CONTAINER: &str = "/spec/template/spec/containers/0";
const POD: &str = "/spec/template/spec";

/// `value` at a place, or nothing there any more.
fn change(objects: &Objects, object: &str, place: &str, value: Option<Value>) -> Objects {
    let mut changed = objects.clone();
    let target = changed.0.iter_mut().find(|one| one.to_string() == object).unwrap_or_else(|| panic!("no {object}"));
    let (parent, key) = place.rsplit_once('/').unwrap();
    let parent = target.0.pointer_mut(parent).unwrap_or_else(|| panic!("{object} has no {parent}"));
    match (parent, value) {
        (Value::Object(fields), Some(value)) => drop(fields.insert(key.replace("~1", "/"), value)),
        (Value::Object(fields), None) => drop(fields.remove(&key.replace("~1", "/")).expect(place)),
        (Value::Array(items), Some(value)) => match key {
            "-" => items.push(value),
            position => items[position.parse::<usize>().unwrap()] = value,
        },
        (parent, value) => panic!("{place}: {parent} takes no {value:?}"),
    }
    changed
}

fn check(objects: &Objects, (object, place, value): (&str, &str, Option<Value>), expected: &str) {
    let changed = change(objects, object, place, value);
    let found: Vec<String> = findings(&changed, BY_HAND).iter().map(ToString::to_string).collect();
    assert!(found.iter().any(|one| one.contains(expected)), "{object}{place}: wanted `{expected}`, found {found:#?}");
}

#[test]
fn fields_that_nobody_knows() {
    let Some(objects) = guarded_production() else { return };
    let bites =
        |object: &str, place: &str, value, expected: &str| check(&objects, (object, place, Some(value)), expected);
    bites(
        "Deployment/pointsman",
        "/spec/template/spec/termnationGracePeriodSeconds",
        json!(60),
        "a field that nobody knows",
    );
    bites("Deployment/pointsman", "/spec/minReadySeconds", json!("5"), "does not fit its type");
    bites("Service/pointsman", "/spec/ports/0/targetport", json!("http"), "a field that nobody knows");
    bites("NetworkPolicy/pointsman", "/spec/ingress/0/form", json!([]), "a field that nobody knows");
    bites("HorizontalPodAutoscaler/pointsman", "/spec/behaviour", json!({}), "a field that nobody knows");
    bites("PrometheusRule/pointsman", "/spec/groups/0/rules/0/fro", json!("1m"), "does not fit its type");
    bites("ServiceMonitor/pointsman", "/spec/endpoints/0/honourLabels", json!(true), "does not fit its type");
    bites(
        "ValidatingAdmissionPolicy/pointsman-live-service",
        "/spec/validation",
        json!([]),
        "a field that nobody knows",
    );
    bites("Service/pointsman", "/kind", json!("Ingress"), "a kind that the checks do not know");
}

#[test]
fn containers() {
    let Some(objects) = guarded_production() else { return };
    let at = |place: &str| format!("{CONTAINER}{place}");
    let set = |place: &str, value, expected: &str| {
        check(&objects, ("Deployment/pointsman", &at(place), Some(value)), expected);
    };
    let remove = |place: &str, expected: &str| check(&objects, ("Deployment/pointsman", &at(place), None), expected);
    set("/image", json!("registry.example.com:5000/pointsman"), "its image has no fixed tag");
    set("/image", json!("pointsman:latest"), "its image has no fixed tag");
    set("/imagePullPolicy", json!("Always"), "asks the registry");
    remove("/resources/limits/memory", "has no limit of memory");
    remove("/resources/requests/cpu", "requests no cpu");
    set("/resources/requests/memory", json!("1Gi"), "requests more memory than it may have");
    set("/securityContext/readOnlyRootFilesystem", json!(false), "may write to its root file system");
    remove("/securityContext/allowPrivilegeEscalation", "may gain rights");
    set("/securityContext/capabilities/drop", json!(["NET_RAW"]), "keeps capabilities");
    set("/securityContext/capabilities/add", json!(["NET_ADMIN"]), "keeps capabilities");
    set("/securityContext/privileged", json!(true), "is privileged");
    set("/securityContext/runAsUser", json!(0), "says itself who it runs as");
    set("/ports/0/hostPort", json!(80), "takes a port of its node");
    set("/volumeMounts/0/subPath", json!("pointsman.yaml"), "mounts a single file");
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        remove(&format!("/{probe}"), &format!("has no {probe}"));
        set(&format!("/{probe}/httpGet/port"), json!("metrics"), &format!("its {probe} asks a port"));
    }
    set("/startupProbe/failureThreshold", json!(3), "to start");
    set("/readinessProbe/failureThreshold", json!(30), "after it is no longer ready");
    set("/livenessProbe/httpGet/path", json!("/readyz"), "merely not ready");
    remove("/lifecycle", "before its Services have heard of it");
    set("/args/3", json!("--drain-delay=30s"), "is killed after 60 s, and needs 65 s");
    let limit = at("/resources/limits/memory");
    check(&objects, ("Deployment/delivery-time-v1", &limit, None), "model-server: has no limit of memory");
    let drain = json!([{ "name": "DRAIN_SECONDS", "value": "60" }]);
    check(&objects, ("Deployment/delivery-time-v2", &at("/env"), Some(drain)), "is killed after 45 s, and needs 65 s");
}

#[test]
fn pods() {
    let Some(objects) = guarded_production() else { return };
    let at = |place: &str| format!("{POD}{place}");
    let set = |place: &str, value, expected: &str| {
        check(&objects, ("Deployment/pointsman", &at(place), Some(value)), expected);
    };
    let remove = |place: &str, expected: &str| check(&objects, ("Deployment/pointsman", &at(place), None), expected);
    remove("/securityContext/seccompProfile", "has no seccomp profile");
    remove("/securityContext/runAsNonRoot", "may run as root");
    set("/securityContext/runAsUser", json!(0), "names no user of its own");
    remove("/securityContext/fsGroup", "cannot write to its folders");
    set("/hostNetwork", json!(true), "shares a namespace with its node");
    set("/volumes/-", json!({ "name": "node", "hostPath": { "path": "/" } }), "mounts a folder of its node");
    set("/volumes/-", json!({ "name": "more", "emptyDir": {} }), "may fill the node's disk");
    set("/volumes/-", json!({ "name": "more", "emptyDir": {} }), "which nothing mounts");
    set("/volumes/0/name", json!("other"), "which is no volume");
    remove("/automountServiceAccountToken", "does not say whether it gets a token");
    set("/automountServiceAccountToken", json!(false), "rights without a token");
    check(
        &objects,
        ("Deployment/delivery-time-v1", &at("/automountServiceAccountToken"), Some(json!(true))),
        "a token without rights",
    );
    let strategy = "/spec/strategy/rollingUpdate/maxUnavailable";
    check(&objects, ("Deployment/pointsman", strategy, Some(json!("25%"))), "maxUnavailable: 0");
}

#[test]
fn names_selectors_and_ports() {
    let Some(objects) = guarded_production() else { return };
    let set =
        |object: &str, place: &str, value, expected: &str| check(&objects, (object, place, Some(value)), expected);
    let remove = |object: &str, place: &str, expected: &str| check(&objects, (object, place, None), expected);
    set(
        "Deployment/pointsman",
        "/spec/template/metadata/labels",
        json!({ "app": "x" }),
        "does not select its own pods",
    );
    set(
        "Deployment/pointsman",
        "/spec/template/spec/topologySpreadConstraints/0/labelSelector/matchLabels",
        json!({ "a": "b" }),
        "not its own",
    );
    set("Deployment/pointsman", "/spec/replicas", json!(3), "from the manifest and an autoscaler");
    remove("HorizontalPodAutoscaler/pointsman", "/spec/scaleTargetRef/name", "or from neither");
    set("HorizontalPodAutoscaler/pointsman", "/spec/minReplicas", json!(1), "must keep two replicas");
    set(
        "HorizontalPodAutoscaler/pointsman",
        "/spec/scaleTargetRef/name",
        json!("edge"),
        "scales `edge`, which is not there",
    );
    set(
        "PodDisruptionBudget/pointsman",
        "/spec/selector/matchLabels",
        json!({ "a": "b" }),
        "needs exactly one PodDisruptionBudget",
    );
    set(
        "PodDisruptionBudget/pointsman",
        "/spec/selector/matchLabels",
        json!({ "app.kubernetes.io/part-of": "pointsman" }),
        "of 3 Deployments",
    );
}

#[test]
fn services_and_references() {
    let Some(objects) = guarded_production() else { return };
    let set =
        |object: &str, place: &str, value, expected: &str| check(&objects, (object, place, Some(value)), expected);
    let remove = |object: &str, place: &str, expected: &str| check(&objects, (object, place, None), expected);
    set("Service/pointsman", "/spec/selector", json!({ "app": "edge" }), "selects no pods");
    remove("Service/pointsman", "/spec/selector", "selects no pods");
    set(
        "Service/pointsman",
        "/spec/ports/0/targetPort",
        json!("web"),
        "to a port that Deployment/pointsman does not have",
    );
    set("Service/pointsman", "/metadata/namespace", json!("default"), "is in the namespace `default`");
    set("Service/pointsman", "/metadata/name", json!("delivery-time"), "stands twice");
    set(
        "Deployment/pointsman",
        "/spec/template/spec/serviceAccountName",
        json!("edge"),
        "names the ServiceAccount `edge`",
    );
    set(
        "Deployment/pointsman",
        "/spec/template/spec/volumes/0/configMap/name",
        json!("edge"),
        "names the ConfigMap `edge`",
    );
    set(
        "Deployment/pointsman",
        "/spec/template/spec/volumes/1/secret/secretName",
        json!("edge"),
        "names the Secret `edge`",
    );
    set(
        "Deployment/delivery-time-v1",
        "/spec/template/spec/containers/0/envFrom/1/secretRef/optional",
        json!(false),
        "names the Secret `model-store`",
    );
    set(
        "Deployment/delivery-time-v1",
        "/spec/template/spec/containers/0/env/2/valueFrom/configMapKeyRef/name",
        json!("other"),
        "names the ConfigMap `other`",
    );
}

#[test]
fn monitors_roles_and_policies() {
    let Some(objects) = guarded_production() else { return };
    let set =
        |object: &str, place: &str, value, expected: &str| check(&objects, (object, place, Some(value)), expected);
    set("ServiceMonitor/pointsman", "/spec/endpoints/0/port", json!("metrics"), "scrapes the port `metrics`");
    set("ServiceMonitor/pointsman", "/spec/endpoints/0/honorLabels", json!(false), "renames our label");
    set(
        "ServiceMonitor/pointsman",
        "/spec/selector/matchLabels",
        json!({ "app.kubernetes.io/name": "pointsman" }),
        "scrapes 2 Services",
    );
    set("PodMonitor/model-server", "/spec/podMetricsEndpoints/0/port", json!("metrics"), "scrapes the port `metrics`");
    set("RoleBinding/pointsman", "/roleRef/name", json!("edge"), "binds Role/edge, which is not there");
    set("RoleBinding/pointsman", "/subjects/0/namespace", json!("default"), "a subject of another namespace");
    let binding = "ValidatingAdmissionPolicyBinding/pointsman-live-service";
    set(binding, "/spec/policyName", json!("other"), "binds the policy `other`");
    set(binding, "/spec/matchResources/objectSelector/matchLabels", json!({ "a": "b" }), "guards no Service");
}

#[test]
fn network_policies() {
    let Some(objects) = guarded_production() else { return };
    let set =
        |object: &str, place: &str, value, expected: &str| check(&objects, (object, place, Some(value)), expected);
    set("NetworkPolicy/pointsman", "/spec/policyTypes", json!(["Ingress"]), "no NetworkPolicy limits its Egress");
    set("NetworkPolicy/pointsman", "/spec/podSelector/matchLabels", json!({ "a": "b" }), "selects no pods");
    set(
        "NetworkPolicy/pointsman",
        "/spec/ingress/0/ports/0/port",
        json!(8443),
        "a client does not reach its port `http`",
    );
    set("NetworkPolicy/pointsman", "/spec/ingress/0/ports/0/port", json!(8443), "which nothing listens on");
    set("NetworkPolicy/pointsman", "/spec/ingress/1/ports/0/port", json!(9900), "does not reach its port `replicas`");
    set(
        "NetworkPolicy/pointsman",
        "/spec/ingress/2/from/0/namespaceSelector/matchLabels",
        json!({ "a": "b" }),
        "Prometheus does not reach",
    );
    set(
        "NetworkPolicy/pointsman",
        "/spec/egress/0/ports/0/port",
        json!(80),
        "Deployment/pointsman does not reach its port `http`",
    );
    set(
        "NetworkPolicy/pointsman",
        "/spec/egress/0/to/0/podSelector/matchLabels",
        json!({ "version": "v1" }),
        "Deployment/delivery-time-v2: Deployment/pointsman does not reach",
    );
    set(
        "NetworkPolicy/pointsman",
        "/spec/egress/1/to/0/podSelector/matchLabels",
        json!({ "a": "b" }),
        "does not reach its port `replicas`",
    );
    set(
        "NetworkPolicy/model-server",
        "/spec/ingress/0/from/0/podSelector",
        json!({ "matchLabels": { "a": "b" } }),
        "Deployment/pointsman does not reach",
    );
    set(
        "NetworkPolicy/model-server",
        "/spec/ingress/0/from",
        json!([{ "podSelector": {} }]),
        "Prometheus does not reach",
    );
}

#[test]
fn rights() {
    let Some(objects) = guarded_production() else { return };
    let set = |place: &str, value, expected: &str| check(&objects, ("Role/pointsman", place, Some(value)), expected);
    check(
        &objects,
        ("Role/pointsman", "/rules/0/resourceNames", None),
        "services that the edge's config does not name",
    );
    set(
        "/rules/0/resourceNames",
        json!(["delivery-time", "kubernetes"]),
        "services that the edge's config does not name",
    );
    set("/rules/0/resourceNames", json!(["other"]), "does not let the edge patch services `delivery-time`");
    set("/rules/0/verbs", json!(["get", "list", "watch", "patch", "update"]), "lets the edge update services");
    set("/rules/0/verbs", json!(["*"]), "lets the edge * services");
    set("/rules/0/verbs", json!(["get"]), "does not let the edge patch services");
    set("/rules/1/verbs", json!(["list", "watch", "delete"]), "lets the edge delete endpointslices");
    set("/rules/1/resources", json!(["endpointslices", "secrets"]), "gives rights to secrets");
    set("/rules/3/resourceNames", json!(["kube-scheduler"]), "leases that the edge's config does not name");
    set("/rules/2/verbs", json!(["create", "update"]), "leases that the edge's config does not name");
    set(
        "/rules/5/resourceNames",
        json!(["delivery-time-v1", "pointsman"]),
        "deployments/scale that the edge's config does not name",
    );
    set("/rules/5/resources", json!(["deployments"]), "gives rights to deployments");
}

#[test]
fn the_edges_config() {
    let Some(objects) = guarded_production() else { return };
    let config = objects.find("ConfigMap", "pointsman").unwrap().0.pointer("/data/pointsman.yaml").unwrap();
    let config = config.as_str().unwrap();
    let says = |from: &str, to: &str, expected: &str| {
        assert!(config.contains(from), "{from}");
        let changed = Some(json!(config.replace(from, to)));
        check(&objects, ("ConfigMap/pointsman", "/data/pointsman.yaml", changed), expected);
    };
    says("routes:", "routes: {", "is no YAML");
    says("selector_key:", "selector:", "error:");
    says("retries: { replay: predictions }", "retries: { replay: everything }", "pointsman.yaml:");
    says(
        "routes:",
        "traces: { endpoint: 'http://collector.monitoring:4318' }\nroutes:",
        "asks http://collector.monitoring:4318, and no NetworkPolicy",
    );
    says(
        "routes:",
        "notifications: [{ name: chat, url: 'http://[::1]/hook', format: slack }]\nroutes:",
        "asks http://[::1]/hook, and no NetworkPolicy",
    );
    says("0.0.0.0:8080", "0.0.0.0:80", "is not the port `http`");
    says("0.0.0.0:9901", "0.0.0.0:9902", "is not the port `replicas`");
    says("service: pointsman-replicas", "service: pointsman", "must be headless");
    says("service: pointsman-replicas", "service: edges", "`edges`, which is not there");
    says("pointsman/replica-token", "other/replica-token", "/replicas/token_file is in no Secret");
    says("namespace: models", "namespace: other", "in another namespace");
    says("stable: v1", "stable: v2", "with another version");
    says("service: delivery-time-v2", "service: delivery-time-v3", "which must select one Deployment");
    says(
        "service: delivery-time-v2, port: http",
        "service: delivery-time-v1, port: http",
        "does not say so in its labels",
    );
    says("service: delivery-time-v2, port: http", "service: delivery-time-v2, port: grpc", "which it does not have");
    says("service: delivery-time-v2, port: http", "service: delivery-time-v2, port: 80", "which it does not have");
    says("service: delivery-time, selector_key", "service: live, selector_key", "`live`, which is not there");
    says("selector_key: version", "selector_key: track", "with another version");
    says(
        "# rollout: { canary: v2, bake: 10m }      starts a rollout; see ../README.md",
        "rollout: { canary: v2, bake: 1h }",
        "before the bake of 3600 s is over",
    );
    let set =
        |object: &str, place: &str, value, expected: &str| check(&objects, (object, place, Some(value)), expected);
    set("Service/delivery-time", "/metadata/labels", json!({}), "no label pointsman.dev/live-service");
    set("Service/delivery-time", "/spec/selector/app", json!("other"), "cannot select the pods of `v1`");
    set("Service/pointsman-replicas", "/spec/publishNotReadyAddresses", json!(false), "must be headless");
}
