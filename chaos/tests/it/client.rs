//! A client that sees everything: what came, byte for byte, and how it ended.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than anything here should take.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// What one exchange gave.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) bytes: Vec<u8>,
    /// How the connection ended; `None` for an orderly end.
    pub(crate) error: Option<io::ErrorKind>,
}

impl Seen {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    pub(crate) fn status(&self) -> u16 {
        let text = self.text();
        let rest = text.strip_prefix("HTTP/1.1 ").unwrap_or_else(|| panic!("no answer but {self:?}"));
        rest[..3].parse().unwrap()
    }

    pub(crate) fn body(&self) -> String {
        self.text().split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body()).unwrap()
    }
}

/// One request on a connection of its own, read to its end.
pub(crate) async fn send(addr: SocketAddr, method: &str, path: &str, body: &str) -> Seen {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    tokio::time::timeout(SOON, exchange(addr, &request)).await.expect("the exchange does not end")
}

async fn exchange(addr: SocketAddr, request: &str) -> Seen {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let error = stream.read_to_end(&mut bytes).await.err().map(|error| error.kind());
    Seen { bytes, error }
}

/// The same question again and again, on one connection; gives the statuses.
pub(crate) async fn ask_on_one_connection(addr: SocketAddr, path: &str, times: usize) -> Vec<u16> {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let mut statuses = Vec::new();
    for _ in 0..times {
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let length = stream.read(&mut answer).await.unwrap();
        statuses.push(Seen { bytes: answer[..length].to_vec(), error: None }.status());
    }
    statuses
}
