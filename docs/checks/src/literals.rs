//! What a program prints, as far as its sources tell: their string literals, so that a page that quotes a sentence is held to
//! the words of the code. Placeholders are `…`, as in a quotation.

/// The string literals of a Rust source up to its tests, with single spaces, and `…` for each placeholder.
pub fn of_source(source: &str) -> Vec<String> {
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let (mut found, mut rest) = (Vec::new(), source);
    while let Some((token, after)) = next_token(rest) {
        found.extend(token.map(|text| template(&text)));
        rest = after;
    }
    found
}

/// Goes past the next thing that begins with a quotation mark, a comment or a letter's quotes; gives its text if it is a string.
fn next_token(text: &str) -> Option<(Option<String>, &str)> {
    let at = text.find(['"', '/', '\''])?;
    let (before, from) = text.split_at(at);
    if let Some(inside) = from.strip_prefix('"') {
        return Some(if before.ends_with('#') { raw(before, inside) } else { quoted(inside) });
    }
    if from.starts_with("//") {
        return Some((None, from.split_once('\n').map_or("", |(_comment, rest)| rest)));
    }
    // A letter; a lifetime has no second quote, and ends by itself.
    let letter = ["'\"'", "'/'", "'\\''"].into_iter().find(|letter| from.starts_with(letter));
    Some((None, from.get(letter.map_or(1, str::len)..).unwrap_or_default()))
}

/// A string up to the quotation mark that no backslash escapes.
fn quoted(text: &str) -> (Option<String>, &str) {
    let (mut inside, mut letters) = (String::new(), text.char_indices());
    while let Some((at, letter)) = letters.next() {
        match (letter, text.get(at + 1..)) {
            ('"', rest) => return (Some(inside), rest.unwrap_or_default()),
            ('\\', _) => {
                // At the end of a line it takes the line break and what stands before the words of the next one with it; each of
                // those is white space anyway.
                let escaped = letters.next().map_or(' ', |(_, letter)| if letter == 'n' { ' ' } else { letter });
                inside.push(escaped);
            }
            (letter, _) => inside.push(letter),
        }
    }
    (None, "")
}

/// A string between `r##"` and `"##`, with as many marks as stand at the end of `before`.
fn raw<'a>(before: &str, text: &'a str) -> (Option<String>, &'a str) {
    let marks = before.len() - before.trim_end_matches('#').len();
    let end = format!("\"{}", "#".repeat(marks));
    text.split_once(&end).map_or((None, ""), |(inside, rest)| (Some(inside.to_owned()), rest))
}

/// A literal as a page quotes it: `…` for what is put in, no code marks, single spaces.
fn template(literal: &str) -> String {
    let (mut text, mut rest) = (String::new(), literal);
    while let Some((before, placeholder)) = rest.split_once('{') {
        text.push_str(before);
        text.push('…');
        rest = placeholder.split_once('}').map_or("", |(_name, after)| after);
    }
    text.push_str(rest);
    plain(&text)
}

/// Words without code marks, with single spaces.
fn plain(text: &str) -> String {
    text.replace('`', "").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether one of `literals` can print what is quoted, where `…` stands for what differs: what stands between is in it, in its
/// order. White space and punctuation at the ends count for nothing, since a sentence may be put together of several literals.
pub fn is_printed(quotation: &str, literals: &[String]) -> bool {
    let quotation = plain(quotation);
    let ends = |letter: char| letter.is_whitespace() || matches!(letter, ':' | ';' | ',' | '.');
    let parts: Vec<&str> =
        quotation.split('…').map(|part| part.trim_matches(ends)).filter(|part| !part.is_empty()).collect();
    let in_order = |literal: &String| {
        parts.iter().try_fold(literal.as_str(), |rest, part| rest.split_once(part).map(|(_, after)| after)).is_some()
    };
    !parts.is_empty() && literals.iter().any(in_order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_found_and_nothing_else() {
        let source = "/// says \"nothing\"\nfn f<'a>() -> &'a str { g('\"'); let r = r#\"raw \"x\" {y}\"#; h(\"one `{a}` \\\n   two {b:?}\", 4 / 2); \"a \\\"b\\\"\" }\n#[cfg(test)]\nmod tests { \"not\" }\n";
        assert_eq!(of_source(source), ["raw \"x\" …", "one … two …", "a \"b\""]);
    }

    #[test]
    fn a_quotation_is_held_to_one_literal_and_its_order() {
        let literals = ["waits until … is ready: … of … are", "no connection"].map(str::to_owned);
        let check = |quotation, wanted| assert_eq!(is_printed(quotation, &literals), wanted, "{quotation}");
        check("waits until every endpoint of … is ready: … of … are", false);
        check("waits until … is ready: … of … are", true);
        check("no connection: …", true);
        check("… are … waits until", false);
        check("waits until … no connection", false);
        check("…", false);
    }
}
