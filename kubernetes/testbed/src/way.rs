//! A way to the API server for somebody else, which can be cut.

use std::net::SocketAddr;

use kube::config::{Cluster as ClusterEntry, Kubeconfig, NamedCluster};
use kube::{Config, config::KubeConfigOptions};
use pointsman_chaos::fakes::Link;

use crate::cluster::Cluster;

/// A link to the API server, and the kubeconfig file that leads through it.
#[derive(Debug)]
pub struct Way {
    /// To be cut and mended.
    pub link: Link,
    /// The text of the file. Its default namespace is that of the test.
    pub kubeconfig: String,
}

impl Cluster {
    /// A way of its own to the API server, as who this speaks there. It is a TCP relay, so TLS ends where it ended before:
    /// the file says by which name the server proves itself (`tls-server-name`).
    pub async fn way(&self) -> Way {
        let mut kubeconfig = Kubeconfig::clone(&self.kubeconfig);
        let server = Config::from_custom_kubeconfig(kubeconfig.clone(), &KubeConfigOptions::default())
            .await
            .unwrap()
            .cluster_url;
        let host = server.host().unwrap().trim_matches(['[', ']']).to_owned();
        let is_tls = server.scheme_str() == Some("https");
        let port = server.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let link = Link::to(resolved(&host, port).await).await.unwrap();
        let entry = self.lead(&mut kubeconfig);
        assert!(entry.proxy_url.is_none(), "the relay knows no way through `proxy-url`; name a cluster without");
        let path = server.path().trim_end_matches('/');
        let scheme = if is_tls { "https" } else { "http" };
        entry.server = Some(format!("{scheme}://{}{path}", link.address()));
        if is_tls && entry.tls_server_name.is_none() {
            entry.tls_server_name = Some(host);
        }
        Way { link, kubeconfig: serde_json::to_string(&kubeconfig).unwrap() }
    }

    /// Has the present context mean the namespace; gives its cluster.
    fn lead<'a>(&self, kubeconfig: &'a mut Kubeconfig) -> &'a mut ClusterEntry {
        let present = kubeconfig.current_context.clone().expect("the kubeconfig file has a current-context");
        let context = kubeconfig.contexts.iter_mut().find(|context| context.name == present);
        let context = context.and_then(|context| context.context.as_mut()).expect("the current-context is in the file");
        context.namespace = Some(self.namespace.clone());
        let is_its = |cluster: &&mut NamedCluster| cluster.name == context.cluster;
        let cluster = kubeconfig.clusters.iter_mut().find(is_its).and_then(|cluster| cluster.cluster.as_mut());
        cluster.expect("the cluster of the current-context is in the file")
    }
}

async fn resolved(host: &str, port: u16) -> SocketAddr {
    let mut found = tokio::net::lookup_host((host, port)).await.unwrap();
    // The fake listens on one address of two that `localhost` has.
    let first = found.next().unwrap_or_else(|| panic!("{host} has no address"));
    found.find(SocketAddr::is_ipv4).filter(|_| first.is_ipv6()).unwrap_or(first)
}
