//! Every overlay holds, and has what it is for.

use std::collections::BTreeMap;

use pointsman_manifests::{Objects, Read, findings};

use crate::render::{file, guarded_production, overlay, with_component};

/// Secrets that an operator makes before a production overlay is applied.
pub const BY_HAND: &[&str] = &["pointsman-tokens"];

fn holds(objects: &Objects, external: &[&str]) {
    let found: Vec<String> = findings(objects, external).iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

fn kinds(objects: &Objects) -> BTreeMap<&str, usize> {
    let mut kinds = BTreeMap::new();
    for object in &objects.0 {
        *kinds.entry(object.kind()).or_default() += 1;
    }
    kinds
}

#[test]
fn the_local_overlay_holds_by_itself() {
    let Some(objects) = overlay("local") else { return };
    holds(&objects, &[]);
    assert_eq!(objects.find("Deployment", "pointsman").unwrap().0.at("/spec/replicas"), 3);
    let store = objects.of("ConfigMap").find(|one| one.name().starts_with("model-store-")).unwrap();
    assert_eq!(store.0.text("/data/MODEL_STORE"), "/models", "nothing is fetched");
}

#[test]
fn the_canary_overlay_is_the_local_one_with_a_rollout() {
    let (Some(local), Some(canary)) = (overlay("local"), overlay("local-canary")) else { return };
    holds(&canary, &[]);
    let differ: Vec<String> =
        canary.0.iter().filter(|object| !local.0.contains(object)).map(ToString::to_string).collect();
    assert_eq!(differ, ["ConfigMap/pointsman"]);
    assert_eq!(canary.0.len(), local.0.len());
}

#[test]
fn the_production_overlay_holds_but_for_the_secret_that_is_made_by_hand() {
    let Some(objects) = guarded_production() else { return };
    holds(&objects, BY_HAND);
    let kinds = kinds(&objects);
    for (kind, count) in [
        ("Deployment", 3),
        ("Service", 5),
        ("HorizontalPodAutoscaler", 3),
        ("PodDisruptionBudget", 3),
        ("NetworkPolicy", 2),
        ("Role", 1),
        ("RoleBinding", 1),
        ("ServiceAccount", 2),
        ("ServiceMonitor", 1),
        ("PodMonitor", 1),
        ("PrometheusRule", 1),
        ("ValidatingAdmissionPolicy", 1),
        ("ValidatingAdmissionPolicyBinding", 1),
    ] {
        assert_eq!(kinds.get(kind), Some(&count), "{kind}");
    }
    assert!(!kinds.contains_key("Secret"), "no token stands in a manifest");
}

#[test]
fn production_fetches_models_from_the_bucket_that_the_overlay_names() {
    let Some(objects) = overlay("production") else { return };
    let store = objects.of("ConfigMap").find(|one| one.name().starts_with("model-store-")).unwrap();
    assert_eq!(store.0.text("/data/MODEL_STORE"), "s3://your-bucket");
    for version in ["v1", "v2"] {
        let deployment = objects.find("Deployment", &format!("delivery-time-{version}")).unwrap();
        let env = deployment.0.items("/spec/template/spec/containers/0/env");
        let place = |name: &str| env.iter().position(|one| one.text("/name") == name).unwrap();
        // A name is only put in for what stands before.
        assert!(place("MODEL_STORE") < place("MODEL_PATH"));
        assert_eq!(env[place("MODEL_PATH")].text("/value"), format!("$(MODEL_STORE)/delivery-time/{version}"));
        let token = env[place("AWS_WEB_IDENTITY_TOKEN_FILE")].text("/value");
        let mounts = deployment.0.items("/spec/template/spec/containers/0/volumeMounts");
        let covered = |path: &str| mounts.iter().any(|mount| path.starts_with(mount.text("/mountPath")));
        assert!(covered(token) && covered(env[place("MODEL_CACHE")].text("/value")));
    }
    assert!(store.0.text("/data/AWS_ROLE_ARN").starts_with("arn:aws:iam::"));
}

#[test]
fn the_role_of_a_machine_is_reached_only_where_the_component_for_it_stands() {
    let role = |objects: &Objects| objects.find("NetworkPolicy", "model-server-machine-role").cloned();
    let (Some(without), Some(with)) = (overlay("production"), with_component("production", "machine-role")) else {
        return;
    };
    assert!(role(&without).is_none());
    holds(&with, BY_HAND);
    let role = role(&with).unwrap();
    assert_eq!(role.0.text("/metadata/namespace"), "models");
    let [opened] = role.0.items("/spec/egress") else { panic!("one rule: {role}") };
    assert_eq!(opened.text("/to/0/ipBlock/cidr"), "169.254.0.0/16");
    let ports: Vec<u64> = opened.items("/ports").iter().filter_map(|port| port.at("/port").as_u64()).collect();
    assert_eq!(ports, [80, 988]);
}

/// The config of the page that comes from Argo Rollouts asks Prometheus, that from Flagger asks a gate.
#[test]
fn others_are_asked_only_where_the_component_for_it_stands() {
    let (Some(without), Some(with)) = (overlay("production"), with_component("production", "outgoing")) else {
        return;
    };
    holds(&with, BY_HAND);
    assert_eq!(with.find("NetworkPolicy", "pointsman-outgoing").unwrap().0.text("/metadata/namespace"), "models");
    let asks = "queries: [{ name: orders, prometheus: http://prometheus.monitoring:9090, query: 'sum(orders{version=\"{{version}}\"})', compare: value, min: 1 }], \
                gates: [{ name: approval, url: http://approvals.example.com/gate }]";
    let asking = |objects: &Objects| {
        let mut objects = objects.clone();
        let edge = objects.0.iter_mut().find(|one| one.to_string() == "ConfigMap/pointsman").unwrap();
        let config = edge.0.pointer_mut("/data/pointsman.yaml").unwrap();
        let asked = config.as_str().unwrap().replace("    retries:", &format!("    guard: {{ {asks} }}\n    retries:"));
        assert!(asked.contains(asks), "{asked}");
        *config = asked.into();
        objects
    };
    holds(&asking(&with), BY_HAND);
    let found: Vec<String> = findings(&asking(&without), BY_HAND).iter().map(ToString::to_string).collect();
    let closed = |url| format!("Deployment/pointsman: asks {url}, and no NetworkPolicy lets it out to that port");
    let wanted = ["http://approvals.example.com/gate", "http://prometheus.monitoring:9090"].map(closed);
    assert_eq!(found, wanted);
}

#[test]
fn a_selector_that_pointsman_moved_is_left_alone_by_those_who_apply() {
    let Some(objects) = overlay("production") else { return };
    let live = objects.find("Service", "delivery-time").unwrap();
    let annotations = live.0.labels("/metadata/annotations");
    assert_eq!(annotations.get("kustomize.toolkit.fluxcd.io/ssa").map(String::as_str), Some("IfNotPresent"));
}

#[test]
fn every_folder_that_the_readme_names_is_there() {
    let readme = file("manifests/README.md");
    let named = readme.split(|character: char| character.is_whitespace() || "`()".contains(character));
    let folders: Vec<&str> = named.filter(|word| word.starts_with("manifests/")).collect();
    assert!(folders.len() > 3, "{folders:?}");
    for folder in folders {
        assert!(crate::render::root().join(folder).exists(), "{folder}");
    }
}

/// The lines in the blocks of shell of a file, without their comments.
fn commands(path: &str) -> Vec<String> {
    let text = file(path);
    let mut in_shell = false;
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        match line {
            "```sh" => in_shell = true,
            "```" => in_shell = false,
            line if in_shell => found.push(line.split(" #").next().unwrap_or_default().trim().to_owned()),
            _ => {}
        }
    }
    found
}

