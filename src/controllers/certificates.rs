//! Certificates that nicplug makes itself, in the cluster: one Secret, and the `caBundle` of its own webhooks.
//!
//! Every replica watches the Secret and both webhook configurations, and shows what the Secret holds as soon as it may:
//! by the API, since a volume with the Secret would lag a minute behind. The leader alone writes. What it does and in
//! which order is decided in [`crate::certificates::renewal`]; here it is only carried out, one write at a time, each
//! guarded by the version of the object that it was decided upon: of two leaders one loses, and looks again.

mod objects;

use std::{convert::Infallible, future, pin::pin, sync::Arc, time::SystemTime};

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::{
    admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
    core::v1::Secret,
};
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher, watcher::watch_object},
};
use tokio::sync::watch;

use self::objects::{Configuration, Trouble};
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
    k8s::log_once::LogOnce,
};

/// Where the certificates are kept, and who has to trust them.
#[derive(Clone, Debug)]
pub struct ObjectNames {
    /// The namespace of the Secret.
    pub namespace: String,
    /// The name of the Secret.
    pub secret: String,
    /// The name of the validating and of the mutating webhook configuration.
    pub webhooks: String,
}

/// What a replica is to show now, and why not something newer.
#[derive(Clone, Default)]
pub struct ServingCert {
    /// The pair for handshakes; `None` until there is one that the webhooks trust.
    pub pair: Option<Arc<CertificateAndKey>>,
    /// Why what the Secret holds is not shown, in words.
    pub fault: Option<String>,
    /// Until when the authority that signs now is valid.
    pub authority_end: Option<SystemTime>,
}

/// What the watches have brought.
#[derive(Clone, Default)]
struct Seen {
    secret: Fact<Secret>,
    validating: Fact<Configuration>,
    mutating: Fact<Configuration>,
}

impl Seen {
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

    /// What each webhook trusts. A configuration that does not exist calls nobody, and so has no say.
    fn trust(&self) -> Vec<CaBundle> {
        let configurations = [&self.validating, &self.mutating].into_iter().filter_map(Fact::known);
        configurations.flat_map(|configuration| configuration.trust.clone()).collect()
    }
}

/// Keeps the certificates of one replica.
pub struct Keeper {
    client: Client,
    places: ObjectNames,
    plan: CertificatePlan,
    clock: Box<dyn Fn() -> SystemTime + Send + Sync>,
    seen: watch::Sender<Seen>,
    offer: watch::Sender<ServingCert>,
}

impl Keeper {
    /// One that tells the time by `clock`.
    pub fn new(
        client: Client,
        places: ObjectNames,
        plan: CertificatePlan,
        clock: impl Fn() -> SystemTime + Send + Sync + 'static,
    ) -> Self {
        let offer =
            ServingCert { fault: Some("the Secret has not been read yet".to_owned()), ..ServingCert::default() };
        Self {
            client,
            places,
            plan,
            clock: Box::new(clock),
            seen: watch::Sender::default(),
            offer: watch::Sender::new(offer),
        }
    }

    /// What this replica is to show, now and later.
    #[must_use]
    pub fn offers(&self) -> watch::Receiver<ServingCert> {
        self.offer.subscribe()
    }

    /// What every replica does: watches, and offers what may be shown.
    pub async fn watch(&self) -> Infallible {
        let ObjectNames { namespace, secret, webhooks } = &self.places;
        let secrets = Api::namespaced(self.client.clone(), namespace);
        let mut secrets = pin!(watch_object::<Secret>(secrets, secret).default_backoff());
        let validating = Api::<ValidatingWebhookConfiguration>::all(self.client.clone());
        let mut validating = pin!(watch_object(validating, webhooks).default_backoff());
        let mutating = Api::<MutatingWebhookConfiguration>::all(self.client.clone());
        let mut mutating = pin!(watch_object(mutating, webhooks).default_backoff());
        let mut log_once = LogOnce::default();
        loop {
            let trouble = tokio::select! {
                Some(changed) = secrets.next() => self.see(changed, |seen, secret| seen.secret = heard(secret)),
                Some(changed) = validating.next() => self.see(changed, |seen, found| seen.validating = heard(found)),
                Some(changed) = mutating.next() => self.see(changed, |seen, found| seen.mutating = heard(found)),
                else => future::pending().await,
            };
            self.renew_offer(trouble.as_deref());
            if let Some(trouble) = log_once.changed(trouble) {
                tracing::warn!("certificates cannot be watched: {trouble}");
            }
        }
    }

    /// Notes what a watch brought, or says why it brought nothing.
    fn see<T>(&self, changed: Result<T, watcher::Error>, note: impl FnOnce(&mut Seen, T)) -> Option<String> {
        match changed {
            Ok(changed) => {
                self.seen.send_modify(|seen| note(seen, changed));
                None
            }
            Err(error) => Some(error.to_string()),
        }
    }

