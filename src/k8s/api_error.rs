//! Why a request to the API server failed, in the terms that callers act on.

use std::{error::Error, time::Duration};

use kube::core::Status;

/// Why a request to the API server failed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ApiError {
    /// The object was changed or created by another client since it was read.
    #[error("another client has changed the object since it was read")]
    Conflict,
    /// The resource version or the continue token is older than the history that the API server keeps.
    #[error("the API server no longer has this resource version")]
    Expired,
    /// The account does not have the permission: the API server's message.
    #[error("{0}")]
    Forbidden(String),
    /// The kind exists and the object does not: the API server's message.
    #[error("{0}")]
    NotFound(String),
    /// The cluster has no such kind, so the operator that defines it is not installed.
    #[error("the cluster has no objects of this kind")]
    NotInstalled,
    /// A webhook, a policy or the schema rejected the request: their message.
    #[error("{0}")]
    Refused(String),
    /// No response came within this time. A write may have been stored nevertheless.
    #[error("no answer within {} s", .0.as_secs_f64())]
    TimedOut(Duration),
    /// The API server does not accept the credentials.
    #[error("the API server does not accept the credentials: {0}")]
    Unauthenticated(String),
    /// The API server cannot be reached, or cannot answer now.
    #[error("{0}")]
    Unavailable(String),
    /// The response is not JSON, or not the expected object.
    #[error("the answer cannot be read: {0}")]
    Unreadable(String),
}

impl ApiError {
    /// Whether the object is different from the one that was read, or gone: read it again before the next write.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict | Self::NotFound(_) | Self::NotInstalled)
    }

    fn unreachable(error: &(dyn Error + 'static)) -> Self {
        Self::Unavailable(format!("the API server cannot be reached: {}", root_cause(error)))
    }

    /// Whether the account lacks a permission, or has no valid credentials: unauthenticated callers get 401 instead of
    /// 403.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Forbidden(_) | Self::Unauthenticated(_))
    }
}

impl From<&Status> for ApiError {
    fn from(status: &Status) -> Self {
        let Status { code, message, .. } = status;
        let or_code = || if message.is_empty() { format!("status {code}") } else { message.clone() };
        match code {
            // A webhook may deny with any status code; the prefix of the message is written by the API server.
            _ if is_webhook_denial(message) => Self::Refused(message.clone()),
            401 => Self::Unauthenticated(or_code()),
            403 => Self::Forbidden(or_code()),
            404 if names_an_object(status) => Self::NotFound(or_code()),
            404 => Self::NotInstalled,
            409 => Self::Conflict,
            410 => Self::Expired,
            422 if is_failed_test(status) => Self::Conflict,
            408 | 429 => Self::Unavailable(unavailable(status)),
            400..500 => Self::Refused(or_code()),
            _ => Self::Unavailable(unavailable(status)),
        }
    }
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::from(&*status),
            kube::Error::SerdeError(error) => Self::Unreadable(error.to_string()),
            kube::Error::BuildRequest(error) => error.into(),
            error => Self::unreachable(&error),
        }
    }
}

/// The connection was lost within the body of a response.
impl From<std::io::Error> for ApiError {
    fn from(error: std::io::Error) -> Self {
        Self::unreachable(&error)
    }
}

/// The request cannot be built, for example because a name does not fit into a URL.
impl From<kube::core::request::Error> for ApiError {
    fn from(error: kube::core::request::Error) -> Self {
        Self::Refused(error.to_string())
    }
}

fn unavailable(status: &Status) -> String {
    format!("the API server answered {}: {}", status.code, status.message)
}

/// `admission webhook "x" denied the request: …` (`ToStatusErr` in k8s.io/apiserver).
fn is_webhook_denial(message: &str) -> bool {
    message.starts_with("admission webhook ") && message.contains(" denied the request")
}

/// For a kind that does not exist the API server names no object.
fn names_an_object(status: &Status) -> bool {
    status.reason == "NotFound" && status.details.as_ref().is_some_and(|details| !details.name.is_empty())
}

