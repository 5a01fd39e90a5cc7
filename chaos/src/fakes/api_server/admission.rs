//! What the server adds to an object that it takes in, and what it finds wrong with it: the rules of the real
//! server that something here may meet.

mod labels;
mod pods;
mod ports;

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::event_form::is_new_style;
use super::object::{carry, is_empty, list, set, set_default, text};
use super::refusal::Cause;
use super::resource::Resource;

/// All annotations of an object together, names and values.
const MAX_ANNOTATION_BYTES: usize = 256 * 1024;
const ADDRESS_TYPES: [&str; 3] = ["FQDN", "IPv4", "IPv6"];
const MAX_ENDPOINTS: usize = 1_000;
const MAX_ADDRESSES: usize = 100;
const MAX_EVENT_NOTE: usize = 1_024;
const MAX_EVENT_WORD: usize = 128;
/// What keeps a namespace until all that is in it is gone.
pub(super) const FINALIZER: &str = "kubernetes";
const MAX_NAME: usize = 253;
const MAX_SERVICE_NAME: usize = 63;

/// An object on its way in, and what it was before.
pub(super) struct Admitted<'a> {
    pub(super) resource: Resource,
    pub(super) object: &'a Value,
    pub(super) before: Option<&'a Value>,
    pub(super) allow_loopback: bool,
}

/// Fills in what a client may leave out. `cluster_ip` is for a Service that has none.
pub(super) fn fill_in(resource: Resource, object: &mut Value, before: Option<&Value>, cluster_ip: &str) {
    match resource {
        Resource::Service => fill_in_service(object, before, cluster_ip),
        Resource::EndpointSlice => fill_in_slice(object),
        Resource::Pod => {
            set_default(object, &["spec", "restartPolicy"], "Always");
            set_default(object, &["spec", "terminationGracePeriodSeconds"], 30);
            pods::fill_in_addresses(object);
        }
        Resource::Deployment => {
            if object.pointer("/spec/replicas").is_none_or(Value::is_null) {
                set(object, &["spec", "replicas"], 1);
            }
        }
        Resource::Namespace => {
            set_default(object, &["status", "phase"], "Active");
            if before.is_none() {
                set(object, &["spec", "finalizers"], json!([FINALIZER]));
            }
        }
        Resource::Lease | Resource::CoreEvent | Resource::Event | Resource::ConfigMap => {}
    }
}

fn fill_in_service(object: &mut Value, before: Option<&Value>, cluster_ip: &str) {
    set_default(object, &["spec", "type"], "ClusterIP");
    set_default(object, &["spec", "sessionAffinity"], "None");
    set_default(object, &["spec", "internalTrafficPolicy"], "Cluster");
    if text(object, "/spec/type") != "ExternalName" {
        fill_in_addresses(object, before, cluster_ip);
    }
    for port in object.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten() {
        set_default(port, &["protocol"], "TCP");
        if port.get("targetPort").is_none_or(|target| target.is_null() || *target == json!(0)) {
            let number = port.get("port").cloned().unwrap_or_default();
            set(port, &["targetPort"], number);
        }
    }
}

fn fill_in_addresses(object: &mut Value, before: Option<&Value>, cluster_ip: &str) {
    if let Some(before) = before.filter(|_| is_empty(object, "/spec/clusterIP")) {
        carry(object, before, &["spec", "clusterIP"]);
    }
    set_default(object, &["spec", "clusterIP"], cluster_ip);
    let address = text(object, "/spec/clusterIP").to_owned();
    set_default(object, &["spec", "clusterIPs"], json!([address]));
    set_default(object, &["spec", "ipFamilies"], json!(["IPv4"]));
    set_default(object, &["spec", "ipFamilyPolicy"], "SingleStack");
}

fn fill_in_slice(object: &mut Value) {
    for port in object.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        set_default(port, &["protocol"], "TCP");
        if port.get("name").is_none_or(Value::is_null) {
            set(port, &["name"], "");
        }
    }
    if object.get("endpoints").is_none_or(Value::is_null) {
        set(object, &["endpoints"], json!([]));
    }
}