    fn renew_offer(&self, trouble: Option<&str>) {
        let seen = self.seen.borrow().clone();
        if !seen.is_complete() {
            if let Some(trouble) = trouble {
                self.offer.send_modify(|offer| offer.fault = Some(format!("cannot watch: {trouble}")));
            }
            return;
        }
        let (stored, trust) = (seen.stored(), seen.trust());
        let now = (self.clock)();
        let authority = Certificate::all(stored.cas.as_bytes()).into_iter().next();
        let authority_end = authority.map(|authority| authority.validity().not_after);
        let verdict = may_serve(&self.plan, &stored, &trust, self.handshake_succeeds(&trust, now), now);
        self.offer.send_if_modified(|offer| {
            let before = (offer.pair.clone(), offer.fault.take(), offer.authority_end);
            offer.authority_end = authority_end;
            match verdict {
                Ok(()) if offer.pair.as_ref().is_none_or(|pair| pair.certificate != stored.server) => {
                    offer.pair =
                        Some(Arc::new(CertificateAndKey { certificate: stored.server, key: stored.server_key }));
                }
                Ok(()) => {}
                Err(reason) => offer.fault = Some(reason.to_owned()),
            }
            let is_same = before.1 == offer.fault && before.2 == offer.authority_end;
            !is_same || !same(before.0.as_ref(), offer.pair.as_ref())
        });
    }

    /// Whether handshakes with what is offered now succeed.
    fn handshake_succeeds(&self, trust: &[CaBundle], now: SystemTime) -> bool {
        let pair = self.offer.borrow().pair.clone();
        let shown = pair.and_then(|pair| Certificate::all(pair.certificate.as_bytes()).into_iter().next());
        shown.is_some_and(|shown| renewal::handshake_succeeds(&shown, trust, now))
    }

    /// What the leader does besides: one step after the other, whenever something has changed and at every tick.
    pub async fn lead(&self, ticks: impl Stream<Item = ()>) -> Infallible {
        let mut ticks = pin!(ticks);
        let mut seen = self.seen.subscribe();
        let mut propagation = CaPropagation::default();
        let mut log_once = LogOnce::default();
        loop {
            let view = seen.borrow_and_update().clone();
            if view.is_complete() {
                let trouble = match self.step(&view, &mut propagation).await {
                    // Of a conflict the watch brings the end.
                    Ok(()) | Err(Trouble::Conflict) => None,
                    Err(trouble) => Some(trouble.to_string()),
                };
                if let Some(trouble) = log_once.changed(trouble) {
                    tracing::warn!("certificates cannot be renewed: {trouble}");
                }
            }
            tokio::select! {
                changed = seen.changed() => if changed.is_err() { future::pending().await },
                tick = ticks.next() => if tick.is_none() { future::pending().await },
            }
        }
    }

    async fn step(&self, seen: &Seen, propagation: &mut CaPropagation) -> Result<(), Trouble> {
        let now = (self.clock)();
        let (stored, trust) = (seen.stored(), seen.trust());
        match next_step(&self.plan, &stored, &trust, propagation, self.handshake_succeeds(&trust, now), now) {
            Step::CreateCa(reason) => {
                tracing::info!(reason, "making a new certificate authority");
                self.store(seen, &with_new_ca(&self.plan, &stored, now)?).await
            }
            Step::Publish => {
                if let Fact::Known(seen) = &seen.validating {
                    objects::publish::<ValidatingWebhookConfiguration>(&self.client, seen, &stored, now).await?;
                }
                if let Fact::Known(seen) = &seen.mutating {
                    objects::publish::<MutatingWebhookConfiguration>(&self.client, seen, &stored, now).await?;
                }
                Ok(())
            }
            Step::CreateServerCertificate(reason) => {
                tracing::info!(reason, "making a new server certificate");
                self.store(seen, &with_new_server_certificate(&self.plan, &stored, now)?).await
            }
            Step::Prune => self.store(seen, &without_expired_cas(&stored, now)).await,
            Step::Wait(until) => {
                tracing::debug!(until = date(until), "certificates are as they should be");
                Ok(())
            }
        }
    }

    async fn store(&self, seen: &Seen, stored: &StoredCertificates) -> Result<(), Trouble> {
        let ObjectNames { namespace, secret, .. } = &self.places;
        objects::store(&self.client, namespace, secret, seen.secret.known(), stored).await
    }
}

fn heard<T: Into<U>, U>(changed: Option<T>) -> Fact<U> {
    changed.map_or(Fact::Absent, |changed| Fact::Known(changed.into()))
}

fn same(one: Option<&Arc<CertificateAndKey>>, other: Option<&Arc<CertificateAndKey>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}
