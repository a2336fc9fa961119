//! Renewal of certificates. Each test covers a failure that other projects had; its comment names their issues.
//!
//! The tests set the clock and send the ticks, and wait for events only.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use futures_util::stream;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, PostParams},
};
use nicplug::{
    certificates::{self as new_certificates, CertificateAndKey, GeneratedCertificates, Host, validity::ValidityPhase},
    server::{
        Config, Server,
        readiness::Readiness,
        tls::files::{CertFiles, CertReloader},
    },
};
use serde_json::json;
use support::{
    certificates::{CertificateFixture, DAY, SECRET, certificates},
    client::{LOCALHOST, handshake},
    clock::Clock,
    folder::{Folder, Volume},
    replica::Replica,
    server::reviewer_without_facts,
    wait::guarded,
};
use tokio::sync::mpsc;

// === Files ===

fn bundle() -> GeneratedCertificates {
    new_certificates::generate(&Host::local().unwrap(), SystemTime::now()).unwrap()
}

async fn trusts(address: SocketAddr, bundle: &GeneratedCertificates) -> bool {
    handshake(address, LOCALHOST, &bundle.ca, &Clock::default()).await.is_ok()
}

/// Returns the files of a Secret of type `kubernetes.io/tls`.
fn files<'a>(certificate: &'a str, key: &'a str) -> [(&'a str, &'a str); 2] {
    [("tls.crt", certificate), ("tls.key", key)]
}

/// A server that serves the certificate in a volume, and reads the files when a test sends a tick.
struct FileReplica {
    address: SocketAddr,
    readiness: Readiness,
    ticks: mpsc::UnboundedSender<()>,
}

impl FileReplica {
    async fn start(volume: &Volume) -> Self {
        let (certificate, key) = (volume.file("tls.crt"), volume.file("tls.key"));
        let reloader = CertReloader::open(CertFiles { certificate, key, hosts: Host::local().unwrap() }).unwrap();
        let config = Config::new(reloader.certificates());
        let server = Server::bind(config, reviewer_without_facts()).await.unwrap();
        let (address, readiness) = (server.local_addr(), server.readiness().clone());
        let (ticks, mut ticked) = mpsc::unbounded_channel();
        let check = readiness.add("certificate", "not looked at yet");
        tokio::spawn(reloader.run(check, SystemTime::now, stream::poll_fn(move |cx| ticked.poll_recv(cx))));
        tokio::spawn(server.run(std::future::pending()));
        let replica = Self { address, readiness, ticks };
        replica.wait_for_report("[+]certificate ok").await;
        // The self-check with the first certificate has ended: later reports are about the files.
        replica.wait_for_report("[+]webhook ok").await;
        replica
    }

    /// Sends ticks until the readiness report contains a text.
    async fn wait_for_report(&self, text: &str) {
        while !self.readiness.report().contains(text) {
            self.ticks.send(()).unwrap();
            tokio::task::yield_now().await;
        }
    }

    /// Sends ticks until the server serves a certificate of this CA.
    async fn wait_for_certificate(&self, bundle: &GeneratedCertificates) {
        while !trusts(self.address, bundle).await {
            self.ticks.send(()).unwrap();
        }
    }
}

/// 2. linkerd2#7519, #6940, #5888, #5551. A watch on the file would see the first update at most.
#[tokio::test]
async fn new_files_are_served_without_a_restart_and_broken_ones_never() {
    guarded(async {
        let [first, second, third] = [bundle(), bundle(), bundle()];
        let mut volume = Volume::mount(&files(&first.server, &first.server_key));
        let replica = FileReplica::start(&volume).await;
        assert!(trusts(replica.address, &first).await);

        volume.update(&files(&second.server, &second.server_key));
        replica.wait_for_certificate(&second).await;
        assert!(!trusts(replica.address, &first).await);

        volume.update(&files(&third.server, &second.server_key));
        replica.wait_for_report("does not match the certificate").await;
        assert!(replica.readiness.is_ready(), "the certificate that is served is still valid");
        assert!(trusts(replica.address, &second).await);

        volume.update(&files(&third.server, &third.server_key));
        replica.wait_for_certificate(&third).await;
        assert!(!replica.readiness.report().contains("refused"));
    })
    .await;
}

