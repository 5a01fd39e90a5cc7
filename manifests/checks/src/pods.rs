//! What every pod and container is held to: pinned images, requests and limits, probes, an end in order, and that nothing
//! runs as root, gains rights, or writes where it should not.

use serde_json::Value;

use crate::Finding;
use crate::objects::{Object, Objects, Read};
use crate::quantity::{milli, seconds};

/// What the edge takes for requests in flight once its listeners are closed, in seconds (`DRAIN_DEADLINE` of the edge).
const EDGE_DRAINS: u64 = 30;
/// A slow start may take at least this long before the kubelet gives up, in seconds.
const START_PATIENCE: u64 = 30;

/// Whatever is wrong with the pods of all Deployments.
pub fn check(objects: &Objects) -> Vec<Finding> {
    objects
        .of("Deployment")
        .flat_map(|deployment| problems(deployment).into_iter().map(|it| deployment.finding(it)))
        .collect()
}

fn problems(deployment: &Object) -> Vec<String> {
    let pod = deployment.pod();
    let mut found = pod_problems(deployment);
    for (list, runs_on) in [("/initContainers", false), ("/containers", true)] {
        for container in pod.items(list) {
            let mut wrong = container_problems(container, pod);
            if runs_on {
                wrong.extend(probe_problems(container));
                wrong.extend(end_problems(container, pod));
            }
            found.extend(wrong.into_iter().map(|problem| format!("{}: {problem}", container.text("/name"))));
        }
    }
    found
}

fn pod_problems(deployment: &Object) -> Vec<String> {
    let pod = deployment.pod();
    let mut found = Vec::new();
    let mut must = |holds: bool, problem: &str| {
        if !holds {
            found.push(problem.to_owned());
        }
    };
    must(
        deployment.0.at("/spec/strategy/rollingUpdate/maxUnavailable") == &Value::from(0),
        "takes pods down before their successors are ready; maxUnavailable: 0",
    );
    must(pod.text("/securityContext/seccompProfile/type") == "RuntimeDefault", "has no seccomp profile");
    must(pod.at("/securityContext/runAsNonRoot") == &Value::from(true), "may run as root; runAsNonRoot: true");
    must(pod.at("/securityContext/runAsUser").as_u64().is_some_and(|user| user >= 1_000), "names no user of its own");
    must(
        pod.at("/automountServiceAccountToken").is_boolean(),
        "does not say whether it gets a token for the API server",
    );
    must(
        ["/hostNetwork", "/hostPID", "/hostIPC"].iter().all(|place| !pod.has(place)),
        "shares a namespace with its node",
    );
    must(pod.items("/volumes").iter().all(|volume| !volume.has("/hostPath")), "mounts a folder of its node");
    must(
        pod.items("/volumes")
            .iter()
            .filter(|volume| volume.has("/emptyDir"))
            .all(|volume| volume.has("/emptyDir/sizeLimit")),
        "has a folder that may fill the node's disk; sizeLimit",
    );
    found.extend(volume_problems(pod));
    found
}

/// Mounts without a volume, and volumes that nobody mounts.
fn volume_problems(pod: &Value) -> Vec<String> {
    let containers = || pod.items("/initContainers").iter().chain(pod.items("/containers"));
    let mounted: Vec<&str> =
        containers().flat_map(|one| one.items("/volumeMounts")).map(|mount| mount.text("/name")).collect();
    let volumes: Vec<&str> = pod.items("/volumes").iter().map(|volume| volume.text("/name")).collect();
    let missing = mounted
        .iter()
        .filter(|name| !volumes.contains(name))
        .map(|name| format!("mounts `{name}`, which is no volume"));
    let unused = volumes
        .iter()
        .filter(|name| !mounted.contains(name))
        .map(|name| format!("has the volume `{name}`, which nothing mounts"));
    missing.chain(unused).collect()
}

