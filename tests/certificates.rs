//! The life of certificates: how others failed at it, one test a failure.
//!
//! Where the API server plays a part it is a real one. Nothing here waits for a time to pass: the clock and the ticks are
//! the tests' own, and they wait for events.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod certificate_support;
mod clients;
mod cluster_support;

use std::{
    collections::BTreeSet,
    fs,
    future::Future,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use certificate_support::{DAY, SECRET, Scene, certificates};
use clients::{Time, shake_hands};
use cluster_support::{Folder, webhook::Webhook};
use futures_util::stream;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, PostParams},
};
use nicplug::{
    admission::Reviewer,
    certificates::{self as made, Bundle, CertificateAndKey, Host, validity::ValidityPhase},
    facts::NoFacts,
    server::{
        Config, Server,
        health::Readiness,
        tls::files::{Files, Keeper},
    },
    settings::Settings,
};
use serde_json::json;
use tokio::{sync::mpsc, time::timeout};

/// A guard against hanging; no test depends on how long it is.
async fn guarded<T>(test: impl Future<Output = T>) -> T {
    timeout(Duration::from_mins(3), Box::pin(test)).await.expect("the awaited event never came")
}

// === Files ===

fn bundle() -> Bundle {
    made::generate(&Host::local().unwrap(), SystemTime::now()).unwrap()
}

async fn trusts(address: SocketAddr, bundle: &Bundle) -> bool {
    shake_hands(address, &bundle.ca, &Time::default()).await.is_ok()
}

/// A volume as the kubelet mounts a Secret: `tls.crt` is a link to `..data/tls.crt`, and `..data` one to a folder.
struct Volume {
    path: PathBuf,
    swaps: usize,
}

