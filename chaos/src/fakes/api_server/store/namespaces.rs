//! Namespaces end in two steps: deleted, they take in nothing more; emptied by their controller, they are gone.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Refusal, Store, Writer};
use crate::fakes::api_server::event_form::from_stored;
use crate::fakes::api_server::object::{carry, is_empty, set, timestamp};
use crate::fakes::api_server::ownership::Write;
use crate::fakes::api_server::resource::{Key, Resource};

/// Whether a namespace was deleted.
pub(super) fn is_ending(namespace: &Value) -> bool {
    !is_empty(namespace, "/metadata/deletionTimestamp")
}

impl Store {
    /// What the controller of namespaces does: takes away all that is in those that were deleted, and then them. Gives
    /// whether there was one.
    pub fn empty_namespaces(&mut self) -> bool {
        let ended =
            self.objects.iter().filter(|(key, object)| key.resource == Resource::Namespace && is_ending(object));
        let ended: Vec<Key> = ended.map(|(key, _)| key.clone()).collect();
        for namespace in &ended {
            let inside = self.objects.keys().filter(|inside| inside.namespace == namespace.name);
            for key in inside.cloned().collect::<Vec<_>>() {
                self.take_away(key);
            }
            self.take_away(namespace.clone());
        }
        !ended.is_empty()
    }

    pub(super) fn begin_namespace_end(&mut self, key: &Key, before: &Arc<Value>, by: &Writer) -> Value {
        let mut object = Value::clone(before);
        if !is_ending(&object) {
            set(&mut object, &["metadata", "deletionTimestamp"], timestamp(by.now));
            set(&mut object, &["status", "phase"], "Terminating");
        }
        self.finish(key, Some(before), object, by)
    }

    /// Sets what keeps a namespace; one that was deleted and is kept by nothing is gone.
    pub(super) fn finalize(
        &mut self,
        key: &Key,
        before: &Arc<Value>,
        sent: &Value,
        write: &Write,
    ) -> Result<Value, Refusal> {
        let mut after = from_stored(key.resource, before);
        let finalizers = sent.pointer("/spec/finalizers").cloned().unwrap_or_else(|| json!([]));
        set(&mut after, &["spec", "finalizers"], finalizers);
        carry(&mut after, sent, &["metadata", "resourceVersion"]);
        let after = self.exchange(key, before, after, write)?;
        if is_ending(&after) && is_empty(&after, "/spec/finalizers") && !write.by.dry_run {
            self.take_away(key.clone());
        }
        Ok(after)
    }
}
