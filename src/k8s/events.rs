//! What is told on the objects themselves, as Events (`events.k8s.io/v1`).

mod queue;
mod rate_limit;

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use serde_json::Value;
use tokio::time::timeout;

pub use self::{
    queue::{DropReason, EventQueue, PendingEvent},
    rate_limit::RateLimiter,
};

/// The longest note of an event, in bytes (`NoteLengthLimit` in k8s.io/kubernetes).
const NOTE_AT_MOST: usize = 1024;

/// How long it may take to write one.
const PATIENCE: Duration = Duration::from_secs(10);

/// Something to tell.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EventReason {
    /// NICs are in the template of a VM.
    InterfacePersisted,
    /// KubeVirt itself was refused a change.
    InterfaceRefused,
    /// Something could not be mirrored into the template of a VM.
    PersistFailed,
    /// A settings file was changed, and cannot be used.
    SettingsRefused,
    /// The settings in force are those of the file.
    SettingsTaken,
}

impl EventReason {
    /// Every tale.
    pub const ALL: [Self; 5] = [
        Self::InterfacePersisted,
        Self::InterfaceRefused,
        Self::PersistFailed,
        Self::SettingsRefused,
        Self::SettingsTaken,
    ];

    /// `reason` of the event.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::InterfacePersisted => "InterfacePersisted",
            Self::InterfaceRefused => "InterfaceRefused",
            Self::PersistFailed => "PersistFailed",
            Self::SettingsRefused => "SettingsRefused",
            Self::SettingsTaken => "SettingsTaken",
        }
    }

    /// What was being done.
    fn action(self) -> &'static str {
        match self {
            Self::InterfacePersisted | Self::PersistFailed => "Persist",
            Self::InterfaceRefused => "Review",
            Self::SettingsRefused | Self::SettingsTaken => "Reload",
        }
    }

    /// `type` of the event.
    #[must_use]
    pub fn type_(self) -> EventType {
        match self {
            Self::InterfacePersisted | Self::SettingsTaken => EventType::Normal,
            Self::InterfaceRefused | Self::PersistFailed | Self::SettingsRefused => EventType::Warning,
        }
    }
}

/// Writes events.
#[derive(Clone)]
pub struct Events {
    client: Client,
    reporter: Reporter,
}

impl Events {
    /// `controller` is who reports, as a qualified name; `identity` tells its replicas apart.
    #[must_use]
    pub fn new(client: Client, controller: &str, identity: &str) -> Self {
        Self { client, reporter: Reporter { controller: controller.to_owned(), instance: Some(identity.to_owned()) } }
    }

    /// Tells it on an object, and whether it could. A tale that cannot be told changes nothing of what was done.
    pub async fn tell(
        &self,
        tale: EventReason,
        object: &ObjectReference,
        related: Option<ObjectReference>,
        note: &str,
    ) -> bool {
        let reason = tale.reason();
        let event = Event {
            type_: tale.type_(),
            reason: reason.to_owned(),
            note: Some(cut(note)),
            action: tale.action().to_owned(),
            secondary: related,
        };
        // A recorder counts an event up that differs in its note alone, and drops the note: each has one of its own.
        let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
        match timeout(PATIENCE, recorder.publish(&event, object)).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => tracing::warn!(%error, reason, note, "an event was not written"),
            Err(_) => tracing::warn!(reason, note, "an event was not written in time"),
        }
        false
    }
}

/// What an event about a pod refers to; without a uid `kubectl describe` does not find it.
#[must_use]
pub fn pod(namespace: &str, name: &str, uid: Option<&str>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        uid: uid.map(str::to_owned),
        ..ObjectReference::default()
    }
}

/// What an event about an object refers to.
pub(crate) fn reference(object: &Value) -> ObjectReference {
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
    note.get(..note.floor_char_boundary(NOTE_AT_MOST)).unwrap_or_default().to_owned()
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
