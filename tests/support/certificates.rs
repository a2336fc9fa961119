//! Replicas that renew their own certificates on a real API server, and clients that trust the `caBundle`s there.
//!
//! All replicas and clients of a [`CertificateFixture`] have one clock, which a test can move ahead. The replicas check
//! their certificates at ticks, which [`CertificateFixture::until`] sends until the awaited state is there.

use std::{collections::BTreeMap, future, net::SocketAddr, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use futures_util::{Stream, stream};
use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
        core::v1::Secret,
    },
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use nicplug::{
    certificates::{chain::Certificate, renewal::CertificatePlan},
    controllers::{
        certificates::{CertificateController, ObjectNames},
        leader_election::{LeaderElector, Timings},
    },
    server::{
        Config, Counts, Server,
        readiness::Readiness,
        tls::{CertResolver, self_signed},
    },
};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet};

use super::{
    api_server::{
        self, ApiServer,
        service::Service,
        webhooks::{self, FailurePolicy},
    },
    client::{LOCALHOST, handshake},
    clock::Clock,
    kube_proxy::KubeProxy,
    server::reviewer_without_facts,
    wait::eventually,
};

pub(crate) const DAY: Duration = Duration::from_hours(24);

/// The name of the Secret and of the Lease.
pub(crate) const SECRET: &str = "nicplug-certificates";

/// Short timings, so that the tests are fast.
const TIMINGS: Timings =
    Timings { lease: Duration::from_secs(2), renew: Duration::from_millis(1500), retry: Duration::from_millis(100) };

/// The objects that the chart installs into a namespace: the Secret and the webhook configurations, without a CA yet.
pub(crate) struct CertificateFixture {
    pub(crate) api: &'static ApiServer,
    pub(crate) namespace: String,
    pub(crate) validate: WebhookService,
    /// The mutating webhook has a Service of its own here, so that a test sees which webhook has opened a connection.
    pub(crate) mutate: WebhookService,
    pub(crate) clock: Clock,
    pub(crate) plan: CertificatePlan,
    ticks: watch::Sender<()>,
}

/// The Service of a webhook, with the double of kube-proxy that serves it.
pub(crate) struct WebhookService {
    pub(crate) service: Service,
    pub(crate) proxy: KubeProxy,
}

impl WebhookService {
    async fn start(api: &ApiServer, namespace: &str, name: &str) -> Self {
        let service = Service::create_named(api, namespace, name).await;
        let proxy = KubeProxy::start_at(service.address()).await;
        Self { service, proxy }
    }
}

impl CertificateFixture {
    /// Creates a namespace and installs the webhook configurations; returns none if there is no API server.
    pub(crate) async fn start(name: &str) -> Option<Self> {
        let fixture = Self::start_without_webhooks(name).await?;
        fixture.install().await;
        Some(fixture)
    }

    pub(crate) async fn start_without_webhooks(name: &str) -> Option<Self> {
        let api = api_server::shared().await?;
        let namespace = api.namespace(name).await;
        let validate = WebhookService::start(api, &namespace, "nicplug").await;
        let mutate = WebhookService::start(api, &namespace, "nicplug-mutate").await;
        // Tests connect to a single replica by its address.
        let hosts = [validate.service.host(), mutate.service.host(), LOCALHOST.to_owned()];
        let plan = CertificatePlan::new(hosts.map(|host| host.parse().unwrap()).to_vec());
        webhooks::activate(&api.admin(), &namespace).await;
        Some(Self { api, namespace, validate, mutate, clock: Clock::default(), plan, ticks: watch::Sender::default() })
    }

    /// Returns the name of both webhook configurations.
    pub(crate) fn webhooks(&self) -> &str {
        &self.namespace
    }

