//! Replicas that make their own certificates beside a real API server, and clients that trust what it says they may.
//!
//! The clock is the test's own: every replica and every client of a [`Scene`] has the same one, and it stands still with
//! regard to the real one until the test moves it ahead. So do the ticks: [`Scene::until`] sends them until what it waits
//! for is there.

// Each test compiles this module for itself and uses a part of it; its helpers fail as tests do.
#![allow(dead_code, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use std::{collections::BTreeMap, future, net::SocketAddr, sync::Arc, time::Duration};

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
    admission::Reviewer,
    certificates::{chain::Certificate, renewal::CertificatePlan},
    controllers::{
        certificates::{Keeper, ObjectNames},
        leader_election::{LeaderElector, Timings},
    },
    facts::NoFacts,
    server::{
        Config, Counts, Server,
        health::Readiness,
        tls::{CertResolver, self_signed},
    },
    settings::Settings,
};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    clients::{Balancer, Time, shake_hands},
    cluster_support::{
        apiserver::{self, ApiServer},
        eventually,
    },
};

pub(crate) const DAY: Duration = Duration::from_hours(24);

/// The name of the Secret and of the Lease.
pub(crate) const SECRET: &str = "nicplug-certificates";

/// Short, so that the tests are.
const TIMINGS: Timings =
    Timings { lease: Duration::from_secs(2), renew: Duration::from_millis(1500), retry: Duration::from_millis(100) };

/// What a chart installs: a namespace, and two webhook configurations that nobody is trusted in yet.
pub(crate) struct Scene {
    pub(crate) api: &'static ApiServer,
    pub(crate) namespace: String,
    /// Where the validating webhook is.
    pub(crate) validate: Balancer,
    /// Where the mutating webhook is.
    pub(crate) mutate: Balancer,
    pub(crate) time: Time,
    pub(crate) plan: CertificatePlan,
    ticks: watch::Sender<()>,
}

impl Scene {
    /// None where there is no API server.
    pub(crate) async fn open(name: &str) -> Option<Self> {
        let scene = Self::open_without_webhooks(name).await?;
        scene.install().await;
        Some(scene)
    }

    pub(crate) async fn open_without_webhooks(name: &str) -> Option<Self> {
        let api = apiserver::shared().await?;
        Some(Self {
            api,
            namespace: api.namespace(name).await,
            validate: Balancer::start().await,
            mutate: Balancer::start().await,
            time: Time::default(),
            plan: CertificatePlan::new(vec!["127.0.0.1".parse().unwrap()]),
            ticks: watch::Sender::default(),
        })
    }

    /// The name of both webhook configurations.
    pub(crate) fn webhooks(&self) -> &str {
        &self.namespace
    }

