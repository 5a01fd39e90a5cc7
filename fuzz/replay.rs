//! Every input that is kept for a target of `fuzz/`, given to it once more. A module of the tests of each crate that has
//! targets, so that `make test` needs neither libFuzzer nor the minutes that found these inputs.

use std::fs;
use std::path::Path;

/// Gives `target` what lies in `fuzz/corpus/NAME`.
///
/// # Panics
/// When there is nothing, and where the target does: the input is named then.
pub(super) fn kept_inputs(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    for file in files {
        let input = fs::read(&file).unwrap();
        if let Err(panic) = std::panic::catch_unwind(|| target(&input)) {
            eprintln!("the input is {}", file.display());
            std::panic::resume_unwind(panic);
        }
    }
}
