//! `grpc.health.v1`: what probes of Kubernetes and clients of gRPC ask before they ask for predictions. `grpc` hands the
//! calls in.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream::{self, Stream};
use hyper::body::Incoming;
use hyper::{Request, Response};
use prost::Message;
use tonic::Status;
use tonic::body::Body;
use tonic::server::{Grpc, ServerStreamingService};

use super::grpc::{self, Careful, Received};
use crate::answer::Refusal;
use crate::health::Stage;
use crate::http::Site;

/// What stands before the name of a call.
pub(super) const SERVICE: &str = "/grpc.health.v1.Health/";

/// The call that is answered once.
pub(super) const CHECK: &str = "Check";

/// The call whose answer goes on.
pub(super) const WATCH: &str = "Watch";

/// How soon a watcher hears of a change.
const LOOKED_AT: Duration = Duration::from_millis(250);

/// `HealthCheckRequest`.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Asked {
    #[prost(string, tag = "1")]
    pub(super) service: String,
}

impl Received for Asked {}

/// `HealthCheckResponse`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct Answer {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    pub(super) status: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(super) enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

/// One call.
pub(super) async fn call(site: Arc<Site>, name: &str, request: Request<Incoming>) -> Response<Body> {
    match name {
        CHECK => grpc::unary(site, request, async |site, asked: Asked| check(&site, &asked)).await,
        WATCH => {
            let (limits, share) = (site.limits, Arc::new(Mutex::new(site.bodies.share())));
            let request = request.map(|body| grpc::Arriving::new::<Asked>(body, share, &limits));
            let mut grpc = Grpc::new(Careful::<Answer, Asked>::of(&site));
            grpc = grpc.max_decoding_message_size(Asked::longest(&limits));
            grpc.server_streaming(Watch(site), request).await
        }
        _ => grpc::no_such_call("no such call; the service grpc.health.v1.Health has Check and Watch").into_http(),
    }
}

fn check(site: &Site, asked: &Asked) -> Result<Answer, Refusal> {
    match status(site.health.stage(), &asked.service) {
        ServingStatus::ServiceUnknown => Err(Refusal::NotFound),
        status @ (ServingStatus::Unknown | ServingStatus::Serving | ServingStatus::NotServing) => Ok(status.into()),
    }
}

/// Of the server as a whole, which has no name, and of its services.
fn status(stage: Stage, service: &str) -> ServingStatus {
    let services = [grpc::SERVICE, SERVICE].map(|path| path.trim_matches('/'));
    match stage {
        _ if !service.is_empty() && !services.contains(&service) => ServingStatus::ServiceUnknown,
        Stage::Ready => ServingStatus::Serving,
        Stage::Loading | Stage::Checking | Stage::Failing | Stage::Draining => ServingStatus::NotServing,
    }
}

impl From<ServingStatus> for Answer {
    fn from(status: ServingStatus) -> Self {
        Self { status: status.into() }
    }
}

/// Tells the present status and every other one that follows, until the server drains.
struct Watch(Arc<Site>);

type Answers = Pin<Box<dyn Stream<Item = Result<Answer, Status>> + Send>>;

impl ServerStreamingService<Asked> for Watch {
    type Response = Answer;
    type ResponseStream = Answers;
    type Future = std::future::Ready<Result<tonic::Response<Answers>, Status>>;

    fn call(&mut self, request: tonic::Request<Asked>) -> Self::Future {
        let site = Arc::clone(&self.0);
        let service = request.into_inner().service;
        let answers = stream::unfold(None, move |told| next(Arc::clone(&site), service.clone(), told));
        let answers: Answers = Box::pin(answers);
        std::future::ready(Ok(tonic::Response::new(answers)))
    }
}

async fn next(
    site: Arc<Site>,
    service: String,
    told: Option<(ServingStatus, Stage)>,
) -> Option<(Result<Answer, Status>, Option<(ServingStatus, Stage)>)> {
    loop {
        let stage = site.health.stage();
        let status = status(stage, &service);
        match told {
            Some((_, before)) if before.is_ending() => return None,
            Some((before, _)) if before == status && !stage.is_ending() => tokio::time::sleep(LOOKED_AT).await,
            Some(_) | None => return Some((Ok(status.into()), Some((status, stage)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_ready_server_serves_and_only_under_its_names() {
        for (stage, service, wanted) in [
            (Stage::Ready, "", ServingStatus::Serving),
            (Stage::Ready, "inference.GRPCInferenceService", ServingStatus::Serving),
            (Stage::Ready, "grpc.health.v1.Health", ServingStatus::Serving),
            (Stage::Ready, "other", ServingStatus::ServiceUnknown),
            (Stage::Loading, "", ServingStatus::NotServing),
            (Stage::Failing, "", ServingStatus::NotServing),
            (Stage::Draining, "inference.GRPCInferenceService", ServingStatus::NotServing),
        ] {
            assert_eq!(status(stage, service), wanted, "{stage:?} {service}");
        }
    }
}
