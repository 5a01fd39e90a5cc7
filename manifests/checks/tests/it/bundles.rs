//! The example bundles are those that the manifests speak of.

use pointsman_manifests::Read;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::render::{file, overlay};

#[test]
fn each_version_takes_just_the_bundle_of_the_repository() {
    let Some(objects) = overlay("local") else { return };
    for version in ["v1", "v2"] {
        let text = file(&format!("model-server/models/delivery-time/{version}/model.json"));
        let digest = Sha256::digest(&text).iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        let deployment = objects.find("Deployment", &format!("delivery-time-{version}")).unwrap();
        let env = deployment.0.items("/spec/template/spec/containers/0/env");
        let said = env.iter().find(|one| one.text("/name") == "MODEL_SHA256").unwrap();
        assert_eq!(said.text("/value"), digest, "MODEL_SHA256 of manifests/base/model-{version}.yaml");
        let model: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((model.text("/name"), model.text("/version")), ("delivery-time", version));
    }
}
