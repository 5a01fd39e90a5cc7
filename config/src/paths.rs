//! Every path that an operator can write, so that whoever knows the file's folder can make them whole.

use std::path::PathBuf;

use crate::{CertificateFiles, Config, Guard, Route, SecretSource, State, Sticky, Webhook, WebhookUrl};

impl Config {
    /// The paths of the file: state, token, log, certificates, keys and secrets. Relative ones start at the folder of the
    /// config file.
    pub fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let listeners = self.listeners.iter_mut().filter_map(|listener| listener.tls.as_mut()).flat_map(|tls| {
            let certificates = tls.certificates.iter_mut().flat_map(files_of);
            certificates.chain(&mut tls.client_ca)
        });
        let log = self.access_log.as_mut().and_then(|log| log.file.as_mut());
        let webhooks = self.notifications.iter_mut().flat_map(paths_of_webhook);
        let routes = self.routes.iter_mut().flat_map(paths_of_route);
        let state = match &mut self.state {
            State::File(file) => Some(file),
            State::Kubernetes(_) => None,
        };
        let replicas = self.replicas.as_mut().map(|replicas| &mut replicas.token_file);
        let tokens = self.admin.token_file.iter_mut().chain(replicas);
        state.into_iter().chain(tokens).chain(log).chain(webhooks).chain(listeners).chain(routes)
    }
}

fn paths_of_webhook(webhook: &mut Webhook) -> impl Iterator<Item = &mut PathBuf> {
    source_of_url(&mut webhook.url).into_iter().chain(&mut webhook.secret).filter_map(path_of_secret)
}

fn source_of_url(url: &mut WebhookUrl) -> Option<&mut SecretSource> {
    match url {
        WebhookUrl::Plain(_) => None,
        WebhookUrl::Secret(source) => Some(source),
    }
}

fn paths_of_guard(guard: &mut Guard) -> impl Iterator<Item = &mut PathBuf> {
    let queries = guard.queries.iter_mut().flat_map(|query| &mut query.authorization);
    let gates = guard.gates.iter_mut().flat_map(|gate| {
        source_of_url(&mut gate.url).into_iter().chain(&mut gate.secret).chain(&mut gate.authorization)
    });
    queries.chain(gates).filter_map(path_of_secret)
}

fn path_of_secret(source: &mut SecretSource) -> Option<&mut PathBuf> {
    match source {
        SecretSource::File(file) => Some(file),
        SecretSource::Env(_) => None,
    }
}

fn paths_of_route(route: &mut Route) -> impl Iterator<Item = &mut PathBuf> {
    let secret = route.sticky.as_mut().and_then(|sticky| match sticky {
        Sticky::Cookie(cookie) => cookie.secret_file.as_mut(),
        Sticky::Header(_) | Sticky::ClientIp => None,
    });
    let tls = route.upstream_tls.as_mut().into_iter();
    let tls = tls.flat_map(|tls| tls.ca.iter_mut().chain(tls.identity.iter_mut().flat_map(files_of)));
    secret.into_iter().chain(tls).chain(paths_of_guard(&mut route.guard))
}

fn files_of(files: &mut CertificateFiles) -> [&mut PathBuf; 2] {
    [&mut files.certificate, &mut files.private_key]
}
