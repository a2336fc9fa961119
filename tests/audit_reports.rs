//! `nicplug audit -o report` on a real API server with the definitions of OpenReports and of the older PolicyReports.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::{fs, path::Path, process::Command};

use hyper::http::Method;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use support::{
    api_server::{
        crds::{self, Kind},
        requests::{self, send},
    },
    builders::{VmBuilder, bare_vm},
    commands::{CommandFixture, Finished, IN_PLACE, NETWORK, run},
    wait::eventually,
};
use tokio::task::spawn_blocking;

const REPORTS: &str = "/apis/openreports.io/v1alpha1";
const POLICY_REPORTS: &str = "/apis/wgpolicyk8s.io/v1alpha2";

impl CommandFixture {
    async fn write_reports(&self, args: &[&str]) -> Finished {
        run(self.command(IN_PLACE, &[&["audit", "-o", "report"], args].concat())).await
    }

    /// Installs the definition of a kind of reports.
    async fn install(&self, file: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/report-crds").join(file);
        crds::establish(&self.admin, fs::read(path).unwrap()).await;
    }

    /// Returns the reports of the namespace, by the name of their guest.
    async fn reports(&self, api: &str) -> Vec<Value> {
        let plural = if api == REPORTS { "reports" } else { "policyreports" };
        let path = format!("{api}/namespaces/{}/{plural}", self.namespace);
        let list = send(&self.admin, Method::GET, &path, "", "").await.granted();
        let mut reports = list["items"].as_array().unwrap().clone();
        reports.sort_by_key(|report| report["scope"]["name"].as_str().unwrap_or_default().to_owned());
        reports
    }

    async fn delete_vm(&self, name: &str) {
        Kind::Vm.api(&self.admin, &self.namespace).delete(name, &DeleteParams::default()).await.unwrap();
        let is_gone = async || {
            let vm = Kind::Vm.api(&self.admin, &self.namespace).get_opt(name).await.unwrap();
            vm.is_none().then_some(())
        };
        eventually("the VM is deleted", is_gone).await;
    }
}

fn vm(name: &str) -> VmBuilder {
    bare_vm(name)
        .run_strategy("Manual")
        .nic_with(json!({"name": "default", "masquerade": {}}), json!({"name": "default", "pod": {}}))
}

/// A VM that the webhook would deny, with NP006.
fn denied(name: &str) -> VmBuilder {
    let two_bindings = json!({"name": "blue", "bridge": {}, "sriov": {}});
    vm(name).nic_with(two_bindings, json!({"name": "blue", "multus": {"networkName": NETWORK}}))
}

/// Returns names of guests with the versions of their reports.
fn versions(reports: &[Value]) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    reports
        .iter()
        .map(|report| (text(&report["scope"]["name"]), text(&report["metadata"]["resourceVersion"])))
        .collect()
}

fn guests(reports: &[Value]) -> Vec<String> {
    versions(reports).into_iter().map(|(name, _)| name).collect()
}

