//! A way to somewhere that a test can cut and mend: what a broken network looks like to those at both of its ends.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long to wait when no connection can be accepted (out of file descriptors, most likely).
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(10);
/// More than one request of anybody here: what is held of it is in our hands, whatever becomes of its connection.
const CHUNK_BYTES: usize = 256 * 1024;

/// A TCP port on loopback that leads to another address.
///
/// It runs on the runtime that it was started on. Dropped, it closes its port and ends its connections.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    state: watch::Sender<State>,
    severed: Arc<AtomicU64>,
    _accepting: JoinSet<()>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct State {
    is_cut: bool,
    is_held: bool,
}

impl Link {
    /// Opens a way to `target`, which need not listen yet: each connection to here makes one of its own to there.
    ///
    /// # Errors
    /// When no port can be listened on.
    pub async fn to(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let state = watch::Sender::default();
        let severed = Arc::<AtomicU64>::default();
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, target, state.subscribe(), Arc::clone(&severed)));
        Ok(Self { address, state, severed, _accepting: accepting })
    }

    /// Where it begins.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection, and each new one as soon as it is made; or (`false`) lets new ones through again.
    pub fn cut(&self, is_cut: bool) {
        self.state.send_modify(|state| state.is_cut = is_cut);
    }

    /// How many connections a cut has ended so far, those among them that came while it lasted.
    pub fn severed(&self) -> u64 {
        self.severed.load(Ordering::Acquire)
    }

    /// Keeps what is sent towards the target, and what new connections send; or (`false`) lets all of it go on its way, also
    /// that of senders who have long given up. What comes back is not kept.
    pub fn hold(&self, is_held: bool) {
        self.state.send_modify(|state| state.is_held = is_held);
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, state: watch::Receiver<State>, severed: Arc<AtomicU64>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((near, _)) => drop(connections.spawn(serve(near, target, state.clone(), Arc::clone(&severed)))),
                Err(error) => {
                    tracing::warn!(%error, "connection not accepted");
                    tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection, until an end of it closes or the way is cut.
async fn serve(near: TcpStream, target: SocketAddr, state: watch::Receiver<State>, severed: Arc<AtomicU64>) {
    let mut seen = state.clone();
    let cut = async {
        // An error means that the link was dropped, which ends this as well.
        let is_cut = seen.wait_for(|state| state.is_cut).await.is_ok();
        severed.fetch_add(u64::from(is_cut), Ordering::AcqRel);
    };
    tokio::select! {
        biased;
        () = cut => {}
        carried = carry(near, target, state) => {
            if let Err(error) = carried {
                tracing::debug!(%error, %target, "connection ended early");
            }
        }
    }
}

async fn carry(mut near: TcpStream, target: SocketAddr, state: watch::Receiver<State>) -> io::Result<()> {
    let mut far = TcpStream::connect(target).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let ((from_near, mut to_near), (mut from_far, to_far)) = (near.split(), far.split());
    let back = async {
        copy(&mut from_far, &mut to_near).await?;
        to_near.shutdown().await
    };
    tokio::try_join!(pass_on(from_near, to_far, state), back).map(drop)
}

async fn pass_on(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut state: watch::Receiver<State>) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let length = from.read(&mut chunk).await?;
        // An error means that the link was dropped, which ends this as well.
        drop(state.wait_for(|state| !state.is_held).await);
        match chunk.get(..length) {
            Some(sent) if !sent.is_empty() => to.write_all(sent).await?,
            Some(_) | None => return to.shutdown().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    async fn within<T>(what: &str, come: impl Future<Output = T>) -> T {
        tokio::time::timeout(PATIENCE, come).await.unwrap_or_else(|_| panic!("never: {what}"))
    }

    /// A listener, and a link to it.
    async fn linked() -> (TcpListener, Link) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let link = Link::to(listener.local_addr().unwrap()).await.unwrap();
        (listener, link)
    }

    /// Both ends of a connection by way of a link.
    async fn connected(listener: &TcpListener, link: &Link) -> (TcpStream, TcpStream) {
        let near = TcpStream::connect(link.address()).await.unwrap();
        let (far, _) = within("a connection", listener.accept()).await.unwrap();
        (near, far)
    }

    async fn check_passes(from: &mut TcpStream, to: &mut TcpStream) {
        from.write_all(b"word").await.unwrap();
        let mut heard = [0; 4];
        within("what was sent", to.read_exact(&mut heard)).await.unwrap();
        assert_eq!(&heard, b"word");
    }

    /// Ended in order or reset: there is nothing more to be read.
    async fn check_ended(stream: &mut TcpStream) {
        let mut rest = Vec::new();
        drop(within("the end", stream.read_to_end(&mut rest)).await);
        assert!(rest.is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_sent_arrives_in_both_directions_and_so_does_the_end() {
        let (listener, link) = linked().await;
        let (mut near, mut far) = connected(&listener, &link).await;
        check_passes(&mut near, &mut far).await;
        check_passes(&mut far, &mut near).await;
        near.shutdown().await.unwrap();
        check_ended(&mut far).await;
        check_passes(&mut far, &mut near).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_cut_ends_what_is_open_and_what_comes_until_it_is_mended() {
        let (listener, link) = linked().await;
        let (mut near, mut far) = connected(&listener, &link).await;
        check_passes(&mut near, &mut far).await;
        link.cut(true);
        check_ended(&mut near).await;
        check_ended(&mut far).await;
        check_ended(&mut TcpStream::connect(link.address()).await.unwrap()).await;
        assert_eq!(link.severed(), 2);
        link.cut(false);
        let (mut near, mut far) = connected(&listener, &link).await;
        check_passes(&mut near, &mut far).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_held_arrives_late_even_when_its_sender_is_gone() {
        let (listener, link) = linked().await;
        let (mut near, mut far) = connected(&listener, &link).await;
        link.hold(true);
        near.write_all(b"late").await.unwrap();
        check_passes(&mut far, &mut near).await;
        drop(near);
        let mut heard = [0; 4];
        let early = tokio::time::timeout(Duration::from_millis(50), far.read(&mut heard)).await;
        assert!(early.is_err(), "it is held");
        link.hold(false);
        within("what was held", far.read_exact(&mut heard)).await.unwrap();
        assert_eq!(&heard, b"late");
        check_ended(&mut far).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_target_that_does_not_listen_is_a_connection_that_ends() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let link = Link::to(listener.local_addr().unwrap()).await.unwrap();
        drop(listener);
        check_ended(&mut TcpStream::connect(link.address()).await.unwrap()).await;
    }
}
