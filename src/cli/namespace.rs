//! The error for a namespace that does not exist: without it a list in it is only empty.

use anyhow::anyhow;
use kube::core::params::ListParams;
use serde::Deserialize;

use crate::{
    facts::nad::closest_name,
    k8s::{
        api_error::ApiError,
        kind::Kind,
        request::{ApiClient, Fields, ObjectPath},
    },
};

/// The maximum number of names that are compared with a misspelled name.
const MAX_NAMES: u32 = 500;

/// An object of which only the name is read.
#[derive(Deserialize)]
struct Named {
    metadata: Name,
}

#[derive(Deserialize)]
struct Name {
    name: String,
}

/// Returns an error if the namespace does not exist, with a similar name. A user without the permission to read
/// namespaces gets none.
pub(super) async fn ensure_exists(client: &ApiClient, namespace: &str) -> anyhow::Result<()> {
    let path = ObjectPath::one(Kind::Namespace, "", namespace);
    if !matches!(client.get(&path).await, Err(ApiError::NotFound(_))) {
        return Ok(());
    }
    let names = names(client, &ObjectPath::all(Kind::Namespace, "")).await;
    let hint = match closest_name(namespace, names.iter().map(String::as_str)) {
        Some(near) => format!("; did you mean {near:?}?"),
        None => "; pass -n for another one".to_owned(),
    };
    Err(anyhow!("namespace {namespace:?} not found{hint}"))
}

/// Returns the names of objects, of which there may be more; none if they cannot be listed.
pub(super) async fn names(client: &ApiClient, path: &ObjectPath) -> Vec<String> {
    let mut pages = client.list(path, ListParams::default().limit(MAX_NAMES), Fields::Metadata);
    let Ok(Some(page)) = pages.next().await else { return Vec::new() };
    page.iter().filter_map(|text| serde_json::from_str::<Named>(text).ok()).map(|object| object.metadata.name).collect()
}
