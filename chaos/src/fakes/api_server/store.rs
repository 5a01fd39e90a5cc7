//! The objects of the server: a pure store with one counter of revisions. Time and writer are arguments, so that a
//! test runs a history of years in a moment, and the same one each time.

mod namespaces;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::admission::{Admitted, fill_in};
use super::event_form::{from_stored, to_stored};
use super::history::{Change, History, WatchEvent, told};
use super::object::{carry, is_empty, remove, set, text, timestamp};
use super::ownership::{Write, is_same};
use super::patch::{Patch, merged, operated};
use super::refusal::{Cause, Refusal};
use super::resource::{Key, Part, Resource};
use super::selector::Selection;
use namespaces::is_ending;

/// Letters of made-up names, as the real server has them: none that could spell a word.
const NAME_LETTERS: [char; 27] = [
    'b', 'c', 'd', 'f', 'g', 'h', 'j', 'k', 'l', 'm', 'n', 'p', 'q', 'r', 's', 't', 'v', 'w', 'x', 'z', '2', '4', '5',
    '6', '7', '8', '9',
];
const NAME_SUFFIX: u32 = 5;

/// Who writes, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writer {
    /// The manager that owns the fields it sets.
    pub manager: String,
    /// The present time.
    pub now: SystemTime,
    /// Whether the write is only tried: checked and answered, and then not done.
    pub dry_run: bool,
}

impl Writer {
    /// One that writes in earnest.
    pub fn new(manager: &str, now: SystemTime) -> Self {
        Self { manager: manager.to_owned(), now, dry_run: false }
    }

    /// The same one, only trying.
    #[must_use]
    pub fn trying(self) -> Self {
        Self { dry_run: true, ..self }
    }
}

/// What a deletion asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deletion {
    /// Refused unless the object has this uid.
    pub uid: Option<String>,
    /// Refused unless the object has this resource version.
    pub resource_version: Option<String>,
    /// How long a pod that runs may take to end; `None` leaves it to the pod.
    pub grace: Option<Duration>,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Listing {
    /// In the order of their names.
    pub items: Vec<Value>,
    /// The revision that they are of.
    pub revision: u64,
    /// What continues the list; `None` at its end.
    pub next: Option<String>,
    /// How many more there are.
    pub remaining: usize,
}

/// The objects.
#[derive(Debug, Clone)]
pub struct Store {
    revision: u64,
    objects: BTreeMap<Key, Arc<Value>>,
    history: History,
    /// Uids, names and addresses made up so far.
    minted: u64,
    allow_loopback: bool,
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

impl Store {
    /// A store with the namespaces `default` and `kube-system`, as of the beginning of time.
    pub fn new() -> Self {
        let mut store = Self {
            revision: 1,
            objects: BTreeMap::new(),
            history: History::default(),
            minted: 0,
            allow_loopback: false,
        };
        let beginning = Writer::new("kube-apiserver", SystemTime::UNIX_EPOCH);
        for namespace in ["default", "kube-system"] {
            let object = json!({ "metadata": { "name": namespace } });
            if let Err(error) = store.create(Resource::Namespace, "", object, &beginning) {
                tracing::error!(%error, namespace, "namespace not made");
            }
        }
        store
    }

    /// The same store, taking endpoints on 127.0.0.0/8 that the real server refuses: a test on one machine has no
    /// others.
    #[must_use]
    pub fn allowing_loopback(mut self) -> Self {
        self.allow_loopback = true;
        self
    }

    /// The revision that the last write made.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// An object.
    ///
    /// # Errors
    /// 404
    pub fn get(&self, key: &Key) -> Result<Value, Refusal> {
        Ok(from_stored(key.resource, self.kept(key)?))
    }

    /// A part of an object: `/scale` is an object of its own.
    ///
    /// # Errors
    /// 404
    pub fn get_part(&self, key: &Key, part: Part) -> Result<Value, Refusal> {
        let object = self.get(key)?;
        Ok(if part == Part::Scale { scale_of(&object) } else { object })
    }

    fn kept(&self, key: &Key) -> Result<&Arc<Value>, Refusal> {
        self.objects.get(&key.stored()).ok_or_else(|| Refusal::not_found(key))
    }

    /// Everything that is selected, now.
    pub fn all(&self, selection: &Selection) -> Vec<Value> {
        self.peek(selection).map(|object| from_stored(selection.resource, object)).collect()
    }