/// What `kubectl apply -k` is given is there and renders, and what other commands are about is in the local overlay.
#[test]
fn every_kubectl_command_of_the_documents_is_about_something_that_is_there() {
    let Some(local) = overlay("local") else { return };
    let kinds = [("deployment", "Deployment"), ("deploy", "Deployment"), ("service", "Service")];
    let mut seen = 0;
    for path in ["docs/quick-start-kubernetes.md", "manifests/README.md"] {
        for command in commands(path).iter().filter(|command| command.starts_with("kubectl ")) {
            let words: Vec<&str> = command.split_whitespace().collect();
            for (place, word) in words.iter().enumerate() {
                let next = words.get(place + 1).copied().unwrap_or_default();
                if *word == "-k" {
                    assert!(crate::render::rendered(next).is_some(), "{path}: {command}");
                    seen += 1;
                }
                let (word, name) = word.split_once('/').unwrap_or((word, next));
                if let Some((_, kind)) = kinds.iter().find(|(written, _)| *written == word) {
                    assert!(local.find(kind, name).is_some(), "{path}: {command}: no {kind} {name}");
                    seen += 1;
                }
            }
            let namespace = words.windows(2).find(|pair| pair[0] == "-n").map(|pair| pair[1]);
            assert!(namespace.is_none_or(|name| local.find("Namespace", name).is_some()), "{path}: {command}");
        }
    }
    assert!(seen > 8, "{seen}");
}
