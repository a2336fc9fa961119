//! `liveChanges`: who may store a change of a running VM for its next restart, over TLS and on a real API server.

// Helpers of tests fail as tests do.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod support;

use std::process::{Command, Stdio};

use k8s_openapi::api::events::v1::Event;
use kube::{Api, Client, api::ListParams};
use serde_json::{Value, json};
use support::{
    api_server::{
        self,
        crds::Kind,
        requests::{self, Change, Response, Run},
        webhooks::FailurePolicy,
    },
    builders::{VM, VmBuilder, nad, vm},
    client::{LOCALHOST, handshake},
    clock::Clock,
    folder::{Folder, Volume},
    kubevirt::KubeVirtDouble,
    metrics,
    replica::{Deployment, Replica},
    wait::eventually,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const CONSOLE: &str = "system:serviceaccount:harvester-system:harvester";

/// Returns the VM with a NIC that waits for a restart (NP103), and one that never comes (NP105).
fn edited_vm() -> VmBuilder {
    vm_with_e1000e().nic("red", "no-such-net")
}

fn vm_with_e1000e() -> VmBuilder {
    vm().nic_with(json!({"name": "blue", "bridge": {}, "model": "e1000e"}), json!({"multus": {"networkName": "blue"}}))
}

const WARNING: &str = "\"red\" is never attached: the VM does not start with it; the change of \"blue\" waits for a \
                       restart [NP103, NP105]";

// === Over TLS ===

/// Writes the facts of a cluster in which the VM runs.
fn facts() -> Folder {
    let folder = Folder::new("facts");
    let in_demo = |mut object: Value| {
        object["metadata"]["namespace"] = json!("demo");
        object
    };
    let mut vmi = in_demo(vm().build_vmi());
    vmi["status"] = json!({"phase": "Running", "conditions": [{"type": "LiveMigratable", "status": "True"}]});
    let kubevirt = json!({"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt",
        "metadata": {"name": "kubevirt", "namespace": "kubevirt"}, "status": {"observedKubeVirtVersion": "v1.9.0"}});
    for (name, object) in [("vmi.json", vmi), ("kubevirt.json", kubevirt), ("nad.json", in_demo(nad("blue")))] {
        folder.write(name, &object.to_string());
    }
    folder
}

fn review(user: &str, groups: &[&str], new: &Value) -> String {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u",
        "operation": "UPDATE", "namespace": "demo", "name": VM,
        "kind": {"group": "kubevirt.io", "version": "v1", "kind": "VirtualMachine"},
        "userInfo": {"username": user, "groups": groups}, "object": new, "oldObject": vm().build()}})
    .to_string()
}