    /// Everything that is selected, now, in the form in which it is kept and without a copy: for who only looks.
    pub(super) fn peek<'a>(&'a self, selection: &'a Selection) -> impl Iterator<Item = &'a Arc<Value>> {
        let found = self.objects.iter().filter(move |(key, object)| selection.covers(key) && selection.selects(object));
        found.map(|(_, object)| object)
    }

    /// Up to `limit` objects of the selection (0: all), as of the revision that `next` of the page before names, or
    /// that is asked for, or now.
    ///
    /// # Errors
    /// 410 when that revision is forgotten, 504 when it is yet to come, 400 when `next` is none of ours.
    pub fn list(&self, selection: &Selection, page: &Page) -> Result<Listing, Refusal> {
        let (revision, after) = match &page.next {
            Some(next) => continued(next)?,
            None => (page.revision.unwrap_or(self.revision), None),
        };
        let objects = self.as_of(revision, selection)?;
        let rest: Vec<_> =
            objects.into_iter().filter(|(key, _)| after.as_ref().is_none_or(|last| is_after(key, last))).collect();
        let length = if page.limit == 0 { rest.len() } else { page.limit.min(rest.len()) };
        let (shown, hidden) = rest.split_at(length);
        let next = shown.last().filter(|_| !hidden.is_empty()).map(|(key, _)| continuation(revision, key));
        let items = shown.iter().map(|(_, object)| from_stored(selection.resource, object)).collect();
        Ok(Listing { items, revision, next, remaining: hidden.len() })
    }

    fn as_of(&self, revision: u64, selection: &Selection) -> Result<BTreeMap<Key, Arc<Value>>, Refusal> {
        if revision > self.revision {
            return Err(Refusal::too_new(revision, self.revision));
        }
        let later = self.history.after(revision).ok_or_else(|| {
            Refusal::expired("The provided continue parameter is too old to display a consistent list result.")
        })?;
        let covered = self.objects.iter().filter(|(key, _)| selection.covers(key));
        let mut objects: BTreeMap<Key, Arc<Value>> =
            covered.map(|(key, object)| (key.clone(), Arc::clone(object))).collect();
        for change in later.rev().filter(|change| selection.covers(&change.key)) {
            match &change.before {
                Some(before) => objects.insert(change.key.clone(), Arc::clone(before)),
                None => objects.remove(&change.key),
            };
        }
        objects.retain(|_, object| selection.selects(object));
        Ok(objects)
    }

    /// What a watcher is told of what happened after a revision, in order.
    ///
    /// # Errors
    /// 410 when some of it is forgotten.
    pub fn changes(&self, selection: &Selection, after: u64) -> Result<Vec<WatchEvent>, Refusal> {
        let changes = self.history.after(after).ok_or_else(|| {
            let oldest = self.history.forgotten();
            Refusal::expired(format!("too old resource version: {after} ({oldest})"))
        })?;
        Ok(changes.filter_map(|change| told(change, selection)).collect())
    }

    /// Forgets what happened up to now, as compaction does: who asks for it gets 410.
    pub fn forget_history(&mut self) {
        // A revision that nobody saw, so that even the last one that anybody did see is too old.
        self.revision += 1;
        self.history.forget(self.revision);
    }

    /// Creates an object; its name may be left to us by `generateName`.
    ///
    /// # Errors
    /// 404 without its namespace, 409 when the name is taken, 422 when it is not valid.
    pub fn create(
        &mut self,
        resource: Resource,
        namespace: &str,
        object: Value,
        by: &Writer,
    ) -> Result<Value, Refusal> {
        self.make(namespace, object, &Write { resource, part: Part::Whole, by, is_applied: false })
    }

    fn make(&mut self, namespace: &str, object: Value, write: &Write) -> Result<Value, Refusal> {
        let mut object = self.begun(namespace, object, write)?;
        let key = Key::new(write.resource, namespace, text(&object, "/metadata/name"));
        if self.objects.contains_key(&key.stored()) {
            return Err(Refusal::already_exists(&key));
        }
        self.admit(&key, &mut object, None)?;
        write.track(None, &mut object);
        Ok(self.finish(&key, None, object, write.by))
    }

