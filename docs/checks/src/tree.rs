//! All pages, and what a link leads to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use crate::page::{Link, Page};

/// Folders in which nothing of ours is written by hand, where git does not say so. What begins with a dot is left out, too.
const LEFT_OUT: [&str; 3] = ["target", "node_modules", "test-results"];

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
    /// Reads every page below `root`: those that git knows of, and new ones beside what it knows. What somebody keeps in the
    /// checkout besides, such as an environment of Python, is not ours. Without git, as in an archive, it is every page there is.
    ///
    /// # Errors
    /// If a folder or a page cannot be read.
    pub fn read(root: &Path) -> io::Result<Self> {
        let paths = kept(root).map_or_else(|| found(root), Ok)?;
        let read = |path: PathBuf| Ok((path.clone(), Page::parse(&fs::read_to_string(root.join(path))?)));
        Ok(Self { root: root.to_owned(), pages: paths.into_iter().map(read).collect::<io::Result<_>>()? })
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

/// The pages that git keeps, and those that are new in folders of which it keeps something, from the root; none where git keeps
/// no page here.
fn kept(root: &Path) -> Option<Vec<PathBuf>> {
    let tracked = listed(root, &["--cached"])?;
    let folders: BTreeSet<_> = tracked.iter().filter_map(|path| path.components().next()).collect();
    let new = listed(root, &["--others", "--exclude-standard"])?;
    let beside = new.iter().filter(|path| path.components().next().is_some_and(|first| folders.contains(&first)));
    let pages = tracked.iter().chain(beside).filter(|path| is_page(path) && root.join(path).is_file());
    let pages: Vec<PathBuf> = pages.cloned().collect();
    (!pages.is_empty()).then_some(pages)
}

/// What `git ls-files` lists, from the root; none where there is no git.
fn listed(root: &Path, which: &[&str]) -> Option<Vec<PathBuf>> {
    let asked = Command::new("git").arg("-C").arg(root).args(["ls-files", "-z"]).args(which).output();
    let told = asked.ok().filter(|output| output.status.success())?;
    let names = String::from_utf8(told.stdout).ok()?;
    Some(names.split_terminator('\0').map(PathBuf::from).collect())
}

/// Every page below `root`, from there.
fn found(root: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut pages, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let is_ours = !name.starts_with('.') && !LEFT_OUT.contains(&name);
            if path.is_dir() && !path.is_symlink() && is_ours {
                folders.push(path);
            } else if is_page(&path) && path.is_file() {
                pages.push(path.strip_prefix(root).unwrap_or(&path).to_owned());
            }
        }
    }
    Ok(pages)
}

fn is_page(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "md")
}

/// Whether a link leads to another site.
pub fn is_outside(target: &str) -> bool {
    let scheme = target.split_once(':').map(|(scheme, _rest)| scheme);
    scheme.is_some_and(|scheme| scheme.chars().all(|letter| letter.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with these files, empty ones; without git unless something is added to it.
    fn folder(files: &[&str], added: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let git = |arguments: &[&str]| {
            let output = Command::new("git").arg("-C").arg(folder.path()).args(arguments).output().unwrap();
            assert!(output.status.success(), "{arguments:?}: {output:?}");
        };
        if !added.is_empty() {
            git(&["init", "--quiet"]);
            git(&[&["add", "--"], added].concat());
        }
        folder
    }

    fn pages(folder: &tempfile::TempDir) -> Vec<String> {
        let read = Tree::read(folder.path()).unwrap();
        read.pages.keys().map(|path| path.display().to_string()).collect()
    }

    const FILES: [&str; 6] =
        ["README.md", "docs/a.md", "docs/new.md", "other/b.md", ".venv/lib/c.md", "target/book/d.md"];

    #[test]
    fn without_git_every_page_counts_but_for_what_is_made_or_hidden() {
        assert_eq!(pages(&folder(&FILES, &[])), ["README.md", "docs/a.md", "docs/new.md", "other/b.md"]);
    }

    #[test]
    fn with_git_what_it_does_not_keep_counts_only_beside_what_it_keeps() {
        let kept = folder(&FILES, &["README.md", "docs/a.md"]);
        assert_eq!(pages(&kept), ["README.md", "docs/a.md", "docs/new.md"]);
        fs::remove_file(kept.path().join("docs/a.md")).unwrap();
        assert_eq!(pages(&kept), ["README.md", "docs/new.md"], "what is gone and not yet told is no page");
    }
}