// === In a cluster ===

/// 1. kyverno#10063, #13639.
#[tokio::test(flavor = "multi_thread")]
async fn a_ca_is_renewed_by_its_own_age_while_the_serving_certificate_is_young() {
    guarded(async {
        let Some(mut fixture) = CertificateFixture::start("ca-age").await else { return };
        fixture.plan = fixture.plan.clone().with_lifetimes(30 * DAY, 27 * DAY);
        let replica = fixture.leader().await;
        let first = fixture.until_trusted(&replica, None).await;
        let ca = certificates(&fixture.bundles().await[0]);
        assert_eq!(replica.shown.ca_expiry(), Some(ca[0].validity().not_after));

        fixture.clock.advance(19 * DAY);
        let second = fixture.until_trusted(&replica, Some(&first)).await;
        assert_eq!(certificates(&fixture.bundles().await[0]), ca, "the CA is not due yet");

        fixture.clock.advance(2 * DAY);
        let both = fixture.until("there is a second CA", async || {
            let trusted = certificates(&fixture.bundles().await[0]);
            (trusted.len() == 2).then_some(trusted)
        });
        let both = both.await;
        assert!(both[1] == ca[0] && both[0].validity().not_after > both[1].validity().not_after);
        assert_eq!(fixture.until_trusted(&replica, None).await, second, "the certificate is not due yet");
        fixture
            .until("the replica reports the end of the second CA", async || {
                (replica.shown.ca_expiry() == Some(both[0].validity().not_after)).then_some(())
            })
            .await;

        // The first CA expires; the certificate that it signed is renewed before.
        fixture.clock.advance(10 * DAY);
        let third = fixture.until_trusted(&replica, Some(&second)).await;
        assert!(third.is_signed_by(&both[0]) && !third.is_signed_by(&both[1]));
        fixture
            .until("the first CA is removed", async || {
                (certificates(&fixture.bundles().await[1]) == both[..1]).then_some(())
            })
            .await;
    })
    .await;
}

/// 3. cert-controller#50, #35, cluster-api#10522: the volume of a Secret lags behind a `caBundle`.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_served_only_after_the_webhooks_trust_it() {
    guarded(async {
        let Some(fixture) = CertificateFixture::start("lag").await else { return };
        let (leader, follower) = (fixture.leader().await, fixture.follower().await);
        let first = fixture.until_trusted(&follower, None).await;
        fixture.until_trusted(&leader, None).await;

        // The key of the CA is lost, so there will be a new CA.
        fixture.remove_from_secret(&["ca.key", "tls.crt", "tls.key"]).await;
        fixture
            .until("both webhooks trust both CAs", async || {
                assert_eq!(
                    fixture.trusted_certificate(&follower).await.as_ref(),
                    Some(&first),
                    "the served certificate is trusted at any time"
                );
                fixture.bundles().await.iter().all(|bundle| certificates(bundle).len() == 2).then_some(())
            })
            .await;
        assert!(!fixture.secret().await.contains_key("tls.crt") || fixture.secret().await["tls.crt"].is_empty());

        // After this time the API servers have received the new bundle.
        fixture.clock.advance(Duration::from_secs(61));
        for replica in [&leader, &follower] {
            fixture
                .until("the new certificate is served", async || {
                    let served = fixture
                        .trusted_certificate(replica)
                        .await
                        .expect("the served certificate is trusted at any time");
                    (served != first).then_some(())
                })
                .await;
        }
    })
    .await;
}

/// 4. cert-manager#6350, #5519.
#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_ca_stays_in_the_bundle_until_it_expires() {
    guarded(async {
        let Some(fixture) = CertificateFixture::start("merged").await else { return };
        let now = fixture.clock.now();
        let foreign = CertificateAndKey::ca(now, now + 5 * DAY).unwrap().certificate;
        fixture.set_bundles(Some(&foreign)).await;
        let replica = fixture.leader().await;
        fixture.until_trusted(&replica, None).await;
        for bundle in fixture.bundles().await {
            let trusted = certificates(&bundle);
            assert!(trusted.len() == 2 && trusted[1..] == certificates(&foreign), "{bundle}");
        }
        fixture.clock.advance(6 * DAY);
        fixture
            .until("the expired CA is removed", async || {
                fixture.bundles().await.iter().all(|bundle| certificates(bundle).len() == 1).then_some(())
            })
            .await;
    })
    .await;
}