fn container_problems(container: &Value, pod: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut must = |holds: bool, problem: &str| {
        if !holds {
            found.push(problem.to_owned());
        }
    };
    let security = container.at("/securityContext");
    must(is_pinned(container.text("/image")), "its image has no fixed tag");
    must(container.text("/imagePullPolicy") == "IfNotPresent", "asks the registry at each start");
    must(security.at("/readOnlyRootFilesystem") == &Value::from(true), "may write to its root file system");
    must(security.at("/allowPrivilegeEscalation") == &Value::from(false), "may gain rights");
    must(security.texts("/capabilities/drop") == ["ALL"] && !security.has("/capabilities/add"), "keeps capabilities");
    must(!security.has("/privileged"), "is privileged");
    must(!security.has("/runAsUser") && !security.has("/runAsNonRoot"), "says itself who it runs as; the pod does");
    must(container.items("/ports").iter().all(|port| !port.has("/hostPort")), "takes a port of its node");
    must(
        container.items("/volumeMounts").iter().all(|mount| !mount.has("/subPath")),
        "mounts a single file, which never changes",
    );
    must(pod.at("/securityContext/fsGroup").is_u64(), "cannot write to its folders; fsGroup");
    found.extend(["cpu", "memory"].iter().filter_map(|resource| amount_problem(container, resource)));
    found
}

/// Whether an image says exactly which one it is.
fn is_pinned(image: &str) -> bool {
    let (_, last) = image.rsplit_once('/').unwrap_or(("", image));
    match last.split_once(':') {
        Some((_, tag)) => !tag.is_empty() && !tag.starts_with("latest"),
        None => false,
    }
}

fn amount_problem(container: &Value, resource: &str) -> Option<String> {
    let amount = |which: &str| milli(container.text(&format!("/resources/{which}/{resource}")));
    match (amount("requests"), amount("limits")) {
        (Some(request), Some(limit)) if request > limit => Some(format!("requests more {resource} than it may have")),
        (Some(_), Some(_)) => None,
        (None, _) => Some(format!("requests no {resource}")),
        (_, None) => Some(format!("has no limit of {resource}")),
    }
}

fn probe_problems(container: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for name in ["startupProbe", "readinessProbe", "livenessProbe"] {
        let probe = container.at(&format!("/{name}"));
        let port = probe.at("/httpGet/port");
        let known = container.items("/ports").iter().any(|one| one.at("/name") == port);
        match (probe.is_null(), known) {
            (true, _) => found.push(format!("has no {name}")),
            (false, false) => found.push(format!("its {name} asks a port that it does not have")),
            (false, true) => {}
        }
    }
    let number = |place: &str| container.at(place).as_u64().unwrap_or(1);
    if number("/startupProbe/periodSeconds") * number("/startupProbe/failureThreshold") < START_PATIENCE {
        found.push(format!("has less than {START_PATIENCE} s to start"));
    }
    if number("/readinessProbe/periodSeconds") * number("/readinessProbe/failureThreshold") > 10 {
        found.push("takes requests for more than 10 s after it is no longer ready".to_owned());
    }
    if container.at("/livenessProbe/httpGet/path") == container.at("/readinessProbe/httpGet/path") {
        found.push("is killed when it is merely not ready; another path for livenessProbe".to_owned());
    }
    found
}

/// The end of a pod: Services forget it, then it drains, and only then it is killed.
fn end_problems(container: &Value, pod: &Value) -> Vec<String> {
    let Some(pre_stop) = container.at("/lifecycle/preStop/sleep/seconds").as_u64() else {
        return vec!["closes its port before its Services have heard of it; lifecycle.preStop.sleep".to_owned()];
    };
    let grace = pod.at("/terminationGracePeriodSeconds").as_u64().unwrap_or(30);
    let needs = pre_stop + drains(container);
    if grace <= needs { vec![format!("is killed after {grace} s, and needs {needs} s to drain")] } else { Vec::new() }
}

/// How long a container takes from `SIGTERM` to its end at most, in seconds, by its own arguments.
fn drains(container: &Value) -> u64 {
    let delay = container.texts("/args").into_iter().find_map(|argument| argument.strip_prefix("--drain-delay="));
    let deadline = container.items("/env").iter().find(|one| one.text("/name") == "DRAIN_SECONDS");
    match (delay.and_then(seconds), deadline.and_then(|one| one.text("/value").parse().ok())) {
        (Some(delay), _) => delay + EDGE_DRAINS,
        (None, Some(deadline)) => deadline,
        (None, None) => EDGE_DRAINS,
    }
}