impl Admitted<'_> {
    /// All that is wrong with it.
    pub(super) fn faults(&self) -> Vec<Cause> {
        let mut faults = self.metadata_faults();
        faults.extend(match self.resource {
            Resource::Service => self.service_faults(),
            Resource::EndpointSlice => self.slice_faults(),
            Resource::Lease => self.lease_faults(),
            Resource::CoreEvent => self.event_faults(),
            Resource::Event => [self.event_faults(), self.strict_event_faults()].concat(),
            Resource::Pod => pods::faults(self.object, self.before),
            Resource::Deployment => self.deployment_faults(),
            Resource::Namespace | Resource::ConfigMap => Vec::new(),
        });
        faults
    }

    fn required(&self, pointers: &[&str]) -> Vec<Cause> {
        let missing = pointers.iter().filter(|pointer| is_empty(self.object, pointer));
        missing.map(|pointer| Cause::required(&pointer.trim_start_matches('/').replace('/', "."), "")).collect()
    }

    fn metadata_faults(&self) -> Vec<Cause> {
        let name = text(self.object, "/metadata/name");
        let mut faults = Vec::new();
        if name.is_empty() {
            faults.push(Cause::required("metadata.name", "name or generateName is required"));
        } else if let Some(words) = self.name_fault(name) {
            faults.push(Cause::invalid("metadata.name", &name.into(), words));
        }
        if annotation_bytes(self.object) > MAX_ANNOTATION_BYTES {
            let words = format!("may not be more than {MAX_ANNOTATION_BYTES} bytes");
            faults.push(Cause::too_long("metadata.annotations", &words));
        }
        faults.extend(labels::faults(map(self.object, "/metadata/labels"), "metadata.labels"));
        faults
    }

    fn name_fault(&self, name: &str) -> Option<&'static str> {
        let is_outside = |character: char| !matches!(character, 'a'..='z' | '0'..='9' | '-' | '.');
        let ends_wrong = |edge: Option<char>| edge.is_none_or(|edge| matches!(edge, '-' | '.'));
        let is_wrong = name.contains(is_outside)
            || ends_wrong(name.chars().next())
            || ends_wrong(name.chars().last())
            || name.len() > MAX_NAME;
        if self.resource == Resource::Service {
            // Since 1.34 a Service may begin with a digit, as any label of DNS may.
            let is_label = !is_wrong && !name.contains('.') && name.len() <= MAX_SERVICE_NAME;
            return (!is_label).then_some(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
                 and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
                 '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            );
        }
        is_wrong.then_some(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
        )
    }

    fn service_faults(&self) -> Vec<Cause> {
        let mut faults = Vec::new();
        let is_headless = text(self.object, "/spec/clusterIP") == "None";
        let needs_ports = !is_headless && text(self.object, "/spec/type") != "ExternalName";
        if needs_ports && is_empty(self.object, "/spec/ports") {
            faults.push(Cause::required("spec.ports", ""));
        }
        faults.extend(ports::faults(self.object, "/spec/ports", true));
        faults.extend(labels::faults(map(self.object, "/spec/selector"), "spec.selector"));
        let address = text(self.object, "/spec/clusterIP");
        let earlier = self.before.map_or("", |before| text(before, "/spec/clusterIP"));
        if !earlier.is_empty() && earlier != address {
            faults.push(Cause::invalid("spec.clusterIPs[0]", &json!([address]), "may not change once set"));
        }
        faults
    }

    fn slice_faults(&self) -> Vec<Cause> {
        let family = text(self.object, "/addressType");
        let mut faults = Vec::new();
        if family.is_empty() {
            faults.push(Cause::required("addressType", ""));
        } else if !ADDRESS_TYPES.contains(&family) {
            faults.push(Cause::not_supported("addressType", &family.into(), &ADDRESS_TYPES));
        }
        faults.extend(ports::faults(self.object, "/ports", false));
        let earlier = self.before.map_or(family, |before| text(before, "/addressType"));
        if earlier != family {
            faults.push(Cause::invalid("addressType", &family.into(), "field is immutable"));
        }
        let endpoints = list(self.object, "/endpoints");
        if endpoints.len() > MAX_ENDPOINTS {
            faults.push(Cause::too_many("endpoints", endpoints.len(), MAX_ENDPOINTS));
        }
        for (index, endpoint) in endpoints.iter().enumerate() {
            let addresses = list(endpoint, "/addresses");
            let at = format!("endpoints[{index}].addresses");
            if addresses.is_empty() {
                faults.push(Cause::required(&at, "must contain at least 1 address"));
            } else if addresses.len() > MAX_ADDRESSES {
                faults.push(Cause::too_many(&at, addresses.len(), MAX_ADDRESSES));
            }
            let addresses = addresses.iter().enumerate();
            faults.extend(addresses.filter_map(|(at_address, address)| {
                let words = address_fault(address, family, self.allow_loopback)?;
                Some(Cause::invalid(&format!("{at}[{at_address}]"), address, words))
            }));
        }
        faults
    }

    fn deployment_faults(&self) -> Vec<Cause> {
        let mut faults = self.required(&["/spec/selector", "/spec/template"]);
        let wanted = map(self.object, "/spec/selector/matchLabels");
        let made = map(self.object, "/spec/template/metadata/labels");
        let is_made = |(name, value): (&String, &Value)| made.and_then(|made| made.get(name)) == Some(value);
        if faults.is_empty() && !wanted.into_iter().flatten().all(is_made) {
            let found = Value::from(made.cloned().unwrap_or_default());
            let words = "`selector` does not match template `labels`";
            faults.push(Cause::invalid("spec.template.metadata.labels", &found, words));
        }
        faults
    }

    fn lease_faults(&self) -> Vec<Cause> {
        let number = |pointer: &str| self.object.pointer(pointer).and_then(Value::as_i64);
        let mut faults = Vec::new();
        if let Some(seconds) = number("/spec/leaseDurationSeconds").filter(|seconds| *seconds <= 0) {
            faults.push(Cause::invalid("spec.leaseDurationSeconds", &seconds.into(), "must be greater than 0"));
        }
        if let Some(transitions) = number("/spec/leaseTransitions").filter(|transitions| *transitions < 0) {
            let words = "must be greater than or equal to 0";
            faults.push(Cause::invalid("spec.leaseTransitions", &transitions.into(), words));
        }
        faults
    }

    /// What both groups ask of an event.
    fn event_faults(&self) -> Vec<Cause> {
        let (own, regarded) =
            (text(self.object, "/metadata/namespace"), text(self.object, "/involvedObject/namespace"));
        let is_new = is_new_style(self.object);
        let agrees = match (regarded.is_empty(), is_new) {
            (true, false) => own == "default",
            (true, true) => own == "default" || own == "kube-system",
            (false, false) => own == regarded,
            (false, true) => true,
        };
        let mut faults = Vec::new();
        if !agrees {
            let words = "does not match event.namespace";
            faults.push(Cause::invalid("involvedObject.namespace", &regarded.into(), words));
        }
        if is_new {
            faults.extend(self.new_event_faults());
        }
        faults
    }

    fn new_event_faults(&self) -> Vec<Cause> {
        let mut faults = Vec::new();
        for (pointer, field, most) in [
            ("/reportingComponent", "reportingController", usize::MAX),
            ("/reportingInstance", "reportingInstance", MAX_EVENT_WORD),
            ("/action", "action", MAX_EVENT_WORD),
            ("/reason", "reason", MAX_EVENT_WORD),
        ] {
            let found = text(self.object, pointer);
            if found.is_empty() {
                faults.push(Cause::required(field, ""));
            } else if found.len() > most {
                faults.push(Cause::invalid(field, &"".into(), &format!("can have at most {most} characters")));
            }
        }
        if text(self.object, "/message").len() > MAX_EVENT_NOTE {
            let words = format!("can have at most {MAX_EVENT_NOTE} characters");
            faults.push(Cause::invalid("message", &"".into(), &words));
        }
        faults
    }

    /// What only the newer group asks of an event.
    fn strict_event_faults(&self) -> Vec<Cause> {
        let mut faults = self.series_faults();
        match self.before {
            None => faults.extend(self.strict_creation_faults()),
            Some(before) => {
                let fixed = [
                    "involvedObject",
                    "reason",
                    "message",
                    "source",
                    "firstTimestamp",
                    "lastTimestamp",
                    "count",
                    "type",
                    "eventTime",
                    "action",
                    "related",
                    "reportingComponent",
                    "reportingInstance",
                ];
                let changed = fixed.into_iter().filter(|field| self.object.get(field) != before.get(field));
                faults.extend(changed.map(|field| {
                    let value = self.object.get(field).cloned().unwrap_or_default();
                    let field = if field == "reportingComponent" { "reportingController" } else { field };
                    Cause::invalid(field, &value, "field is immutable")
                }));
            }
        }
        faults
    }

    fn strict_creation_faults(&self) -> Vec<Cause> {
        let mut faults = self.required(&["/eventTime"]);
        let kind = text(self.object, "/type");
        if kind != "Normal" && kind != "Warning" {
            faults.push(Cause::invalid("type", &"".into(), &format!("has invalid value: {kind}")));
        }
        let unset = ["firstTimestamp", "lastTimestamp", "count", "source"];
        let found = unset.into_iter().filter(|field| !is_empty(self.object, &format!("/{field}")));
        faults.extend(found.map(|field| Cause::invalid(field, &"".into(), "needs to be unset")));
        faults
    }

    fn series_faults(&self) -> Vec<Cause> {
        let series = self.object.get("series").filter(|series| !series.is_null());
        let Some(series) = series.filter(|series| self.before.and_then(|before| before.get("series")) != Some(*series))
        else {
            return Vec::new();
        };
        let mut faults = Vec::new();
        if series.get("count").and_then(Value::as_i64).unwrap_or_default() < 2 {
            faults.push(Cause::invalid("series.count", &"".into(), "should be at least 2"));
        }
        if is_empty(series, "/lastObservedTime") {
            faults.push(Cause::required("series.lastObservedTime", ""));
        }
        faults
    }
}

