//! Every field is one that the API server knows. Typos are dropped silently there, and the default is served.
//!
//! An object is read into its type and written back: what is not there any more was not known. For kinds that are not
//! Kubernetes' own, the part that is used here is written down strictly.

use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Finding;
use crate::objects::{Object, Objects, Read};

mod operator;

use operator::{PodMonitor, PrometheusRule, ServiceMonitor};

/// Fields that nobody knows, values of the wrong type, kinds that are not understood here, and names that stand twice.
pub fn check(objects: &Objects) -> Vec<Finding> {
    let doubled = objects.0.iter().enumerate().filter_map(|(position, object)| {
        let same = |other: &Object| other.kind() == object.kind() && other.name() == object.name();
        objects.0.iter().take(position).any(same).then(|| object.finding("stands twice"))
    });
    let shapes =
        objects.0.iter().flat_map(|object| problems(object).into_iter().map(|problem| object.finding(problem)));
    shapes.chain(doubled).collect()
}

fn problems(object: &Object) -> Vec<String> {
    let value = &object.0;
    match (value.text("/apiVersion"), object.kind()) {
        ("v1", "Namespace") => known::<Namespace>(value),
        ("v1", "ConfigMap") => known::<ConfigMap>(value),
        ("v1", "Secret") => known::<Secret>(value),
        ("v1", "Service") => known::<Service>(value),
        ("v1", "ServiceAccount") => known::<ServiceAccount>(value),
        ("apps/v1", "Deployment") => known::<Deployment>(value),
        ("autoscaling/v2", "HorizontalPodAutoscaler") => known::<HorizontalPodAutoscaler>(value),
        ("networking.k8s.io/v1", "NetworkPolicy") => known::<NetworkPolicy>(value),
        ("policy/v1", "PodDisruptionBudget") => known::<PodDisruptionBudget>(value),
        ("rbac.authorization.k8s.io/v1", "Role") => known::<Role>(value),
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => known::<RoleBinding>(value),
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy") => known::<ValidatingAdmissionPolicy>(value),
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding") => {
            known::<ValidatingAdmissionPolicyBinding>(value)
        }
        ("monitoring.coreos.com/v1", "ServiceMonitor") => known::<ServiceMonitor>(value),
        ("monitoring.coreos.com/v1", "PodMonitor") => known::<PodMonitor>(value),
        ("monitoring.coreos.com/v1", "PrometheusRule") => known::<PrometheusRule>(value),
        (version, kind) => vec![format!("{version} {kind} is a kind that the checks do not know yet")],
    }
}

/// What is lost when an object goes through its type.
fn known<T: Serialize + DeserializeOwned>(value: &Value) -> Vec<String> {
    let typed: T = match serde_json::from_value(value.clone()) {
        Ok(typed) => typed,
        Err(error) => return vec![format!("does not fit its type: {error}")],
    };
    match serde_json::to_value(typed) {
        Ok(kept) => lost(value, &kept, ""),
        Err(error) => vec![format!("cannot be written back: {error}")],
    }
}

fn lost(given: &Value, kept: &Value, place: &str) -> Vec<String> {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => given
            .iter()
            .flat_map(|(key, value)| match kept.get(key) {
                Some(kept) => lost(value, kept, &format!("{place}/{key}")),
                None => vec![format!("{place}/{key} is a field that nobody knows")],
            })
            .collect(),
        (Value::Array(given), Value::Array(kept)) if given.len() == kept.len() => {
            let pairs = given.iter().zip(kept).enumerate();
            pairs.flat_map(|(position, (given, kept))| lost(given, kept, &format!("{place}/{position}"))).collect()
        }
        _ if given == kept => Vec::new(),
        _ => vec![format!("{place} is {given}, which is read as {kept}")],
    }
}
