//! The endpoints of a Service, from all its slices, as they change.
//!
//! Line: API server ► **discovery** ► pools. A lost API server changes nothing: the last picture stays, and says that it
//! is old.

mod picture;

use std::sync::Arc;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

pub use picture::{Condition, Endpoint, Picture, PortChoice};

use crate::client::Cluster;
use crate::watching::{Following, Heard, Link, follow};

/// The label by which slices name their Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// A Service, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    /// Its namespace.
    pub namespace: String,
    /// Its name there.
    pub name: String,
}

impl std::fmt::Display for ServiceName {
    /// `shop/delivery-time-v1`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What is known of a Service's endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovered {
    /// The last picture; none before the first.
    pub picture: Option<Arc<Picture>>,
    /// Whether it is kept up to date.
    pub link: Link,
}

/// Follows the endpoints of one Service for as long as it lives.
#[derive(Debug)]
pub struct Discovery {
    seen: watch::Receiver<Discovered>,
    _task: AbortOnDropHandle<()>,
}

impl Discovery {
    /// Begins to follow the endpoints of `service`, at `port`. Must run on a tokio runtime; needs `list` and `watch` on
    /// `endpointslices` in the namespace.
    pub fn start(cluster: &Cluster, service: &ServiceName, port: PortChoice) -> Self {
        let (sender, seen) = watch::channel(Discovered { picture: None, link: Link::Connecting });
        let following = Following::<EndpointSlice> {
            api: cluster.api(&service.namespace),
            config: watcher::Config::default()
                .labels(&format!("{SERVICE_LABEL}={}", service.name))
                .timeout(watch_seconds(cluster)),
            call: cluster.deadlines().call,
            what: format!("endpoints of {service}"),
        };
        let task = tokio::spawn(async move { follow(following, |heard| take(&sender, heard, &port)).await });
        Self { seen, _task: AbortOnDropHandle::new(task) }
    }

    /// What is known, and every change of it.
    pub fn seen(&self) -> watch::Receiver<Discovered> {
        self.seen.clone()
    }
}

/// How long a watch lasts, in the API's whole seconds.
pub(crate) fn watch_seconds(cluster: &Cluster) -> u32 {
    u32::try_from(cluster.deadlines().watch.as_secs().max(1)).unwrap_or(u32::MAX)
}

fn take(sender: &watch::Sender<Discovered>, heard: Heard<EndpointSlice>, port: &PortChoice) {
    match heard {
        Heard::Now(slices) => {
            let picture = Picture::of(slices.iter().map(AsRef::as_ref), port);
            sender.send_if_modified(|known| {
                let changed = known.link != Link::Live || known.picture.as_deref() != Some(&picture);
                if changed {
                    *known = Discovered { picture: Some(Arc::new(picture)), link: Link::Live };
                }
                changed
            });
        }
        Heard::Lost(why) => sender.send_modify(|known| known.link = known.link.lost(why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_api_server_leaves_the_last_picture_and_the_time_since() {
        let (sender, seen) = watch::channel(Discovered { picture: None, link: Link::Connecting });
        take(&sender, Heard::Now(Vec::new()), &PortChoice::Any);
        assert_eq!(seen.borrow().link, Link::Live);
        take(&sender, Heard::Lost("refused".to_owned()), &PortChoice::Any);
        let Link::Lost { since, .. } = seen.borrow().link.clone() else { panic!("not lost") };
        take(&sender, Heard::Lost("still refused".to_owned()), &PortChoice::Any);
        assert_eq!(seen.borrow().link, Link::Lost { since, why: "still refused".to_owned() });
        assert!(seen.borrow().picture.is_some());
    }
}