    /// The object as it was sent, with what the server itself says about each new one.
    fn begun(&mut self, namespace: &str, mut object: Value, write: &Write) -> Result<Value, Refusal> {
        let resource = write.resource;
        check_type(resource, &object)?;
        check_namespace(namespace, &object)?;
        if resource.is_namespaced() {
            let is_ending = is_ending(self.kept(&Key::new(Resource::Namespace, "", namespace))?);
            if is_ending {
                let key = Key::new(resource, namespace, text(&object, "/metadata/name"));
                return Err(Refusal::namespace_ends(&key));
            }
            set(&mut object, &["metadata", "namespace"], namespace);
        }
        if !is_empty(&object, "/metadata/resourceVersion") {
            return Err(Refusal::version_on_creation());
        }
        let generated = text(&object, "/metadata/generateName").to_owned();
        if is_empty(&object, "/metadata/name") && !generated.is_empty() {
            let name = format!("{generated}{}", self.made_up_suffix());
            set(&mut object, &["metadata", "name"], name);
        }
        set(&mut object, &["metadata", "uid"], self.made_up_uid());
        set(&mut object, &["metadata", "creationTimestamp"], timestamp(write.by.now));
        if !write.is_applied {
            remove(&mut object, &["metadata", "managedFields"]);
        }
        if resource.has(Part::Status) {
            remove(&mut object, &["status"]);
        }
        if resource == Resource::Pod {
            set(&mut object, &["status", "phase"], "Pending");
        }
        Ok(object)
    }

    /// Puts an object, or a part of it, in the place of what is there.
    ///
    /// # Errors
    /// 404 without it (where a `PUT` does not create this kind), 409 when it names another resource version than the
    /// present one, 422 when it is not valid.
    pub fn replace(&mut self, key: &Key, part: Part, object: Value, by: &Writer) -> Result<Value, Refusal> {
        let is_there = self.objects.contains_key(&key.stored());
        if !is_there && part == Part::Whole && key.resource.is_created_by_update() {
            check_name(key, &object)?;
            return self.create(key.resource, &key.namespace, object, by);
        }
        let is_unconditional = is_empty(&object, "/metadata/resourceVersion");
        if is_there && is_unconditional && key.resource.is_updated_with_version() {
            return Err(Refusal::version_missing(key));
        }
        self.update(key, part, by, |_| Ok(object))
    }

    /// Changes an object, or a part of it.
    ///
    /// # Errors
    /// 404 without it, 409 when the patch names another resource version than the present one, 422 when an operation
    /// of it fails (`test` does so when it finds something else) or what it makes is not valid.
    pub fn patch(&mut self, key: &Key, part: Part, patch: &Patch, by: &Writer) -> Result<Value, Refusal> {
        match patch {
            Patch::Json(operations) => self.update(key, part, by, |object| operated(object, operations)),
            Patch::Merge(fields) => self.update(key, part, by, |object| Ok(merged(object, fields))),
            Patch::Apply { config, force } => self.apply(key, part, (config, *force), by),
        }
    }

    /// Server-side apply: makes the object when there is none.
    fn apply(&mut self, key: &Key, part: Part, (config, force): (&Value, bool), by: &Writer) -> Result<Value, Refusal> {
        let write = Write { resource: key.resource, part, by, is_applied: true };
        check_name(key, config)?;
        if !is_empty(config, "/metadata/managedFields") {
            return Err(Refusal::bad_request("metadata.managedFields must be nil"));
        }
        let Ok(before) = self.kept(key).cloned() else {
            let object = write.apply(&json!({}), config, force)?;
            return self.make(&key.namespace, object, &write);
        };
        let after = write.apply(&from_stored(key.resource, &before), config, force)?;
        self.exchange(key, &before, after, &write)
    }

    /// Changes an object by hand, status included: for a test that plays a controller or a kubelet.
    ///
    /// # Errors
    /// As [`Store::replace`].
    pub fn edit(&mut self, key: &Key, by: &Writer, change: impl FnOnce(&mut Value)) -> Result<Value, Refusal> {
        let before = Arc::clone(self.kept(key)?);
        let mut after = from_stored(key.resource, &before);
        change(&mut after);
        let part = Part::Whole;
        self.exchange(key, &before, after, &Write { resource: key.resource, part, by, is_applied: false })
    }

