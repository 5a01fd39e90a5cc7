//! The reference of the config file and its JSON schema, both written from the structs of `file`, so that neither can
//! say anything else than the parser does. A test keeps docs/CONFIG.md equal to [`reference_markdown`].

use std::collections::BTreeSet;
use std::fmt::Write;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value, json};

use crate::file::{
    AccessLogFile, AdminFile, BudgetFile, CertificateFile, CompareFile, DriftFile, EjectionFile, ExampleFile, File,
    FreezeFile, GuardFile, HealthCheckFile, KubernetesStateFile, LatencyFile, LimitsFile, ListenerFile,
    ListenerTlsFile, LiveServiceFile, MatchFile, MirrorFile, OutsideGateFile, OverrideFile, PromotionFile, QueryFile,
    RateFile, ReplicasFile, RetriesFile, RolloutFile, RouteFile, StateFile, StepFile, StickyFile, TimeoutsFile,
    ToleranceFile, TracesFile, UpstreamTlsFile, VersionFile, WarmUpFile, WebhookFile,
};

/// The JSON schema (draft 2020-12) of the config file; editors complete and check from it. The parser checks more:
/// how values fit together, and the ranges that the descriptions name.
pub fn json_schema() -> Value {
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<File>().to_value();
    if let Some(root) = schema.as_object_mut() {
        root.insert("title".to_owned(), json!("Pointsman's config file"));
    }
    schema
}

/// The reference of the config file, as docs/CONFIG.md holds it.
pub fn reference_markdown() -> String {
    let schema = json_schema();
    let mut page = format!("{HEAD}{PRODUCTION}{AFTER_EXAMPLE}");
    let mut seen = BTreeSet::new();
    section(&mut page, &schema, ("Config", &schema), "", &mut seen);
    page.push_str(SCALARS);
    scalar_rows(&mut page, &schema);
    page
}

const PRODUCTION: &str = include_str!("../examples/production.yaml");

const HEAD: &str = "\
<!-- Written from the types in config/src/file: UPDATE_DOCS=1 cargo test -p pointsman-config. Edit those, not this. -->

# The config file

One YAML document. `pointsman check FILE` names every problem with its line, its column and the way out;
`pointsman schema` prints the JSON schema that editors complete from.

- Unknown keys are errors, and so are keys that stand twice: a slip of the finger never changes traffic silently.
- Relative paths (`state.file`, `certificate` and all others) start at the folder of the config file, not at the folder in
  which Pointsman was started.
- Anchors and aliases (`&name`, `*name`) work; merge keys (`<<`) and tags (`!name`) are refused.
- The file has at most 1 MiB, and 32 levels.
- A key whose children are all commented out counts as one without children, like `guard: {}`: every child has its
  default, and those without one are missing. A single value that is left empty is an error.

An example with every part that a production route usually needs:

```yaml
";

const AFTER_EXAMPLE: &str = "```

What follows is every key. *required* stands where there is no default.
";

const SCALARS: &str = "
## Values

| value | written as |
|---|---|
";

/// One struct as a table, and then the structs that its keys hold.
fn section(page: &mut String, root: &Value, (name, schema): (&str, &Value), path: &str, seen: &mut BTreeSet<String>) {
    let title = if path.is_empty() { "The file".to_owned() } else { format!("`{path}`") };
    let description = text_of(schema, "description");
    append(
        page,
        format_args!("\n## {title}\n\n{description}\n\n| key | value | default | meaning |\n|---|---|---|---|\n"),
    );
    let properties = in_order_of_the_file(name, schema);
    for (key, property) in &properties {
        append(page, format_args!("{}\n", row(root, schema, key, property)));
    }
    for (key, property) in properties {
        let below = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        if let Some((suffix, inner)) = nested(root, property)
            && seen.insert(format!("{below}{suffix}"))
        {
            section(page, root, inner, &format!("{below}{suffix}"), seen);
        }
    }
}

/// The keys of a struct as it declares them. A JSON map sorts its keys or not, as other crates of a build please.
fn in_order_of_the_file<'a>(name: &str, schema: &'a Value) -> Vec<(&'a str, &'a Value)> {
    let mut properties: Vec<(&str, &Value)> = schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, property)| (key.as_str(), property))
        .collect();
    let declared =
        declared_keys().into_iter().find(|(title, _)| title == name).map_or(Vec::new(), |(_, keys)| keys.to_vec());
    properties.sort_by_key(|(key, _)| declared.iter().position(|known| known == key));
    properties
}

fn row(root: &Value, owner: &Value, key: &str, property: &Value) -> String {
    let required =
        owner.get("required").and_then(Value::as_array).is_some_and(|keys| keys.iter().any(|name| name == key));
    let default = match property.get("default") {
        Some(default) => format!("`{}`", as_yaml(default)),
        None if required => "*required*".to_owned(),
        None => "–".to_owned(),
    };
    format!("| `{key}` | {} | {default} | {} |", kind(root, property), text_of(property, "description"))
}

/// A default as one would write it in the file.
fn as_yaml(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(as_yaml).collect::<Vec<_>>().join(", ")),
        Value::Object(entries) => format!("{{ {} }}", step_as_yaml(entries)),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// The only default that is a mapping is a step, whose weight comes first.
