//! From when on the API server calls the webhooks.
//!
//! They are registered before any replica runs, and with the failure policy `Fail` every change of a virtual machine
//! would be refused until one does. So their match condition asks the API server's own authorizer whether an account
//! may `call` the `webhooks` of `nicplug.io`. No such account exists, and the right opens nothing else. A RoleBinding
//! gives it; it is installed without a subject, and the first replica that is ready, and that the Service leads to,
//! writes the account in. The installed object does not have that field, so no tool that compares the two sees a
//! difference, and there it stays: once called, the webhooks are called also when no replica is left.
//!
//! Kubernetes lets nobody give a right by a binding that he lacks himself, so nicplug has this one too, and needs no
//! right to bind others.

use std::{convert::Infallible, future, pin::pin};

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::{
    discovery::v1::EndpointSlice,
    rbac::v1::{RoleBinding, Subject},
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
    runtime::{WatchStreamExt, watcher::watch_object},
};
use serde_json::json;
use tokio::sync::watch;

use crate::{facts::Fact, k8s::log_once::LogOnce};

/// Who the API server notes as the writer of the subject.
const FIELD_MANAGER: &str = "nicplug-calls";
/// What an EndpointSlice has the name of its Service in.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// The objects that it depends on.
#[derive(Clone, Debug)]
pub struct ObjectNames {
    /// The namespace of both, and of the account.
    pub namespace: String,
    /// The name of the RoleBinding, which is that of the account too.
    pub binding: String,
    /// The name of the Service that the webhooks are called by.
    pub service: String,
}

/// Whether the API server calls the webhooks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Activation {
    /// It does.
    Yes,
    /// It does not yet: what is waited for, in words.
    NotYet(String),
    /// It does not, or nobody knows: what is wrong, in words.
    No(String),
}

/// Lets the API server call, from when on that can be answered.
pub struct WebhookActivation {
    client: Client,
    places: ObjectNames,
    called: watch::Sender<Activation>,
}

impl WebhookActivation {
    /// Nothing is done until it is [kept](Self::keep).
    #[must_use]
    pub fn new(client: Client, places: ObjectNames) -> Self {
        let called = watch::Sender::new(Activation::NotYet("the RoleBinding has not been read yet".to_owned()));
        Self { client, places, called }
    }

    /// How it is, now and later.
    #[must_use]
    pub fn called(&self) -> watch::Receiver<Activation> {
        self.called.subscribe()
    }

    /// Watches the RoleBinding, and writes the subject when it is missing: as soon as `is_ready` says so at a tick, and
    /// the Service has an endpoint.
    pub async fn keep(&self, is_ready: impl Fn() -> bool, ticks: impl Stream<Item = ()>) -> Infallible {
        let ObjectNames { namespace, binding, .. } = &self.places;
        let bindings = Api::namespaced(self.client.clone(), namespace);
        let mut bindings = pin!(watch_object::<RoleBinding>(bindings, binding).default_backoff());
        let mut ticks = pin!(ticks);
        let mut is_bound = Fact::Unknown;
        let mut log_once = LogOnce::default();
        loop {
            tokio::select! {
                Some(changed) = bindings.next() => match changed {
                    Ok(found) => {
                        is_bound = found.map_or(Fact::Absent, |found| Fact::Known(self.is_in(&found)));
                        log_once.changed(None);
                    }
                    Err(error) if is_bound == Fact::Unknown => self.tell(Activation::No(error.to_string())),
                    // What was read before still holds, as far as anybody knows.
                    Err(error) => if let Some(trouble) = log_once.changed(Some(error.to_string())) {
                        tracing::warn!(trouble, "whether the API server calls the webhooks cannot be watched");
                    },
                },
                Some(()) = ticks.next(), if is_bound == Fact::Known(false) => {}
                else => future::pending().await,
            }
            match is_bound {
                Fact::Unknown => {}
                Fact::Known(true) => self.tell(Activation::Yes),
                Fact::Known(false) => match self.bind(is_ready()).await {
                    Ok(()) => {
                        is_bound = Fact::Known(true);
                        self.tell(Activation::Yes);
                    }
                    Err(called) => self.tell(called),
                },
                Fact::Absent => self.tell(Activation::No(format!(
                    "there is no RoleBinding {binding:?} in the namespace {namespace:?}: install the chart again"
                ))),
            }
        }
    }

    /// Writes the subject, or says why not.
    async fn bind(&self, is_ready: bool) -> Result<(), Activation> {
        let ObjectNames { namespace, binding, service } = &self.places;
        if !is_ready {
            return Err(Activation::NotYet("this replica is not ready".to_owned()));
        }
        let unreadable =
            |error| Activation::No(format!("whom the Service {service:?} leads to cannot be read: {error}"));
        if !self.has_endpoint().await.map_err(unreadable)? {
            return Err(Activation::NotYet(format!("the Service {service:?} leads to no replica")));
        }
        let bindings: Api<RoleBinding> = Api::namespaced(self.client.clone(), namespace);
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let patch = Patch::Merge(json!({"subjects": [self.account()]}));
        let written = bindings.patch(binding, &params, &patch).await;
        written.map_err(|error| Activation::No(format!("the RoleBinding {binding:?} cannot be written: {error}")))?;
        Ok(())
    }

    async fn has_endpoint(&self) -> Result<bool, kube::Error> {
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &self.places.namespace);
        let of_service = ListParams::default().labels(&format!("{SERVICE_LABEL}={}", self.places.service));
        let slices = slices.list(&of_service).await?;
        Ok(slices.items.iter().any(is_ready))
    }

    /// The account that may have the webhooks called.
    fn account(&self) -> Subject {
        let ObjectNames { namespace, binding, .. } = &self.places;
        Subject {
            api_group: None,
            kind: "ServiceAccount".to_owned(),
            name: binding.clone(),
            namespace: Some(namespace.clone()),
        }
    }

    fn is_in(&self, binding: &RoleBinding) -> bool {
        let account = self.account();
        let is_it = |subject: &Subject| {
            (&subject.kind, &subject.name, &subject.namespace) == (&account.kind, &account.name, &account.namespace)
        };
        binding.subjects.iter().flatten().any(is_it)
    }

    /// Notes it, and logs what has changed.
    fn tell(&self, called: Activation) {
        self.called.send_if_modified(|before| {
            if *before == called {
                return false;
            }
            match &called {
                Activation::Yes => tracing::info!("the API server calls the webhooks"),
                Activation::NotYet(reason) => tracing::info!(reason, "the API server does not call the webhooks yet"),
                Activation::No(reason) => tracing::warn!(reason, "the API server does not call the webhooks"),
            }
            *before = called;
            true
        });
    }
}

fn is_ready(slice: &EndpointSlice) -> bool {
    slice.endpoints.iter().flatten().any(|endpoint| {
        let is_ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready);
        // Nothing said counts as ready: the words of the API.
        is_ready.unwrap_or(true)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_slice_leads_to_a_replica_when_one_of_its_endpoints_is_ready() {
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
