//! What a model takes, as its description says, and in words how two models differ in it.
//!
//! Line: warm-up ► **features** ► health, endpoints. A model that takes other features than stable's answers 422 to every client of
//! today, or, worse, 200 with numbers from columns that mean something else.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

/// So many differences are told.
const MOST_TOLD: usize = 5;

/// A model's description, as far as it matters here.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ModelCard {
    /// What tells it from another model.
    identity: Identity,
    /// What it takes.
    pub(super) takes: Takes,
}

/// The digests of a model's features and of all that makes it; each none if its description has none.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Identity {
    signature: Option<String>,
    sha256: Option<String>,
}

impl ModelCard {
    /// Reads a description; none if it is none.
    pub(super) fn read(description: &[u8]) -> Option<Self> {
        let identity: Identity = serde_json::from_slice(description).ok()?;
        let takes = match identity.signature {
            None => Takes::Unsaid,
            Some(_) => Takes::These(serde_json::from_slice(description).ok()?),
        };
        Some(Self { identity, takes })
    }

    /// Whether `other` is of the same model, as far as descriptions tell.
    pub(super) fn is_same_model(&self, other: &Self) -> bool {
        self.identity == other.identity
    }
}

/// What an endpoint's description says that its model takes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Takes {
    /// Nothing: it has no signature.
    Unsaid,
    /// These.
    These(Features),
}

/// What a model takes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Features {
    /// A digest of the features: two models with one signature take the same requests.
    signature: String,
    #[serde(default)]
    features: Vec<Feature>,
}

/// One of them; what else a description says of it does not count here.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Feature {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    unit: Option<String>,
    range: Option<[f64; 2]>,
    categories: Option<Vec<String>>,
}

impl Features {
    /// How `other` differs from these, in words; none if it takes the same.
    pub(crate) fn difference(&self, other: &Self) -> Option<String> {
        if self.signature == other.signature {
            return None;
        }
        let (ours, theirs) = (self.by_name(), other.by_name());
        let mut told = Vec::new();
        for (name, feature) in &theirs {
            match ours.get(name) {
                None => told.push(format!("`{name}` is added")),
                Some(known) => told.extend(known.differences(feature)),
            }
        }
        told.extend(ours.keys().filter(|name| !theirs.contains_key(*name)).map(|name| format!("`{name}` is gone")));
        if told.is_empty() {
            told.push(format!("its signature is {}, not {}", short(&other.signature), short(&self.signature)));
        }
        let more = told.len().saturating_sub(MOST_TOLD);
        told.truncate(MOST_TOLD);
        let more = if more == 0 { String::new() } else { format!("; and {more} more") };
        Some(told.join("; ") + &more)
    }

    fn by_name(&self) -> BTreeMap<&str, &Feature> {
        self.features.iter().map(|feature| (feature.name.as_str(), feature)).collect()
    }
}

impl Feature {
    fn differences(&self, other: &Self) -> Vec<String> {
        let name = &self.name;
        if self.kind != other.kind {
            return vec![format!("`{name}` is {}, not {}", other.kind, self.kind)];
        }
        let mut told = Vec::new();
        if self.unit != other.unit {
            told.push(format!("`{name}` is in {}, not {}", Unit(other.unit.as_deref()), Unit(self.unit.as_deref())));
        }
        if self.range != other.range {
            told.push(format!("`{name}` is within {}, not {}", Range(other.range), Range(self.range)));
        }
        let (known, given) = (self.categories.as_deref(), other.categories.as_deref());
        let (known, given) = (known.unwrap_or_default(), given.unwrap_or_default());
        let without = |these: &[String], those: &[String]| -> Vec<String> {
            these.iter().filter(|category| !those.contains(category)).map(|category| format!("`{category}`")).collect()
        };
        let (added, gone) = (without(given, known), without(known, given));
        if !added.is_empty() {
            told.push(format!("`{name}` may be {}", added.join(", ")));
        }
        if !gone.is_empty() {
            told.push(format!("`{name}` may not be {}", gone.join(", ")));
        }
        told
    }
}

