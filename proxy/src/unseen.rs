//! Whether a version can have seen what was sent to it on a connection that broke: what the kernel knows.
//!
//! Line: (relay, edge) ► **unseen** ► retry. A server that closes an idle connection meets a request with that now and then;
//! such a request may be sent again whatever it does. One that the server has read may not, though both look alike to who
//! only sees that no answer came.

use std::os::fd::{AsRawFd, RawFd};

use pingora_core::protocols::l4::ext::get_tcp_info;
use tokio::net::TcpStream;

/// States of a connection in which its other side has closed it (Linux, `include/net/tcp_states.h`).
const CLOSED: u8 = 7;
const CLOSE_WAIT: u8 = 8;

/// Whether the other side has closed the connection; false if the kernel does not say.
pub(crate) fn is_closed(connection: RawFd) -> bool {
    get_tcp_info(connection).is_ok_and(|info| matches!(info.tcpi_state, CLOSED | CLOSE_WAIT))
}

/// Whether none of the last `sent_bytes` has arrived at the other side of a connection whose end was read just now. The end
/// tells up to where the other side had received when it closed; after that it gives nothing to whoever might read it. A
/// reset tells nothing, so it must not have been read in place of the end. False if the kernel does not say (before Linux
/// 6.2).
pub(crate) fn took_nothing(connection: &TcpStream, sent_bytes: u64) -> bool {
    let Ok(info) = get_tcp_info(connection.as_raw_fd()) else { return false };
    let once_sent = info.tcpi_bytes_sent.saturating_sub(info.tcpi_bytes_retrans);
    // The first byte acknowledged is the one that opened the connection.
    let acknowledged = info.tcpi_bytes_acked.saturating_sub(1);
    let outstanding = (once_sent + u64::from(info.tcpi_notsent_bytes)).checked_sub(acknowledged);
    outstanding == Some(sent_bytes)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const REQUEST: [u8; 500] = [b'x'; 500];

    /// A connection over which a request has been answered, from both sides.
    async fn kept() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (one, other) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (mut edge, mut version) = (one.unwrap(), other.unwrap().0);
        edge.write_all(&REQUEST).await.unwrap();
        version.read_exact(&mut [0; REQUEST.len()]).await.unwrap();
        version.write_all(b"ok").await.unwrap();
        edge.read_exact(&mut [0; 2]).await.unwrap();
        (edge, version)
    }

    fn length() -> u64 {
        u64::try_from(REQUEST.len()).unwrap()
    }

    #[tokio::test]
    async fn a_request_that_crossed_the_end_was_seen_by_nobody() {
        let (mut edge, version) = kept().await;
        assert!(!is_closed(edge.as_raw_fd()));
        drop(version);
        edge.write_all(&REQUEST).await.unwrap();
        assert_eq!(edge.read(&mut [0; 2]).await.unwrap(), 0);
        assert!(is_closed(edge.as_raw_fd()) && took_nothing(&edge, length()));
    }

    #[tokio::test]
    async fn an_end_before_anything_was_sent_is_seen() {
        let (mut edge, version) = kept().await;
        drop(version);
        assert_eq!(edge.read(&mut [0; 2]).await.unwrap(), 0);
        assert!(is_closed(edge.as_raw_fd()) && took_nothing(&edge, 0));
    }

    #[tokio::test]
    async fn a_request_that_was_read_before_the_end_may_have_been_acted_on() {
        let (mut edge, mut version) = kept().await;
        edge.write_all(&REQUEST).await.unwrap();
        version.read_exact(&mut [0; REQUEST.len()]).await.unwrap();
        drop(version);
        assert_eq!(edge.read(&mut [0; 2]).await.unwrap(), 0);
        assert!(is_closed(edge.as_raw_fd()) && !took_nothing(&edge, length()));
    }

    #[tokio::test]
    async fn a_request_that_was_read_in_part_ends_with_a_reset_and_not_with_an_end() {
        let (mut edge, mut version) = kept().await;
        edge.write_all(&REQUEST).await.unwrap();
        version.read_exact(&mut [0; 100]).await.unwrap();
        drop(version);
        assert!(edge.read(&mut [0; 2]).await.is_err(), "an end would prove too much");
    }
}
