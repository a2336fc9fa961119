//! `nicplug check --cluster` on a real API server: the facts are those of the cluster, and the verdicts are those that the
//! webhooks give for the same object.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::{collections::BTreeSet, process::Command};

use serde_json::{Value, json};
use support::{
    api_server::{
        crds::Kind,
        requests::{self, Change, Response, Run},
        webhooks::FailurePolicy,
    },
    builders::{VM, VmBuilder, bare_vm},
    cases::text_and_rules,
    commands::{CommandFixture, IN_PLACE, NETWORK, run, vm},
    replica::Deployment,
};

/// Adds a NIC to a VM.
fn plug(vm: VmBuilder, interface: Value, network: &str) -> VmBuilder {
    vm.nic_with(interface, json!({"multus": {"networkName": network}}))
}

/// Returns the VM of the cluster with a change, or a new one, each with the answer of the webhook in words.
fn cases() -> Vec<(&'static str, Value)> {
    let blue = || json!({"name": "blue", "bridge": {}});
    let e1000e = || json!({"name": "blue", "bridge": {}, "model": "e1000e"});
    vec![
        ("a NIC that can be plugged", plug(vm(), blue(), NETWORK).build()),
        ("a model that cannot be plugged", plug(vm(), e1000e(), NETWORK).build()),
        ("the same model in a new VM", plug(bare_vm("new").run_strategy("Manual"), e1000e(), NETWORK).build()),
        ("a typo in the name of the network", plug(vm(), blue(), "new-fancy-nett").build()),
        ("a NIC without a network", vm().interface(blue()).build()),
        ("a changed model of a NIC that runs", with_model("e1000e")),
        ("no change", vm().build()),
    ]
}

fn with_model(model: &str) -> Value {
    let mut changed = vm().build();
    changed["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"][0]["model"] = json!(model);
    changed
}

/// Sends the object to the API server, which asks the webhooks, and stores nothing.
async fn apply(fixture: &CommandFixture, object: &Value) -> Response {
    let name = object["metadata"]["name"].as_str().unwrap();
    let (admin, namespace) = (&fixture.admin, &fixture.namespace);
    if name == VM {
        let spec = Change::Merge(json!({"spec": object["spec"]}));
        return requests::change(admin, Kind::Vm, namespace, VM, spec, Run::Dry).await;
    }
    requests::create(admin, Kind::Vm, namespace, object, Run::Dry).await
}

async fn checked(command: Command) -> (i32, Value) {
    let finished = run(command).await;
    (finished.code.unwrap(), finished.json())
}

/// Returns rule and field of each finding of a level.
fn findings(json: &Value, level: &str) -> BTreeSet<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let found = json["findings"].as_array().unwrap().iter().filter(|finding| finding["level"] == level);
    found.map(|finding| (text(&finding["rule"]), text(&finding["field"]))).collect()
}

#[tokio::test]
async fn the_verdict_of_check_is_that_of_the_webhooks() {
    let Some(fixture) = CommandFixture::with_running_vm("check-cluster").await else { return };
    let environment = [("KUBECONFIG", fixture.api.kubeconfig().to_str().unwrap())];
    let settings = fixture.folder.write("webhook.yaml", IN_PLACE);
    let flags = ["--settings", settings.as_str()];
    let _nicplug = Deployment::start(fixture.api, &fixture.namespace, FailurePolicy::Fail, &flags, &environment).await;
    let mut denied = 0;
    for (what, object) in cases() {
        let response = apply(&fixture, &object).await;
        let file = fixture.folder.write("vm.json", &object.to_string());
        let command = fixture.command(IN_PLACE, &["check", "--cluster", "-o", "json", "-f", &file]);
        let (status, json) = checked(command).await;
        assert_eq!(status, i32::from(!response.is_ok()), "{what}: {response:?} and {json:#}");
        let of_webhook: BTreeSet<(String, String)> = response
            .causes()
            .iter()
            .flat_map(|cause| {
                let (_, rules) = text_and_rules(&cause.message);
                rules.into_iter().map(|rule| (rule.to_owned(), cause.field.clone())).collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(findings(&json, "error"), of_webhook, "{what}: {response:?} and {json:#}");
        denied += usize::from(!response.is_ok());
        if response.is_ok() {
            // A denial has no warnings. A warning of nicplug begins with its name and ends with the rule.
            let warned: BTreeSet<&str> =
                response.warnings.iter().flat_map(|warning| text_and_rules(warning).1).collect();
            let of_check = findings(&json, "warning");
            let found: BTreeSet<&str> = of_check.iter().map(|(rule, _)| rule.as_str()).collect();
            assert_eq!(found, warned, "{what}: {response:?} and {json:#}");
        }
        assert_eq!(json["unchecked"], json!({}), "{what}: the cluster knows everything");
    }
    assert!(denied >= 3, "{denied} cases are denied");
}

#[tokio::test]
async fn a_user_of_one_namespace_gets_the_verdict_of_that_namespace() {
    let Some(fixture) = CommandFixture::with_running_vm("check-user").await else { return };
    let object = plug(vm(), json!({"name": "blue", "bridge": {}, "model": "e1000e"}), NETWORK).build();
    let file = fixture.folder.write("vm.json", &object.to_string());
    let args = ["check", "--cluster", "-o", "json", "-f", &file];
    let rules = json!([{"apiGroups": ["kubevirt.io", "k8s.cni.cncf.io"], "verbs": ["list"],
        "resources": ["virtualmachines", "virtualmachineinstances", "network-attachment-definitions"]}]);
    let (status, json) = checked(fixture.command_as("reader", rules, IN_PLACE, &args).await).await;
    assert_eq!(status, 1, "{json:#}");
    assert!(findings(&json, "error").iter().any(|(rule, _)| rule == "NP103"), "{json:#}");
    let notes = json["assumptions"].to_string();
    for part in ["VirtualMachines are known only in namespace", "KubeVirt is not known: "] {
        assert!(notes.contains(part), "{part} is not in {notes}");
    }

    let stranger = fixture.command_as("stranger", json!([]), IN_PLACE, &args).await;
    run(stranger).await.check(2, &[], &["--cluster: ", "forbidden"]);
}
