//! docs/API.md is what the running edge says of its own API: made from `/openapi.json`, which is made from the handlers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Map, Value};

use crate::fixture::{Edge, shifting, view};

const HEAD: &str = "\
# The admin API

<!-- Written from the handlers in proxy/src/admin: UPDATE_DOCS=1 cargo test -p pointsman api_page. Edit those, not this. -->

What operators, dashboards and scrapers ask of a running edge: JSON over HTTP/1.1 on `admin.address`, `http://127.0.0.1:9900` by
default. The edge itself gives this description at `/openapi.json`, as OpenAPI 3.1.

- With `admin.token_file` every path but those of the probes and of [the dashboard's page](dashboard.md) (`/`, which asks whoever opens it
  for the token) needs `authorization: Bearer TOKEN`. Without, the edge answers this machine only, and the host has to be an IP address
  or `localhost`.
- An order needs `content-type: application/json`. It is answered once it is in force. `x-pointsman-actor` is who gives it, and
  stands in the decision log; `x-pointsman-seen-decision` is the number of the newest decision that they had seen.
- Whatever is not the thing asked for is `application/problem+json` ([Problem](#problem)) with a `code` for programs and a way out.

What the command line does is done through this: `pointsman --json` prints what it answers.
";

/// The order in which people look for things.
const TAGS: [(&str, &str); 7] = [
    ("routes", "Routes"),
    ("orders", "Orders"),
    ("decisions", "Decisions"),
    ("config", "Config and state"),
    ("notifications", "Notifications"),
    ("events", "Events"),
    ("probes", "Probes, without a token"),
];

#[test]
fn the_page_says_what_the_edge_says() {
    let edge = Edge::new(view(vec![shifting()]));
    let told = ureq::get(edge.url("/openapi.json")).call().unwrap().body_mut().read_json::<Value>().unwrap();
    let page = page(&told);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/API.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, &page).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(kept == page, "docs/API.md is out of date; UPDATE_DOCS=1 cargo test -p pointsman api_page writes it anew");
}

fn page(told: &Value) -> String {
    let mut text = HEAD.to_owned();
    let calls = calls(told);
    let tags: BTreeSet<&str> = calls.iter().map(Call::tag).collect();
    assert_eq!(
        tags,
        TAGS.iter().map(|(tag, _)| *tag).collect(),
        "a heading for each tag, and a call under each heading"
    );
    for call in calls.iter().filter(|call| call.about.get("requestBody").is_some()) {
        let statuses: BTreeSet<&str> = call.problems().into_iter().map(|(status, _)| status).collect();
        let of_bodies = ["400", "413", "415", "422"];
        assert!(
            of_bodies.iter().all(|status| statuses.contains(status)),
            "{} {}: {statuses:?}",
            call.method,
            call.path
        );
    }
    for (tag, title) in TAGS {
        writeln!(text, "\n## {title}").unwrap();
        calls.iter().filter(|call| call.tag() == tag).for_each(|call| text.push_str(&call.section()));
    }
    text.push_str("\n## Problems\n\n| status | `code`, and when |\n|---|---|\n");
    let problems: BTreeSet<(&str, &str)> = calls.iter().flat_map(Call::problems).collect();
    for (status, when) in problems {
        writeln!(text, "| {status} | {} |", cell(when)).unwrap();
    }
    text.push_str("\n## Objects\n");
    for (name, schema) in told["components"]["schemas"].as_object().unwrap() {
        text.push_str(&object(name, schema));
    }
    text
}

/// One method of one path.
struct Call<'a> {
    path: &'a str,
    method: String,
    about: &'a Value,
}

fn calls(told: &Value) -> Vec<Call<'_>> {
    let of_path = |(path, methods): (&'_ String, &'_ Value)| {
        let methods = methods.as_object().unwrap();
        methods.iter().map(|(method, _)| (path.clone(), method.clone())).collect::<Vec<_>>()
    };
    let all = told["paths"].as_object().unwrap();
    let mut names: Vec<(String, String)> = all.iter().flat_map(of_path).collect();
    names.sort();
    let call = |(path, method): (String, String)| {
        let (path, methods) = all.get_key_value(&path).unwrap();
        Call { path, about: &methods[&method], method: method.to_uppercase() }
    };
    names.into_iter().map(call).collect()
}