/// The beginning of a digest.
fn short(signature: &str) -> String {
    signature.chars().take(12).collect()
}

struct Unit<'a>(Option<&'a str>);

impl fmt::Display for Unit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.unwrap_or("no unit"))
    }
}

struct Range(Option<[f64; 2]>);

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some([low, high]) => write!(f, "{low} to {high}"),
            None => f.write_str("any bounds"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn features(signature: &str, features: &Value) -> Features {
        serde_json::from_value(json!({ "name": "m", "signature": signature, "features": features })).unwrap()
    }

    #[track_caller]
    fn check(stable: &Value, canary: &Value, expected: &str) {
        let told = features("a", stable).difference(&features("b", canary));
        assert_eq!(told.as_deref(), Some(expected));
    }

    #[test]
    fn every_difference_is_told_by_the_name_of_its_feature() {
        let distance = json!({ "name": "km", "type": "numeric", "unit": "km", "range": [0.1, 15] });
        let day = json!({ "name": "day", "type": "categorical", "categories": ["mon", "tue"] });
        let stable = json!([distance, day]);
        check(&stable, &json!([day]), "`km` is gone");
        check(&stable, &json!([day, distance, { "name": "wet", "type": "boolean" }]), "`wet` is added");
        let miles = json!({ "name": "km", "type": "numeric", "unit": "mi", "range": [0, 10] });
        check(&stable, &json!([miles, day]), "`km` is in mi, not km; `km` is within 0 to 10, not 0.1 to 15");
        check(&stable, &json!([{ "name": "km", "type": "boolean" }, day]), "`km` is boolean, not numeric");
        let other_days = json!({ "name": "day", "type": "categorical", "categories": ["tue", "wed"] });
        check(&stable, &json!([distance, other_days]), "`day` may be `wed`; `day` may not be `mon`");
        check(&json!([{ "name": "x", "type": "numeric" }]), &json!([]), "`x` is gone");
        let many: Vec<Value> = (0..7).map(|n| json!({ "name": format!("f{n}"), "type": "boolean" })).collect();
        let told = "`f0` is added; `f1` is added; `f2` is added; `f3` is added; `f4` is added; and 2 more";
        check(&json!([]), &many.into(), told);
    }

    #[test]
    fn a_description_without_a_signature_says_nothing() {
        let takes = |text: &[u8]| ModelCard::read(text).map(|card| card.takes);
        assert_eq!(takes(br#"{"name":"m","features":[{}]}"#), Some(Takes::Unsaid));
        assert_eq!(takes(b"<html>"), None);
        assert_eq!(takes(br#"{"signature":"a","features":[]}"#), Some(Takes::These(features("a", &json!([])))));
    }

    #[test]
    fn a_model_is_another_one_by_its_digests() {
        let card = |text: &str| ModelCard::read(text.as_bytes()).unwrap();
        let first = card(r#"{"signature":"a","sha256":"1","version":"v1"}"#);
        for (other, same) in [
            (r#"{"signature":"a","sha256":"1","version":"v2"}"#, true),
            (r#"{"signature":"a","sha256":"2","version":"v1"}"#, false),
            (r#"{"signature":"b","sha256":"1","version":"v1"}"#, false),
            (r#"{"version":"v1"}"#, false),
        ] {
            assert_eq!(first.is_same_model(&card(other)), same, "{other}");
        }
        assert!(card("{}").is_same_model(&card(r#"{"version":"v2"}"#)), "who says nothing is not told apart");
    }

    #[test]
    fn only_the_signature_decides() {
        let one = json!([{ "name": "x", "type": "boolean" }]);
        assert_eq!(features("a", &one).difference(&features("a", &json!([]))), None);
        check(&one, &one, "its signature is b, not a");
    }
}
