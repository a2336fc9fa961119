//! Activates the webhooks: lets the API server call them once a replica can answer.
//!
//! The webhooks are registered before any replica runs, and with the failure policy `Fail` the API server would deny
//! every change of a virtual machine until then. Therefore their match condition asks the API server's authorizer
//! whether a service account may `call` the `webhooks` of `nicplug.io`. That account does not exist, and the permission
//! allows nothing else. A RoleBinding grants it. The RoleBinding is installed without a subject; the first replica that
//! is ready and an endpoint of the Service writes the account into it. The installed manifest has no such field, so
//! tools that compare manifest and object find no difference. The subject stays: the API server then calls the webhooks
//! even if no replica is left.
//!
//! Kubernetes lets a client grant only permissions that it has itself. Therefore nicplug has this permission too, and
//! needs no permission for the verb `bind`.

use std::{convert::Infallible, future, pin::pin};

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::{
    discovery::v1::EndpointSlice,
    rbac::v1::{RoleBinding, Subject},
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::sync::watch;

use crate::{
    facts::Fact,
    k8s::{
        api_error::{ApiError, root_cause},
        follow::follow,
        log_once::LogOnce,
    },
};

/// The name of the writer in `managedFields`.
const FIELD_MANAGER: &str = "nicplug-webhook-activation";

/// The label of an EndpointSlice with the name of its Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// The names of the objects that the activation uses.
#[derive(Clone, Debug)]
pub struct ObjectNames {
    /// The namespace of the RoleBinding, the Service and the account.
    pub namespace: String,
    /// The name of the RoleBinding and of the account.
    pub binding: String,
    /// The name of the Service through which the API server calls the webhooks.
    pub service: String,
}

/// Whether the API server calls the webhooks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Activation {
    /// It does.
    Active,
    /// It does not yet: the condition that is not met.
    Waiting(String),
    /// It does not, or that is unknown: the error.
    Failed(String),
}

/// Activates the webhooks once a replica can answer.
pub struct WebhookActivation {
    client: Client,
    names: ObjectNames,
    activation: watch::Sender<Activation>,
}

impl WebhookActivation {
    /// Does nothing until [`run`](Self::run) is called.
    #[must_use]
    pub fn new(client: Client, names: ObjectNames) -> Self {
        let activation = watch::Sender::new(Activation::Waiting("the RoleBinding has not been read yet".to_owned()));
        Self { client, names, activation }
    }

    /// Returns whether the API server calls the webhooks, as a value that changes.
    #[must_use]
    pub fn activation(&self) -> watch::Receiver<Activation> {
        self.activation.subscribe()
    }

    /// Watches the RoleBinding. If its subject is missing, writes it as soon as `is_ready` returns true at a tick and
    /// the Service has a ready endpoint.
    pub async fn run(&self, is_ready: impl Fn() -> bool, ticks: impl Stream<Item = ()>) -> Infallible {
        let ObjectNames { namespace, binding, .. } = &self.names;
        let bindings = Api::namespaced(self.client.clone(), namespace);
        let mut bindings = pin!(follow::<RoleBinding>(bindings, binding));
        let mut ticks = pin!(ticks);
        let mut is_bound = Fact::Unknown;
        let mut log_once = LogOnce::default();
        loop {
            tokio::select! {
                Some(changed) = bindings.next() => match changed {
                    Ok(found) => {
                        is_bound = found.map_or(Fact::Absent, |found| Fact::Known(self.is_subject_of(&found)));
                        log_once.changed(None);
                    }
                    Err(error) if is_bound == Fact::Unknown => self.set(Activation::Failed(root_cause(&error))),
                    // The last known state stays.
                    Err(error) => if let Some(error) = log_once.changed(Some(root_cause(&error))) {
                        tracing::warn!(error, "cannot watch the RoleBinding that activates the webhooks");
                    },
                },
                Some(()) = ticks.next(), if is_bound == Fact::Known(false) => {}
                else => future::pending().await,
            }
            match is_bound {
                Fact::Unknown => {}
                Fact::Known(true) => self.set(Activation::Active),
                Fact::Known(false) => match self.bind(is_ready()).await {
                    Ok(()) => {
                        is_bound = Fact::Known(true);
                        self.set(Activation::Active);
                    }
                    Err(activation) => self.set(activation),
                },
                Fact::Absent => self.set(Activation::Failed(format!(
                    "the RoleBinding {binding:?} is missing in the namespace {namespace:?}: install the chart again"
                ))),
            }
        }
    }

