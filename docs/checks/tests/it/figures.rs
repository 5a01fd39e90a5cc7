//! What pages say about simulated rollouts is what stands in their results.

use std::path::Path;

/// The cells of a row of a table; none for another line.
fn cells(line: &str) -> Option<Vec<&str>> {
    let row = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(row.split('|').map(str::trim).collect())
}

/// Whether a row quotes the simulation: what the canary does, the scenario, and two figures with their 95th percentile.
fn is_quoted(row: &[&str]) -> bool {
    let is_figure = |cell: &&str| cell.ends_with(')') && cell.starts_with(|first: char| first.is_ascii_digit());
    row.len() == 4 && is_figure(&row[2]) && is_figure(&row[3])
}

/// The row with the figures of the results.
fn as_simulated(row: &[&str], results: &str) -> String {
    let of_scenario = |result: &Vec<&str>| result[0] == row[1] && result[1] == "Pointsman";
    let found = results.lines().filter_map(cells).find(of_scenario);
    let found = found.unwrap_or_else(|| panic!("{} is not in chaos/results/simulated.md", row[1]));
    format!("| {} | {} | {} | {} |", row[0], row[1], found[3], found[4])
}

#[test]
fn the_statistics_for_operators_quote_the_simulation() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let file = docs.join("statistics.md");
    let page = std::fs::read_to_string(&file).unwrap();
    let results = std::fs::read_to_string(docs.join("../chaos/results/simulated.md")).unwrap();
    let mut quoted = 0;
    let lines = page.lines().map(|line| match cells(line) {
        Some(row) if is_quoted(&row) => {
            quoted += 1;
            as_simulated(&row, &results)
        }
        Some(_) | None => line.to_owned(),
    });
    let simulated = lines.map(|line| line + "\n").collect::<String>();
    assert!(quoted >= 7, "{quoted}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, &simulated).unwrap();
        return;
    }
    assert!(
        page == simulated,
        "docs/statistics.md quotes other figures than chaos/results/simulated.md; read them, then UPDATE_DOCS=1 cargo test -p pointsman-docs"
    );
}
