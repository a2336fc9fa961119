//! Events on a running VM when a change of its NICs is stored, on a real API server.

// Helpers of tests fail as tests do.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod support;

use hyper::http::Method;
use k8s_openapi::api::events::v1::Event;
use kube::{Api, Client, api::ListParams};
use serde_json::{Value, json};
use support::{
    api_server::{
        crds::Kind,
        requests::{self, Change, Run},
        webhooks::FailurePolicy,
    },
    builders::{INTERFACES, NETWORKS, VM},
    commands::{BY_MIGRATION, CommandFixture, NETWORK},
    metrics,
    replica::{Deployment, Replica},
    wait::eventually,
};

async fn events(admin: &Client, namespace: &str) -> Vec<Event> {
    let events: Api<Event> = Api::namespaced(admin.clone(), namespace);
    events.list(&ListParams::default()).await.unwrap().items
}

/// Returns the value of a series of `/metrics`.
async fn metric(replica: &Replica, series: &str) -> u64 {
    metrics::value(&replica.page("/metrics").await, series)
}

/// Returns the patch that adds a NIC on the network of the fixture.
fn add(nic: &str) -> Vec<Value> {
    vec![
        json!({"op": "add", "path": format!("{NETWORKS}/-"),
            "value": {"name": nic, "multus": {"networkName": NETWORK}}}),
        json!({"op": "add", "path": format!("{INTERFACES}/-"), "value": {"name": nic, "bridge": {}}}),
    ]
}

#[tokio::test]
async fn a_stored_change_of_a_running_vm_has_one_event_with_the_words_of_the_plan_and_a_refused_one_has_none() {
    let Some(fixture) = CommandFixture::with_running_vm("change-events").await else { return };
    let (api, admin, namespace) = (fixture.api, &fixture.admin, fixture.namespace.as_str());
    // Another webhook, which is called beside nicplug and refuses what has its label.
    let refusing = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": format!("{namespace}-refusing")},
        "webhooks": [{"name": "refusing.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "failurePolicy": "Fail", "clientConfig": {"url": "https://127.0.0.1:1/"},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "objectSelector": {"matchLabels": {"refused": "yes"}},
            "rules": [{"apiGroups": ["kubevirt.io"], "apiVersions": ["*"], "operations": ["UPDATE"],
                "resources": ["virtualmachines"]}]}]});
    let path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    requests::send(admin, Method::POST, path, "application/json", refusing.to_string()).await.granted();
    let settings = fixture.folder.write("settings.yaml", BY_MIGRATION);
    let environment = [("KUBECONFIG", api.kubeconfig().to_str().unwrap())];
    let flags = ["--settings", settings.as_str()];
    let nicplug = Deployment::start(api, namespace, FailurePolicy::Fail, &flags, &environment).await;
    let change = async |operations: Vec<Value>, run: Run| {
        requests::change(admin, Kind::Vm, namespace, VM, Change::Json(json!(operations)), run).await
    };

    let label = json!({"op": "add", "path": "/metadata/labels", "value": {"refused": "yes"}});
    eventually("the other webhook refuses", async || {
        let response = change([vec![label.clone()], add("refused")].concat(), Run::Real).await;
        (response.code == 500 && response.body["message"].as_str()?.contains("refusing.example.com")).then_some(())
    })
    .await;
    let plan = fixture.command(BY_MIGRATION, &["plan", VM, "--add", &format!("blue={NETWORK}"), "-o", "json"]).output();
    let plan: Value = serde_json::from_slice(&plan.unwrap().stdout).unwrap();
    let planned = plan["nics"][0]["why"].as_str().unwrap();
    assert!(planned.starts_with("by a live migration, which a user must start"), "{plan}");
    change(add("blue"), Run::Dry).await.granted();
    let vm = change(add("blue"), Run::Real).await.granted();
    let stored = async || {
        let events = events(admin, namespace).await;
        let stored = events.into_iter().filter(|event| event.reason.as_deref() == Some("InterfaceChangeStored"));
        stored.collect::<Vec<_>>()
    };
    let found =
        eventually("the Event is stored", async || Some(stored().await).filter(|found| !found.is_empty())).await;
    let [event] = found.as_slice() else { panic!("{found:?}") };
    let event = serde_json::to_value(event).unwrap();
    assert_eq!([&event["type"], &event["action"]], ["Normal", "Review"]);
    assert_eq!(event["regarding"]["uid"], vm["metadata"]["uid"]);
    let note = format!("change of the running VirtualMachine \"{VM}\": add \"blue\": {planned}");
    assert_eq!(event["note"], note.as_str());

    // KubeVirt removes an absent NIC from the template when the guest has lost it: that changes nothing any more.
    let unplug = vec![json!({"op": "add", "path": format!("{INTERFACES}/1/state"), "value": "absent"})];
    change(unplug, Run::Real).await.granted();
    let notes = eventually("the second Event is stored", async || {
        let notes: Vec<String> = stored().await.into_iter().map(|event| event.note.unwrap()).collect();
        (notes.len() > 1).then_some(notes)
    })
    .await;
    assert!(notes.len() == 2 && notes.iter().any(|note| note.contains("remove \"blue\": at once")), "{notes:?}");
    let failed = "nicplug_events_dropped_total{reason=\"failed\"}";
    assert_eq!(
        (metric(&nicplug.replica, "nicplug_events_sent_total").await, metric(&nicplug.replica, failed).await),
        (2, 0)
    );
}
