//! The Dockerfiles say what the manifests and the workspace say.

use pointsman_manifests::Read;
use serde_json::Value;

use crate::render::{file, overlay};

/// The instructions of a Dockerfile, one a line, without comments.
fn instructions(path: &str) -> Vec<String> {
    let text = file(path).replace("\\\n", " ");
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// What is behind `key = "` in a TOML file, first hit.
fn toml(path: &str, key: &str) -> String {
    let text = file(path);
    let line =
        text.lines().find(|line| line.starts_with(&format!("{key} = "))).unwrap_or_else(|| panic!("{path}: {key}"));
    line.split('"').nth(1).unwrap().to_owned()
}

fn check(path: &str, deployment: &str) {
    let all = instructions(path);
    let toolchain = toml("rust-toolchain.toml", "channel");
    assert_eq!(all[0], format!("FROM rust:{toolchain}-bookworm AS build"), "{path}");
    assert!(all.contains(&format!("ENV RUSTUP_TOOLCHAIN={toolchain}")), "{path}");
    let start =
        all.iter().position(|line| line == "FROM scratch AS image").unwrap_or_else(|| panic!("{path}: {all:?}"));
    let end = all[start + 1..].iter().position(|line| line.starts_with("FROM ")).map_or(all.len(), |at| start + 1 + at);
    let image = &all[start..end];
    let one = |prefix: &str| {
        let mut found = image.iter().filter_map(|line| line.strip_prefix(prefix));
        let first = found.next().unwrap_or_else(|| panic!("{path} has no {prefix}"));
        assert_eq!(found.next(), None, "{path}: {prefix} once");
        first
    };
    assert_eq!(one("COPY "), "--from=build /image /", "{path}: what .ci/rootfs made, and nothing else");
    assert_eq!(one("USER "), "65532:65532", "{path}");
    let entry: Vec<String> = serde_json::from_str(one("ENTRYPOINT ")).unwrap();
    assert_eq!(entry.len(), 1, "{path}: the program itself, not a shell");
    for label in ["title", "description", "source", "licenses", "version", "revision"] {
        assert!(one("LABEL ").contains(&format!("org.opencontainers.image.{label}=")), "{path}: {label}");
    }
    let last = all.iter().rfind(|line| line.starts_with("FROM ")).unwrap();
    assert!(["FROM scratch AS image", "FROM image"].contains(&last.as_str()), "{path}: built where no stage is named");
    let Some(objects) = overlay("production") else { return };
    let container = objects.find("Deployment", deployment).unwrap().0.at("/spec/template/spec/containers/0").clone();
    let ports: Vec<String> =
        container.items("/ports").iter().map(|port| port.at("/containerPort").to_string()).collect();
    assert_eq!(one("EXPOSE "), ports.join(" "), "{path}");
    assert_eq!(container.at("/command"), &Value::Null, "{deployment} starts what the image starts");
}

#[test]
fn the_edges_image_is_what_the_manifests_run() {
    check("proxy/Dockerfile", "pointsman");
}

/// `.dockerignore` keeps git out, and a stage knows no argument that was named before it began.
#[test]
fn the_edges_image_is_built_with_the_name_of_its_commit() {
    let all = instructions("proxy/Dockerfile");
    let place = |wanted: &str| all.iter().position(|line| line.contains(wanted)).unwrap_or_else(|| panic!("{wanted}"));
    let (named, built, next) = (place("ARG REVISION"), place("cargo build"), place("FROM scratch AS image"));
    assert!(named < built && built < next, "{all:?}");
    assert!(all[built].contains("POINTSMAN_COMMIT=\"$REVISION\" cargo build"), "{}", all[built]);
    assert!(file(".ci/image").contains("--build-arg \"REVISION=$revision\""));
    assert!(file("proxy/build.rs").contains("set(\"POINTSMAN_COMMIT\")"));
}

#[test]
fn the_model_servers_image_is_what_the_manifests_run() {
    check("model-server/Dockerfile", "delivery-time-v1");
}

#[test]
fn manifests_name_the_images_that_make_image_makes() {
    let version = toml("Cargo.toml", "version");
    let Some(objects) = overlay("local") else { return };
    let image = |name: &str| {
        let deployment = objects.find("Deployment", name).unwrap();
        deployment.0.text("/spec/template/spec/containers/0/image").to_owned()
    };
    assert_eq!(image("pointsman"), format!("pointsman:{version}"));
    assert_eq!(image("delivery-time-v1"), format!("model-server:{version}-examples"));
    let page = file("docs/quick-start-kubernetes.md");
    assert!(page.contains(&format!("pointsman:{version} model-server:{version}-examples")));
}