fn step_as_yaml(entries: &Map<String, Value>) -> String {
    let mut entries: Vec<_> = entries.iter().collect();
    entries.sort_by_key(|(key, _)| *key != "weight");
    entries.iter().map(|(key, value)| format!("{key}: {}", as_yaml(value))).collect::<Vec<_>>().join(", ")
}

/// What a key takes, in a word or two.
fn kind(root: &Value, property: &Value) -> String {
    if let Some(items) = property.get("items") {
        return format!("list of {}", kind(root, items));
    }
    if let Some(values) = property.get("additionalProperties").filter(|values| values.is_object()) {
        return format!("mapping of name to {}", kind(root, values));
    }
    let Some((name, target)) = resolve(root, property) else { return "value".to_owned() };
    if target.get("properties").is_some() {
        return "mapping".to_owned();
    }
    match variants(target) {
        Some(names) => names.join(" or "),
        None => name.replace('-', " "),
    }
}

/// The words that an enumeration takes.
fn variants(schema: &Value) -> Option<Vec<String>> {
    let words = schema.get("oneOf")?.as_array()?;
    Some(words.iter().filter_map(|word| word.get("const")?.as_str()).map(|word| format!("`{word}`")).collect())
}

/// The struct behind a key, and what is written between them.
fn nested<'a>(root: &'a Value, property: &'a Value) -> Option<(&'static str, (&'a str, &'a Value))> {
    let (suffix, holder) = match (property.get("items"), property.get("additionalProperties")) {
        (Some(items), _) => ("[]", items),
        (None, Some(values)) if values.is_object() => (".NAME", values),
        (None, _) => ("", property),
    };
    let (name, target) = resolve(root, holder)?;
    target.get("properties").is_some().then_some((suffix, (name, target)))
}

/// Follows `$ref`.
fn resolve<'a>(root: &'a Value, schema: &'a Value) -> Option<(&'a str, &'a Value)> {
    let name = schema.get("$ref")?.as_str()?.rsplit('/').next()?;
    root.get("$defs")?.get(name).map(|target| (name, target))
}

fn scalar_rows(page: &mut String, schema: &Value) {
    let mut definitions: Vec<_> = schema.get("$defs").and_then(Value::as_object).into_iter().flatten().collect();
    definitions.sort_by_key(|(name, _)| *name);
    for (name, definition) in definitions {
        if definition.get("properties").is_none() && definition.get("oneOf").is_none() {
            append(page, format_args!("| {} | {} |\n", name.replace('-', " "), text_of(definition, "description")));
        }
    }
}

/// A text of the schema on one line, safe in a table.
fn text_of(schema: &Value, key: &str) -> String {
    schema
        .get(key)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace('|', "\\|")
}

fn append(page: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a `String` cannot fail.
    page.write_fmt(text).unwrap_or_default();
}

/// The keys of every struct, by its title in the schema.
fn declared_keys() -> Vec<(String, &'static [&'static str])> {
    fn of<T: JsonSchema + de::DeserializeOwned>() -> (String, &'static [&'static str]) {
        (T::schema_name().into_owned(), keys_of::<T>())
    }
    vec![
        of::<File>(),
        of::<ListenerFile>(),
        of::<ListenerTlsFile>(),
        of::<CertificateFile>(),
        of::<AdminFile>(),
        of::<StateFile>(),
        of::<KubernetesStateFile>(),
        of::<ReplicasFile>(),
        of::<AccessLogFile>(),
        of::<TracesFile>(),
        of::<WebhookFile>(),
        of::<FreezeFile>(),
        of::<QueryFile>(),
        of::<OutsideGateFile>(),
        of::<RouteFile>(),
        of::<MatchFile>(),
        of::<VersionFile>(),
        of::<RolloutFile>(),
        of::<LiveServiceFile>(),
        of::<StepFile>(),
        of::<GuardFile>(),
        of::<ToleranceFile>(),
        of::<PromotionFile>(),
        of::<LatencyFile>(),
        of::<DriftFile>(),
        of::<TimeoutsFile>(),
        of::<LimitsFile>(),
        of::<RateFile>(),
        of::<StickyFile>(),
        of::<OverrideFile>(),
        of::<RetriesFile>(),
        of::<BudgetFile>(),
        of::<MirrorFile>(),
        of::<CompareFile>(),
        of::<HealthCheckFile>(),
        of::<WarmUpFile>(),
        of::<ExampleFile>(),
        of::<EjectionFile>(),
        of::<UpstreamTlsFile>(),
    ]
}

/// Asks serde which keys a struct declares, by handing it a deserializer that only listens.
fn keys_of<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    T::deserialize(Listening).err().map_or(&[], |Heard(keys)| keys)
}

struct Listening;

/// The keys that were asked for, as an error, since no value comes of it.
#[derive(Debug)]
struct Heard(&'static [&'static str]);

impl std::fmt::Display for Heard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

impl std::error::Error for Heard {}

impl de::Error for Heard {
    fn custom<T: std::fmt::Display>(_: T) -> Self {
        Self(&[])
    }
}

impl<'de> Deserializer<'de> for Listening {
    type Error = Heard;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        keys: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Heard> {
        Err(Heard(keys))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Heard> {
        Err(Heard(&[]))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
