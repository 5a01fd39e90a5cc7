//! What labels are like, and selectors that name them.

use serde_json::{Map, Value};

use super::super::refusal::Cause;

const MAX_VALUE: usize = 63;
const MAX_PREFIX: usize = 253;

/// What is wrong with the labels in a map at `field`.
pub(super) fn faults(labels: Option<&Map<String, Value>>, field: &str) -> Vec<Cause> {
    labels
        .into_iter()
        .flatten()
        .flat_map(|(name, value)| [key_fault(name, field), value_fault(value, field)])
        .flatten()
        .collect()
}

fn key_fault(name: &str, field: &str) -> Option<Cause> {
    let (prefix, word) = name.rsplit_once('/').map_or((None, name), |(prefix, word)| (Some(prefix), word));
    let is_prefix = |prefix: &str| !prefix.is_empty() && prefix.len() <= MAX_PREFIX && !prefix.contains('/');
    if prefix.is_some_and(|prefix| !is_prefix(prefix)) || word.is_empty() || !is_word(word) {
        let words = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                     alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
                     '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
        return Some(Cause::invalid(field, &name.into(), words));
    }
    None
}

fn value_fault(value: &Value, field: &str) -> Option<Cause> {
    let text = value.as_str().unwrap_or_default();
    if text.len() > MAX_VALUE {
        return Some(Cause::invalid(field, value, &format!("must be no more than {MAX_VALUE} bytes")));
    }
    let words = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
                 start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used \
                 for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
    (!is_word(text)).then(|| Cause::invalid(field, value, words))
}

/// Nothing, or what begins and ends with a letter or digit, with few other characters between.
fn is_word(text: &str) -> bool {
    let is_inside = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.');
    let is_edge = |character: Option<char>| character.is_none_or(|character| character.is_ascii_alphanumeric());
    text.len() <= MAX_VALUE
        && text.chars().all(is_inside)
        && is_edge(text.chars().next())
        && is_edge(text.chars().last())
}
