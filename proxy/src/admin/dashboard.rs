//! The dashboard: a page that is part of the program, so that it is there when nothing else is.
//!
//! The page itself is no secret and needs no token; everything it shows it asks of the API, which does. It loads nothing
//! from elsewhere and may run nothing but its own script, whatever a name or a reason has in it. Sources and build:
//! `dashboard/`.

use std::io::Write as _;
use std::sync::LazyLock;

use axum::Router;
use axum::body::Bytes;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
    REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use sha2::{Digest, Sha256};

use super::AdminContext;

/// Only what comes from here, no script in the page itself, and never inside of somebody else's page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";
/// Bytes of the digest that make the tag.
const TAG_BYTES: usize = 12;

/// One file of the page.
struct Asset {
    media_type: &'static str,
    plain: Bytes,
    /// A browser asks for nothing stronger over plain HTTP, which is what this port speaks.
    gzip: Option<Bytes>,
    tag: HeaderValue,
}

static PAGE: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("text/html; charset=utf-8", include_bytes!("../../dashboard/dist/index.html")));
static SCRIPT: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("text/javascript; charset=utf-8", include_bytes!("../../dashboard/dist/app.js")));
static STYLE: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("text/css; charset=utf-8", include_bytes!("../../dashboard/dist/app.css")));
static ICON: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("image/svg+xml", include_bytes!("../../dashboard/dist/icon.svg")));

impl Asset {
    fn new(media_type: &'static str, plain: &'static [u8]) -> Self {
        let digest = Sha256::digest(plain);
        let tag = digest.iter().take(TAG_BYTES).fold(String::new(), |tag, byte| format!("{tag}{byte:02x}"));
        // Hexadecimal digits are always fit for a header.
        let tag = HeaderValue::try_from(format!("\"{tag}\"")).unwrap_or(HeaderValue::from_static("\"\""));
        Self { media_type, plain: Bytes::from_static(plain), gzip: compressed(plain), tag }
    }

    fn answer(&self, asked: &HeaderMap) -> Response {
        let is_known = |tags: &str| tags.split(',').any(|tag| self.is(tag.trim()));
        let (status, body, encoding) = match (text(asked, &IF_NONE_MATCH), &self.gzip) {
            (Some(tags), _) if is_known(tags) => (StatusCode::NOT_MODIFIED, Bytes::new(), None),
            (_, Some(gzip)) if takes_gzip(asked) => {
                (StatusCode::OK, gzip.clone(), Some(HeaderValue::from_static("gzip")))
            }
            (_, _) => (StatusCode::OK, self.plain.clone(), None),
        };
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        for (name, value) in EVERYWHERE {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.media_type));
        headers.insert(ETAG, self.tag.clone());
        if let Some(encoding) = encoding {
            headers.insert(CONTENT_ENCODING, encoding);
        }
        response
    }

    /// Whether `tag` is that of this file; what a proxy weakened on its way is as good.
    fn is(&self, tag: &str) -> bool {
        tag == "*" || tag.trim_start_matches("W/").as_bytes() == self.tag.as_bytes()
    }
}

/// A new program may bring a new page, so a browser asks each time, and mostly hears that it has it already.
const EVERYWHERE: [(HeaderName, &str); 7] = [
    (CACHE_CONTROL, "no-cache"),
    (VARY, "accept-encoding"),
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

fn compressed(plain: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    // Memory takes every byte; and what is not compressed is sent as it is.
    encoder.write_all(plain).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

fn text<'headers>(headers: &'headers HeaderMap, name: &HeaderName) -> Option<&'headers str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn takes_gzip(headers: &HeaderMap) -> bool {
    let offered = text(headers, &ACCEPT_ENCODING).unwrap_or_default();
    offered.split(',').map(|coding| coding.replace(' ', "").to_ascii_lowercase()).any(|coding| {
        let (name, quality) = coding.split_once(";q=").unwrap_or((&coding, "1"));
        name == "gzip" && quality.parse::<f64>().is_ok_and(|quality| quality > 0.0)
    })
}

/// The files of the page, for whoever may connect.
pub(super) fn pages() -> Router<AdminContext> {
    let page = |asset: &'static LazyLock<Asset>| get(move |asked: HeaderMap| async move { asset.answer(&asked) });
    Router::new()
        .route("/", page(&PAGE))
        .route("/dashboard/app.js", page(&SCRIPT))
        .route("/dashboard/app.css", page(&STYLE))
        .route("/dashboard/icon.svg", page(&ICON))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn gzip_is_sent_to_whoever_takes_it() {
        for (offered, takes) in [
            ("gzip", true),
            ("br, GZIP;q=0.5", true),
            ("deflate, gzip ; q=1", true),
            ("gzip;q=0", false),
            ("br", false),
            ("", false),
        ] {
            assert_eq!(takes_gzip(&asked(ACCEPT_ENCODING, offered)), takes, "{offered:?}");
        }
        let answer = SCRIPT.answer(&asked(ACCEPT_ENCODING, "gzip"));
        assert_eq!(answer.headers()[CONTENT_ENCODING], "gzip");
        assert!(!SCRIPT.answer(&HeaderMap::new()).headers().contains_key(CONTENT_ENCODING));
    }

    #[test]
    fn a_page_that_is_known_is_not_sent_again() {
        let first = PAGE.answer(&HeaderMap::new());
        assert_eq!(first.status(), StatusCode::OK);
        let tag = first.headers()[ETAG].clone();
        let weak = HeaderValue::try_from(format!("\"x\", W/{}", tag.to_str().unwrap())).unwrap();
        for known in [tag, weak, HeaderValue::from_static("*")] {
            let again = PAGE.answer(&HeaderMap::from_iter([(IF_NONE_MATCH, known)]));
            assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        }
        assert_eq!(PAGE.answer(&asked(IF_NONE_MATCH, "\"other\"")).status(), StatusCode::OK);
    }

    #[test]
    fn the_page_itself_has_nothing_that_its_policy_forbids() {
        let page = std::str::from_utf8(&PAGE.plain).unwrap();
        for forbidden in ["style=", "onload=", "onclick=", "javascript:", "http://", "https://"] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
        assert_eq!(page.matches("<script").count(), 1, "one script, and that from a file");
    }
}
