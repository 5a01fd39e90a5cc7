//! The peer: as little proxy as pingora allows, with one weighted choice between two addresses and no other feature.
//! One thread, like one of Pointsman's workers.

use std::net::{SocketAddr, TcpListener};

use async_trait::async_trait;
use clap::Parser;
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::Result;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Listens on `listen` and sends nine of ten requests to `first`, the others to `second`.
#[derive(Debug, Parser)]
struct Arguments {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    first: SocketAddr,
    #[arg(long)]
    second: SocketAddr,
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

struct Minimal {
    first: SocketAddr,
    second: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Minimal {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _session: &mut Session, _ctx: &mut ()) -> Result<Box<HttpPeer>> {
        let address = if rand::random_range(0..10) == 0 { self.second } else { self.first };
        Ok(Box::new(HttpPeer::new(address, false, String::new())))
    }
}

fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    // The framework retries for half a minute when an address is taken; here that is an error at once.
    drop(TcpListener::bind(arguments.listen)?);
    let conf = ServerConf { threads: arguments.threads, upstream_keepalive_pool_size: 4096, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let proxy = Minimal { first: arguments.first, second: arguments.second };
    let mut service = http_proxy_service(&server.configuration, proxy);
    service.add_tcp(&arguments.listen.to_string());
    server.add_service(service);
    server.run_forever()
}
