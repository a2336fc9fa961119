//! The objects around a VM with a pending NIC, read from the API server: the store has no pods and no Events.

use std::collections::BTreeMap;

use kube::core::params::ListParams;
use serde_json::Value;

use super::tracker::{EarlierEvent, NicKey};
use crate::{
    facts::{Fact, FactSource},
    hotplug::place::{self, CREATED_BY, GuestReport, PendingReason, Surroundings},
    k8s::{
        Key,
        api_error::ApiError,
        events::EventReason,
        kind::Kind,
        request::{ApiClient, Fields, ObjectPath},
    },
    settings::Settings,
};

/// The annotation of an Event with the name of its NIC.
pub(super) const INTERFACE: &str = "nicplug.io/interface";

/// The annotation of an Event with the kind of reason why the NIC is pending.
pub(super) const REASON: &str = "nicplug.io/pending-reason";

/// The size of a page of a list.
const PAGE: u32 = 500;

/// Reads the objects around VMs; those of a namespace once for all its VMs.
pub(super) struct Reader<'c> {
    client: &'c ApiClient,
    namespaces: BTreeMap<String, NamespaceObjects>,
}

/// `None` without permission, or after an error: the sentence then names what was not read.
struct NamespaceObjects {
    migrations: Option<Vec<Value>>,
    events: Option<Vec<Value>>,
}

impl<'c> Reader<'c> {
    pub(super) fn new(client: &'c ApiClient) -> Self {
        Self { client, namespaces: BTreeMap::new() }
    }

    /// Reads a VM and what is around it, and returns the VM and where its NICs are; `None` if it does not exist.
    pub(super) async fn report(
        &mut self,
        (namespace, name): &Key,
        facts: &dyn FactSource,
        settings: &Settings,
    ) -> Result<Option<(Value, GuestReport)>, ApiError> {
        let Fact::Known(vm) = self.get(Kind::Vm, namespace, name).await? else { return Ok(None) };
        let vmi = self.get(Kind::Vmi, namespace, name).await?;
        let uid = vmi.known().and_then(|vmi| vmi.pointer("/metadata/uid")?.as_str());
        let pods = match uid {
            Some(uid) => {
                let params = ListParams::default().labels(&format!("{CREATED_BY}={uid}"));
                list(self.client, "pods", namespace, params).await.ok()
            }
            None => Some(Vec::new()),
        };
        if !self.namespaces.contains_key(namespace) {
            let objects = self.read_namespace(namespace).await;
            self.namespaces.insert(namespace.clone(), objects);
        }
        let shared = self.namespaces.get(namespace);
        let report = place::report(&Surroundings {
            vm: Some(&vm),
            vmi: vmi.as_ref(),
            pods: pods.as_deref(),
            migrations: shared.and_then(|shared| shared.migrations.as_deref()),
            events: shared.and_then(|shared| shared.events.as_deref()),
            facts,
            settings,
        });
        Ok(Some((vm, report)))
    }

    async fn get(&self, kind: Kind, namespace: &str, name: &str) -> Result<Fact<Value>, ApiError> {
        match self.client.get(&ObjectPath::one(kind, namespace, name)).await {
            Ok(text) => parse(&text).map(Fact::Known),
            Err(ApiError::NotFound(_)) => Ok(Fact::Absent),
            Err(error) => Err(error),
        }
    }

    async fn read_namespace(&self, namespace: &str) -> NamespaceObjects {
        let path = ObjectPath::all(Kind::Migration, namespace);
        let migrations = self.client.list(&path, ListParams::default().limit(PAGE), Fields::All).objects().await;
        let migrations =
            migrations.and_then(|all| all.iter().map(|text| parse(text)).collect::<Result<Vec<_>, _>>()).ok();
        let warnings = ListParams::default().fields("type=Warning");
        let events = list(self.client, "events", namespace, warnings).await.ok();
        NamespaceObjects { migrations, events }
    }
}

/// Reads the Events of earlier leaders about NICs, in the order of their times.
pub(super) async fn earlier_events(client: &ApiClient) -> Result<Vec<(NicKey, String, EarlierEvent)>, ApiError> {
    let mut found = Vec::new();
    for reason in [EventReason::InterfacePending, EventReason::InterfaceAttached] {
        let params = ListParams::default().fields(&format!("reason={}", reason.as_str()));
        let events = list(client, "events", "", params).await?;
        found.extend(events.iter().filter_map(|event| Some((text(event, "/eventTime").to_owned(), earlier(event)?))));
    }
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(found.into_iter().map(|(_, event)| event).collect())
}

fn earlier(event: &Value) -> Option<(NicKey, String, EarlierEvent)> {
    let annotation = |name: &str| event.pointer("/metadata/annotations")?.get(name)?.as_str();
    let [namespace, name, uid] =
        ["/involvedObject/namespace", "/involvedObject/name", "/involvedObject/uid"].map(|path| text(event, path));
    let key = NicKey { vm: (namespace.to_owned(), name.to_owned()), nic: annotation(INTERFACE)?.to_owned() };
    let reported = if text(event, "/reason") == EventReason::InterfaceAttached.as_str() {
        EarlierEvent::Attached
    } else {
        let label = annotation(REASON)?;
        EarlierEvent::Pending(PendingReason::ALL.into_iter().find(|reason| reason.as_str() == label)?)
    };
    Some((key, uid.to_owned(), reported))
}

async fn list(client: &ApiClient, plural: &str, namespace: &str, params: ListParams) -> Result<Vec<Value>, ApiError> {
    let objects = client.list_core(plural, namespace, params.limit(PAGE)).objects().await?;
    objects.iter().map(|text| parse(text)).collect()
}

fn parse(object: &str) -> Result<Value, ApiError> {
    serde_json::from_str(object).map_err(|error| ApiError::Unreadable(error.to_string()))
}

fn text<'v>(object: &'v Value, pointer: &str) -> &'v str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_names_its_nic_and_its_reason() {
        let event = |reason: &str, annotations: Value| {
            json!({"metadata": {"annotations": annotations}, "reason": reason,
                "involvedObject": {"namespace": "demo", "name": "vm", "uid": "1"}})
        };
        let key = NicKey { vm: ("demo".to_owned(), "vm".to_owned()), nic: "blue".to_owned() };
        for (event, expected) in [
            (
                event("InterfacePending", json!({(INTERFACE): "blue", (REASON): "restart"})),
                Some(EarlierEvent::Pending(PendingReason::Restart)),
            ),
            (event("InterfaceAttached", json!({(INTERFACE): "blue"})), Some(EarlierEvent::Attached)),
            (event("InterfacePending", json!({(INTERFACE): "blue", (REASON): "of another version"})), None),
            (event("InterfacePending", json!({})), None),
            (event("InterfacePending", json!(null)), None),
        ] {
            assert_eq!(earlier(&event), expected.map(|expected| (key.clone(), "1".to_owned(), expected)), "{event}");
        }
    }
}
