//! Events on guests for what KubeVirt itself was refused, on a real API server, and the page that lists all events.

// Helpers of tests fail as tests do.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod cluster_support;

use cluster_support::{
    apiserver,
    crds::Kind,
    eventually,
    kubevirt_double::KubeVirtDouble,
    request::{self, Change, Run},
    webhook::{FailurePolicy, Webhook},
};
use k8s_openapi::api::events::v1::Event;
use kube::{Api, Client, api::ListParams};
use nicplug::k8s::events::EventReason;
use serde_json::{Value, json};

const VM: &str = "vm-fedora";

#[test]
fn the_page_lists_every_event_with_its_type() {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/events.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let listed: Vec<String> =
        rows.map(|(reason, rest)| format!("{reason} {}", rest.split(' ').next().unwrap())).collect();
    let told = EventReason::ALL.map(|tale| format!("{} {:?}", tale.as_str(), tale.event_type()));
    assert_eq!(listed, told);
}

/// A guest that has one more NIC, of a model that cannot be plugged into it (NP103).
fn guest(has_nic: bool) -> Value {
    let mut interfaces = vec![json!({"name": "default", "masquerade": {}})];
    let mut networks = vec![json!({"name": "default", "pod": {}})];
    if has_nic {
        interfaces.push(json!({"name": "blue", "bridge": {}, "model": "e1000e"}));
        networks.push(json!({"name": "blue", "multus": {"networkName": "blue"}}));
    }
    json!({"domain": {"devices": {"interfaces": interfaces}, "memory": {"guest": "1Gi"}}, "networks": networks})
}

async fn events(admin: &Client, namespace: &str) -> Vec<Event> {
    let events: Api<Event> = Api::namespaced(admin.clone(), namespace);
    events.list(&ListParams::default()).await.unwrap().items
}

/// The value of a series of `/metrics`.
async fn metric(webhook: &Webhook, series: &str) -> u64 {
    let metrics = webhook.get("/metrics").await;
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{series}: {metrics}")).parse().unwrap()
}

#[tokio::test]
async fn what_kubevirt_is_refused_is_told_on_the_vm_once_and_what_others_are_is_not() {
    let Some(api) = apiserver::shared().await else { return };
    let (admin, namespace) = (api.admin(), api.namespace("events").await);
    let webhook = Webhook::start_with(&[], &[("KUBECONFIG", api.kubeconfig().to_str().unwrap())]).await;
    webhook.register(api, &namespace, FailurePolicy::Fail).await;
    let nad = json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": "blue"}, "spec": {"config": "{\"type\": \"bridge\"}"}});
    request::create(&admin, Kind::Nad, &namespace, &nad, Run::Real).await.granted();
    let vm = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
        "metadata": {"name": VM, "annotations": {"nicplug.io/apply": "on-restart"}},
        "spec": {"runStrategy": "Always", "template": {"spec": guest(false)}}});
    let vm = request::create(&admin, Kind::Vm, &namespace, &vm, Run::Real).await.granted();
    let double = KubeVirtDouble::start(api, &namespace);
    let vmi = double.start_vm(VM).await;

    // A person reads the answer, and a dry run is nothing that happens.
    let plug = Change::Merge(json!({"spec": guest(true)}));
    let controller = api.service_account("kubevirt", "kubevirt-controller");
    for (client, run) in [(&admin, Run::Real), (&controller, Run::Dry)] {
        let answer = request::change(client, Kind::Vmi, &namespace, VM, plug.clone(), run).await;
        assert_eq!(answer.code, 422, "{answer:?}");
    }

    // The VM may wait for its restart, and KubeVirt does not: it copies the NIC at once.
    let template = Change::Merge(json!({"spec": {"template": {"spec": guest(true)}}}));
    request::change(&admin, Kind::Vm, &namespace, VM, template, Run::Real).await.granted();
    eventually("KubeVirt is refused", async || (!double.refusals().is_empty()).then_some(())).await;
    eventually("it is told", async || (metric(&webhook, "nicplug_events_sent_total").await == 1).then_some(())).await;

    // Again and again.
    let rate = "nicplug_events_dropped_total{reason=\"rate\"}";
    for beat in 0..3 {
        let refusals = double.refusals().len();
        double.beat(VM, beat).await;
        eventually("KubeVirt is refused again", async || (double.refusals().len() > refusals).then_some(())).await;
    }
    eventually("what is told already is dropped", async || (metric(&webhook, rate).await >= 3).then_some(())).await;
    assert_eq!(metric(&webhook, "nicplug_events_sent_total").await, 1);

    let told = events(&admin, &namespace).await;
    let [event] = told.as_slice() else { panic!("{told:?}") };
    let event = serde_json::to_value(event).unwrap();
    assert_eq!([&event["type"], &event["reason"], &event["action"]], ["Warning", "InterfaceRefused", "Review"]);
    assert_eq!(event["reportingController"], "nicplug.io/webhook");
    let note = event["note"].as_str().unwrap();
    assert!(note.starts_with("KubeVirt may not update VirtualMachineInstance \"vm-fedora\": "), "{note}");
    assert!(note.contains("e1000e") && note.contains("[NP103]"), "{note}");
    for (field, kind, object) in [("regarding", "VirtualMachine", &vm), ("related", "VirtualMachineInstance", &vmi)] {
        let expected = json!({"apiVersion": "kubevirt.io/v1", "kind": kind, "namespace": namespace, "name": VM,
            "uid": object["metadata"]["uid"]});
        assert_eq!(event[field], expected, "{field}");
    }
}