    /// What a chart renders: no data in the Secret, and no `caBundle`.
    pub(crate) fn manifests(&self) -> Vec<Value> {
        let configuration = |kind: &str, path: &str, address: SocketAddr| {
            let mut webhook = json!({
                "name": format!("{path}.{}.nicplug.io", self.namespace),
                "admissionReviewVersions": ["v1"],
                "clientConfig": {"url": format!("https://{address}/{path}")},
                "failurePolicy": "Fail",
                "matchPolicy": "Equivalent",
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.namespace}},
                "objectSelector": {},
                "rules": [{"apiGroups": ["kubevirt.io"], "apiVersions": ["v1"], "operations": ["CREATE"],
                    "resources": ["virtualmachines"], "scope": "Namespaced"}],
                "sideEffects": "None",
                "timeoutSeconds": 5,
            });
            if path == "mutate" {
                webhook["reinvocationPolicy"] = json!("IfNeeded");
            }
            json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
                "metadata": {"name": self.webhooks()}, "webhooks": [webhook]})
        };
        vec![
            json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
                "metadata": {"name": SECRET, "namespace": self.namespace, "labels": {"app.kubernetes.io/name": "nicplug"}}}),
            configuration("ValidatingWebhookConfiguration", "validate", self.validate.address),
            configuration("MutatingWebhookConfiguration", "mutate", self.mutate.address),
        ]
    }

    /// Installs all but the Secret.
    pub(crate) async fn install(&self) {
        for manifest in &self.manifests()[1..] {
            self.apply("tests", manifest).await;
        }
    }

    /// A server-side apply as Helm 4 does it: without force.
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

    /// A replica that leads without asking anybody.
    pub(crate) async fn leader(&self) -> Replica {
        Replica::start(self, self.api.admin(), Rank::Leader).await
    }

    /// A replica that stands for election.
    pub(crate) async fn candidate(&self, identity: &str) -> Replica {
        Replica::start(self, self.api.admin(), Rank::LeaderElector(identity.to_owned())).await
    }

    /// A replica that never leads.
    pub(crate) async fn follower(&self) -> Replica {
        Replica::start(self, self.api.admin(), Rank::Follower).await
    }

    /// A replica that leads, as somebody who may not do everything.
    pub(crate) async fn leader_as(&self, client: Client) -> Replica {
        Replica::start(self, client, Rank::Leader).await
    }

    /// The texts of the Secret, empty where there is none.
    pub(crate) async fn secret(&self) -> BTreeMap<String, String> {
        let secret = self.secrets().get_opt(SECRET).await.unwrap();
        let data = secret.and_then(|secret| secret.data).unwrap_or_default();
        data.into_iter().map(|(key, ByteString(bytes))| (key, String::from_utf8(bytes).unwrap())).collect()
    }

    /// Takes something out of the Secret.
    pub(crate) async fn take_out(&self, keys: &[&str]) {
        let data: serde_json::Map<String, Value> = keys.iter().map(|key| ((*key).to_owned(), Value::Null)).collect();
        let patch = Patch::Merge(json!({"data": data}));
        self.secrets().patch(SECRET, &PatchParams::default(), &patch).await.unwrap();
    }

    /// Puts texts into the Secret, which is made if need be.
    pub(crate) async fn put_in(&self, texts: &BTreeMap<String, String>) {
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

    /// The `caBundle` of the validating and of the mutating webhook, empty where there is none.
    pub(crate) async fn bundles(&self) -> [String; 2] {
        let validating = self.validating().get(self.webhooks()).await.unwrap();
        let mutating = self.mutating().get(self.webhooks()).await.unwrap();
        let bundles = [
            validating.webhooks.unwrap().remove(0).client_config.ca_bundle,
            mutating.webhooks.unwrap().remove(0).client_config.ca_bundle,
        ];
        bundles.map(|bundle| String::from_utf8(bundle.unwrap_or_default().0).unwrap())
    }

    /// Sets or takes away both `caBundle`s.
    pub(crate) async fn set_bundles(&self, bundle: Option<&str>) {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let operation = match bundle {
            Some(text) => {
                json!([{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": STANDARD.encode(text)}])
            }
            None => json!([{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]),
        };
        let patch: Patch<()> = Patch::Json(serde_json::from_value(operation).unwrap());
        self.validating().patch(self.webhooks(), &PatchParams::default(), &patch).await.unwrap();
        self.mutating().patch(self.webhooks(), &PatchParams::default(), &patch).await.unwrap();
    }

    /// Ticks until there is an answer.
    pub(crate) async fn until<T, F: Future<Output = Option<T>>>(&self, what: &str, mut ask: impl FnMut() -> F) -> T {
        eventually(what, || {
            self.ticks.send_replace(());
            ask()
        })
        .await
    }

    /// Ticks until this replica shows a certificate that both webhooks trust, and which is not `but`.
    pub(crate) async fn until_shown(&self, replica: &Replica, but: Option<&Certificate>) -> Certificate {
        self.until("a certificate that both webhooks trust is shown", async || {
            let shown = self.shown(replica).await?;
            (but != Some(&shown)).then_some(shown)
        })
        .await
    }

    /// What a replica shows, if both webhooks trust it.
    pub(crate) async fn shown(&self, replica: &Replica) -> Option<Certificate> {
        let [validating, mutating] = self.bundles().await;
        shake_hands(replica.address, &validating, &self.time).await.ok()?;
        let stream = shake_hands(replica.address, &mutating, &self.time).await.ok()?;
        let shown = stream.get_ref().1.peer_certificates()?.first()?.clone();
        Some(Certificate::of(shown).unwrap())
    }

    fn ticks(&self) -> impl Stream<Item = ()> + use<> {
        let receiver = self.ticks.subscribe();
        stream::unfold(receiver, async |mut receiver| {
            receiver.changed().await.ok()?;
            Some(((), receiver))
        })
    }
}

enum Rank {
    Leader,
    LeaderElector(String),
    Follower,
}

/// One `nicplug serve --cert-source self`, in this process; killed when it is dropped.
pub(crate) struct Replica {
    pub(crate) address: SocketAddr,
    pub(crate) readiness: Readiness,
    pub(crate) counts: Counts,
    pub(crate) shown: CertResolver,
    tasks: JoinSet<()>,
}

impl Replica {
    async fn start(scene: &Scene, client: Client, rank: Rank) -> Self {
        let places = ObjectNames {
            namespace: scene.namespace.clone(),
            secret: SECRET.to_owned(),
            webhooks: scene.webhooks().to_owned(),
        };
        let time = scene.time.clone();
        let keeper = Arc::new(Keeper::new(client.clone(), places, scene.plan.clone(), move || time.now()));
        let shown = CertResolver::default();
        let config = Config::new(shown.clone());
        let server = Server::bind(config, Reviewer::new(Arc::new(NoFacts), Settings::default())).await.unwrap();
        let (address, readiness, counts) = (server.local_addr(), server.readiness().clone(), server.counts().clone());
        let check = readiness.add("certificate", "not looked at yet");
        let mut tasks = JoinSet::new();
        let time = scene.time.clone();
        tasks.spawn(self_signed::show(shown.clone(), keeper.offers(), check, move || time.now(), scene.ticks()));
        tasks.spawn(server.run(future::pending()));
        let watching = Arc::clone(&keeper);
        tasks.spawn(async move { match watching.watch().await {} });
        let ticks = scene.ticks();
        match rank {
            Rank::Leader => {
                tasks.spawn(async move { match keeper.lead(ticks).await {} });
            }
            Rank::LeaderElector(identity) => {
                let candidate = LeaderElector::new(client, &scene.namespace, SECRET, &identity, TIMINGS);
                let sender = scene.ticks.clone();
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
            Rank::Follower => {}
        }
        Self { address, readiness, counts, shown, tasks }
    }
}

/// The certificates of a PEM text.
pub(crate) fn certificates(pem: &str) -> Vec<Certificate> {
    Certificate::all(pem.as_bytes())
}
