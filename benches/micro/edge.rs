//! A published snapshot to measure on.

use std::collections::BTreeMap;
use std::sync::Arc;

use pointsman::control::publisher::{Publisher, RoutePicture};
use pointsman::snapshot::{Snapshot, Snapshots};
use pointsman_config::{Config, Plan};

/// The snapshot that the edge would serve for a config with `routes` routes.
pub(crate) fn snapshot(routes: usize) -> Arc<Snapshot> {
    let config = Config::parse(&crate::common::config_text(routes), "bench.yaml").unwrap().config;
    let snapshots = Arc::new(Snapshots::default());
    let mut publisher = Publisher::new(Arc::clone(&snapshots), 2);
    let endpoints: Vec<BTreeMap<_, _>> = config
        .routes
        .iter()
        .map(|route| {
            let resolved = |version: &pointsman_config::Version| {
                version.endpoints().iter().map(|endpoint| endpoint.to_string().parse().unwrap()).collect()
            };
            route.versions.iter().map(|(name, version)| (name.clone(), resolved(version))).collect()
        })
        .collect();
    let pictures: Vec<RoutePicture<'_>> = config
        .routes
        .iter()
        .zip(&endpoints)
        .map(|(route, endpoints)| {
            let Plan::Weights(split) = &route.plan else { panic!("benches use weights by hand") };
            RoutePicture {
                route: Arc::new(route.clone()),
                stable: route.stable.clone(),
                split: split.clone(),
                trial: 0,
                endpoints,
            }
        })
        .collect();
    publisher.publish(&pictures);
    snapshots.load()
}
