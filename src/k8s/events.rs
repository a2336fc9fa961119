//! Events (`events.k8s.io/v1`) on the objects that they are about.

mod queue;
mod rate_limit;

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event as StoredEvent},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Api, Client,
    api::PostParams,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use serde_json::Value;
use tokio::time::timeout;

pub use self::{
    queue::{DropReason, EventQueue, PendingEvent},
    rate_limit::RateLimiter,
};
use super::api_error::ApiError;
use crate::api::hash::sha256;

/// The longest note of an Event, in bytes (`NoteLengthLimit` in k8s.io/kubernetes).
const LONGEST_NOTE: usize = 1024;

/// The longest part of an object's name in the name of an Event, in bytes.
const LONGEST_PREFIX: usize = 200;

/// How long the API server may take to store an Event.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What an Event reports.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EventReason {
    /// A NIC that was reported as pending has reached the guest.
    InterfaceAttached,
    /// A change of the NICs of a running VM was stored; the note says when each reaches the guest.
    InterfaceChangeStored,
    /// A change that KubeVirt itself made was allowed, although its NICs cannot be attached to the running guest.
    InterfaceNotAttached,
    /// A NIC of the template has not reached the running guest after a time.
    InterfacePending,
    /// NICs of a running guest are now in the template of its VM.
    InterfacePersisted,
    /// A change of a running VM was stored for its next restart, although the running guest cannot have it.
    InterfacePostponed,
    /// A change that KubeVirt itself made was denied.
    InterfaceRefused,
    /// NICs of a running guest cannot be persisted into the template of its VM.
    PersistFailed,
    /// The settings file changed and is invalid.
    SettingsRefused,
    /// The settings of the changed file are in force.
    SettingsReloaded,
}

impl EventReason {
    /// Every reason.
    pub const ALL: [Self; 10] = [
        Self::InterfaceAttached,
        Self::InterfaceChangeStored,
        Self::InterfaceNotAttached,
        Self::InterfacePending,
        Self::InterfacePersisted,
        Self::InterfacePostponed,
        Self::InterfaceRefused,
        Self::PersistFailed,
        Self::SettingsRefused,
        Self::SettingsReloaded,
    ];

    /// Returns `reason` of the Event.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InterfaceAttached => "InterfaceAttached",
            Self::InterfaceChangeStored => "InterfaceChangeStored",
            Self::InterfaceNotAttached => "InterfaceNotAttached",
            Self::InterfacePending => "InterfacePending",
            Self::InterfacePersisted => "InterfacePersisted",
            Self::InterfacePostponed => "InterfacePostponed",
            Self::InterfaceRefused => "InterfaceRefused",
            Self::PersistFailed => "PersistFailed",
            Self::SettingsRefused => "SettingsRefused",
            Self::SettingsReloaded => "SettingsReloaded",
        }
    }

    /// Returns `action` of the Event.
    fn action(self) -> &'static str {
        match self {
            Self::InterfaceAttached | Self::InterfacePending => "Attach",
            Self::InterfacePersisted | Self::PersistFailed => "Persist",
            Self::InterfaceChangeStored
            | Self::InterfaceNotAttached
            | Self::InterfacePostponed
            | Self::InterfaceRefused => "Review",
            Self::SettingsRefused | Self::SettingsReloaded => "Reload",
        }
    }

    /// Returns `type` of the Event.
    #[must_use]
    pub fn event_type(self) -> EventType {
        match self {
            Self::InterfaceAttached
            | Self::InterfaceChangeStored
            | Self::InterfacePersisted
            | Self::SettingsReloaded => EventType::Normal,
            Self::InterfaceNotAttached
            | Self::InterfacePending
            | Self::InterfacePostponed
            | Self::InterfaceRefused
            | Self::PersistFailed
            | Self::SettingsRefused => EventType::Warning,
        }
    }
}

/// An Event whose name identifies what it reports.
#[derive(Clone, Debug)]
pub struct NamedEvent {
    /// The name.
    pub name: String,
    /// What it reports.
    pub reason: EventReason,
    /// The annotations of the Event.
    pub annotations: BTreeMap<String, String>,
    /// A second object that it concerns.
    pub related: Option<ObjectReference>,
    /// The text for people.
    pub note: String,
}

