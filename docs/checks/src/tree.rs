//! All pages, and what a link leads to.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::page::{Link, Page};

/// Folders in which nothing of ours is written by hand.
const LEFT_OUT: [&str; 4] = ["target", "node_modules", ".git", "test-results"];

/// The pages of the repository.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
    /// By their path from the root.
    pub pages: BTreeMap<PathBuf, Page>,
}

/// What is wrong with a link.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken {
    /// The page it stands on.
    pub page: PathBuf,
    /// The line.
    pub line: usize,
    /// As it is written.
    pub target: String,
    /// What is wrong.
    pub why: &'static str,
}

impl Tree {
    /// Reads every page below `root`.
    ///
    /// # Errors
    /// If a folder or a page cannot be read.
    pub fn read(root: &Path) -> io::Result<Self> {
        let mut pages = BTreeMap::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let path = entry?.path();
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                if path.is_dir() && !path.is_symlink() && !LEFT_OUT.contains(&name) {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "md") && path.is_file() {
                    let from_root = path.strip_prefix(root).unwrap_or(&path).to_owned();
                    pages.insert(from_root, Page::parse(&fs::read_to_string(&path)?));
                }
            }
        }
        Ok(Self { root: root.to_owned(), pages })
    }

    /// Every link inside the repository that leads nowhere.
    pub fn broken(&self) -> Vec<Broken> {
        let all = self.pages.iter().flat_map(|(path, page)| page.links.iter().map(move |link| (path, link)));
        all.filter_map(|(path, link)| {
            let why = self.problem(path, link)?;
            Some(Broken { page: path.clone(), line: link.line, target: link.target.clone(), why })
        })
        .collect()
    }

    fn problem(&self, page: &Path, link: &Link) -> Option<&'static str> {
        if is_outside(&link.target) {
            return link.is_picture.then_some("a picture from elsewhere; the documents work without a network");
        }
        let (target, anchor) = link.target.split_once('#').map_or((link.target.as_str(), None), |(t, a)| (t, Some(a)));
        let Some(path) = self.reached(page, target) else { return Some("leaves the repository") };
        let Some(found) = self.pages.get(&path) else {
            let is_file = self.root.join(&path).is_file();
            return (!is_file).then_some("there is no such file; a folder cannot be read in a browser");
        };
        let is_there = anchor.is_none_or(|anchor| found.anchors.contains(anchor));
        (!is_there).then_some("the page has no such heading")
    }

    /// Where `target` leads from `page`, from the root; none if that is outside.
    pub fn reached(&self, page: &Path, target: &str) -> Option<PathBuf> {
        if target.is_empty() {
            return Some(page.to_owned());
        }
        let mut path = page.parent()?.to_owned();
        for part in Path::new(target).components() {
            match part {
                Component::ParentDir => path.pop().then_some(())?,
                Component::Normal(name) => path.push(name),
                Component::CurDir => {}
                Component::RootDir | Component::Prefix(_) => return None,
            }
        }
        Some(path)
    }
}

/// Whether a link leads to another site.
pub fn is_outside(target: &str) -> bool {
    let scheme = target.split_once(':').map(|(scheme, _rest)| scheme);
    scheme.is_some_and(|scheme| scheme.chars().all(|letter| letter.is_ascii_alphanumeric()))
}
