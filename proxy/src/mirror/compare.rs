//! Whether two answers to one request agree.
//!
//! Stands beside the line: pure, on values. The same class of status; and where stable's answer is JSON, the numbers at the
//! fields of the route, within its tolerance. What is no number where stable or the copy has something is a disagreement,
//! `NaN` and `null` among them: no JSON has a NaN, but servers write it, and a model that answers with none has failed.

use pointsman_config::Compare;
use serde_json::Value;

/// What is known of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Body,
}

/// The body of an answer, as far as it can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    /// It says that it is JSON.
    Json(Vec<u8>),
    /// It is something else; only the status counts.
    Opaque,
    /// It is too large to be kept.
    TooLarge,
}

/// What a comparison came to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    Agreed,
    /// Where, what stable said there, and what the copy said.
    Disagreed(Difference),
    /// An answer is too large for it.
    Uncompared,
}

/// The first place where two answers differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    /// `status`, `body` or a JSON pointer.
    pub(crate) field: String,
    pub(crate) stable: String,
    pub(crate) copy: String,
}

/// Characters of a value that are kept for people: a number, not a document.
const SHOWN: usize = 32;

impl Difference {
    fn new(field: &str, stable: &str, copy: &str) -> Self {
        let short = |text: &str| text.chars().take(SHOWN).collect();
        Self { field: field.to_owned(), stable: short(stable), copy: short(copy) }
    }
}

/// Compares stable's answer with that to the copy.
pub(crate) fn compare(rules: &Compare, stable: &Answer, copy: &Answer) -> Verdict {
    if stable.status / 100 != copy.status / 100 {
        let difference = Difference::new("status", &stable.status.to_string(), &copy.status.to_string());
        return Verdict::Disagreed(difference);
    }
    match (&stable.body, &copy.body) {
        (Body::TooLarge, _) | (_, Body::TooLarge) => Verdict::Uncompared,
        // What an error says in words is its own.
        _ if !(200..300).contains(&stable.status) => Verdict::Agreed,
        (Body::Opaque, Body::Opaque) => Verdict::Agreed,
        (Body::Json(_), Body::Opaque) => disagreed("body", "JSON", "something else"),
        (Body::Opaque, Body::Json(_)) => disagreed("body", "something else", "JSON"),
        (Body::Json(stable), Body::Json(copy)) => of_json(rules, stable, copy),
    }
}

fn disagreed(field: &str, stable: &str, copy: &str) -> Verdict {
    Verdict::Disagreed(Difference::new(field, stable, copy))
}

fn of_json(rules: &Compare, stable: &[u8], copy: &[u8]) -> Verdict {
    match (serde_json::from_slice::<Value>(stable), serde_json::from_slice::<Value>(copy)) {
        (Ok(stable), Ok(copy)) => {
            let found = rules.fields.iter().find_map(|field| {
                let (one, other) = (stable.pointer(field), copy.pointer(field));
                difference(rules, one, other).map(|(one, other)| Difference::new(field, &one, &other))
            });
            found.map_or(Verdict::Agreed, Verdict::Disagreed)
        }
        (Ok(_), Err(_)) => disagreed("body", "JSON", "no JSON"),
        (Err(_), Ok(_)) => disagreed("body", "no JSON", "JSON"),
        (Err(_), Err(_)) => disagreed("body", "no JSON", "no JSON"),
    }
}

/// What two values say where they differ; none if they agree, or if neither is there.
fn difference(rules: &Compare, stable: Option<&Value>, copy: Option<&Value>) -> Option<(String, String)> {
    match (stable, copy) {
        (None, None) => None,
        (Some(Value::Array(stable)), Some(Value::Array(copy))) if stable.len() == copy.len() => {
            stable.iter().zip(copy).find_map(|(stable, copy)| difference(rules, Some(stable), Some(copy)))
        }
        (Some(Value::Array(stable)), Some(Value::Array(copy))) => {
            Some((format!("{} values", stable.len()), format!("{} values", copy.len())))
        }
        (Some(Value::Number(one)), Some(Value::Number(other))) if are_close(rules, one.as_f64(), other.as_f64()) => {
            None
        }
        (stable, copy) => {
            let shown = |value: Option<&Value>| value.map_or_else(|| "nothing".to_owned(), ToString::to_string);
            Some((shown(stable), shown(copy)))
        }
    }
}

