//! What pages say about simulated rollouts is what stands in their results.

use std::path::Path;

/// The cells of each row of the tables in `page`, without white space around them.
fn rows(page: &str) -> Vec<Vec<&str>> {
    let cells = |line: &'_ str| line.trim().strip_prefix('|')?.strip_suffix('|').map(str::len);
    let tables = page.lines().filter(|line| cells(line).is_some());
    tables.map(|line| line.trim().trim_matches('|').split('|').map(str::trim).collect()).collect()
}

#[test]
fn the_statistics_for_operators_quote_the_simulation() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = std::fs::read_to_string(docs.join("statistics.md")).unwrap();
    let results = std::fs::read_to_string(docs.join("../chaos/results/simulated.md")).unwrap();
    let quoted: Vec<Vec<&str>> = rows(&page)
        .into_iter()
        .filter(|row| {
            row.len() == 4 && row[2].ends_with(')') && row[2].starts_with(|first: char| first.is_ascii_digit())
        })
        .collect();
    assert!(quoted.len() >= 7, "{quoted:?}");
    for row in quoted {
        let found = rows(&results).into_iter().find(|result| result[0] == row[1] && result[1] == "Pointsman");
        let found = found.unwrap_or_else(|| panic!("{} is not in chaos/results/simulated.md", row[1]));
        assert_eq!((row[2], row[3]), (found[3], found[4]), "{} in docs/statistics.md", row[1]);
    }
}
