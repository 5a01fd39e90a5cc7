//! Pods: what stays as it was made, and the addresses that their status says twice.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::super::object::{is_empty, list, remove, set, text};
use super::super::refusal::Cause;

/// `podIP` is the first of `podIPs`; where both are sent and differ, the former counts.
pub(super) fn fill_in_addresses(pod: &mut Value) {
    let first = text(pod, "/status/podIPs/0/ip").to_owned();
    let alone = text(pod, "/status/podIP").to_owned();
    if alone.is_empty() && !first.is_empty() {
        set(pod, &["status", "podIP"], first);
    } else if alone != first {
        set(pod, &["status", "podIPs"], json!([{ "ip": alone }]));
    }
}

/// What is wrong with a pod.
pub(super) fn faults(pod: &Value, before: Option<&Value>) -> Vec<Cause> {
    let mut faults = Vec::new();
    if is_empty(pod, "/spec/containers") {
        faults.push(Cause::required("spec.containers", ""));
    }
    for (index, container) in list(pod, "/spec/containers").iter().enumerate() {
        let missing = ["name", "image"].into_iter().filter(|field| text(container, &format!("/{field}")).is_empty());
        faults.extend(missing.map(|field| Cause::required(&format!("spec.containers[{index}].{field}"), "")));
    }
    for (index, address) in list(pod, "/status/podIPs").iter().enumerate() {
        let address = text(address, "/ip");
        if address.parse::<IpAddr>().is_err() {
            let words = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            faults.push(Cause::invalid(&format!("status.podIPs[{index}]"), &address.into(), words));
        }
    }
    if before.is_some_and(|before| fixed(before) != fixed(pod)) {
        let words = "pod updates may not change fields other than `spec.containers[*].image`,\
                     `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to \
                     existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
                     previously negative)";
        faults.push(Cause::forbidden("spec", words));
    }
    faults
}

/// The part of a specification that never changes.
fn fixed(pod: &Value) -> Value {
    let mut spec = pod.get("spec").cloned().unwrap_or_default();
    for field in ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds"] {
        remove(&mut spec, &[field]);
    }
    for containers in ["containers", "initContainers"] {
        for container in spec.get_mut(containers).and_then(Value::as_array_mut).into_iter().flatten() {
            remove(container, &["image"]);
        }
    }
    spec
}