    fn update(
        &mut self,
        key: &Key,
        part: Part,
        by: &Writer,
        change: impl FnOnce(&Value) -> Result<Value, Refusal>,
    ) -> Result<Value, Refusal> {
        let before = Arc::clone(self.kept(key)?);
        let shown = from_stored(key.resource, &before);
        let write = Write { resource: key.resource, part, by, is_applied: false };
        if part == Part::Scale {
            let scale = change(&scale_of(&shown))?;
            let after = scaled(key, shown, &scale)?;
            return Ok(scale_of(&self.exchange(key, &before, after, &write)?));
        }
        let mut after = change(&shown)?;
        if part == Part::Finalize {
            return self.finalize(key, &before, &after, &write);
        }
        if part == Part::Status {
            let status = after.get("status").cloned().unwrap_or_else(|| json!({}));
            let version = after.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
            after = shown;
            set(&mut after, &["status"], status);
            set(&mut after, &["metadata", "resourceVersion"], version);
        } else {
            Self::keep_apart(key.resource, &shown, &mut after);
        }
        self.exchange(key, &before, after, &write)
    }

    /// What is not written with the rest of an object stays as it is.
    fn keep_apart(resource: Resource, before: &Value, after: &mut Value) {
        if resource.has(Part::Status) {
            carry(after, before, &["status"]);
        }
        if resource == Resource::Namespace {
            carry(after, before, &["spec", "finalizers"]);
        }
    }

    /// Compare and swap: `after` replaces `before` unless it was made from something else.
    fn exchange(&mut self, key: &Key, before: &Arc<Value>, mut after: Value, write: &Write) -> Result<Value, Refusal> {
        check_type(key.resource, &after)?;
        check_name(key, &after)?;
        check_namespace(&key.namespace, &after)?;
        let version = text(&after, "/metadata/resourceVersion");
        if !version.is_empty() && version != text(before, "/metadata/resourceVersion") {
            return Err(Refusal::modified(key));
        }
        let (uid, present) = (text(&after, "/metadata/uid"), text(before, "/metadata/uid"));
        if !uid.is_empty() && uid != present {
            let words = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {present}");
            return Err(Refusal::conflict(key, &words));
        }
        for fixed in ["uid", "creationTimestamp", "name", "namespace", "generation", "deletionTimestamp"] {
            carry(&mut after, before, &["metadata", fixed]);
        }
        if !write.is_applied {
            carry(&mut after, before, &["metadata", "managedFields"]);
        }
        self.admit(key, &mut after, Some(before))?;
        write.track(Some(before), &mut after);
        Ok(self.finish(key, Some(before), after, write.by))
    }

    /// Fills in what was left out and refuses what is not valid; the object is in the form in which it is kept after.
    fn admit(&mut self, key: &Key, object: &mut Value, before: Option<&Value>) -> Result<(), Refusal> {
        let cluster_ip = self.made_up_address();
        to_stored(key.resource, object);
        fill_in(key.resource, object, before, &cluster_ip);
        let admitted = Admitted { resource: key.resource, object, before, allow_loopback: self.allow_loopback };
        match admitted.faults().as_slice() {
            [] => Ok(()),
            faults => Err(Refusal::invalid(key.resource, text(object, "/metadata/name"), faults)),
        }
    }

    /// Writes it, unless nothing changed or it is only tried.
    fn finish(&mut self, key: &Key, before: Option<&Arc<Value>>, mut object: Value, by: &Writer) -> Value {
        let stored = key.stored();
        set(&mut object, &["apiVersion"], stored.resource.api_version());
        set(&mut object, &["kind"], stored.resource.kind());
        if let Some(before) = before {
            carry(&mut object, before, &["metadata", "resourceVersion"]);
            if is_same(&object, before) {
                return from_stored(key.resource, before);
            }
        }
        count_generation(key.resource, before.map(Arc::as_ref), &mut object);
        if by.dry_run {
            return from_stored(key.resource, &object);
        }
        from_stored(key.resource, &self.commit(stored, before.cloned(), object))
    }

    fn commit(&mut self, key: Key, before: Option<Arc<Value>>, mut object: Value) -> Arc<Value> {
        self.revision += 1;
        set(&mut object, &["metadata", "resourceVersion"], self.revision.to_string());
        let after = Arc::new(object);
        self.objects.insert(key.clone(), Arc::clone(&after));
        let (last, revision) = (Arc::clone(&after), self.revision);
        self.history.push(Change { revision, key, before, after: Some(Arc::clone(&after)), last });
        after
    }

