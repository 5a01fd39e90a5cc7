//! What the edge may ask of the API server: what it needs, of the objects it needs, and nothing else.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::Finding;
use crate::edge::Names;
use crate::objects::{Object, Objects, Read};

/// Rights beyond these, and rights to change what the edge's config does not name.
pub fn check(objects: &Objects) -> Vec<Finding> {
    let names = Names::read(objects);
    let mut found = Vec::new();
    for role in objects.of("Role") {
        for rule in role.0.items("/rules") {
            found.extend(problems(rule, &names).into_iter().map(|problem| role.finding(problem)));
        }
        found.extend(missing(role, &names).into_iter().map(|problem| role.finding(problem)));
    }
    found.extend(objects.of("Deployment").filter_map(|deployment| token(deployment, objects)));
    found
}

fn problems(rule: &Value, names: &Names) -> Vec<String> {
    let mut found = Vec::new();
    let verbs: BTreeSet<&str> = rule.texts("/verbs").into_iter().collect();
    let only: BTreeSet<&str> = rule.texts("/resourceNames").into_iter().collect();
    for resource in rule.texts("/resources") {
        let Some((allowed, of)) = allowance(resource, &verbs, names) else {
            found.push(format!("gives rights to {resource}"));
            continue;
        };
        let beyond: Vec<&str> = verbs.iter().filter(|verb| !allowed.contains(verb)).copied().collect();
        if !beyond.is_empty() {
            found.push(format!("lets the edge {} {resource}", beyond.join(", ")));
        }
        if let Some(of) = of
            && (only.is_empty() || !only.iter().all(|name| of.contains(*name)))
        {
            found.push(format!("is for {resource} that the edge's config does not name"));
        }
    }
    found
}

/// The verbs that the edge needs for a resource, and the names to which they must be limited.
fn allowance<'a>(
    resource: &str,
    verbs: &BTreeSet<&str>,
    names: &'a Names,
) -> Option<(&'static [&'static str], Option<&'a BTreeSet<String>>)> {
    match resource {
        "services" => Some((&["get", "list", "watch", "patch"], Some(&names.live))),
        "endpointslices" => Some((&["list", "watch"], None)),
        // Where something is created there is no name yet to limit it to.
        "leases" if verbs.iter().eq(["create"].iter()) => Some((&["create"], None)),
        "leases" => Some((&["get", "update"], Some(&names.leases))),
        "events" => Some((&["create", "patch"], None)),
        "deployments/scale" => Some((&["get", "patch"], Some(&names.workloads))),
        _ => None,
    }
}

/// What the edge needs and a role does not give: each live Service, Lease and Deployment that its config names.
fn missing(role: &Object, names: &Names) -> Vec<String> {
    let given = |resource: &str, verb: &str, name: &str| {
        role.0.items("/rules").iter().any(|rule| {
            let only = rule.texts("/resourceNames");
            rule.texts("/resources").contains(&resource)
                && rule.texts("/verbs").contains(&verb)
                && (only.is_empty() || only.contains(&name))
        })
    };
    let needed = [
        ("services", "patch", &names.live),
        ("leases", "update", &names.leases),
        ("deployments/scale", "patch", &names.workloads),
    ];
    let all_needed = needed.into_iter().flat_map(|(what, verb, all)| all.iter().map(move |name| (what, verb, name)));
    all_needed
        .filter(|(what, verb, name)| !given(what, verb, name))
        .map(|(what, verb, name)| format!("does not let the edge {verb} {what} `{name}`, which its config names"))
        .collect()
}

/// A token for the API server in a pod whose `ServiceAccount` has nothing to ask there.
fn token(deployment: &Object, objects: &Objects) -> Option<Finding> {
    let account = deployment.pod().text("/serviceAccountName");
    let bound = objects
        .of("RoleBinding")
        .flat_map(|binding| binding.0.items("/subjects"))
        .any(|one| one.text("/name") == account);
    let mounted = deployment.pod().at("/automountServiceAccountToken") != &Value::from(false);
    (bound != mounted).then(|| deployment.finding("has a token without rights, or rights without a token"))
}