/// Sends a review over TLS and returns the body of the answer.
async fn answer(replica: &Replica, review: &str) -> String {
    let mut stream = handshake(replica.address(), LOCALHOST, &replica.ca(), &Clock::default()).await.unwrap();
    let head = format!(
        "POST /validate HTTP/1.1\r\nhost: nicplug\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n",
        review.len()
    );
    stream.write_all(format!("{head}{review}").as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[tokio::test]
async fn a_console_is_warned_and_a_person_is_denied_by_the_server_and_by_the_command() {
    let (facts, folder) = (facts(), Folder::new("settings"));
    let settings = folder.write(
        "settings.yaml",
        "liveChanges:\n  users: {\"system:serviceaccount:harvester-system:*\": warn}\n  groups: {ops: warn}\n",
    );
    let flags = ["--facts", facts.path().to_str().unwrap(), "--settings", &settings];
    let replica = Replica::start(&flags).await;
    let (edited, shapeless) = (edited_vm().build(), vm_with_e1000e().network(json!({"name": "blue"})).build());
    let never = vm().nic("red", "no-such-net").build();
    for (user, groups, new, warning) in [
        (CONSOLE, &["system:serviceaccounts"][..], &edited, Some(WARNING)),
        ("alice", &["system:authenticated", "ops"], &edited, Some(WARNING)),
        ("alice", &["system:authenticated"], &edited, None),
        // A fault of the shape is denied in any case.
        (CONSOLE, &[], &shapeless, None),
        (
            CONSOLE,
            &[],
            &never,
            Some("\"red\" is never attached, not even at a restart: the VM does not start with it [NP105]"),
        ),
    ] {
        let review = review(user, groups, new);
        let answer = answer(&replica, &review).await;
        let body: Value = serde_json::from_str(&answer).unwrap();
        let response = &body["response"];
        assert_eq!(response["allowed"], warning.is_some(), "{user}: {answer}");
        if let Some(warning) = warning {
            let warnings = response["warnings"].as_array().unwrap();
            let about_restart = warnings.iter().filter(|text| text.as_str().unwrap().contains("restart"));
            assert_eq!(about_restart.collect::<Vec<_>>(), [&format!("{VM}: {warning}")], "{user}");
        }
        // The command answers with the same bytes.
        let mut command = Command::new(env!("CARGO_BIN_EXE_nicplug"));
        let file = folder.write("review.json", &review);
        let output = command.arg("review").args(flags).arg(file).stderr(Stdio::inherit()).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim_end(), answer);
    }
    // The metrics count the warnings as such.
    let page = replica.page("/metrics").await;
    for (series, count) in [
        ("nicplug_findings_total{rule=\"NP103\",enforcement=\"warn\"}", 3),
        ("nicplug_findings_total{rule=\"NP103\",enforcement=\"deny\"}", 1),
        ("nicplug_findings_total{rule=\"NP105\",enforcement=\"warn\"}", 3),
    ] {
        assert_eq!(metrics::value::<u64>(&page, series), count, "{series}\n{page}");
    }
}

// === On a real API server ===

async fn edit(client: &Client, namespace: &str, guest: &Value, run: Run) -> Response {
    let change = Change::Merge(json!({"spec": {"template": {"spec": guest}}}));
    requests::change(client, Kind::Vm, namespace, VM, change, run).await
}

async fn postponed_events(admin: &Client, namespace: &str) -> Vec<Value> {
    let events: Api<Event> = Api::namespaced(admin.clone(), namespace);
    let events = events.list(&ListParams::default()).await.unwrap().items;
    let events = events.into_iter().map(|event| serde_json::to_value(event).unwrap());
    events.filter(|event| event["reason"] == "InterfacePostponed").collect()
}

#[tokio::test]
async fn a_console_stores_an_edit_of_a_running_vm_for_its_restart_and_a_person_is_denied() {
    let Some(api) = api_server::shared().await else { return };
    let (admin, namespace) = (api.admin(), api.namespace("live-changes").await);
    let mut volume = Volume::mount(&[(
        "settings.yaml",
        "liveChanges: {default: deny, users: {\"system:serviceaccount:harvester-system:*\": warn}}",
    )]);
    let file = volume.file("settings.yaml");
    let flags = ["--settings", file.to_str().unwrap(), "--settings-poll", "20ms"];
    let environment = [("KUBECONFIG", api.kubeconfig().to_str().unwrap())];
    let nicplug = Deployment::start(api, &namespace, FailurePolicy::Fail, &flags, &environment).await;
    let console = api.service_account("harvester-system", "harvester");
    let person = api.user("live-changes-person");
    for user in [CONSOLE, "live-changes-person"] {
        api.let_edit(user, &namespace).await;
    }
    requests::create(&admin, Kind::Nad, &namespace, &nad("blue"), Run::Real).await.granted();
    requests::create(&admin, Kind::Vm, &namespace, &vm().build(), Run::Real).await.granted();
    let double = KubeVirtDouble::start(api, &namespace);
    let vmi = double.start_vm(VM).await;

    let edited = edited_vm().guest();
    eventually("nicplug knows that the VM runs", async || {
        let denied = edit(&person, &namespace, &edited, Run::Dry).await;
        (denied.code == 422 && denied.causes().len() == 2).then_some(())
    })
    .await;
    let about_restart = |response: &Response| -> Vec<String> {
        response.warnings.iter().filter(|warning| warning.contains("restart")).cloned().collect()
    };
    let dry = edit(&console, &namespace, &edited, Run::Dry).await;
    let warning = format!("{VM}: {WARNING}");
    assert_eq!((dry.code, about_restart(&dry)), (200, vec![warning.clone()]), "{dry:?}");
    assert_eq!(postponed_events(&admin, &namespace).await, [] as [Value; 0], "a dry run stores nothing");
    // Only a fault of the shape is denied to the console.
    let shapeless = edited_vm().network(json!({"name": "green", "multus": {"networkName": "blue"}})).guest();
    let denied = edit(&console, &namespace, &shapeless, Run::Real).await;
    assert!(denied.code == 422 && denied.causes().iter().all(|cause| cause.message.contains("[NP004]")), "{denied:?}");

    let stored = edit(&console, &namespace, &edited, Run::Real).await;
    assert_eq!(about_restart(&stored), [warning], "{stored:?}");
    let vm = stored.granted();
    assert_eq!(vm["spec"]["template"]["spec"], edited);
    let events = eventually("the Event is stored", async || {
        Some(postponed_events(&admin, &namespace).await).filter(|events| !events.is_empty())
    })
    .await;
    let [event] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!([&event["type"], &event["action"]], ["Warning", "Review"]);
    assert_eq!(event["regarding"]["uid"], vm["metadata"]["uid"]);
    let note = event["note"].as_str().unwrap();
    let (never, waits) = note.split_once("; waits for the next restart: ").unwrap();
    let start = "change of the running VirtualMachine \"vm-fedora\": never attached, not even at a restart, so that the \
                 VM does not start with it: spec.template.spec.networks[2].multus.networkName: ";
    assert!(never.starts_with(start) && never.ends_with("[NP105]"), "{note}");
    assert!(waits.contains("e1000e") && waits.ends_with("[NP103]"), "{note}");
    // The running guest stays as it is: KubeVirt may not copy the NIC.
    eventually("KubeVirt's copy is denied", async || (!double.errors().is_empty()).then_some(())).await;
    let running = Kind::Vmi.api(&admin, &namespace).get(VM).await.unwrap();
    assert_eq!(running.data["spec"], vmi["spec"]);

    // The settings are taken up live: by namespace, and for a group of the person.
    let unedited = support::builders::vm().guest();
    for (settings, user, code) in [
        ("liveChanges: deny", &console, 422),
        ("namespaces: {\"live-changes-*\": {liveChanges: warn}}", &person, 200),
        ("liveChanges: {groups: {\"system:serviceaccounts:harvester-*\": warn}}", &console, 200),
        ("liveChanges: {default: warn, groups: {\"system:authenticated\": deny}}", &person, 422),
    ] {
        volume.update(&[("settings.yaml", settings)]);
        let guest = vm_with_e1000e().nic("green", "no-such-net").guest();
        eventually(settings, async || (edit(user, &namespace, &guest, Run::Dry).await.code == code).then_some(()))
            .await;
    }
    edit(&person, &namespace, &unedited, Run::Real).await.granted();
    assert!(nicplug.replica.is_ready().await);
}
