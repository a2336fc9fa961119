//! Objects of the API server as JSON values, read and patched, and what an error means for whoever tries again.

use std::time::Duration;

use json_patch::PatchOperation;
use kube::{
    Client,
    api::{GetParams, ListParams, PatchParams},
    core::{Request, Status},
};
use serde_json::Value;
use tokio::time::timeout;

use crate::k8s::{
    kind::Kind,
    patch::{self, is_failed_test},
};

/// Why something was not done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Trouble {
    /// The object is not what it was when it was read: read it again.
    Conflict,
    /// The API server cannot be reached, or cannot answer now.
    Away(String),
    /// Somebody says no: a webhook, a policy, the schema, or whoever grants permissions.
    Refused(String),
}

/// The API server.
#[derive(Clone)]
pub(crate) struct Objects {
    client: Client,
}

impl Objects {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// An object as it is stored, not from a cache; `None` where there is none.
    pub(crate) async fn get(&self, kind: Kind, namespace: &str, name: &str) -> Result<Option<Value>, Trouble> {
        let request = Request::new(path(kind, Some(namespace))).get(name, &GetParams::default());
        let request = request.map_err(|error| Trouble::Refused(error.to_string()))?;
        in_time(async {
            match self.client.request(request).await {
                Ok(object) => Ok(Some(object)),
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
                Err(error) => Err(trouble(error)),
            }
        })
        .await
    }

    /// All objects of a kind.
    pub(crate) async fn list(&self, kind: Kind) -> Result<Vec<Value>, Trouble> {
        let request = Request::new(path(kind, None)).list(&ListParams::default());
        let request = request.map_err(|error| Trouble::Refused(error.to_string()))?;
        in_time(async {
            match self.client.request::<Value>(request).await {
                Ok(mut list) => match list.get_mut("items").map(Value::take) {
                    Some(Value::Array(items)) => Ok(items),
                    _ => Ok(Vec::new()),
                },
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
                Err(error) => Err(trouble(error)),
            }
        })
        .await
    }

    /// Patches an object, or its status.
    pub(crate) async fn patch(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        subresource: Option<&str>,
        operations: Vec<PatchOperation>,
    ) -> Result<(), Trouble> {
        let unusable = |error: &dyn std::fmt::Display| Trouble::Refused(error.to_string());
        let patch = patch::to_send(operations).map_err(|error| unusable(&error))?;
        let (request, params) = (Request::new(path(kind, Some(namespace))), PatchParams::apply(FIELD_MANAGER));
        let request = match subresource {
            Some(subresource) => request.patch_subresource(subresource, name, &params, &patch),
            None => request.patch(name, &params, &patch),
        };
        let request = request.map_err(|error| unusable(&error))?;
        in_time(async { self.client.request::<Value>(request).await.map(|_| ()).map_err(trouble) }).await
    }
}

/// How long an answer may take. What was sent may be carried out all the same, and is found done then.
const PATIENCE: Duration = Duration::from_secs(30);

async fn in_time<T>(request: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    match timeout(PATIENCE, request).await {
        Ok(answer) => answer,
        Err(_) => Err(Trouble::Away(format!("no answer within {PATIENCE:?}"))),
    }
}

/// Who the API server notes as the writer of what is mirrored.
const FIELD_MANAGER: &str = "nicplug-persist";

fn path(kind: Kind, namespace: Option<&str>) -> String {
    let (group, version, plural) = (kind.group(), kind.version(), kind.plural());
    match namespace {
        Some(namespace) => format!("/apis/{group}/{version}/namespaces/{namespace}/{plural}"),
        None => format!("/apis/{group}/{version}/{plural}"),
    }
}

fn trouble(error: kube::Error) -> Trouble {
    match error {
        kube::Error::Api(status) => trouble_of(&status),
        error => Trouble::Away(error.to_string()),
    }
}

fn trouble_of(status: &Status) -> Trouble {
    let message = || if status.message.is_empty() { format!("status {}", status.code) } else { status.message.clone() };
    match status.code {
        // A webhook may deny with any status that it likes; the words are the API server's.
        _ if is_denial(&status.message) => Trouble::Refused(message()),
        404 | 409 => Trouble::Conflict,
        _ if is_failed_test(status) => Trouble::Conflict,
        401 | 408 | 429 => Trouble::Away(message()),
        400..500 => Trouble::Refused(message()),
        _ => Trouble::Away(message()),
    }
}

/// `admission webhook "x" denied the request: …` (`ToStatusErr` in k8s.io/apiserver).
fn is_denial(message: &str) -> bool {
    message.starts_with("admission webhook ") && message.contains(" denied the request")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_says_whether_to_read_again_to_wait_or_to_tell() {
        let refused = |message: &str| Trouble::Refused(message.to_owned());
        let away = |message: &str| Trouble::Away(message.to_owned());
        let test_failed = "the server rejected our request due to an error in our request";
        let denied = "admission webhook \"x.example.com\" denied the request: no";
        let policy =
            "virtualmachines.kubevirt.io \"vm\" is forbidden: ValidatingAdmissionPolicy 'x' denied request: no";
        for (status, expected) in [
            (json!({"code": 409, "reason": "Conflict", "message": "modified"}), Trouble::Conflict),
            (json!({"code": 404, "reason": "NotFound", "message": "gone"}), Trouble::Conflict),
            (json!({"code": 422, "reason": "Invalid", "message": test_failed, "details": {}}), Trouble::Conflict),
            (json!({"code": 422, "reason": "Invalid", "message": test_failed}), Trouble::Conflict),
            (json!({"code": 422, "message": policy, "details": {"name": "vm"}}), refused(policy)),
            (json!({"code": 422, "message": "invalid", "details": {"causes": [{"field": "x"}]}}), refused("invalid")),
            (json!({"code": 422, "message": denied}), refused(denied)),
            (json!({"code": 409, "message": denied}), refused(denied)),
            (json!({"code": 500, "message": denied}), refused(denied)),
            (json!({"code": 403, "message": "forbidden"}), refused("forbidden")),
            (json!({"code": 400}), refused("status 400")),
            (json!({"code": 401, "message": "Unauthorized"}), away("Unauthorized")),
            (json!({"code": 429, "message": "slow down"}), away("slow down")),
            (json!({"code": 500, "message": "failed calling webhook \"x\""}), away("failed calling webhook \"x\"")),
            (json!({"code": 503, "message": "starting"}), away("starting")),
        ] {
            assert_eq!(trouble_of(&serde_json::from_value(status.clone()).unwrap()), expected, "{status}");
        }
    }
}