impl Volume {
    fn holding(name: &str, bundle: &Bundle) -> Self {
        let path = std::env::temp_dir().join(format!("nicplug-volume-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        for file in ["tls.crt", "tls.key"] {
            symlink(Path::new("..data").join(file), path.join(file)).unwrap();
        }
        let mut volume = Self { path, swaps: 0 };
        volume.swap(&bundle.server, &bundle.server_key);
        volume
    }

    /// A new folder, a new link in the place of the old one, and the old folder is gone.
    fn swap(&mut self, certificate: &str, key: &str) {
        let before = fs::read_link(self.path.join("..data"));
        self.swaps += 1;
        let folder = format!("..2026_11_25_{}", self.swaps);
        fs::create_dir(self.path.join(&folder)).unwrap();
        fs::write(self.path.join(&folder).join("tls.crt"), certificate).unwrap();
        fs::write(self.path.join(&folder).join("tls.key"), key).unwrap();
        symlink(&folder, self.path.join("..data_tmp")).unwrap();
        fs::rename(self.path.join("..data_tmp"), self.path.join("..data")).unwrap();
        if let Ok(before) = before {
            fs::remove_dir_all(self.path.join(before)).unwrap();
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A server that shows what a volume holds, and looks when it is told to.
struct Replica {
    address: SocketAddr,
    readiness: Readiness,
    ticks: mpsc::UnboundedSender<()>,
}

impl Replica {
    async fn start(volume: &Volume) -> Self {
        let (certificate, key) = (volume.path.join("tls.crt"), volume.path.join("tls.key"));
        let keeper = Keeper::open(Files { certificate, key, hosts: Host::local().unwrap() }).unwrap();
        let config = Config::new(keeper.shown());
        let server = Server::bind(config, Reviewer::new(Arc::new(NoFacts), Settings::default())).await.unwrap();
        let (address, readiness) = (server.local_addr(), server.readiness().clone());
        let (ticks, mut ticked) = mpsc::unbounded_channel();
        let check = readiness.add("certificate", "not looked at yet");
        tokio::spawn(keeper.keep(check, SystemTime::now, stream::poll_fn(move |cx| ticked.poll_recv(cx))));
        tokio::spawn(server.run(std::future::pending()));
        let replica = Self { address, readiness, ticks };
        replica.reports("[+]certificate ok").await;
        // The server has tried itself with the first pair: what it reports from now on is about the files.
        replica.reports("[+]webhook ok").await;
        replica
    }

    /// Lets the server look, until it reports this.
    async fn reports(&self, text: &str) {
        while !self.readiness.report().contains(text) {
            self.ticks.send(()).unwrap();
            tokio::task::yield_now().await;
        }
    }

    /// Lets the server look, until it shows a certificate of this authority.
    async fn shows(&self, bundle: &Bundle) {
        while !trusts(self.address, bundle).await {
            self.ticks.send(()).unwrap();
        }
    }
}

/// 2. linkerd2#7519, #6940, #5888, #5551. A watch on the file would hear of the first swap at most.
#[tokio::test]
async fn new_files_are_served_without_a_restart_and_broken_ones_never() {
    guarded(async {
        let [first, second, third] = [bundle(), bundle(), bundle()];
        let mut volume = Volume::holding("swaps", &first);
        let replica = Replica::start(&volume).await;
        assert!(trusts(replica.address, &first).await);

        volume.swap(&second.server, &second.server_key);
        replica.shows(&second).await;
        assert!(!trusts(replica.address, &first).await);

        volume.swap(&third.server, &second.server_key);
        replica.reports("does not belong to the certificate").await;
        assert!(replica.readiness.is_ready(), "the pair that is shown is as good as it was");
        assert!(trusts(replica.address, &second).await);

        volume.swap(&third.server, &third.server_key);
        replica.shows(&third).await;
        assert!(!replica.readiness.report().contains("refused"));
    })
    .await;
}

// === In a cluster ===

/// 1. kyverno#10063, #13639.
#[tokio::test(flavor = "multi_thread")]
async fn an_authority_is_renewed_by_its_own_age_while_its_certificate_is_young() {
    guarded(async {
        let Some(mut scene) = Scene::open("authority-age").await else { return };
        scene.plan = scene.plan.clone().with_lifetimes(30 * DAY, 27 * DAY);
        let replica = scene.leader().await;
        let first = scene.until_shown(&replica, None).await;
        let authority = certificates(&scene.bundles().await[0]);
        assert_eq!(replica.shown.authority_end(), Some(authority[0].validity().not_after));

        scene.time.go(19 * DAY);
        let second = scene.until_shown(&replica, Some(&first)).await;
        assert_eq!(certificates(&scene.bundles().await[0]), authority, "the authority is not due yet");

        scene.time.go(2 * DAY);
        let both = scene.until("a second authority", async || {
            let trusted = certificates(&scene.bundles().await[0]);
            (trusted.len() == 2).then_some(trusted)
        });
        let both = both.await;
        assert!(both[1] == authority[0] && both[0].validity().not_after > both[1].validity().not_after);
        assert_eq!(scene.until_shown(&replica, None).await, second, "the certificate is not due yet");
        scene
            .until("the end of the second authority is told", async || {
                (replica.shown.authority_end() == Some(both[0].validity().not_after)).then_some(())
            })
            .await;

        // The first authority ends; what it signed was renewed before.
        scene.time.go(10 * DAY);
        let third = scene.until_shown(&replica, Some(&second)).await;
        assert!(third.is_signed_by(&both[0]) && !third.is_signed_by(&both[1]));
        scene
            .until("the first authority goes", async || {
                (certificates(&scene.bundles().await[1]) == both[..1]).then_some(())
            })
            .await;
    })
    .await;
}

/// 3. cert-controller#50, #35, cluster-api#10522: the volume of a Secret lags behind a `caBundle`.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_shown_before_the_webhooks_trust_it_and_nobody_waits_for_a_volume() {
    guarded(async {
        let Some(scene) = Scene::open("lag").await else { return };
        let (leader, follower) = (scene.leader().await, scene.follower().await);
        let first = scene.until_shown(&follower, None).await;
        scene.until_shown(&leader, None).await;

        // A new authority, since the old one's key is lost.
        scene.take_out(&["ca.key", "tls.crt", "tls.key"]).await;
        scene
            .until("both webhooks trust both authorities", async || {
                assert_eq!(
                    scene.shown(&follower).await.as_ref(),
                    Some(&first),
                    "what is shown is trusted at any moment"
                );
                scene.bundles().await.iter().all(|bundle| certificates(bundle).len() == 2).then_some(())
            })
            .await;
        assert!(!scene.secret().await.contains_key("tls.crt") || scene.secret().await["tls.crt"].is_empty());

        // The API servers have had the time to hear of it.
        scene.time.go(Duration::from_secs(61));
        for replica in [&leader, &follower] {
            scene
                .until("the new certificate is shown", async || {
                    let shown = scene.shown(replica).await.expect("what is shown is trusted at any moment");
                    (shown != first).then_some(())
                })
                .await;
        }
    })
    .await;
}

/// 4. cert-manager#6350, #5519.
#[tokio::test(flavor = "multi_thread")]
async fn an_authority_of_somebody_else_stays_in_the_bundle_for_as_long_as_it_is_valid() {
    guarded(async {
        let Some(scene) = Scene::open("merged").await else { return };
        let now = scene.time.now();
        let theirs = CertificateAndKey::ca(now, now + 5 * DAY).unwrap().certificate;
        scene.set_bundles(Some(&theirs)).await;
        let replica = scene.leader().await;
        scene.until_shown(&replica, None).await;
        for bundle in scene.bundles().await {
            let trusted = certificates(&bundle);
            assert!(trusted.len() == 2 && trusted[1..] == certificates(&theirs), "{bundle}");
        }
        scene.time.go(6 * DAY);
        scene
            .until("the expired one goes", async || {
                scene.bundles().await.iter().all(|bundle| certificates(bundle).len() == 1).then_some(())
            })
            .await;
    })
    .await;
}

/// 5. k8tz#1, slurm-operator PR #218, capsule#546, newrelic/helm-charts#105.
#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_of_the_chart_changes_no_certificate() {
    guarded(async {
        let Some(scene) = Scene::open_without_webhooks("upgrade").await else { return };
        for manifest in scene.manifests() {
            scene.apply("helm", &manifest).await;
        }
        let replica = scene.leader().await;
        let shown = scene.until_shown(&replica, None).await;
        let before = (scene.secret().await, scene.bundles().await);
        assert!(before.0.contains_key("tls.key"));
        for mut manifest in scene.manifests() {
            manifest["metadata"]["labels"] = json!({"app.kubernetes.io/version": "2"});
            scene.apply("helm", &manifest).await;
        }
        assert_eq!((scene.secret().await, scene.bundles().await), before);
        assert_eq!(scene.until_shown(&replica, None).await, shown);
    })
    .await;
}

/// 6. apisix-helm-chart#993, k8s-agents-operator#489, opentelemetry-helm-charts PR #2172: what a tool rendered without a
/// cluster is applied again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_sync_of_what_was_rendered_without_a_cluster_changes_no_certificate() {
    guarded(async {
        let Some(scene) = Scene::open_without_webhooks("sync").await else { return };
        let folder = Folder::new("sync");
        let file = folder.path().join("manifests.json");
        let list = json!({"apiVersion": "v1", "kind": "List", "items": scene.manifests()});
        fs::write(&file, list.to_string()).unwrap();
        let sync = || {
            let Some(mut kubectl) = scene.api.kubectl() else { return false };
            let output = kubectl.args(["apply", "--filename"]).arg(&file).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            true
        };
        if !sync() {
            return;
        }
        let replica = scene.leader().await;
        let shown = scene.until_shown(&replica, None).await;
        let before = (scene.secret().await, scene.bundles().await);
        for _ in 0..3 {
            sync();
            assert_eq!((scene.secret().await, scene.bundles().await), before);
        }
        assert_eq!(scene.until_shown(&replica, None).await, shown);
    })
    .await;
}

/// 7. kubernaut#332, k8s-metadata-injection#733, kthena#717, chaos-mesh#4822, aicr PR #934.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_side_apply_meets_no_conflict_over_the_bundle_since_each_field_has_one_owner() {
    guarded(async {
        let Some(scene) = Scene::open_without_webhooks("owners").await else { return };
        for manifest in scene.manifests() {
            scene.apply("helm", &manifest).await;
        }
        let replica = scene.leader().await;
        scene.until_shown(&replica, None).await;
        for manifest in scene.manifests() {
            // A conflict would be an error: there is no force.
            scene.apply("helm", &manifest).await;
        }
        let validating = scene.validating().get(scene.webhooks()).await.unwrap();
        let secret = scene.secrets().get(SECRET).await.unwrap();
        for (managed, field) in [(validating.managed_fields(), "f:caBundle"), (secret.managed_fields(), "f:tls.key")] {
            let owners = managed.iter().filter(|entry| serde_json::to_string(entry).unwrap().contains(field));
            let owners: BTreeSet<_> = owners.filter_map(|entry| entry.manager.as_deref()).collect();
            assert_eq!(owners, BTreeSet::from(["nicplug-certificates"]), "{field}");
        }
    })
    .await;
}

