//! What is told on the objects themselves, as Events (`events.k8s.io/v1`).

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use serde_json::Value;
use tokio::time::timeout;

/// Who reports, as a qualified name.
const CONTROLLER: &str = "nicplug.io/persist";

/// The longest note of an event, in bytes (`NoteLengthLimit` in k8s.io/kubernetes).
const NOTE_AT_MOST: usize = 1024;

/// How long it may take to write one.
const PATIENCE: Duration = Duration::from_secs(10);

/// Something to tell.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Tale {
    /// NICs are in the template.
    Persisted,
    /// Something could not be mirrored.
    Failed,
}

/// Tells what was done and what was not.
#[derive(Clone)]
pub(super) struct Events {
    client: Client,
    reporter: Reporter,
}

impl Events {
    /// `identity` tells replicas apart.
    pub(super) fn new(client: Client, identity: &str) -> Self {
        Self { client, reporter: Reporter { controller: CONTROLLER.to_owned(), instance: Some(identity.to_owned()) } }
    }

    /// Tells it on an object. A tale that cannot be told changes nothing of what was done.
    pub(super) async fn tell(&self, tale: Tale, object: &Value, related: Option<&Value>, note: &str) {
        let (type_, reason) = match tale {
            Tale::Persisted => (EventType::Normal, "InterfacePersisted"),
            Tale::Failed => (EventType::Warning, "PersistFailed"),
        };
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(cut(note)),
            action: "Persist".to_owned(),
            secondary: related.map(reference),
        };
        // A recorder counts an event up that differs in its note alone, and drops the note: each has one of its own.
        let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
        let object = reference(object);
        match timeout(PATIENCE, recorder.publish(&event, &object)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, reason, note, "an event was not written"),
            Err(_) => tracing::warn!(reason, note, "an event was not written in time"),
        }
    }
}

fn reference(object: &Value) -> ObjectReference {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    ObjectReference {
        api_version: text("/apiVersion"),
        kind: text("/kind"),
        namespace: text("/metadata/namespace"),
        name: text("/metadata/name"),
        uid: text("/metadata/uid"),
        resource_version: text("/metadata/resourceVersion"),
        ..ObjectReference::default()
    }
}

fn cut(note: &str) -> String {
    let mut end = note.len().min(NOTE_AT_MOST);
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    note.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        let long = "é".repeat(600);
        assert_eq!(cut(&long).len(), 1024);
        assert_eq!(cut(&format!("x{long}")).len(), 1023);
    }
}
