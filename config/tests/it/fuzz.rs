//! No text, however broken, panics, and whatever is accepted prints back to itself. `examples/fuzz.rs` looks for
//! longer.

use std::fs;
use std::path::Path;

use pointsman_config::{Config, Severity};
use proptest::prelude::*;

/// What holds for every text.
fn check(text: &str) {
    match Config::parse(text, "fuzz") {
        Ok(parsed) => {
            let printed = parsed.config.to_yaml();
            let again =
                Config::parse(&printed, "fuzz").unwrap_or_else(|errors| panic!("{errors}\n{printed}\nfrom\n{text}"));
            assert_eq!(again.config, parsed.config, "{printed}");
        }
        Err(errors) => {
            assert!(
                errors.problems().iter().any(|problem| problem.severity == Severity::Error),
                "refused without a reason: {text}"
            );
            assert!(errors.problems().iter().all(|problem| !problem.to_string().contains('\n')), "{errors}");
        }
    }
}

fn corpus() -> Vec<String> {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["examples", "tests/bad", "tests/corpus"].map(|folder| crate_folder.join(folder));
    let files =
        folders.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten()).map(|entry| entry.unwrap().path());
    let mut yaml: Vec<_> = files.filter(|file| file.extension().is_some_and(|extension| extension == "yaml")).collect();
    yaml.sort();
    yaml.iter().map(|file| fs::read_to_string(file).unwrap()).collect()
}

/// The characters nearest to `at` on the left that can be cut at.
fn cut(text: &str, at: usize) -> usize {
    let mut at = at % (text.len() + 1);
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[test]
fn the_corpus_holds() {
    let corpus = corpus();
    assert!(corpus.len() > 30);
    for text in &corpus {
        check(text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_text_does_not_panic(text in "\\PC{0,200}") {
        check(&text);
    }

    #[test]
    fn random_yaml_signs_do_not_panic(text in "[-\\[\\]{}:,&*!|>'\"%@`#? \n\ta-c0-9~<]{0,200}") {
        check(&text);
    }

    #[test]
    fn a_cut_file_does_not_panic(file in 0..1000_usize, from in 0..10_000_usize, to in 0..10_000_usize, inserted in "\\PC{0,12}") {
        let corpus = corpus();
        let text = &corpus[file % corpus.len()];
        let (from, to) = (cut(text, from), cut(text, to));
        check(&format!("{}{inserted}{}", &text[..from], &text[to..]));
    }

    #[test]
    fn a_file_with_swapped_words_does_not_panic(file in 0..1000_usize, one in 0..500_usize, other in 0..500_usize) {
        let corpus = corpus();
        let mut words: Vec<&str> = corpus[file % corpus.len()].split_inclusive(|c: char| !c.is_alphanumeric()).collect();
        if !words.is_empty() {
            let (one, other) = (one % words.len(), other % words.len());
            words.swap(one, other);
        }
        check(&words.concat());
    }
}
