//! Self-signed certificates in the cluster: one Secret, and the `caBundle`s of nicplug's webhooks.
//!
//! Every replica watches the Secret and both webhook configurations through the API, since a volume with the Secret
//! would be a minute behind, and serves the certificate of the Secret as soon as all webhooks trust it. Only the leader
//! writes. [`crate::certificates::renewal`] decides the next step; this module performs it, one write at a time. Each
//! write names the resource version on which the step was decided, so of two leaders one gets a conflict and decides
//! again.

mod objects;

use std::{convert::Infallible, future, pin::pin, sync::Arc, time::SystemTime};

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::{
    admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
    core::v1::Secret,
};
use kube::{Api, Client, runtime::watcher};
use tokio::sync::watch;

use self::objects::{RenewalError, WebhookConfiguration};
use crate::{
    certificates::{
        CertificateAndKey,
        chain::Certificate,
        renewal::{
            self, CaBundle, CaPropagation, CertificatePlan, Step, StoredCertificates, may_serve, next_step,
            with_new_ca, with_new_server_certificate, without_expired_cas,
        },
        validity::date,
    },
    facts::Fact,
    k8s::{api_error::root_cause, follow::follow, log_once::LogOnce},
};

/// The names of the objects that hold the certificates and that must trust them.
#[derive(Clone, Debug)]
pub struct ObjectNames {
    /// The namespace of the Secret.
    pub namespace: String,
    /// The name of the Secret.
    pub secret: String,
    /// The name of the validating and the mutating webhook configuration.
    pub webhooks: String,
}

/// The certificate that a replica serves, and why it does not serve a newer one.
#[derive(Clone, Default)]
pub struct ServingCert {
    /// The certificate and its key; `None` until the webhooks trust one.
    pub pair: Option<Arc<CertificateAndKey>>,
    /// Why the certificate of the Secret is not served.
    pub error: Option<String>,
    /// When the CA that signs now expires.
    pub ca_not_after: Option<SystemTime>,
}

/// The objects as last watched.
#[derive(Clone, Default)]
struct Observed {
    secret: Fact<Secret>,
    validating: Fact<WebhookConfiguration>,
    mutating: Fact<WebhookConfiguration>,
}

impl Observed {
    fn is_complete(&self) -> bool {
        let is_unknown = [
            matches!(self.secret, Fact::Unknown),
            matches!(self.validating, Fact::Unknown),
            matches!(self.mutating, Fact::Unknown),
        ];
        !is_unknown.contains(&true)
    }

    fn stored(&self) -> StoredCertificates {
        self.secret.known().map(objects::stored).unwrap_or_default()
    }

    /// Returns which CAs each webhook trusts. A configuration that does not exist has no webhooks.
    fn trust(&self) -> Vec<CaBundle> {
        let configurations = [&self.validating, &self.mutating].into_iter().filter_map(Fact::known);
        configurations.flat_map(|configuration| configuration.trust.clone()).collect()
    }
}

/// Manages the certificates of one replica.
pub struct CertificateController {
    client: Client,
    names: ObjectNames,
    plan: CertificatePlan,
    clock: Box<dyn Fn() -> SystemTime + Send + Sync>,
    observed: watch::Sender<Observed>,
    serving: watch::Sender<ServingCert>,
}

impl CertificateController {
    /// A controller with this clock.
    pub fn new(
        client: Client,
        names: ObjectNames,
        plan: CertificatePlan,
        clock: impl Fn() -> SystemTime + Send + Sync + 'static,
    ) -> Self {
        let error = Some("the Secret has not been read yet".to_owned());
        let serving = ServingCert { error, ..ServingCert::default() };
        Self {
            client,
            names,
            plan,
            clock: Box::new(clock),
            observed: watch::Sender::default(),
            serving: watch::Sender::new(serving),
        }
    }

    /// Returns the certificate that this replica serves, as a value that changes.
    #[must_use]
    pub fn serving_cert(&self) -> watch::Receiver<ServingCert> {
        self.serving.subscribe()
    }

    /// Watches the objects and updates the serving certificate. Every replica runs this.
    pub async fn watch(&self) -> Infallible {
        let ObjectNames { namespace, secret, webhooks } = &self.names;
        let secrets = Api::namespaced(self.client.clone(), namespace);
        let mut secrets = pin!(follow::<Secret>(secrets, secret));
        let validating = Api::<ValidatingWebhookConfiguration>::all(self.client.clone());
        let mut validating = pin!(follow(validating, webhooks));
        let mutating = Api::<MutatingWebhookConfiguration>::all(self.client.clone());
        let mut mutating = pin!(follow(mutating, webhooks));
        let mut log_once = LogOnce::default();
        loop {
            let error = tokio::select! {
                Some(change) = secrets.next() => self.observe(change, |observed, found| observed.secret = fact(found)),
                Some(change) = validating.next() => {
                    self.observe(change, |observed, found| observed.validating = fact(found))
                }
                Some(change) = mutating.next() => {
                    self.observe(change, |observed, found| observed.mutating = fact(found))
                }
                else => future::pending().await,
            };
            self.update_serving_cert(error.as_deref());
            if let Some(error) = log_once.changed(error) {
                tracing::warn!(error, "cannot watch the objects of the certificates");
            }
        }
    }