    /// Deletes an object. A pod on a node is given its time to end: it stays until it is deleted again with none. A
    /// namespace stays until it is [emptied](Store::empty_namespaces). Gives the object as it was last.
    ///
    /// # Errors
    /// 404 without it, 409 when it is not the one that the deletion is for.
    pub fn delete(&mut self, key: &Key, deletion: &Deletion, by: &Writer) -> Result<Value, Refusal> {
        let before = Arc::clone(self.kept(key)?);
        check_deletion(key, &before, deletion)?;
        if let Some(grace) = grace_of(key.resource, &before, deletion) {
            return Ok(self.begin_end(key, &before, grace, by));
        }
        if by.dry_run {
            return Ok(from_stored(key.resource, &before));
        }
        if key.resource == Resource::Namespace && !is_empty(&before, "/spec/finalizers") {
            return Ok(self.begin_namespace_end(key, &before, by));
        }
        let last = self.take_away(key.stored()).unwrap_or(before);
        Ok(from_stored(key.resource, &last))
    }

    fn begin_end(&mut self, key: &Key, before: &Arc<Value>, grace: Duration, by: &Writer) -> Value {
        let mut object = Value::clone(before);
        if is_empty(&object, "/metadata/deletionTimestamp") {
            set(&mut object, &["metadata", "deletionTimestamp"], timestamp(by.now + grace));
            set(&mut object, &["metadata", "deletionGracePeriodSeconds"], grace.as_secs());
        }
        self.finish(key, Some(before), object, by)
    }

    fn take_away(&mut self, key: Key) -> Option<Arc<Value>> {
        let before = self.objects.remove(&key)?;
        self.revision += 1;
        let mut last = Value::clone(&before);
        set(&mut last, &["metadata", "resourceVersion"], self.revision.to_string());
        let last = Arc::new(last);
        let change =
            Change { revision: self.revision, key, before: Some(before), after: None, last: Arc::clone(&last) };
        self.history.push(change);
        Some(last)
    }

    fn minted(&mut self) -> u64 {
        self.minted += 1;
        self.minted
    }

    fn made_up_uid(&mut self) -> String {
        let number = self.minted();
        format!("{:08x}-0000-4000-8000-{number:012x}", mixed(number) >> 32)
    }

    fn made_up_suffix(&mut self) -> String {
        let mut left = mixed(self.minted());
        let letters = u64::try_from(NAME_LETTERS.len()).unwrap_or(u64::MAX);
        let suffix = (0..NAME_SUFFIX).filter_map(|_| {
            let letter = usize::try_from(left % letters).ok()?;
            left /= letters;
            NAME_LETTERS.get(letter)
        });
        suffix.collect()
    }

    /// An address of a Service, of 10.96.0.0/12 as most clusters have it.
    fn made_up_address(&mut self) -> String {
        let number = self.minted() % (1 << 20);
        format!("10.{}.{}.{}", 96 + (number >> 16), (number >> 8) & 0xff, number & 0xff)
    }
}

/// Which page of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// How many objects at most; 0 for all.
    pub limit: usize,
    /// [`Listing::next`] of the page before.
    pub next: Option<String>,
    /// As of this revision; `None` for now.
    pub revision: Option<u64>,
}

fn continuation(revision: u64, last: &Key) -> String {
    format!("{revision}/{}/{}", last.namespace, last.name)
}

fn is_after(key: &Key, (namespace, name): &(String, String)) -> bool {
    (&key.namespace, &key.name) > (namespace, name)
}

/// The revision that a list goes on in, and namespace and name of the object after which it does.
fn continued(next: &str) -> Result<(u64, Option<(String, String)>), Refusal> {
    let unreadable = || Refusal::bad_request("continue key is not valid");
    let mut pieces = next.splitn(3, '/');
    let revision = pieces.next().and_then(|text| text.parse().ok()).ok_or_else(unreadable)?;
    let (Some(namespace), Some(name)) = (pieces.next(), pieces.next()) else { return Err(unreadable()) };
    Ok((revision, Some((namespace.to_owned(), name.to_owned()))))
}