/// 8. cert-controller#44, #13, gatekeeper#1045. Both lead here, which a Lease forbids: it must not be what saves us.
#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_at_the_very_first_start_make_one_authority() {
    guarded(async {
        let Some(scene) = Scene::open("race").await else { return };
        let (one, other) = tokio::join!(scene.leader(), scene.leader());
        let shown = scene.until_shown(&one, None).await;
        assert_eq!(scene.until_shown(&other, None).await, shown);
        assert_eq!(certificates(&scene.secret().await["ca.crt"]).len(), 1);
        for bundle in scene.bundles().await {
            assert_eq!(certificates(&bundle).len(), 1);
        }
        for replica in [&one, &other] {
            scene.until("it is ready", async || replica.readiness.is_ready().then_some(())).await;
        }
    })
    .await;
}

/// 9. cert-manager#6340, PR #4133, kubewarden/helm-charts#453, kubevela PR #6919. Whatever comes late or goes away.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_missing_at_the_start_or_was_taken_away_is_made_up_for() {
    guarded(async {
        let Some(scene) = Scene::open_without_webhooks("late").await else { return };
        let client = scene.api.service_account(&scene.namespace, "nicplug");
        let replica = scene.leader_as(client).await;
        scene
            .until("it says that it may not watch", async || {
                let report = replica.readiness.report();
                (report.contains("certificate failed: cannot watch") && report.contains("forbidden")).then_some(())
            })
            .await;

        grant(&scene).await;
        // Nobody calls, so nobody has to trust it first.
        scene.until("it is ready", async || replica.readiness.is_ready().then_some(())).await;
        scene.install().await;
        let shown = scene.until_shown(&replica, None).await;

        scene.set_bundles(None).await;
        assert_eq!(scene.until_shown(&replica, None).await, shown, "the bundle is put back");
        scene.validating().delete(scene.webhooks(), &DeleteParams::default()).await.unwrap();
        scene.mutating().delete(scene.webhooks(), &DeleteParams::default()).await.unwrap();
        scene.install().await;
        assert_eq!(scene.until_shown(&replica, None).await, shown, "the new ones are given it too");
    })
    .await;
}