/// Whether a JSON patch did not apply, because a `test` failed or a path does not exist. The API server's answer then
/// has neither an object nor a cause; its answer to a patch whose result is invalid has them (`applyJSPatch` in
/// k8s.io/apiserver).
fn is_failed_test(status: &Status) -> bool {
    status.details.as_ref().is_none_or(|details| details.name.is_empty() && details.causes.is_empty())
}

/// Returns the text of the first cause of an error; the errors that wrap it repeat it.
#[must_use]
pub fn root_cause(error: &dyn Error) -> String {
    error.source().map_or_else(|| error.to_string(), root_cause)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(status: Value) -> ApiError {
        ApiError::from(&serde_json::from_value::<Status>(status).unwrap())
    }

    #[test]
    fn a_status_becomes_the_reason_that_a_caller_acts_on() {
        let refused = |message: &str| ApiError::Refused(message.to_owned());
        let unavailable = |message: &str| ApiError::Unavailable(format!("the API server answered {message}"));
        let denied = "admission webhook \"x.example.com\" denied the request: no";
        let policy =
            "virtualmachines.kubevirt.io \"vm\" is forbidden: ValidatingAdmissionPolicy 'x' denied request: no";
        let details = json!({"name": "vm", "kind": "things"});
        for (status, expected) in [
            (json!({"code": 409, "reason": "Conflict", "message": "modified"}), ApiError::Conflict),
            (
                json!({"code": 404, "reason": "NotFound", "message": "gone", "details": details}),
                ApiError::NotFound("gone".to_owned()),
            ),
            (json!({"code": 404, "message": "404 page not found"}), ApiError::NotInstalled),
            (json!({"code": 404, "reason": "NotFound", "message": "x", "details": {}}), ApiError::NotInstalled),
            (json!({"code": 410, "message": "too old resource version: 9 (15)"}), ApiError::Expired),
            (json!({"code": 422, "message": policy, "details": {"name": "vm"}}), refused(policy)),
            (json!({"code": 422, "message": denied}), refused(denied)),
            (json!({"code": 409, "message": denied}), refused(denied)),
            (json!({"code": 500, "message": denied}), refused(denied)),
            (json!({"code": 403, "message": "forbidden"}), ApiError::Forbidden("forbidden".to_owned())),
            (json!({"code": 400}), refused("status 400")),
            (json!({"code": 401, "message": "no"}), ApiError::Unauthenticated("no".to_owned())),
            (json!({"code": 429, "message": "slow down"}), unavailable("429: slow down")),
            (
                json!({"code": 500, "message": "failed calling webhook \"x\""}),
                unavailable("500: failed calling webhook \"x\""),
            ),
            (json!({"code": 503, "message": "starting"}), unavailable("503: starting")),
        ] {
            assert_eq!(of(status.clone()), expected, "{status}");
        }
    }

    #[test]
    fn a_failed_test_is_a_conflict_and_an_invalid_object_is_not() {
        let message = "the server rejected our request due to an error in our request";
        for details in [json!({}), Value::Null] {
            let status = json!({"code": 422, "reason": "Invalid", "message": message, "details": details});
            assert_eq!(of(status.clone()), ApiError::Conflict, "{status}");
        }
        for details in [json!({"name": "vm"}), json!({"causes": [{"field": "x"}]})] {
            let status = json!({"code": 422, "reason": "Invalid", "message": message, "details": details});
            assert_eq!(of(status.clone()), ApiError::Refused(message.to_owned()), "{status}");
        }
    }

    #[test]
    fn a_caller_that_finds_an_object_gone_reads_again() {
        let gone = ApiError::NotFound("gone".to_owned());
        assert!(ApiError::Conflict.is_conflict() && gone.is_conflict() && ApiError::NotInstalled.is_conflict());
        assert!(!ApiError::Refused("no".to_owned()).is_conflict());
        assert!(ApiError::Unauthenticated("no".to_owned()).is_forbidden() && !gone.is_forbidden());
    }
}
