//! Resources that nicplug writes and no rule reads: whether a cluster serves them, and requests for their objects.

use hyper::Request;
use kube::core::params::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use serde_json::Value;

use super::{
    api_error::ApiError,
    request::{ApiClient, Pages, collection},
};

/// A resource in a version of its group, with namespaces.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Resource {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
}

impl Resource {
    /// Returns `apiVersion` of the objects.
    pub(crate) fn api_version(&self) -> String {
        format!("{}/{}", self.group, self.version)
    }

    fn collection(&self, namespace: &str) -> kube::core::Request {
        collection(self.group, self.version, self.plural, namespace)
    }
}

impl ApiClient {
    /// Returns whether the API server serves the resource, by discovery, which every authenticated user may read.
    pub(crate) async fn serves(&self, resource: &Resource) -> Result<bool, ApiError> {
        let path = format!("/apis/{}", resource.api_version());
        let request = Request::get(path).body(Vec::new()).map_err(|error| ApiError::Refused(error.to_string()))?;
        match self.text(request).await {
            Ok(text) => Ok(lists(&text, resource.plural)),
            Err(ApiError::NotInstalled) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Lists objects page by page; in all namespaces if `namespace` is empty.
    pub(crate) fn list_resource(&self, resource: &Resource, namespace: &str, params: ListParams) -> Pages<'_> {
        self.pages(resource.collection(namespace), params)
    }

    /// Creates or changes an object by server-side apply. Fields that another manager has changed are changed back.
    pub(crate) async fn apply(
        &self,
        resource: &Resource,
        [namespace, name]: [&str; 2],
        field_manager: &str,
        object: &Value,
    ) -> Result<(), ApiError> {
        let params = PatchParams::apply(field_manager).force();
        let request = resource.collection(namespace).patch(name, &params, &Patch::Apply(object))?;
        self.text(request).await.map(drop)
    }

    /// Deletes an object, unless another one has its name by now.
    pub(crate) async fn delete(
        &self,
        resource: &Resource,
        [namespace, name]: [&str; 2],
        uid: &str,
    ) -> Result<(), ApiError> {
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let params = DeleteParams::default().preconditions(preconditions);
        self.text(resource.collection(namespace).delete(name, &params)?).await.map(drop)
    }
}

/// Whether an `APIResourceList` has the resource.
fn lists(text: &str, plural: &str) -> bool {
    let list: Value = serde_json::from_str(text).unwrap_or_default();
    let resources = list.get("resources").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    resources.iter().any(|resource| resource.get("name").and_then(Value::as_str) == Some(plural))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_is_served_if_the_list_of_its_version_has_it() {
        let list = r#"{"kind": "APIResourceList", "resources": [{"name": "reports"}, {"name": "reports/status"}]}"#;
        for (text, plural, is_listed) in
            [(list, "reports", true), (list, "clusterreports", false), ("{}", "reports", false), ("", "reports", false)]
        {
            assert_eq!(lists(text, plural), is_listed, "{text} {plural}");
        }
    }
}