fn map<'a>(object: &'a Value, pointer: &str) -> Option<&'a Map<String, Value>> {
    object.pointer(pointer).and_then(Value::as_object)
}

fn annotation_bytes(object: &Value) -> usize {
    let annotations = object.pointer("/metadata/annotations").and_then(Value::as_object);
    let each = annotations.into_iter().flatten();
    each.map(|(name, value)| name.len() + value.as_str().map_or(0, str::len)).sum()
}

/// What is wrong with an address of an endpoint.
fn address_fault(address: &Value, family: &str, allow_loopback: bool) -> Option<&'static str> {
    let text = address.as_str().unwrap_or_default();
    match (family, text.parse::<IpAddr>()) {
        ("IPv4", Ok(IpAddr::V4(address))) => special_fault(address.into(), allow_loopback),
        ("IPv6", Ok(IpAddr::V6(address))) => special_fault(address.into(), allow_loopback),
        ("IPv4", _) => Some("must be an IPv4 address"),
        ("IPv6", _) => Some("must be an IPv6 address"),
        _ => None,
    }
}

fn special_fault(address: IpAddr, allow_loopback: bool) -> Option<&'static str> {
    let (is_link_local, is_link_local_multicast) = match address {
        IpAddr::V4(address) => (address.is_link_local(), matches!(address.octets(), [224, 0, 0, _])),
        IpAddr::V6(address) => (address.is_unicast_link_local(), address.segments().starts_with(&[0xff02])),
    };
    if address.is_unspecified() {
        Some("may not be unspecified (0.0.0.0 or ::)")
    } else if address.is_loopback() && !allow_loopback {
        Some("may not be in the loopback range (127.0.0.0/8, ::1/128)")
    } else if is_link_local {
        Some("may not be in the link-local range (169.254.0.0/16, fe80::/10)")
    } else if is_link_local_multicast {
        Some("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
    } else {
        None
    }
}