impl Call<'_> {
    fn tag(&self) -> &str {
        self.about["tags"][0].as_str().unwrap()
    }

    fn responses(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.about["responses"].as_object().unwrap().iter().map(|(status, response)| (status.as_str(), response))
    }

    fn problems(&self) -> Vec<(&str, &str)> {
        let problem = |(status, response): (&'_ str, &'_ Value)| !status.starts_with('2') && !response.is_null();
        self.responses()
            .filter(|response| problem(*response))
            .map(|(status, response)| (status, response["description"].as_str().unwrap()))
            .collect()
    }

    fn section(&self) -> String {
        let mut text = format!("\n### `{} {}`\n\n{}\n", self.method, self.path, words(&self.about["summary"]));
        if let Some(more) = self.about["description"].as_str() {
            write!(text, "\n{}\n", more.trim()).unwrap();
        }
        text.push_str("\n| | |\n|---|---|\n");
        for parameter in self.about["parameters"].as_array().into_iter().flatten() {
            text.push_str(&self.parameter(parameter));
        }
        if let Some(body) = self.about["requestBody"]["content"].as_object() {
            for (media_type, content) in body {
                let or_none = if self.about["requestBody"]["required"] == true { "" } else { ", or none" };
                writeln!(text, "| body | {}{or_none}, as `{media_type}` |", kind(&content["schema"])).unwrap();
            }
        }
        for (status, response) in self.responses().filter(|(status, _)| status.starts_with('2')) {
            let content = response["content"].as_object().and_then(|content| content.iter().next());
            let what =
                content.map(|(media_type, content)| format!("{}, as `{media_type}`: ", kind(&content["schema"])));
            let about = cell(words(&response["description"]));
            writeln!(text, "| answer {status} | {}{about} |", what.unwrap_or_default()).unwrap();
        }
        let refused: Vec<&str> = self.problems().into_iter().map(|(status, _)| status).collect();
        if !refused.is_empty() {
            writeln!(text, "| [problems](#problems) | {} |", refused.join(", ")).unwrap();
        }
        text
    }

    fn parameter(&self, parameter: &Value) -> String {
        let (name, place) = (words(&parameter["name"]), words(&parameter["in"]));
        let about = match (name, parameter["description"].as_str()) {
            (_, Some(about)) => about.to_owned(),
            ("x-pointsman-actor", None) => "Who gives the order, 64 characters at most.".to_owned(),
            ("x-pointsman-seen-decision", None) => {
                "The newest decision that they had seen: refused with 409 `overtaken` if another one was made since."
                    .to_owned()
            }
            (name, None) if self.path.contains(&format!("{{{name}}}")) => format!("Which {name}."),
            (name, None) => panic!("{} {}: nothing is said of `{name}`", self.method, self.path),
        };
        let needed = if parameter["required"] == true { "" } else { ", optional" };
        format!("| `{name}` ({place}{needed}) | {} |\n", cell(&about))
    }
}

fn object(name: &str, schema: &Value) -> String {
    let mut text = format!("\n### {name}\n\n{}\n", words(&schema["description"]).replace('\n', " "));
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<String> = values.iter().map(|value| format!("`{}`", words(value))).collect();
        write!(text, "\nOne of {}.\n", values.join(", ")).unwrap();
    }
    for part in schema["oneOf"].as_array().into_iter().flatten() {
        let of = kind(&part["allOf"][0]);
        let named = &part["allOf"][1]["properties"]["type"]["enum"][0];
        write!(text, "\n- `type: {}`: {of}. {}\n", words(named), words(&part["description"]).replace('\n', " "))
            .unwrap();
    }
    let mut fields = BTreeMap::new();
    for part in std::iter::once(schema).chain(schema["allOf"].as_array().into_iter().flatten()) {
        if let Some(whole) = part["$ref"].as_str() {
            write!(text, "\nEverything of [{0}](#{1}), and:\n", last(whole), last(whole).to_lowercase()).unwrap();
        }
        let needed: BTreeSet<&str> =
            part["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let properties = part["properties"].as_object().into_iter().flat_map(Map::iter);
        fields.extend(properties.map(|(field, about)| (field, (about, needed.contains(field.as_str())))));
    }
    if !fields.is_empty() {
        text.push_str("\n| field | value | |\n|---|---|---|\n");
    }
    for (field, (about, is_needed)) in fields {
        let optional = if is_needed { "" } else { ", or left out" };
        writeln!(text, "| `{field}` | {}{optional} | {} |", kind(about), cell(description(about))).unwrap();
    }
    text
}

/// What a field says of itself, or what it refers to.
fn description(about: &Value) -> &str {
    let direct = about["description"].as_str();
    direct.or_else(|| about["oneOf"][0]["description"].as_str()).unwrap_or_default()
}

/// The type of a value, in a word; with a link, where it is an object of its own.
fn kind(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        return format!("[{0}](#{1})", last(reference), last(reference).to_lowercase());
    }
    if let Some(either) = schema["oneOf"].as_array() {
        let kinds: Vec<String> = either.iter().map(kind).collect();
        return kinds.join(" or ");
    }
    if let Some(kinds) = schema["type"].as_array() {
        let one = |one: &Value| {
            let mut single = schema.clone();
            single["type"] = one.clone();
            kind(&single)
        };
        return kinds.iter().map(one).collect::<Vec<_>>().join(" or ");
    }
    match words(&schema["type"]) {
        "array" => format!("list of {}", kind(&schema["items"])),
        "object" if schema["additionalProperties"].is_object() => {
            format!("by name: {}", kind(&schema["additionalProperties"]))
        }
        "string" => "text".to_owned(),
        "integer" => "whole number".to_owned(),
        name => name.to_owned(),
    }
}

fn last(reference: &str) -> &str {
    reference.rsplit('/').next().unwrap()
}

fn words(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// In one cell of a table.
fn cell(text: &str) -> String {
    text.replace('\n', " ").replace('|', "\\|")
}
