//! Where a load goes, and the bytes that it sends there.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use bytes::Bytes;

use super::{Load, LoadError, Users};

/// A loopback address, and what requests to it say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// On loopback, always.
    pub(super) addr: SocketAddr,
    host: String,
    path: String,
}

impl Target {
    /// Where it is.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The same target under another `host` header, for routes that look at it.
    #[must_use]
    pub fn with_host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.host);
        self
    }
}

impl FromStr for Target {
    type Err = LoadError;

    fn from_str(url: &str) -> Result<Self, LoadError> {
        let wrong = || LoadError::Url { url: url.to_owned() };
        let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
        let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_wrong| wrong())?),
            Some(_) | None => (authority, 80),
        };
        let ip = loopback(host).ok_or_else(wrong)??;
        Ok(Self { addr: SocketAddr::new(ip, port), host: authority.to_owned(), path: path.to_owned() })
    }
}

/// No name is looked up: only `localhost` is known by name. `None` for an empty host.
fn loopback(host: &str) -> Option<Result<IpAddr, LoadError>> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let ip = if bare == "localhost" { Some(IpAddr::V4(Ipv4Addr::LOCALHOST)) } else { bare.parse().ok() };
    let refused = || LoadError::NotLoopback { host: host.to_owned() };
    (!bare.is_empty()).then(|| ip.filter(IpAddr::is_loopback).ok_or_else(refused))
}

/// The bytes of the requests of a load: of each user one for each body.
pub(super) fn requests(load: &Load) -> Result<Vec<Bytes>, LoadError> {
    plain("the host", &load.target.host)?;
    plain("the path", &load.target.path)?;
    for (name, value) in &load.headers {
        plain("the header", name)?;
        plain("the header value", &value.replace(' ', ""))?;
    }
    if let Some(users) = &load.users {
        plain("the header", &users.header)?;
    }
    let of_user = |user: Option<String>| {
        if load.bodies.is_empty() {
            return vec![request(load, "GET", None, user.as_deref())];
        }
        load.bodies.iter().map(|body| request(load, "POST", Some(body), user.as_deref())).collect()
    };
    let Some(Users { header, count }) = &load.users else { return Ok(of_user(None)) };
    Ok((0..*count).flat_map(|user| of_user(Some(format!("{header}: user-{user}\r\n")))).collect())
}

/// Blanks and line ends would start another part of the request.
fn plain(what: &'static str, text: &str) -> Result<(), LoadError> {
    if text.is_empty() || text.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(LoadError::NotPlain { what, text: text.to_owned() });
    }
    Ok(())
}

fn request(load: &Load, method: &str, body: Option<&Bytes>, user: Option<&str>) -> Bytes {
    let Target { host, path, .. } = &load.target;
    let headers: String = load.headers.iter().flat_map(|(name, value)| [name, ": ", value, "\r\n"]).collect();
    let user = user.unwrap_or_default();
    let framing = body
        .map_or(String::new(), |body| format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len()));
    let head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n{headers}{user}{framing}\r\n");
    let body = body.map_or(&[][..], |body| body);
    Bytes::from([head.as_bytes(), body].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_targets_are_taken() {
        for (url, addr, path) in [
            ("http://127.0.0.1:8080/v1/predict", "127.0.0.1:8080", "/v1/predict"),
            ("http://localhost:81", "127.0.0.1:81", "/"),
            ("http://[::1]:8080/a?b=c", "[::1]:8080", "/a?b=c"),
            ("http://[::1]/", "[::1]:80", "/"),
            ("http://127.9.9.9/", "127.9.9.9:80", "/"),
        ] {
            let target: Target = url.parse().unwrap();
            assert_eq!((target.addr.to_string().as_str(), target.path.as_str()), (addr, path));
        }
    }

    #[test]
    fn anybody_elses_machine_is_refused() {
        for url in ["http://example.com/", "http://10.0.0.1:80/", "http://0.0.0.0:80/", "http://[::ffff:127.0.0.1]:80/"]
        {
            let error = url.parse::<Target>().unwrap_err();
            assert!(matches!(error, LoadError::NotLoopback { .. }), "{url}: {error}");
        }
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for url in ["127.0.0.1:8080", "https://127.0.0.1/", "http://", "http://:80/", "http://127.0.0.1:port/"] {
            let error = url.parse::<Target>().unwrap_err();
            assert!(matches!(error, LoadError::Url { .. }), "{url}: {error}");
        }
    }

    #[test]
    fn a_request_says_what_the_load_says() {
        let mut load = Load::new("http://127.0.0.1:8080/v1/predict").unwrap();
        assert_eq!(requests(&load).unwrap(), ["GET /v1/predict HTTP/1.1\r\nhost: 127.0.0.1:8080\r\n\r\n"]);
        load.target = load.target.with_host("delivery.example.com");
        load.headers = vec![("x-user".into(), "a b".into())];
        load.bodies = vec![Bytes::from_static(b"{}")];
        assert_eq!(
            requests(&load).unwrap(),
            [
                "POST /v1/predict HTTP/1.1\r\nhost: delivery.example.com\r\nx-user: a b\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
            ]
        );
    }

    #[test]
    fn each_user_has_its_own_requests() {
        let mut load = Load::new("http://127.0.0.1:8080/").unwrap();
        load.users = Some(Users { header: "x-user".to_owned(), count: 2 });
        load.bodies = vec![Bytes::from_static(b"{}"), Bytes::from_static(b"[]")];
        let said = |request: &Bytes| {
            let text = String::from_utf8(request.to_vec()).unwrap();
            (
                text.lines().find(|line| line.starts_with("x-user")).unwrap().to_owned(),
                text.lines().last().unwrap().to_owned(),
            )
        };
        let wanted = [("0", "{}"), ("0", "[]"), ("1", "{}"), ("1", "[]")]
            .map(|(user, body)| (format!("x-user: user-{user}"), body.to_owned()));
        assert_eq!(requests(&load).unwrap().iter().map(said).collect::<Vec<_>>(), wanted);
        load.users = Some(Users { header: "x user".to_owned(), count: 2 });
        assert!(matches!(requests(&load), Err(LoadError::NotPlain { .. })));
    }

    #[test]
    fn nothing_breaks_a_request_apart() {
        let mut load = Load::new("http://127.0.0.1/").unwrap();
        load.headers = vec![("x-user".into(), "a\r\nx-admin: yes".into())];
        assert!(matches!(requests(&load), Err(LoadError::NotPlain { .. })));
        let load = Load::new("http://127.0.0.1/a b").unwrap();
        assert!(matches!(requests(&load), Err(LoadError::NotPlain { .. })));
    }
}