/// 5. k8tz#1, slurm-operator PR #218, capsule#546, newrelic/helm-charts#105.
#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_of_the_chart_changes_no_certificate() {
    guarded(async {
        let Some(fixture) = CertificateFixture::start_without_webhooks("upgrade").await else { return };
        for manifest in fixture.manifests() {
            fixture.apply("helm", &manifest).await;
        }
        let replica = fixture.leader().await;
        let served = fixture.until_trusted(&replica, None).await;
        let before = (fixture.secret().await, fixture.bundles().await);
        assert!(before.0.contains_key("tls.key"));
        for mut manifest in fixture.manifests() {
            manifest["metadata"]["labels"] = json!({"app.kubernetes.io/version": "2"});
            fixture.apply("helm", &manifest).await;
        }
        assert_eq!((fixture.secret().await, fixture.bundles().await), before);
        assert_eq!(fixture.until_trusted(&replica, None).await, served);
    })
    .await;
}

/// 6. apisix-helm-chart#993, k8s-agents-operator#489, opentelemetry-helm-charts PR #2172: a tool renders the chart
/// without a cluster and applies it repeatedly.
#[tokio::test(flavor = "multi_thread")]
async fn repeated_syncs_of_a_chart_rendered_without_a_cluster_change_no_certificate() {
    guarded(async {
        let Some(fixture) = CertificateFixture::start_without_webhooks("sync").await else { return };
        let folder = Folder::new("sync");
        let list = json!({"apiVersion": "v1", "kind": "List", "items": fixture.manifests()});
        let file = folder.write("manifests.json", &list.to_string());
        let sync = || {
            let Some(mut kubectl) = fixture.api.kubectl() else { return false };
            let output = kubectl.args(["apply", "--filename"]).arg(&file).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            true
        };
        if !sync() {
            return;
        }
        let replica = fixture.leader().await;
        let served = fixture.until_trusted(&replica, None).await;
        let before = (fixture.secret().await, fixture.bundles().await);
        for _ in 0..3 {
            sync();
            assert_eq!((fixture.secret().await, fixture.bundles().await), before);
        }
        assert_eq!(fixture.until_trusted(&replica, None).await, served);
    })
    .await;
}

/// 7. kubernaut#332, k8s-metadata-injection#733, kthena#717, chaos-mesh#4822, aicr PR #934.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_side_apply_has_no_conflict_because_each_field_has_one_manager() {
    guarded(async {
        let Some(fixture) = CertificateFixture::start_without_webhooks("owners").await else { return };
        for manifest in fixture.manifests() {
            fixture.apply("helm", &manifest).await;
        }
        let replica = fixture.leader().await;
        fixture.until_trusted(&replica, None).await;
        for manifest in fixture.manifests() {
            // Without force a conflict is an error.
            fixture.apply("helm", &manifest).await;
        }
        let validating = fixture.validating().get(fixture.webhooks()).await.unwrap();
        let secret = fixture.secrets().get(SECRET).await.unwrap();
        for (managed, field) in [(validating.managed_fields(), "f:caBundle"), (secret.managed_fields(), "f:tls.key")] {
            let managers = managed.iter().filter(|entry| serde_json::to_string(entry).unwrap().contains(field));
            let managers: BTreeSet<_> = managers.filter_map(|entry| entry.manager.as_deref()).collect();
            assert_eq!(managers, BTreeSet::from(["nicplug-certificates"]), "{field}");
        }
    })
    .await;
}