/// What the chart grants, and no more.
async fn grant(scene: &Scene) {
    let (admin, namespace, name) = (scene.api.admin(), &scene.namespace, scene.webhooks());
    let params = PostParams::default();
    let verbs = ["get", "list", "patch", "update", "watch"];
    let secrets = json!({"metadata": {"name": name}, "rules": [
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [SECRET], "verbs": verbs}]});
    let webhooks = json!({"metadata": {"name": name}, "rules": [{"apiGroups": ["admissionregistration.k8s.io"],
        "resources": ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"],
        "resourceNames": [name], "verbs": ["get", "list", "patch", "watch"]}]});
    let binding = |kind: &str| {
        json!({"metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": "nicplug", "namespace": namespace}]})
    };
    let role: Role = serde_json::from_value(secrets).unwrap();
    Api::namespaced(admin.clone(), namespace).create(&params, &role).await.unwrap();
    let binding_of_role: RoleBinding = serde_json::from_value(binding("Role")).unwrap();
    Api::namespaced(admin.clone(), namespace).create(&params, &binding_of_role).await.unwrap();
    let role: ClusterRole = serde_json::from_value(webhooks).unwrap();
    Api::all(admin.clone()).create(&params, &role).await.unwrap();
    let binding: ClusterRoleBinding = serde_json::from_value(binding("ClusterRole")).unwrap();
    Api::all(admin).create(&params, &binding).await.unwrap();
}

/// The program itself, twice, with all that it logs: none of it is a key.
#[tokio::test(flavor = "multi_thread")]
async fn two_programs_share_one_certificate_and_tell_no_key() {
    guarded(async {
        let Some(scene) = Scene::open("programs").await else { return };
        let flags = ["--cert-source=self", "--cert-secret", SECRET, "--cert-dns-name=127.0.0.1", "--log=trace"];
        let flags = [&flags[..], &["--webhook-config", scene.webhooks(), "--drain-deadline=1s"]].concat();
        let kubeconfig = scene.api.kubeconfig().to_str().unwrap();
        let environment = [("KUBECONFIG", kubeconfig), ("POD_NAMESPACE", scene.namespace.as_str())];
        let start = || Webhook::start_with(&flags, &environment);
        let (one, other) = tokio::join!(start(), start());
        let [bundle, _] = scene.bundles().await;
        assert_eq!(certificates(&bundle).len(), 1);
        for webhook in [&one, &other] {
            shake_hands(webhook.address().parse().unwrap(), &bundle, &scene.time).await.unwrap();
        }

        let secret = scene.secret().await;
        let keys = [&secret["ca.key"], &secret["tls.key"]];
        let mut is_told = false;
        for line in [one.stop().await, other.stop().await].concat() {
            let line = line.to_string();
            is_told |= line.contains("making a new server certificate");
            let mut secrets = keys.iter().flat_map(|key| key.lines()).filter(|text| !text.starts_with("-----"));
            assert!(secrets.all(|text| !line.contains(text) && !line.contains(&BASE64.encode(text))), "{line}");
            assert!(!line.contains("PRIVATE KEY") || line.contains("it has to be PEM"), "{line}");
        }
        assert!(is_told);
    })
    .await;
}

