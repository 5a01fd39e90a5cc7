//! What holds for every text that is given for a config file. `fuzz/` looks for one for which it does not.

#![expect(clippy::panic, reason = "what does not hold is told by a panic")]

use crate::{Config, Problem, Severity, place_of};

/// A text is refused with a reason, or it is a config that prints back to itself; whatever is said of it stands on one
/// line and names a place in the text.
///
/// # Panics
/// If that does not hold.
pub fn config(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match Config::parse(text, "fuzz") {
        Ok(parsed) => {
            check_problems(&parsed.warnings, text);
            check_printed(&parsed.config);
        }
        Err(errors) => {
            check_problems(errors.problems(), text);
            let is_refused_for = |problem: &Problem| problem.severity == Severity::Error;
            assert!(errors.problems().iter().any(is_refused_for), "refused without a reason");
        }
    }
}

fn check_printed(config: &Config) {
    let printed = config.to_yaml();
    let again = Config::parse(&printed, "printed")
        .unwrap_or_else(|errors| panic!("what is printed is refused: {errors}\n{printed}"));
    assert!(again.config == *config, "what is printed means something else:\n{printed}");
    assert_eq!(again.config.to_yaml(), printed, "what is printed prints back otherwise");
}

fn check_problems(problems: &[Problem], text: &str) {
    // YAML ends a line at either of the two.
    let lines = text.split(['\n', '\r']).count();
    for problem in problems {
        let said = problem.to_string();
        assert!(!said.contains(['\n', '\r']), "more than one line: {said:?}");
        assert!((1..=lines).contains(&problem.place.line), "no line of the text: {said}");
        let found = place_of(text, "fuzz", &problem.path);
        assert!((1..=lines).contains(&found.line), "no line of the text: {found}");
    }
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_kept_for_the_target_config_holds() {
        replay::kept_inputs("config", config);
    }

    /// Files that people wrote, good and bad.
    fn files() -> Vec<String> {
        let folders = ["examples", "tests/bad"].map(|folder| Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
        let files = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
        let mut yaml: Vec<_> = files.filter(|file| file.extension().is_some_and(|kind| kind == "yaml")).collect();
        yaml.sort();
        yaml.iter().map(|file| fs::read_to_string(file).unwrap()).collect()
    }

    /// The nearest place on the left of `at` that can be cut at.
    fn cut(text: &str, at: usize) -> usize {
        let mut at = at % (text.len() + 1);
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    }

    #[test]
    fn what_people_wrote_holds() {
        let files = files();
        assert!(files.len() > 30);
        for text in &files {
            config(text.as_bytes());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn random_text_holds(text in "\\PC{0,200}") {
            config(text.as_bytes());
        }

        #[test]
        fn random_signs_of_yaml_hold(text in "[-\\[\\]{}:,&*!|>'\"%@`#? \n\ta-c0-9~<]{0,200}") {
            config(text.as_bytes());
        }

        #[test]
        fn a_cut_file_holds(file in 0..1000_usize, from in 0..10_000_usize, to in 0..10_000_usize, inserted in "\\PC{0,12}") {
            let files = files();
            let text = &files[file % files.len()];
            let (from, to) = (cut(text, from), cut(text, to));
            config(format!("{}{inserted}{}", &text[..from], &text[to..]).as_bytes());
        }

        #[test]
        fn a_file_with_swapped_words_holds(file in 0..1000_usize, one in 0..500_usize, other in 0..500_usize) {
            let files = files();
            let mut words: Vec<&str> = files[file % files.len()].split_inclusive(|c: char| !c.is_alphanumeric()).collect();
            if !words.is_empty() {
                let (one, other) = (one % words.len(), other % words.len());
                words.swap(one, other);
            }
            config(words.concat().as_bytes());
        }
    }
}