/// 8. cert-controller#44, #13, gatekeeper#1045. Both replicas lead here, although the Lease prevents that: the result
/// must not depend on it.
#[tokio::test(flavor = "multi_thread")]
async fn two_leaders_at_the_first_start_create_one_ca() {
    guarded(async {
        let Some(fixture) = CertificateFixture::start("race").await else { return };
        let (one, other) = tokio::join!(fixture.leader(), fixture.leader());
        let served = fixture.until_trusted(&one, None).await;
        assert_eq!(fixture.until_trusted(&other, None).await, served);
        assert_eq!(certificates(&fixture.secret().await["ca.crt"]).len(), 1);
        for bundle in fixture.bundles().await {
            assert_eq!(certificates(&bundle).len(), 1);
        }
        for replica in [&one, &other] {
            fixture.until("it is ready", async || replica.readiness.is_ready().then_some(())).await;
        }
    })
    .await;
}

/// 9. cert-manager#6340, PR #4133, kubewarden/helm-charts#453, kubevela PR #6919.
#[tokio::test(flavor = "multi_thread")]
async fn permissions_and_webhooks_that_are_missing_at_the_start_or_deleted_later_are_handled() {
    guarded(async {
        let Some(fixture) = CertificateFixture::start_without_webhooks("late").await else { return };
        let client = fixture.api.service_account(&fixture.namespace, "nicplug");
        let replica = fixture.leader_as(client).await;
        fixture
            .until("the report says that the watch is forbidden", async || {
                let report = replica.readiness.report();
                (report.contains("certificate failed: cannot watch") && report.contains("forbidden")).then_some(())
            })
            .await;

        grant(&fixture).await;
        // Without webhooks no API server has to trust the certificate first.
        fixture.until("it is ready", async || replica.readiness.is_ready().then_some(())).await;
        fixture.install().await;
        let served = fixture.until_trusted(&replica, None).await;

        fixture.set_bundles(None).await;
        assert_eq!(fixture.until_trusted(&replica, None).await, served, "the bundle is restored");
        fixture.validating().delete(fixture.webhooks(), &DeleteParams::default()).await.unwrap();
        fixture.mutating().delete(fixture.webhooks(), &DeleteParams::default()).await.unwrap();
        fixture.install().await;
        assert_eq!(fixture.until_trusted(&replica, None).await, served, "the new webhooks get the bundle too");
    })
    .await;
}

/// Grants the permissions of the chart.
async fn grant(fixture: &CertificateFixture) {
    let (admin, namespace, name) = (fixture.api.admin(), &fixture.namespace, fixture.webhooks());
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

/// Two processes of the program and their complete logs.
#[tokio::test(flavor = "multi_thread")]
async fn two_processes_share_one_certificate_and_log_no_key() {
    guarded(async {
        let Some(fixture) = CertificateFixture::start("programs").await else { return };
        let flags = ["--cert-source=self-signed", "--cert-secret", SECRET, "--cert-dns-name=127.0.0.1", "--log=trace"];
        let flags = [&flags[..], &["--webhook-config", fixture.webhooks(), "--drain-deadline=1s"]].concat();
        let kubeconfig = fixture.api.kubeconfig().to_str().unwrap();
        let environment = [("KUBECONFIG", kubeconfig), ("POD_NAMESPACE", fixture.namespace.as_str())];
        let start = || Replica::start_with(&flags, &environment);
        let (one, other) = tokio::join!(start(), start());
        let [bundle, _] = fixture.bundles().await;
        assert_eq!(certificates(&bundle).len(), 1);
        for replica in [&one, &other] {
            handshake(replica.address(), LOCALHOST, &bundle, &fixture.clock).await.unwrap();
        }

        let secret = fixture.secret().await;
        let keys = [&secret["ca.key"], &secret["tls.key"]];
        let mut is_logged = false;
        for line in [one.stop().await, other.stop().await].concat() {
            let line = line.to_string();
            is_logged |= line.contains("creating a serving certificate");
            let mut secrets = keys.iter().flat_map(|key| key.lines()).filter(|text| !text.starts_with("-----"));
            assert!(secrets.all(|text| !line.contains(text) && !line.contains(&BASE64.encode(text))), "{line}");
            assert!(!line.contains("PRIVATE KEY") || line.contains("it has to be PEM"), "{line}");
        }
        assert!(is_logged);
    })
    .await;
}

/// 10. pinniped PR #849, istio PR #32176.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_valid_for_a_clock_that_is_almost_five_minutes_behind() {
    guarded(async {
        let Some(fixture) = CertificateFixture::start("skew").await else { return };
        let replica = fixture.leader().await;
        fixture.until_trusted(&replica, None).await;
        let [bundle, _] = fixture.bundles().await;
        let is_trusted = async |behind: u64| {
            handshake(replica.address, LOCALHOST, &bundle, &Clock::behind(Duration::from_secs(behind))).await.is_ok()
        };
        assert!(is_trusted(0).await && is_trusted(240).await);
        assert!(!is_trusted(360).await, "the client's clock matters");
        for certificate in certificates(&(bundle.clone() + &fixture.secret().await["tls.crt"])) {
            let early = fixture.clock.now().duration_since(certificate.validity().not_before).unwrap();
            assert!(early >= Duration::from_mins(5), "{early:?}");
        }
    })
    .await;
}