/// A `Scale` of a Deployment.
fn scale_of(deployment: &Value) -> Value {
    let mut scale = json!({ "kind": "Scale", "apiVersion": "autoscaling/v1", "spec": {}, "status": {} });
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        carry(&mut scale, deployment, &["metadata", field]);
    }
    carry(&mut scale, deployment, &["spec", "replicas"]);
    let running = deployment.pointer("/status/replicas").cloned().unwrap_or_else(|| json!(0));
    set(&mut scale, &["status", "replicas"], running);
    let labels = deployment.pointer("/spec/selector/matchLabels").and_then(Value::as_object);
    let selector: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
        .collect();
    set(&mut scale, &["status", "selector"], selector.join(","));
    scale
}

/// The Deployment at this scale.
fn scaled(key: &Key, mut deployment: Value, scale: &Value) -> Result<Value, Refusal> {
    let wanted = scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or_default();
    if wanted < 0 {
        let cause = Cause::invalid("spec.replicas", &wanted.into(), "must be greater than or equal to 0");
        return Err(Refusal::invalid(key.resource, &key.name, &[cause]));
    }
    carry(&mut deployment, scale, &["metadata", "resourceVersion"]);
    set(&mut deployment, &["spec", "replicas"], wanted);
    Ok(deployment)
}

fn count_generation(resource: Resource, before: Option<&Value>, object: &mut Value) {
    if !resource.has_generation() {
        return;
    }
    let Some(before) = before else { return set(object, &["metadata", "generation"], 1) };
    if !content(before).eq(content(object)) {
        let generation = before.pointer("/metadata/generation").and_then(Value::as_u64).unwrap_or_default();
        set(object, &["metadata", "generation"], generation + 1);
    }
}

/// What of an object its generation counts.
fn content(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    let is_counted = |(field, _): &(&String, &Value)| !matches!(field.as_str(), "metadata" | "status");
    object.as_object().into_iter().flatten().filter(is_counted)
}

fn check_type(resource: Resource, object: &Value) -> Result<(), Refusal> {
    if !object.is_object() || object.get("metadata").is_some_and(|metadata| !metadata.is_object()) {
        return Err(Refusal::bad_request("the object provided is unrecognized (must be of type Object)"));
    }
    let version = resource.api_version();
    for (field, expected) in [("kind", resource.kind()), ("apiVersion", version.as_str())] {
        let found = text(object, &format!("/{field}"));
        if !found.is_empty() && found != expected {
            let words = format!("the {field} of the object ({found}) does not match the request ({expected})");
            return Err(Refusal::bad_request(words));
        }
    }
    Ok(())
}

fn check_name(key: &Key, object: &Value) -> Result<(), Refusal> {
    let found = text(object, "/metadata/name");
    if found == key.name {
        return Ok(());
    }
    let words = format!("the name of the object ({found}) does not match the name on the URL ({})", key.name);
    Err(Refusal::bad_request(words))
}

fn check_namespace(namespace: &str, object: &Value) -> Result<(), Refusal> {
    let found = text(object, "/metadata/namespace");
    if found.is_empty() || found == namespace {
        return Ok(());
    }
    Err(Refusal::bad_request("the namespace of the provided object does not match the namespace sent on the request"))
}

fn check_deletion(key: &Key, object: &Value, deletion: &Deletion) -> Result<(), Refusal> {
    let checks = [
        ("UID", &deletion.uid, "/metadata/uid"),
        ("ResourceVersion", &deletion.resource_version, "/metadata/resourceVersion"),
    ];
    for (what, wanted, pointer) in checks {
        let found = text(object, pointer);
        if let Some(wanted) = wanted.as_deref().filter(|wanted| *wanted != found) {
            let words =
                format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}");
            return Err(Refusal::conflict(key, &words));
        }
    }
    Ok(())
}

/// The time that a pod on a node is given to end; `None` when the object goes at once.
fn grace_of(resource: Resource, object: &Value, deletion: &Deletion) -> Option<Duration> {
    if resource != Resource::Pod || is_empty(object, "/spec/nodeName") {
        return None;
    }
    let own = object.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_u64).unwrap_or_default();
    Some(deletion.grace.unwrap_or(Duration::from_secs(own))).filter(|grace| !grace.is_zero())
}

/// `SplitMix64`: numbers that look random and are the same each time.
fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests;
