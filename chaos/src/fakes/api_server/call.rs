//! A request, read: who asks for what.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, USER_AGENT};
use hyper::{Method, Request};

use super::refusal::Refusal;
use super::resource::{Key, Part, Resource, Target};
use super::selector::{FieldSelector, LabelSelector, Selection};

/// Longest name of a manager.
const MAX_MANAGER: usize = 128;

/// Who asks without saying so.
const ANONYMOUS: &str = "system:anonymous";

/// What is asked for, as rules of access name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// One object.
    Get,
    /// All of a kind.
    List,
    /// Changes of a kind, as they happen.
    Watch,
    /// A new object.
    Create,
    /// An object in the place of another.
    Update,
    /// A change of an object.
    Patch,
    /// One object less.
    Delete,
    /// All of a kind gone.
    DeleteCollection,
}

impl Verb {
    /// As rules of access spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }

    fn of(method: &Method, has_name: bool, is_watch: bool) -> Option<Self> {
        Some(match (method, has_name) {
            (&Method::GET, false) if is_watch => Self::Watch,
            (&Method::GET, false) => Self::List,
            (&Method::GET, true) => Self::Get,
            (&Method::POST, false) => Self::Create,
            (&Method::PUT, true) => Self::Update,
            (&Method::PATCH, true) => Self::Patch,
            (&Method::DELETE, true) => Self::Delete,
            (&Method::DELETE, false) => Self::DeleteCollection,
            _ => return None,
        })
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A request.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) verb: Verb,
    pub(super) target: Target,
    /// Named by the bearer token.
    pub(super) user: String,
    /// Who will own the fields that it sets.
    pub(super) manager: String,
    pub(super) dry_run: bool,
    pub(super) media_type: String,
    pub(super) body: Bytes,
    query: BTreeMap<String, String>,
}

impl Call {
    pub(super) fn read(request: &Request<Bytes>) -> Result<Self, Refusal> {
        let target = Target::parse(request.uri().path()).ok_or_else(Refusal::no_such_path)?;
        let query: BTreeMap<String, String> =
            form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()).into_owned().collect();
        let is_watch = query.get("watch").is_some_and(|value| is_true(value));
        let verb = Verb::of(request.method(), target.name.is_some(), is_watch)
            .filter(|verb| is_possible(*verb, &target))
            .ok_or_else(Refusal::method_not_allowed)?;
        let headers = request.headers();
        Ok(Self {
            verb,
            user: user(headers),
            manager: manager(&query, headers),
            dry_run: dry_run(&query)?,
            media_type: header(headers, &CONTENT_TYPE).to_owned(),
            body: request.body().clone(),
            target,
            query,
        })
    }

    /// The object that is named; without a name, a key of which only the place counts.
    pub(super) fn key(&self) -> Key {
        let name = self.target.name.as_deref().unwrap_or_default();
        Key::new(self.target.resource, self.namespace(), name)
    }

    pub(super) fn resource(&self) -> Resource {
        self.target.resource
    }

    pub(super) fn namespace(&self) -> &str {
        self.target.namespace.as_deref().unwrap_or_default()
    }

    pub(super) fn selection(&self) -> Result<Selection, Refusal> {
        let selector = |name: &str| self.asked(name).unwrap_or_default();
        Ok(Selection {
            resource: self.target.resource,
            namespace: self.target.namespace.clone(),
            labels: selector("labelSelector").parse::<LabelSelector>()?,
            fields: FieldSelector::parse(selector("fieldSelector"), self.target.resource)?,
        })
    }

    /// A parameter that has a value.
    pub(super) fn asked(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(super) fn asks(&self, name: &str) -> bool {
        self.asked(name).is_some_and(is_true)
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        let Some(text) = self.asked(name) else { return Ok(None) };
        let number = text.parse().map_err(|error| Refusal::bad_request(format!("{name} {text}: {error}")))?;
        Ok(Some(number))
    }

    /// The revision that is asked for; 0 for any.
    pub(super) fn revision(&self) -> Result<Option<u64>, Refusal> {
        self.number("resourceVersion")
    }

    pub(super) fn timeout(&self) -> Result<Option<Duration>, Refusal> {
        Ok(self.number("timeoutSeconds")?.map(Duration::from_secs))
    }
}

/// Nothing is created at a part, and no part is deleted or watched.
fn is_possible(verb: Verb, target: &Target) -> bool {
    match verb {
        Verb::Update => true,
        Verb::Get | Verb::Patch => target.part != Part::Finalize,
        Verb::Delete | Verb::List | Verb::Watch => target.part == Part::Whole,
        Verb::Create => target.namespace.is_some() || !target.resource.is_namespaced(),
        Verb::DeleteCollection => target.namespace.is_some(),
    }
}

fn is_true(value: &str) -> bool {
    matches!(value, "true" | "1")
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn user(headers: &HeaderMap) -> String {
    header(headers, &AUTHORIZATION).strip_prefix("Bearer ").unwrap_or(ANONYMOUS).to_owned()
}

/// The manager that is named, or the program that asks.
fn manager(query: &BTreeMap<String, String>, headers: &HeaderMap) -> String {
    let named = query.get("fieldManager").filter(|name| !name.is_empty()).map(String::as_str);
    let program = header(headers, &USER_AGENT).split('/').next().filter(|name| !name.is_empty());
    named.or(program).unwrap_or("unknown").chars().take(MAX_MANAGER).collect()
}

fn dry_run(query: &BTreeMap<String, String>) -> Result<bool, Refusal> {
    match query.get("dryRun").map(String::as_str) {
        None | Some("") => Ok(false),
        Some("All") => Ok(true),
        Some(other) => {
            let words = format!("dryRun: Unsupported value: \"{other}\": supported values: \"All\"");
            Err(Refusal::bad_request(words))
        }
    }
}