    /// Returns what the chart renders: a Secret without data, and webhook configurations without `caBundle`.
    pub(crate) fn manifests(&self) -> Vec<Value> {
        let [validating, _] = webhooks::configurations(&self.validate.service, FailurePolicy::Fail);
        let [_, mutating] = webhooks::configurations(&self.mutate.service, FailurePolicy::Fail);
        let labels = json!({"app.kubernetes.io/name": "nicplug"});
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {"name": SECRET, "namespace": self.namespace, "labels": labels}});
        vec![secret, validating, mutating]
    }

    /// Installs the webhook configurations.
    pub(crate) async fn install(&self) {
        for manifest in &self.manifests()[1..] {
            self.apply("tests", manifest).await;
        }
    }

    /// Applies a manifest as Helm 4 does: by server-side apply without force.
    pub(crate) async fn apply(&self, manager: &str, manifest: &Value) {
        let params = PatchParams { field_manager: Some(manager.to_owned()), ..PatchParams::default() };
        let (name, patch) = (manifest["metadata"]["name"].as_str().unwrap(), Patch::Apply(manifest));
        match manifest["kind"].as_str().unwrap() {
            "Secret" => drop(self.secrets().patch(name, &params, &patch).await.unwrap()),
            "ValidatingWebhookConfiguration" => drop(self.validating().patch(name, &params, &patch).await.unwrap()),
            _ => drop(self.mutating().patch(name, &params, &patch).await.unwrap()),
        }
    }

    pub(crate) fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.api.admin(), &self.namespace)
    }

    pub(crate) fn validating(&self) -> Api<ValidatingWebhookConfiguration> {
        Api::all(self.api.admin())
    }

    pub(crate) fn mutating(&self) -> Api<MutatingWebhookConfiguration> {
        Api::all(self.api.admin())
    }

    /// Starts a replica that leads without an election.
    pub(crate) async fn leader(&self) -> SelfSigningReplica {
        SelfSigningReplica::start(self, self.api.admin(), Role::Leader).await
    }

    /// Starts a replica that takes part in the leader election.
    pub(crate) async fn candidate(&self, identity: &str) -> SelfSigningReplica {
        SelfSigningReplica::start(self, self.api.admin(), Role::LeaderElector(identity.to_owned())).await
    }

    /// Starts a replica that never leads.
    pub(crate) async fn follower(&self) -> SelfSigningReplica {
        SelfSigningReplica::start(self, self.api.admin(), Role::Follower).await
    }

    /// Starts a replica that leads with the rights of this client.
    pub(crate) async fn leader_as(&self, client: Client) -> SelfSigningReplica {
        SelfSigningReplica::start(self, client, Role::Leader).await
    }

    /// Returns the texts in the Secret.
    pub(crate) async fn secret(&self) -> BTreeMap<String, String> {
        let secret = self.secrets().get_opt(SECRET).await.unwrap();
        let data = secret.and_then(|secret| secret.data).unwrap_or_default();
        data.into_iter().map(|(key, ByteString(bytes))| (key, String::from_utf8(bytes).unwrap())).collect()
    }

    /// Removes keys from the Secret.
    pub(crate) async fn remove_from_secret(&self, keys: &[&str]) {
        let data: serde_json::Map<String, Value> = keys.iter().map(|key| ((*key).to_owned(), Value::Null)).collect();
        let patch = Patch::Merge(json!({"data": data}));
        self.secrets().patch(SECRET, &PatchParams::default(), &patch).await.unwrap();
    }

    /// Writes texts into the Secret, which is created if it does not exist.
    pub(crate) async fn write_secret(&self, texts: &BTreeMap<String, String>) {
        let data = texts.iter().map(|(key, text)| (key.clone(), ByteString(text.clone().into_bytes()))).collect();
        if self.secrets().get_opt(SECRET).await.unwrap().is_some() {
            let patch = Patch::Merge(Secret { data: Some(data), ..Secret::default() });
            self.secrets().patch(SECRET, &PatchParams::default(), &patch).await.unwrap();
        } else {
            let mut secret = Secret { data: Some(data), ..Secret::default() };
            secret.metadata.name = Some(SECRET.to_owned());
            self.secrets().create(&PostParams::default(), &secret).await.unwrap();
        }
    }

    /// Returns the `caBundle` of the validating and of the mutating webhook.
    pub(crate) async fn bundles(&self) -> [String; 2] {
        let validating = self.validating().get(self.webhooks()).await.unwrap();
        let mutating = self.mutating().get(self.webhooks()).await.unwrap();
        let bundles = [
            validating.webhooks.unwrap().remove(0).client_config.ca_bundle,
            mutating.webhooks.unwrap().remove(0).client_config.ca_bundle,
        ];
        bundles.map(|bundle| String::from_utf8(bundle.unwrap_or_default().0).unwrap())
    }

    /// Sets or removes both `caBundle`s.
    pub(crate) async fn set_bundles(&self, bundle: Option<&str>) {
        let field = "/webhooks/0/clientConfig/caBundle";
        let operation = match bundle {
            Some(text) => json!([{"op": "add", "path": field, "value": BASE64.encode(text)}]),
            None => json!([{"op": "remove", "path": field}]),
        };
        let patch: Patch<()> = Patch::Json(serde_json::from_value(operation).unwrap());
        self.validating().patch(self.webhooks(), &PatchParams::default(), &patch).await.unwrap();
        self.mutating().patch(self.webhooks(), &PatchParams::default(), &patch).await.unwrap();
    }

    /// Sends ticks until `check` returns a value.
    pub(crate) async fn until<T, F: Future<Output = Option<T>>>(&self, what: &str, mut check: impl FnMut() -> F) -> T {
        eventually(what, || {
            self.ticks.send_replace(());
            check()
        })
        .await
    }

    /// Sends ticks until a replica serves a certificate that both webhooks trust, other than `except`.
    pub(crate) async fn until_trusted(
        &self,
        replica: &SelfSigningReplica,
        except: Option<&Certificate>,
    ) -> Certificate {
        self.until("the replica serves a certificate that both webhooks trust", async || {
            let served = self.trusted_certificate(replica).await?;
            (except != Some(&served)).then_some(served)
        })
        .await
    }

    /// Returns the certificate that a replica serves, if both webhooks trust it.
    pub(crate) async fn trusted_certificate(&self, replica: &SelfSigningReplica) -> Option<Certificate> {
        let [validating, mutating] = self.bundles().await;
        handshake(replica.address, LOCALHOST, &validating, &self.clock).await.ok()?;
        let stream = handshake(replica.address, LOCALHOST, &mutating, &self.clock).await.ok()?;
        let served = stream.get_ref().1.peer_certificates()?.first()?.clone();
        Some(Certificate::of(served).unwrap())
    }

    fn ticks(&self) -> impl Stream<Item = ()> + use<> {
        let receiver = self.ticks.subscribe();
        stream::unfold(receiver, async |mut receiver| {
            receiver.changed().await.ok()?;
            Some(((), receiver))
        })
    }
}

