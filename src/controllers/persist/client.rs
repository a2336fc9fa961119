//! Reads and patches objects as JSON values, always from the API server and never from the cache.

use std::time::Duration;

use json_patch::PatchOperation;
use kube::{Client, core::params::ListParams};
use serde_json::Value;

use crate::k8s::{
    api_error::ApiError,
    kind::Kind,
    request::{ApiClient, Fields, ObjectPath},
};

/// How long a response may take. A write that gets no response may be stored; the next reconciliation then finds it.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The name of the writer in `managedFields`.
const FIELD_MANAGER: &str = "nicplug-persist";

/// Reads and patches objects as JSON values.
#[derive(Clone)]
pub(crate) struct ObjectClient(ApiClient);

impl ObjectClient {
    pub(crate) fn new(client: Client) -> Self {
        Self(ApiClient::new(client, TIMEOUT))
    }

    /// Reads an object; `None` if it does not exist.
    pub(crate) async fn get(&self, path: &ObjectPath) -> Result<Option<Value>, ApiError> {
        match self.0.get(path).await {
            Ok(object) => parse(&object).map(Some),
            Err(ApiError::NotFound(_) | ApiError::NotInstalled) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads all objects of a kind.
    pub(crate) async fn list(&self, kind: Kind) -> Result<Vec<Value>, ApiError> {
        let path = ObjectPath::all(kind, "");
        match self.0.list(&path, ListParams::default(), Fields::All).objects().await {
            Ok(objects) => objects.iter().map(|object| parse(object)).collect(),
            Err(ApiError::NotFound(_) | ApiError::NotInstalled) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Patches an object, or its status.
    pub(crate) async fn patch(
        &self,
        path: &ObjectPath,
        subresource: Option<&str>,
        operations: Vec<PatchOperation>,
    ) -> Result<(), ApiError> {
        self.0.patch(path, subresource, FIELD_MANAGER, operations).await
    }
}

fn parse(object: &str) -> Result<Value, ApiError> {
    serde_json::from_str(object).map_err(|error| ApiError::Unreadable(error.to_string()))
}