    /// Notes a change of a watched object, or returns the error of the watch.
    fn observe<T>(&self, change: Result<T, watcher::Error>, note: impl FnOnce(&mut Observed, T)) -> Option<String> {
        match change {
            Ok(object) => {
                self.observed.send_modify(|observed| note(observed, object));
                None
            }
            Err(error) => Some(root_cause(&error)),
        }
    }

    fn update_serving_cert(&self, error: Option<&str>) {
        let observed = self.observed.borrow().clone();
        if !observed.is_complete() {
            if let Some(error) = error {
                self.serving.send_modify(|serving| serving.error = Some(format!("cannot watch: {error}")));
            }
            return;
        }
        let (stored, trust) = (observed.stored(), observed.trust());
        let now = (self.clock)();
        let authority = Certificate::all(stored.cas.as_bytes()).into_iter().next();
        let ca_not_after = authority.map(|authority| authority.validity().not_after);
        let may_serve = may_serve(&self.plan, &stored, &trust, self.handshake_succeeds(&trust, now), now);
        self.serving.send_if_modified(|serving| {
            let before = (serving.pair.clone(), serving.error.take(), serving.ca_not_after);
            serving.ca_not_after = ca_not_after;
            match may_serve {
                Ok(()) if serving.pair.as_ref().is_none_or(|pair| pair.certificate != stored.server) => {
                    serving.pair =
                        Some(Arc::new(CertificateAndKey { certificate: stored.server, key: stored.server_key }));
                }
                Ok(()) => {}
                Err(reason) => serving.error = Some(reason.to_owned()),
            }
            let is_same = before.1 == serving.error && before.2 == serving.ca_not_after;
            !is_same || !is_same_pair(before.0.as_ref(), serving.pair.as_ref())
        });
    }

    /// Whether the webhooks accept the certificate that is served now.
    fn handshake_succeeds(&self, trust: &[CaBundle], now: SystemTime) -> bool {
        let pair = self.serving.borrow().pair.clone();
        let shown = pair.and_then(|pair| Certificate::all(pair.certificate.as_bytes()).into_iter().next());
        shown.is_some_and(|shown| renewal::handshake_succeeds(&shown, trust, now))
    }

    /// Performs the steps of the renewal, after each change of an object and at each tick. Only the leader runs this.
    pub async fn lead(&self, ticks: impl Stream<Item = ()>) -> Infallible {
        let mut ticks = pin!(ticks);
        let mut objects = self.observed.subscribe();
        let mut settling = CaPropagation::default();
        let mut log_once = LogOnce::default();
        loop {
            let observed = objects.borrow_and_update().clone();
            if observed.is_complete() {
                let error = match self.step(&observed, &mut settling).await {
                    // After a conflict the watch brings the new state.
                    Ok(()) | Err(RenewalError::Conflict { .. }) => None,
                    Err(error) => Some(error.to_string()),
                };
                if let Some(error) = log_once.changed(error) {
                    tracing::warn!(error, "cannot renew the certificates");
                }
            }
            tokio::select! {
                changed = objects.changed() => if changed.is_err() { future::pending().await },
                tick = ticks.next() => if tick.is_none() { future::pending().await },
            }
        }
    }

    async fn step(&self, observed: &Observed, settling: &mut CaPropagation) -> Result<(), RenewalError> {
        let now = (self.clock)();
        let (stored, trust) = (observed.stored(), observed.trust());
        match next_step(&self.plan, &stored, &trust, settling, self.handshake_succeeds(&trust, now), now) {
            Step::CreateCa(reason) => {
                tracing::info!(reason, "creating a CA");
                self.store(observed, &with_new_ca(&self.plan, &stored, now)?).await
            }
            Step::Publish => {
                if let Fact::Known(found) = &observed.validating {
                    objects::publish::<ValidatingWebhookConfiguration>(&self.client, found, &stored, now).await?;
                }
                if let Fact::Known(found) = &observed.mutating {
                    objects::publish::<MutatingWebhookConfiguration>(&self.client, found, &stored, now).await?;
                }
                Ok(())
            }
            Step::CreateServerCertificate(reason) => {
                tracing::info!(reason, "creating a serving certificate");
                self.store(observed, &with_new_server_certificate(&self.plan, &stored, now)?).await
            }
            Step::Prune => self.store(observed, &without_expired_cas(&stored, now)).await,
            Step::Wait(until) => {
                tracing::debug!(until = date(until), "the certificates are current");
                Ok(())
            }
        }
    }

    async fn store(&self, observed: &Observed, stored: &StoredCertificates) -> Result<(), RenewalError> {
        let ObjectNames { namespace, secret, .. } = &self.names;
        objects::store(&self.client, namespace, secret, observed.secret.known(), stored).await
    }
}

fn fact<T: Into<U>, U>(object: Option<T>) -> Fact<U> {
    object.map_or(Fact::Absent, |object| Fact::Known(object.into()))
}

fn is_same_pair(one: Option<&Arc<CertificateAndKey>>, other: Option<&Arc<CertificateAndKey>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}
