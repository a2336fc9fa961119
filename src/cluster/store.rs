//! Objects of the cluster, reduced to facts and found by name.

use std::{collections::HashMap, sync::Arc};

use serde::Deserialize;
use serde_json::Value;

use crate::{
    api::{cluster, review::ObjectKind, vm::VirtualMachineInstance},
    change::Change,
    facts::{Fact, FactSource, Facts, Instance, KubeVirt},
};

/// Namespace and name.
type Key = (String, String);

/// Everything that is known of one cluster.
#[derive(Clone, Debug, Default)]
pub struct Store {
    kubevirt: Fact<Arc<KubeVirt>>,
    /// `None` where nobody may look: what is not in a listing that exists is absent.
    instances: Option<HashMap<Key, Arc<Instance>>>,
}

/// An object that a view cannot be made of.
#[derive(Debug, thiserror::Error)]
#[error("{kind} {name:?}: {field}: {message}")]
pub struct ObjectError {
    kind: String,
    name: String,
    field: String,
    message: String,
}

impl Store {
    /// A store that holds all there is: what is not inserted does not exist.
    #[must_use]
    pub fn of_a_whole_world() -> Self {
        Self { kubevirt: Fact::Unknown, instances: Some(HashMap::new()) }
    }

    /// Takes an object in; one of a kind that no rule asks for is skipped.
    ///
    /// # Errors
    /// A field that is read has a wrong type.
    pub fn insert(&mut self, object: &Value) -> Result<(), ObjectError> {
        let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
        let group = text("apiVersion").rsplit_once('/').map_or("", |(group, _)| group);
        match (group, text("kind")) {
            ("kubevirt.io", "KubeVirt") => {
                let resource: cluster::KubeVirt = view(object, &object.to_string())?;
                self.kubevirt = Fact::Known(Arc::new(KubeVirt::from(resource)));
            }
            ("kubevirt.io", "VirtualMachineInstance") => {
                let text = object.to_string();
                let vmi: VirtualMachineInstance = view(object, &text)?;
                let key = (vmi.metadata.namespace.to_string(), vmi.metadata.name.to_string());
                self.instances.get_or_insert_default().insert(key, Arc::new(Instance::from(&vmi)));
            }
            _ => {}
        }
        Ok(())
    }

    fn instance(&self, namespace: &str, name: &str) -> Fact<Arc<Instance>> {
        let Some(instances) = &self.instances else { return Fact::Unknown };
        match instances.get(&(namespace.to_owned(), name.to_owned())) {
            Some(instance) => Fact::Known(Arc::clone(instance)),
            None => Fact::Absent,
        }
    }
}

impl FactSource for Store {
    fn facts_for(&self, change: &Change) -> Facts {
        let subject = change.subject;
        let instance = match subject.kind {
            ObjectKind::VirtualMachine | ObjectKind::Instance => self.instance(subject.namespace, subject.name),
            ObjectKind::Migration | ObjectKind::Other | ObjectKind::Pool | ObjectKind::ReplicaSet => Fact::Absent,
        };
        Facts { kubevirt: self.kubevirt.clone(), instance }
    }
}

/// Reads a view of an object that was written to `text`.
fn view<'t, T: Deserialize<'t>>(object: &Value, text: &'t str) -> Result<T, ObjectError> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| ObjectError {
        kind: object.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned(),
        name: object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned(),
        field: error.path().to_string(),
        message: error.inner().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_unknown_kind_is_skipped_and_a_wrong_type_is_told_by_its_path() {
        let mut store = Store::of_a_whole_world();
        store.insert(&json!({"apiVersion": "v1", "kind": "Secret", "data": 5})).unwrap();
        let error = store
            .insert(&json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
                "metadata": {"name": "a"}, "spec": {"networks": [{"name": 1}]}}))
            .unwrap_err()
            .to_string();
        assert!(error.contains("VirtualMachineInstance \"a\": spec.networks[0].name"), "{error}");
    }

    #[test]
    fn what_a_whole_world_does_not_hold_is_absent_and_elsewhere_it_is_unknown() {
        let mut store = Store::of_a_whole_world();
        assert_eq!(store.instance("demo", "a"), Fact::Absent);
        assert_eq!(Store::default().instance("demo", "a"), Fact::Unknown);
        store
            .insert(&json!({"apiVersion": "kubevirt.io/v1alpha3", "kind": "VirtualMachineInstance",
                "metadata": {"name": "a", "namespace": "demo"}, "status": {"phase": "Running"}}))
            .unwrap();
        assert!(store.instance("demo", "a").known().unwrap().is_live());
    }
}
