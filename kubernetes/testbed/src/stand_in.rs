//! Plays the controller of `EndpointSlices` where a control plane has none: whatever a Service selects stands in slices that
//! are made by hand, one for each port that pods have. It reads and writes as anybody does, and knows nothing of nodes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{Api, ListParams, PostParams};
use serde_json::{Value, json};

/// How often it looks.
const EVERY: Duration = Duration::from_millis(20);

/// Writes slices for as long as it is polled.
pub(crate) async fn keep_slices(services: Api<Service>, pods: Api<Pod>, slices: Api<EndpointSlice>) {
    let mut written = BTreeMap::new();
    loop {
        if let Err(error) = write_all((&services, &pods, &slices), &mut written).await {
            eprintln!("slices not written: {error}");
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn write_all(
    (services, pods, slices): (&Api<Service>, &Api<Pod>, &Api<EndpointSlice>),
    written: &mut BTreeMap<String, Value>,
) -> kube::Result<()> {
    let pods = pods.list(&ListParams::default()).await?.items;
    let mut wanted = BTreeMap::new();
    for service in services.list(&ListParams::default()).await? {
        wanted.extend(slices_of(&service, &pods));
    }
    // A slice that nobody is in any more stays, and says so.
    for (name, slice) in &*written {
        if !wanted.contains_key(name) {
            let mut empty = slice.clone();
            empty["endpoints"] = json!([]);
            wanted.insert(name.clone(), empty);
        }
    }
    for (name, slice) in wanted {
        if written.get(&name) != Some(&slice) {
            write(slices, &name, &slice).await?;
            written.insert(name, slice);
        }
    }
    Ok(())
}

async fn write(slices: &Api<EndpointSlice>, name: &str, slice: &Value) -> kube::Result<()> {
    let mut object: EndpointSlice = serde_json::from_value(slice.clone()).unwrap();
    let Some(present) = slices.get_opt(name).await? else {
        return slices.create(&PostParams::default(), &object).await.map(drop);
    };
    object.metadata.resource_version = present.metadata.resource_version;
    slices.replace(name, &PostParams::default(), &object).await.map(drop)
}

/// The slices of a Service, by name.
fn slices_of(service: &Service, pods: &[Pod]) -> BTreeMap<String, Value> {
    let (Some(name), Some(spec)) = (&service.metadata.name, &service.spec) else { return BTreeMap::new() };
    let Some(selector) = spec.selector.as_ref().filter(|selector| !selector.is_empty()) else {
        return BTreeMap::new();
    };
    let is_selected = |pod: &&Pod| {
        let labels = pod.metadata.labels.as_ref();
        selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
    };
    let mut slices: BTreeMap<String, Value> = BTreeMap::new();
    for pod in pods.iter().filter(is_selected) {
        let Some(address) = address(pod) else { continue };
        let ports: Vec<Value> = spec.ports.iter().flatten().filter_map(|port| port_on(pod, port)).collect();
        let numbers: Vec<String> = ports.iter().map(|port| port["port"].to_string()).collect();
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        let slice_name = format!("{name}-by-hand-{}-{}", family.to_lowercase(), numbers.join("-"));
        let slice = slices.entry(slice_name.clone()).or_insert_with(|| {
            json!({
                "metadata": { "name": slice_name, "labels": { "kubernetes.io/service-name": name } },
                "addressType": family, "ports": ports, "endpoints": [],
            })
        });
        slice["endpoints"].as_array_mut().unwrap().push(endpoint(pod, address));
    }
    slices
}

fn address(pod: &Pod) -> Option<IpAddr> {
    pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()
}

/// A port of a Service as this pod has it.
fn port_on(pod: &Pod, port: &ServicePort) -> Option<Value> {
    let number = match port.target_port.as_ref()? {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
            let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
            ports.find(|port| port.name.as_ref() == Some(name))?.container_port
        }
    };
    Some(json!({ "name": port.name.clone().unwrap_or_default(), "port": number, "protocol": "TCP" }))
}

fn endpoint(pod: &Pod, address: IpAddr) -> Value {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let is_serving = conditions.into_iter().any(|one| one.type_ == "Ready" && one.status == "True");
    let is_terminating = pod.metadata.deletion_timestamp.is_some();
    json!({
        "addresses": [address],
        "conditions": {
            "ready": is_serving && !is_terminating, "serving": is_serving, "terminating": is_terminating,
        },
        "targetRef": { "kind": "Pod", "namespace": pod.metadata.namespace, "name": pod.metadata.name },
    })
}