    /// Writes the subject, or returns why not.
    async fn bind(&self, is_ready: bool) -> Result<(), Activation> {
        let ObjectNames { namespace, binding, service } = &self.names;
        if !is_ready {
            return Err(Activation::Waiting("this replica is not ready".to_owned()));
        }
        let unreadable =
            |error| Activation::Failed(format!("cannot read the endpoints of the Service {service:?}: {error}"));
        if !self.has_endpoint().await.map_err(unreadable)? {
            return Err(Activation::Waiting(format!("the Service {service:?} has no ready endpoint")));
        }
        let bindings: Api<RoleBinding> = Api::namespaced(self.client.clone(), namespace);
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let patch = Patch::Merge(json!({"subjects": [self.account()]}));
        let written = bindings.patch(binding, &params, &patch).await.map_err(ApiError::from);
        written.map_err(|error| Activation::Failed(format!("cannot write the RoleBinding {binding:?}: {error}")))?;
        Ok(())
    }

    async fn has_endpoint(&self) -> Result<bool, ApiError> {
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &self.names.namespace);
        let of_service = ListParams::default().labels(&format!("{SERVICE_LABEL}={}", self.names.service));
        let slices = slices.list(&of_service).await?;
        Ok(slices.items.iter().any(is_ready))
    }

    /// Returns the account whose permission activates the webhooks.
    fn account(&self) -> Subject {
        let ObjectNames { namespace, binding, .. } = &self.names;
        Subject {
            api_group: None,
            kind: "ServiceAccount".to_owned(),
            name: binding.clone(),
            namespace: Some(namespace.clone()),
        }
    }

    fn is_subject_of(&self, binding: &RoleBinding) -> bool {
        let account = self.account();
        let is_account = |subject: &Subject| {
            (&subject.kind, &subject.name, &subject.namespace) == (&account.kind, &account.name, &account.namespace)
        };
        binding.subjects.iter().flatten().any(is_account)
    }

    /// Sets the present state, and logs a change.
    fn set(&self, activation: Activation) {
        self.activation.send_if_modified(|before| {
            if *before == activation {
                return false;
            }
            match &activation {
                Activation::Active => tracing::info!("the API server calls the webhooks"),
                Activation::Waiting(reason) => tracing::info!(reason, "the API server does not call the webhooks yet"),
                Activation::Failed(reason) => tracing::warn!(reason, "the API server does not call the webhooks"),
            }
            *before = activation;
            true
        });
    }
}

fn is_ready(slice: &EndpointSlice) -> bool {
    slice.endpoints.iter().flatten().any(|endpoint| {
        let is_ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready);
        // The API defines a missing condition as ready.
        is_ready.unwrap_or(true)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_slice_is_ready_when_one_of_its_endpoints_is_ready() {
        let is_ready = |endpoints: Value| {
            let slice = json!({"metadata": {}, "addressType": "IPv4", "endpoints": endpoints});
            is_ready(&serde_json::from_value(slice).unwrap())
        };
        let endpoint = |conditions: Value| json!({"addresses": ["192.0.2.1"], "conditions": conditions});
        assert!(!is_ready(json!([])) && !is_ready(json!([endpoint(json!({"ready": false}))])));
        assert!(is_ready(json!([endpoint(json!({"ready": false})), endpoint(json!({"ready": true}))])));
        assert!(is_ready(json!([endpoint(json!({}))])));
    }
}
