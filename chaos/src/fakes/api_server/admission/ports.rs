//! Ports of Services and of their slices.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::object::{list, text};
use super::super::refusal::Cause;

/// What is wrong with the `ports` of a slice, or with the `/spec/ports` of a Service, where one of several needs a name.
pub(super) fn faults(object: &Value, pointer: &str, are_named: bool) -> Vec<Cause> {
    let ports = list(object, pointer);
    let field = pointer.trim_start_matches('/').replace('/', ".");
    let mut names = BTreeSet::new();
    let mut faults = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let at = format!("{field}[{index}]");
        let name = text(port, "/name");
        if name.is_empty() && are_named && ports.len() > 1 {
            faults.push(Cause::required(&format!("{at}.name"), ""));
        } else if !names.insert(name) {
            faults.push(Cause::duplicate(&format!("{at}.name"), &name.into()));
        }
        if let Some(number) = port.get("port").filter(|number| !number.is_null() && !is_port(number)) {
            let words = "must be between 1 and 65535, inclusive";
            faults.push(Cause::invalid(&format!("{at}.port"), number, words));
        }
    }
    faults
}

fn is_port(number: &Value) -> bool {
    number.as_u64().is_some_and(|number| (1..=65_535).contains(&number))
}
