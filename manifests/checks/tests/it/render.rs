//! Overlays as `kubectl kustomize` renders them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use pointsman_manifests::{Objects, Read};
use serde_json::Value;

/// The first kubectl whose kustomize takes folders and components.
const OLDEST: u64 = 21;

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The text of a file of the repository.
pub fn file(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The objects of an overlay; none where they cannot be rendered.
pub fn overlay(name: &str) -> Option<Objects> {
    rendered(&format!("manifests/overlays/{name}"))
}

/// An overlay with a component on top, as an operator's own overlay would take both.
pub fn with_component(name: &str, component: &str) -> Option<Objects> {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().canonicalize().unwrap();
    let manifests = root().join("manifests").canonicalize().unwrap();
    let up = "../".repeat(here.components().count() - 1);
    let manifests = format!("{up}{}", manifests.strip_prefix("/").unwrap().display());
    let text = format!(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: models\n\
         resources: [{manifests}/overlays/{name}]\ncomponents: [{manifests}/components/{component}]\n"
    );
    std::fs::write(here.join("kustomization.yaml"), text).unwrap();
    rendered(here.to_str().unwrap())
}

/// The production overlay in a cluster that has the admission policy.
pub fn guarded_production() -> Option<Objects> {
    let mut objects = overlay("production")?;
    objects.0.extend(rendered("manifests/selector-guard")?.0);
    Some(objects)
}

/// What kubectl makes of a folder; none, and a word about it, where it is missing or too old and nobody insists.
pub fn rendered(folder: &str) -> Option<Objects> {
    if let Err(why) = usable() {
        assert!(std::env::var_os("REQUIRE_KUBECTL").is_none(), "{why}");
        eprintln!("skipped: {why}; REQUIRE_KUBECTL=1 makes this a failure");
        return None;
    }
    let output = kubectl(&["kustomize", root().join(folder).to_str().unwrap()]).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{folder}: {said}");
    assert_eq!(said, "", "{folder} is rendered with a warning");
    Some(Objects::parse(std::str::from_utf8(&output.stdout).unwrap()).unwrap())
}

/// Whether kubectl is there and new enough; else why not.
fn usable() -> Result<(), String> {
    static USABLE: OnceLock<Result<(), String>> = OnceLock::new();
    USABLE.get_or_init(|| is_new_enough(&kubectl(&["version", "--client", "-o", "json"])?)).clone()
}

fn is_new_enough(output: &Output) -> Result<(), String> {
    let version: Value =
        serde_json::from_slice(&output.stdout).map_err(|error| format!("kubectl says no version: {error}"))?;
    let written = version.text("/clientVersion/gitVersion");
    let minor = written.split('.').nth(1).and_then(|minor| minor.parse::<u64>().ok());
    match minor {
        Some(minor) if minor >= OLDEST => Ok(()),
        _ => Err(format!("kubectl is {written}, and 1.{OLDEST} or newer is needed")),
    }
}

fn kubectl(arguments: &[&str]) -> Result<Output, String> {
    Command::new("kubectl").args(arguments).output().map_err(|error| format!("kubectl cannot be started ({error})"))
}