/// 11. linkerd2#4889, #5697, #5149.
#[tokio::test(flavor = "multi_thread")]
async fn the_check_warns_after_a_share_of_the_validity_and_fails_after_the_expiry() {
    guarded(async {
        let Some(mut fixture) = CertificateFixture::start("check").await else { return };
        // A validity that is shorter than a fixed warning period of some days.
        fixture.plan = fixture.plan.clone().with_lifetimes(365 * DAY, DAY);
        let (leader, replica) = (fixture.leader().await, fixture.follower().await);
        fixture.until_trusted(&replica, None).await;
        let reports = async |expected: &[&str]| {
            fixture
                .until(&format!("{expected:?}"), async || {
                    let report = replica.readiness.report();
                    expected.iter().all(|text| report.contains(text)).then_some(report)
                })
                .await
        };
        let report = reports(&["[+]certificate ok: valid from", "ready\n"]).await;
        assert!(!report.contains("renewed") && !report.contains("refused"), "{report}");

        // Without a leader no certificate is renewed.
        drop(leader);
        fixture.clock.advance(Duration::from_hours(18));
        let report = reports(&["[+]certificate ok"]).await;
        assert!(!report.contains("should have been renewed"), "{report}");
        fixture.clock.advance(Duration::from_hours(3));
        reports(&["[+]certificate ok", "should have been renewed by now", "ready\n"]).await;
        fixture.clock.advance(Duration::from_hours(4));
        reports(&["[-]certificate failed", "has expired", "not ready"]).await;
        assert!(fixture.trusted_certificate(&replica).await.is_none());

        let _leader = fixture.leader().await;
        reports(&["[+]certificate ok", "ready\n"]).await;
        fixture.until_trusted(&replica, None).await;
    })
    .await;
}

/// 12. external-secrets#1249.
#[tokio::test(flavor = "multi_thread")]
async fn a_very_short_validity_does_not_cause_endless_renewals() {
    guarded(async {
        let Some(mut fixture) = CertificateFixture::start("short").await else { return };
        // A validity begins five minutes early, so two thirds of a minute would be over at once. It is an hour instead.
        fixture.plan = fixture.plan.clone().with_lifetimes(Duration::from_mins(1), Duration::from_mins(1));
        let replica = fixture.leader().await;
        let mut served = vec![fixture.until_trusted(&replica, None).await];
        for _ in 0..24 {
            fixture.clock.advance(Duration::from_mins(10));
            let now = fixture.clock.now();
            let renewed = fixture.until("the CA is renewed and the certificate is trusted", async || {
                let cas = certificates(&fixture.secret().await["ca.crt"]);
                let is_fresh = cas.first()?.validity().phase(now) == ValidityPhase::Fresh;
                if is_fresh { fixture.trusted_certificate(&replica).await } else { None }
            });
            let renewed = renewed.await;
            if served.last() != Some(&renewed) {
                served.push(renewed);
            }
        }
        // Four hours, and two thirds of sixty-five minutes, less the five, are thirty-eight.
        assert!((4..=9).contains(&served.len()), "{} certificates in four hours", served.len());
    })
    .await;
}
