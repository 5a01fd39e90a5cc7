//! What the server says about itself: that it is well, its version, and which kinds it knows, as `kubectl` asks before
//! anything else.

use std::collections::BTreeSet;

use bytes::Bytes;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use super::call::Verb;
use super::object::set;
use super::resource::{Part, Resource};
use crate::serve;

/// What can be done to objects of every kind here.
const VERBS: [Verb; 8] =
    [Verb::Create, Verb::Delete, Verb::DeleteCollection, Verb::Get, Verb::List, Verb::Patch, Verb::Update, Verb::Watch];

/// The answer, if it is asked about the server.
pub(super) fn answer(request: &Request<Bytes>) -> Option<Response<Bytes>> {
    if *request.method() != Method::GET {
        return None;
    }
    let pieces: Vec<&str> = request.uri().path().trim_matches('/').split('/').collect();
    let value = match pieces.as_slice() {
        ["readyz" | "livez" | "healthz"] => return Some(Response::new(Bytes::from_static(b"ok"))),
        ["version"] => version(),
        ["api"] => json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] }),
        ["apis"] => groups(),
        ["api", "v1"] => resources("")?,
        ["apis", group, "v1"] => resources(group)?,
        _ => return None,
    };
    Some(serve::json(StatusCode::OK, &value))
}

fn version() -> Value {
    json!({
        "major": "1", "minor": "36", "gitVersion": "v1.36.0", "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "", "goVersion": "", "compiler": "", "platform": "linux/amd64",
    })
}

fn groups() -> Value {
    let names: BTreeSet<&str> =
        Resource::ALL.into_iter().map(Resource::group).filter(|name| !name.is_empty()).collect();
    let group = |name: &str| {
        let version = json!({ "groupVersion": format!("{name}/v1"), "version": "v1" });
        json!({ "name": name, "versions": [version], "preferredVersion": version })
    };
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": names.into_iter().map(group).collect::<Value>() })
}

/// The kinds of a group, and their parts; `None` for a group that is not there.
fn resources(group: &str) -> Option<Value> {
    let kinds = Resource::ALL.into_iter().filter(|resource| resource.group() == group);
    let entries: Vec<Value> = kinds.flat_map(entries).collect();
    let version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
    let list = json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": entries,
    });
    (!entries.is_empty()).then_some(list)
}

fn entries(resource: Resource) -> Vec<Value> {
    let whole = json!({
        "name": resource.plural(),
        "singularName": resource.kind().to_lowercase(),
        "namespaced": resource.is_namespaced(),
        "kind": resource.kind(),
        "verbs": VERBS.map(Verb::name),
    });
    let part = |part: &Part| {
        let name = format!("{}/{}", resource.plural(), part.name());
        let verbs: &[Verb] =
            if *part == Part::Finalize { &[Verb::Update] } else { &[Verb::Get, Verb::Patch, Verb::Update] };
        let verbs: Vec<&str> = verbs.iter().map(|verb| verb.name()).collect();
        let mut entry = json!({
            "name": name, "singularName": "", "namespaced": resource.is_namespaced(), "kind": resource.kind(),
            "verbs": verbs,
        });
        if *part == Part::Scale {
            for (field, value) in [("kind", "Scale"), ("group", "autoscaling"), ("version", "v1")] {
                set(&mut entry, &[field], value);
            }
        }
        entry
    };
    std::iter::once(whole).chain(resource.parts().iter().map(part)).collect()
}