enum Role {
    Leader,
    LeaderElector(String),
    Follower,
}

/// A replica with self-signed certificates in this process; killed when it is dropped.
pub(crate) struct SelfSigningReplica {
    pub(crate) address: SocketAddr,
    pub(crate) readiness: Readiness,
    pub(crate) counts: Counts,
    pub(crate) shown: CertResolver,
    tasks: JoinSet<()>,
}

impl SelfSigningReplica {
    async fn start(fixture: &CertificateFixture, client: Client, role: Role) -> Self {
        let places = ObjectNames {
            namespace: fixture.namespace.clone(),
            secret: SECRET.to_owned(),
            webhooks: fixture.webhooks().to_owned(),
        };
        let clock = fixture.clock.clone();
        let keeper =
            Arc::new(CertificateController::new(client.clone(), places, fixture.plan.clone(), move || clock.now()));
        let shown = CertResolver::default();
        let config = Config::new(shown.clone());
        let server = Server::bind(config, reviewer_without_facts()).await.unwrap();
        let (address, readiness, counts) = (server.local_addr(), server.readiness().clone(), server.counts().clone());
        let check = readiness.add("certificate", "not looked at yet");
        let mut tasks = JoinSet::new();
        let clock = fixture.clock.clone();
        tasks.spawn(self_signed::run(
            shown.clone(),
            keeper.serving_cert(),
            check,
            move || clock.now(),
            fixture.ticks(),
        ));
        tasks.spawn(server.run(future::pending()));
        let watching = Arc::clone(&keeper);
        tasks.spawn(async move { match watching.watch().await {} });
        let ticks = fixture.ticks();
        match role {
            Role::Leader => {
                tasks.spawn(async move { match keeper.lead(ticks).await {} });
            }
            Role::LeaderElector(identity) => {
                let candidate = LeaderElector::new(client, &fixture.namespace, SECRET, &identity, TIMINGS);
                let sender = fixture.ticks.clone();
                let work = move || {
                    let (keeper, receiver) = (Arc::clone(&keeper), sender.subscribe());
                    async move {
                        let ticks = stream::unfold(receiver, async |mut receiver| {
                            receiver.changed().await.ok()?;
                            Some(((), receiver))
                        });
                        keeper.lead(ticks).await
                    }
                };
                tasks.spawn(candidate.run(work, future::pending()));
            }
            Role::Follower => {}
        }
        Self { address, readiness, counts, shown, tasks }
    }
}

/// Returns the certificates of a PEM text.
pub(crate) fn certificates(pem: &str) -> Vec<Certificate> {
    Certificate::all(pem.as_bytes())
}