#[tokio::test]
async fn reports_are_written_once_for_each_guest_in_the_api_that_the_cluster_has() {
    let Some(fixture) = CommandFixture::start("reports").await else { return };
    fixture.create_vm(&vm("vm-fine")).await;
    fixture.create_vm(&denied("vm-denied")).await;
    fixture.create_vm(&vm("vm-typo").nic("blue", "new-fancy-nett")).await;
    let neither = fixture.write_reports(&[]).await;
    neither
        .check_output(2, &["neither openreports.io/v1alpha1 nor wgpolicyk8s.io/v1alpha2", "install the CRDs of https"]);

    fixture.install("policyreports.yaml").await;
    let first = fixture.write_reports(&[]).await;
    first.check_output(
        1,
        &[
            "1 error, 1 warning in 3 guests of namespace \"reports",
            "policyreports.wgpolicyk8s.io: 2 created, 0 changed, 0 unchanged, 0 removed\n",
            "To show them: kubectl get policyreports.wgpolicyk8s.io -A -o wide -l app.kubernetes.io/managed-by=nicplug",
        ],
    );
    let old = fixture.reports(POLICY_REPORTS).await;
    assert_eq!(guests(&old), ["vm-denied", "vm-typo"]);

    fixture.install("reports.yaml").await;
    let moved = fixture.write_reports(&["--exit-zero"]).await;
    moved.check_output(0, &["\nreports.openreports.io: 2 created, 0 changed, 0 unchanged, 2 removed\n"]);
    assert_eq!(fixture.reports(POLICY_REPORTS).await, Vec::<Value>::new());
    let reports = fixture.reports(REPORTS).await;
    check_report(&reports[0], &fixture.namespace);

    let again = fixture.write_reports(&[]).await;
    again.check_output(1, &["0 created, 0 changed, 2 unchanged, 0 removed"]);
    assert_eq!(versions(&fixture.reports(REPORTS).await), versions(&reports));

    // A report of another tool stays, and so do reports about guests that are not selected.
    let other = json!({"apiVersion": "openreports.io/v1alpha1", "kind": "Report",
        "metadata": {"name": "of-another-tool", "labels": {"app.kubernetes.io/managed-by": "kyverno"}},
        "scope": {"kind": "VirtualMachine", "name": "another"}});
    let path = format!("{REPORTS}/namespaces/{}/reports", fixture.namespace);
    send(&fixture.admin, Method::POST, &path, "application/json", other.to_string()).await.granted();
    let none = fixture.write_reports(&["-l", "app=none"]).await;
    none.check_output(0, &["nothing found in 0 guests", "0 created, 0 changed, 0 unchanged, 0 removed"]);
    fixture.delete_vm("vm-typo").await;
    let changed = json!({"spec": {"template": {"spec": denied("vm-denied").nic("red", "new-fancy-nett").build()["spec"]
        ["template"]["spec"]}}});
    let change = requests::Change::Merge(changed);
    requests::change(&fixture.admin, Kind::Vm, &fixture.namespace, "vm-denied", change, requests::Run::Real)
        .await
        .granted();
    let last = fixture.write_reports(&[]).await;
    last.check_output(1, &["0 created, 1 changed, 0 unchanged, 1 removed"]);
    let after = fixture.reports(REPORTS).await;
    assert_eq!(guests(&after), ["another", "vm-denied"]);
    let results = after[1]["results"].as_array().unwrap();
    assert_eq!(results.len(), 2, "{results:#?}");
    assert_eq!(results[0]["timestamp"], reports[0]["results"][0]["timestamp"]);

    send(&fixture.admin, Method::DELETE, &path, "", "").await.granted();
    let rules = json!([{"apiGroups": ["kubevirt.io"], "resources": ["virtualmachines"], "verbs": ["list"]},
        {"apiGroups": ["openreports.io"], "resources": ["reports"], "verbs": ["list"]}]);
    let args = ["audit", "-o", "report", "--exit-zero"];
    fixture.command_as("reader", rules, IN_PLACE, &args).await;
    let kubeconfig = fixture.api.kubeconfig_of("reader", &fixture.folder);
    // The authorizer learns of the role a moment later.
    let refused = async || {
        let finished = run(fixture.command_with(kubeconfig.clone().into(), IN_PLACE, &args)).await;
        finished.stdout.contains("2 guests of").then_some(finished)
    };
    let refused = eventually("the role of the reader is in force", refused).await;
    refused.check_output(
        2,
        &[
            "0 created, 0 changed, 0 unchanged, 0 removed",
            &format!("Report \"{}/nicplug-", fixture.namespace),
            " was not written: ",
            "User \"reader\" cannot patch resource \"reports\"",
            "policyreports.wgpolicyk8s.io cannot be listed: ",
        ],
    );
}

/// Checks a report about `vm-denied`: the API server drops fields that the definition does not have.
fn check_report(report: &Value, namespace: &str) {
    let owner = &report["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["name"]), (&json!("VirtualMachine"), &json!("vm-denied")), "{report:#}");
    let uid = owner["uid"].as_str().unwrap();
    assert_eq!(report["metadata"]["name"], format!("nicplug-{uid}"));
    let scope = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": "vm-denied",
        "namespace": namespace, "uid": uid});
    assert_eq!(report["scope"], scope);
    assert_eq!(report["summary"], json!({"pass": 0, "fail": 1, "warn": 0, "error": 0, "skip": 0}));
    let result = &report["results"][0];
    let keys: Vec<&String> = result.as_object().unwrap().keys().collect();
    let expected =
        ["category", "message", "policy", "properties", "result", "rule", "scored", "severity", "source", "timestamp"];
    assert_eq!(keys, expected);
    assert_eq!((&result["policy"], &result["source"]), (&json!("NP006"), &json!("nicplug")));
    assert_eq!((&result["result"], &result["severity"]), (&json!("fail"), &json!("high")));
    assert_eq!(result["properties"]["nic"], "blue");
    assert!(result["timestamp"]["seconds"].as_i64().unwrap() > 1_700_000_000, "{result:#}");
    let managers: Vec<&Value> =
        report["metadata"]["managedFields"].as_array().unwrap().iter().map(|entry| &entry["manager"]).collect();
    assert_eq!(managers, ["nicplug-audit"]);
}