fn are_close(rules: &Compare, stable: Option<f64>, copy: Option<f64>) -> bool {
    match (stable, copy) {
        (Some(stable), Some(copy)) => (stable - copy).abs() <= rules.absolute.max(rules.relative * stable.abs()),
        (_, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(status: u16, text: &str) -> Answer {
        Answer { status, body: Body::Json(text.as_bytes().to_vec()) }
    }

    fn rules() -> Compare {
        Compare { relative: 0.01, absolute: 0.001, ..Compare::default() }
    }

    #[track_caller]
    fn agree(stable: &str, copy: &str) {
        assert_eq!(compare(&rules(), &json(200, stable), &json(200, copy)), Verdict::Agreed);
    }

    #[track_caller]
    fn differ(stable: &str, copy: &str, field: &str, said: (&str, &str)) {
        let expected = Difference { field: field.to_owned(), stable: said.0.to_owned(), copy: said.1.to_owned() };
        assert_eq!(compare(&rules(), &json(200, stable), &json(200, copy)), Verdict::Disagreed(expected));
    }

    #[test]
    fn numbers_agree_within_the_larger_of_both_tolerances() {
        agree(r#"{"prediction": 100}"#, r#"{"prediction": 101.0, "version": "v2"}"#);
        differ(r#"{"prediction": 100}"#, r#"{"prediction": 101.1}"#, "/prediction", ("100", "101.1"));
        agree(r#"{"prediction": 0}"#, r#"{"prediction": 0.001}"#);
        differ(r#"{"prediction": 0}"#, r#"{"prediction": -0.0011}"#, "/prediction", ("0", "-0.0011"));
    }

    #[test]
    fn lists_agree_number_by_number() {
        agree(r#"{"predictions": [1, [2, 3]]}"#, r#"{"predictions": [1.001, [2, 3.01]]}"#);
        differ(r#"{"predictions": [1, 2]}"#, r#"{"predictions": [1, 3]}"#, "/predictions", ("2", "3"));
        differ(r#"{"predictions": [1, 2]}"#, r#"{"predictions": [1]}"#, "/predictions", ("2 values", "1 values"));
        agree(r#"{"predictions": []}"#, r#"{"predictions": []}"#);
    }

    #[test]
    fn what_is_no_number_is_a_disagreement() {
        differ(r#"{"prediction": 1}"#, r#"{"prediction": null}"#, "/prediction", ("1", "null"));
        differ(r#"{"prediction": null}"#, r#"{"prediction": null}"#, "/prediction", ("null", "null"));
        differ(r#"{"prediction": 1}"#, r#"{"prediction": "NaN"}"#, "/prediction", ("1", "\"NaN\""));
        differ(r#"{"prediction": 1}"#, r#"{"prediction": NaN}"#, "body", ("JSON", "no JSON"));
        differ(r#"{"prediction": 1}"#, "{}", "/prediction", ("1", "nothing"));
        differ("{}", r#"{"prediction": 1}"#, "/prediction", ("nothing", "1"));
        agree("{}", "{}");
    }

    #[test]
    fn statuses_agree_by_their_class_and_an_error_has_no_numbers() {
        assert_eq!(compare(&rules(), &json(200, "{}"), &json(201, "{}")), Verdict::Agreed);
        assert_eq!(
            compare(&rules(), &json(422, r#"{"prediction": 1}"#), &json(400, r#"{"prediction": 2}"#)),
            Verdict::Agreed
        );
        let failed = compare(&rules(), &json(200, "{}"), &json(500, "{}"));
        assert_eq!(failed, disagreed("status", "200", "500"));
    }

    #[test]
    fn what_cannot_be_read_is_compared_by_its_status_alone() {
        let with = |body| Answer { status: 200, body };
        let of = |stable, copy| compare(&rules(), &with(stable), &with(copy));
        assert_eq!(of(Body::Opaque, Body::Opaque), Verdict::Agreed);
        assert_eq!(of(Body::TooLarge, Body::Opaque), Verdict::Uncompared);
        assert_eq!(of(Body::Json(Vec::new()), Body::TooLarge), Verdict::Uncompared);
        assert_eq!(of(Body::Json(b"1".to_vec()), Body::Opaque), disagreed("body", "JSON", "something else"));
        let large = Answer { status: 500, body: Body::TooLarge };
        assert_eq!(compare(&rules(), &large, &with(Body::Opaque)), disagreed("status", "500", "200"));
    }

    #[test]
    fn what_is_shown_of_a_value_is_short() {
        let long = format!("{{\"prediction\": \"{}\"}}", "x".repeat(1_000));
        let Verdict::Disagreed(found) = compare(&rules(), &json(200, &long), &json(200, "{}")) else {
            panic!("they differ")
        };
        assert_eq!(found.stable.len(), SHOWN);
    }
}