/// Writes Events.
#[derive(Clone)]
pub struct Events {
    client: Client,
    reporter: Reporter,
}

impl Events {
    /// A writer that reports as `controller`, a qualified name, and as `identity`, which differs between replicas.
    #[must_use]
    pub fn new(client: Client, controller: &str, identity: &str) -> Self {
        Self { client, reporter: Reporter { controller: controller.to_owned(), instance: Some(identity.to_owned()) } }
    }

    /// Writes an Event on an object. Returns whether it was stored; an error is only logged.
    pub async fn emit(
        &self,
        reason: EventReason,
        object: &ObjectReference,
        related: Option<ObjectReference>,
        note: &str,
    ) -> bool {
        let event = Event {
            type_: reason.event_type(),
            reason: reason.as_str().to_owned(),
            note: Some(truncated(note)),
            action: reason.action().to_owned(),
            secondary: related,
        };
        // A recorder takes Events that differ only in their note for one series and drops the later notes, so each
        // Event gets its own recorder.
        let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
        in_time(recorder.publish(&event, object)).await.inspect_err(|error| log(error, reason, note)).is_ok()
    }

    /// Writes an Event on an object, unless one of this name exists. Returns whether one exists now; an error is only
    /// logged.
    pub async fn emit_once(&self, event: NamedEvent, object: &ObjectReference) -> bool {
        self.try_emit_once(event, object).await.is_ok()
    }

    /// As [`emit_once`](Self::emit_once), and returns the error that it has logged.
    pub(crate) async fn try_emit_once(&self, event: NamedEvent, object: &ObjectReference) -> Result<(), ApiError> {
        let NamedEvent { name, reason, annotations, related, note } = event;
        let namespace = object.namespace.clone().unwrap_or_default();
        let stored = StoredEvent {
            action: Some(reason.action().to_owned()),
            event_time: Some(MicroTime(Timestamp::now())),
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(namespace.clone()),
                annotations: Some(annotations),
                ..ObjectMeta::default()
            },
            note: Some(truncated(&note)),
            reason: Some(reason.as_str().to_owned()),
            regarding: Some(object.clone()),
            related,
            reporting_controller: Some(self.reporter.controller.clone()),
            reporting_instance: self.reporter.instance.clone(),
            type_: Some(
                match reason.event_type() {
                    EventType::Normal => "Normal",
                    EventType::Warning => "Warning",
                }
                .to_owned(),
            ),
            ..StoredEvent::default()
        };
        let events: Api<StoredEvent> = Api::namespaced(self.client.clone(), &namespace);
        match in_time(events.create(&PostParams::default(), &stored)).await {
            Ok(_) | Err(ApiError::Conflict) => Ok(()),
            Err(error) => {
                log(&error, reason, &note);
                Err(error)
            }
        }
    }
}

/// Limits the time of a request.
async fn in_time<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, ApiError> {
    Ok(timeout(TIMEOUT, request).await.map_err(|_| ApiError::TimedOut(TIMEOUT))??)
}

fn log(error: &ApiError, reason: EventReason, note: &str) {
    let reason = reason.as_str();
    tracing::warn!(%error, reason, note, "cannot write an Event");
}

/// Returns the reference of an Event to a pod; without a uid `kubectl describe` does not find the Event.
#[must_use]
pub fn pod_reference(namespace: &str, name: &str, uid: Option<&str>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        uid: uid.map(str::to_owned),
        ..ObjectReference::default()
    }
}

/// Returns the reference of an Event to an object.
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

/// Returns the name of an Event on an object: the same for the same identity.
pub(crate) fn name_of_event(object: &str, identity: &str) -> String {
    let mut name = format!("{}.", object.get(..object.floor_char_boundary(LONGEST_PREFIX)).unwrap_or_default());
    for byte in sha256(identity.as_bytes()).iter().take(8) {
        // Writing to a string cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    name
}

fn truncated(note: &str) -> String {
    note.get(..note.floor_char_boundary(LONGEST_NOTE)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_truncated_between_characters() {
        assert_eq!(truncated("short"), "short");
        let long = "é".repeat(600);
        assert_eq!(truncated(&long).len(), 1024);
        assert_eq!(truncated(&format!("x{long}")).len(), 1023);
    }
}
