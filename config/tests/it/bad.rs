//! Every broken file of tests/bad gives exactly the problems in the text beside it. After a change of words,
//! `UPDATE_EXPECTED=1` writes those texts anew; read the difference before you keep it.

use std::fs;
use std::path::{Path, PathBuf};

use pointsman_config::{Config, Severity};

#[test]
fn every_broken_file_gives_exactly_its_problems() {
    let files = broken_files();
    assert!(files.len() >= 30, "only {} broken files were found", files.len());
    let wrong: Vec<String> = files.iter().filter_map(|file| difference(file)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

fn broken_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad");
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "yaml")).collect()
}

/// What `file` gives and what it should give, if they differ.
fn difference(file: &Path) -> Option<String> {
    let name = file.file_name().unwrap().to_str().unwrap();
    let errors = Config::parse(&fs::read_to_string(file).unwrap(), name).expect_err(name);
    check_problems(&errors);
    let given = format!("{errors}\n");
    let beside = file.with_extension("txt");
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(&beside, &given).unwrap();
    }
    let wanted = fs::read_to_string(&beside).unwrap_or_default();
    (given != wanted).then(|| format!("{name} gives\n{given}and should give\n{wanted}"))
}

/// What holds for the problems of any file.
fn check_problems(errors: &pointsman_config::ConfigErrors) {
    let problems = errors.problems();
    assert!(problems.iter().any(|problem| problem.severity == Severity::Error));
    for problem in problems {
        let line = problem.to_string();
        assert!(!line.contains('\n') && !problem.what.is_empty() && !problem.way_out.is_empty(), "{line}");
        assert!(problem.place.line > 0 && problem.place.column > 0, "{line}");
    }
    assert!(problems.is_sorted_by_key(|problem| (problem.place.line, problem.place.column)));
}
