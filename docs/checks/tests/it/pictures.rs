//! The pictures of the concepts are what is drawn for them.

use std::path::Path;

use pointsman_docs::pictures;

#[test]
fn each_picture_is_as_drawn() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images");
    for (name, drawn) in pictures::all() {
        let file = folder.join(name);
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&file, &drawn).unwrap();
        }
        let kept = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(kept == drawn, "docs/images/{name} is out of date: UPDATE_DOCS=1 cargo test -p pointsman-docs");
    }
}

#[test]
fn a_picture_asks_nothing_of_anybody() {
    for (name, drawn) in pictures::all() {
        let outside = drawn.matches("http").count() - drawn.matches("xmlns=\"http").count();
        assert_eq!(outside, 0, "{name} names another site");
        assert!(drawn.contains("<title>") && drawn.contains("prefers-color-scheme: dark"), "{name}");
    }
}
