//! TLS in front of the fake API server: a cluster is spoken to by it, and names a server that a relay is not.

use std::net::SocketAddr;
use std::sync::Arc;

use k8s_openapi::ByteString;
use kube::config::Kubeconfig;
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls_pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// The only name in the certificate: no address is.
const NAME: &str = "localhost";

/// A port that speaks TLS, and what it leads to.
pub(crate) struct Front {
    listener: TcpListener,
    target: SocketAddr,
    acceptor: TlsAcceptor,
    certificate_pem: String,
}

impl Front {
    pub(crate) async fn of(target: SocketAddr) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![NAME.to_owned()]).unwrap().self_signed(&key).unwrap();
        let private_key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private_key)
            .unwrap();
        Self {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            target,
            acceptor: TlsAcceptor::from(Arc::new(config)),
            certificate_pem: certificate.pem(),
        }
    }

    /// The kubeconfig of what it leads to, for who comes through here.
    pub(crate) fn kubeconfig(&self, direct: &str) -> Kubeconfig {
        let mut text: Value = serde_json::from_str(direct).unwrap();
        let port = self.listener.local_addr().unwrap().port();
        text["clusters"][0]["cluster"] = json!({
            "server": format!("https://{NAME}:{port}"),
            "certificate-authority-data": ByteString(self.certificate_pem.clone().into_bytes()),
        });
        serde_json::from_value(text).unwrap()
    }

    pub(crate) async fn serve(self) {
        let mut connections = JoinSet::new();
        while let Ok((near, _)) = self.listener.accept().await {
            let (acceptor, target) = (self.acceptor.clone(), self.target);
            connections.spawn(async move {
                let mut near = acceptor.accept(near).await?;
                let mut far = TcpStream::connect(target).await?;
                copy_bidirectional(&mut near, &mut far).await
            });
        }
    }
}
