//! Every link leads somewhere, and every page stands in the book.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use pointsman_docs::page::Page;
use pointsman_docs::tree::{Tree, is_outside};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn tree() -> Tree {
    Tree::read(&root()).unwrap()
}

/// The pages of docs/SUMMARY.md, from the root.
fn book(tree: &Tree) -> Vec<PathBuf> {
    let summary = Path::new("docs/SUMMARY.md");
    tree.pages[summary].links.iter().map(|link| tree.reached(summary, &link.target).unwrap()).collect()
}

#[test]
fn every_link_and_every_anchor_leads_somewhere() {
    let tree = tree();
    assert!(tree.pages.len() > 20, "{} pages", tree.pages.len());
    let broken = tree.broken();
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_page_stands_in_the_book_once() {
    let tree = tree();
    let book = book(&tree);
    let once: BTreeSet<&PathBuf> = book.iter().collect();
    assert_eq!(once.len(), book.len(), "a page stands in docs/SUMMARY.md twice");
    let written = tree.pages.keys().filter(|path| path.starts_with("docs") && !path.ends_with("SUMMARY.md"));
    let missing: Vec<&PathBuf> = written.filter(|path| !once.contains(path)).collect();
    assert!(missing.is_empty(), "add to docs/SUMMARY.md: {missing:?}");
}

#[test]
fn a_page_of_the_book_leads_to_pages_of_the_book() {
    let tree = tree();
    let book = book(&tree);
    for path in &book {
        for link in &tree.pages[path].links {
            let target = link.target.split('#').next().unwrap();
            if is_outside(target) || target.is_empty() {
                continue;
            }
            let reached = tree.reached(path, target).unwrap();
            let is_page = reached.extension().is_some_and(|extension| extension == "md");
            assert!(
                !is_page || book.contains(&reached),
                "{} leads to {}, which docs/SUMMARY.md does not name",
                path.display(),
                reached.display()
            );
        }
    }
}

#[test]
fn the_table_of_contents_calls_nothing_by_an_empty_name() {
    let summary = &tree().pages[Path::new("docs/SUMMARY.md")];
    assert!(summary.links.iter().all(|link| !link.text.trim().is_empty()), "{summary:?}");
}

#[test]
fn what_leads_nowhere_is_found() {
    let folder = std::env::temp_dir().join(format!("pointsman-links-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("deep")).unwrap();
    let page = "# One\n[a](deep/two.md#two) [b](deep/none.md) [c](#none) [d](../x.md) ![e](https://example.com/e.png) [f](deep) [g](https://example.com)\n";
    std::fs::write(folder.join("one.md"), page).unwrap();
    std::fs::write(folder.join("deep/two.md"), "# Two\n[back](../one.md#one)\n").unwrap();
    let tree = Tree::read(&folder).unwrap();
    let broken: Vec<String> = tree.broken().into_iter().map(|broken| broken.target).collect();
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(broken, ["deep/none.md", "#none", "../x.md", "https://example.com/e.png", "deep"]);
    assert_eq!(Page::parse(page).title, "One");
}