/// 10. pinniped PR #849, istio PR #32176.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_valid_for_a_clock_that_is_almost_five_minutes_late() {
    guarded(async {
        let Some(scene) = Scene::open("skew").await else { return };
        let replica = scene.leader().await;
        scene.until_shown(&replica, None).await;
        let [bundle, _] = scene.bundles().await;
        let shake = async |late: u64| {
            shake_hands(replica.address, &bundle, &Time::late(Duration::from_secs(late))).await.is_ok()
        };
        assert!(shake(0).await && shake(240).await);
        assert!(!shake(360).await, "the clock of a client does play a part");
        for certificate in certificates(&(bundle.clone() + &scene.secret().await["tls.crt"])) {
            let early = scene.time.now().duration_since(certificate.validity().not_before).unwrap();
            assert!(early >= Duration::from_mins(5), "{early:?}");
        }
    })
    .await;
}

/// 11. linkerd2#4889, #5697, #5149.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_warns_by_the_share_of_a_life_and_lets_nothing_pass_that_has_expired() {
    guarded(async {
        let Some(mut scene) = Scene::open("check").await else { return };
        // Shorter than any fixed number of days before an end.
        scene.plan = scene.plan.clone().with_lifetimes(365 * DAY, DAY);
        let (leader, replica) = (scene.leader().await, scene.follower().await);
        scene.until_shown(&replica, None).await;
        let reports = async |expected: &[&str]| {
            scene
                .until(&format!("{expected:?}"), async || {
                    let report = replica.readiness.report();
                    expected.iter().all(|text| report.contains(text)).then_some(report)
                })
                .await
        };
        let report = reports(&["[+]certificate ok: valid from", "ready\n"]).await;
        assert!(!report.contains("renewed") && !report.contains("refused"), "{report}");

        // Nobody renews any more.
        drop(leader);
        scene.time.go(Duration::from_hours(18));
        let report = reports(&["[+]certificate ok"]).await;
        assert!(!report.contains("should have been renewed"), "{report}");
        scene.time.go(Duration::from_hours(3));
        reports(&["[+]certificate ok", "should have been renewed by now", "ready\n"]).await;
        scene.time.go(Duration::from_hours(4));
        reports(&["[-]certificate failed", "is over", "not ready"]).await;
        assert!(scene.shown(&replica).await.is_none());

        let _leader = scene.leader().await;
        reports(&["[+]certificate ok", "ready\n"]).await;
        scene.until_shown(&replica, None).await;
    })
    .await;
}

/// 12. external-secrets#1249.
#[tokio::test(flavor = "multi_thread")]
async fn a_life_shorter_than_any_look_ahead_is_not_renewed_without_end() {
    guarded(async {
        let Some(mut scene) = Scene::open("short").await else { return };
        // Dates begin five minutes early: of a minute, two thirds would be over at once. So it is an hour.
        scene.plan = scene.plan.clone().with_lifetimes(Duration::from_mins(1), Duration::from_mins(1));
        let replica = scene.leader().await;
        let mut shown = vec![scene.until_shown(&replica, None).await];
        for _ in 0..24 {
            scene.time.go(Duration::from_mins(10));
            let now = scene.time.now();
            let renewed = scene.until("the authority is renewed and the certificate is trusted", async || {
                let authorities = certificates(&scene.secret().await["ca.crt"]);
                let is_fresh = authorities.first()?.validity().phase(now) == ValidityPhase::Fresh;
                if is_fresh { scene.shown(&replica).await } else { None }
            });
            let renewed = renewed.await;
            if shown.last() != Some(&renewed) {
                shown.push(renewed);
            }
        }
        // Four hours, and two thirds of sixty-five minutes, less the five, are thirty-eight.
        assert!((4..=9).contains(&shown.len()), "{} certificates in four hours", shown.len());
    })
    .await;
}
