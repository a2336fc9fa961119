//! Events on a VM when nicplug denies a request of KubeVirt, on a real API server, and the page that lists all events.

// Helpers of tests fail as tests do.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod support;

use k8s_openapi::api::events::v1::Event;
use kube::{Api, Client, api::ListParams};
use nicplug::k8s::events::EventReason;
use serde_json::json;
use support::{
    api_server::{
        self,
        crds::Kind,
        requests::{self, Change, Run},
        webhooks::FailurePolicy,
    },
    builders::{VM, VmBuilder, nad, vm},
    kubevirt::KubeVirtDouble,
    metrics,
    replica::{Deployment, Replica},
    wait::eventually,
};

#[test]
fn the_page_lists_every_event_with_its_type() {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/events.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let listed: Vec<String> =
        rows.map(|(reason, rest)| format!("{reason} {}", rest.split(' ').next().unwrap())).collect();
    let reasons = EventReason::ALL.map(|reason| format!("{} {:?}", reason.as_str(), reason.event_type()));
    assert_eq!(listed, reasons);
}

/// Returns a VM with a second NIC of a model that cannot be hotplugged (NP103).
fn vm_with_e1000e() -> VmBuilder {
    vm().nic_with(json!({"name": "blue", "bridge": {}, "model": "e1000e"}), json!({"multus": {"networkName": "blue"}}))
}

async fn events(admin: &Client, namespace: &str) -> Vec<Event> {
    let events: Api<Event> = Api::namespaced(admin.clone(), namespace);
    events.list(&ListParams::default()).await.unwrap().items
}

/// Returns the value of a series of `/metrics`.
async fn metric(replica: &Replica, series: &str) -> u64 {
    metrics::value(&replica.page("/metrics").await, series)
}

#[tokio::test]
async fn a_denied_request_of_kubevirt_is_one_event_on_the_vm_and_one_of_a_user_is_none() {
    let Some(api) = api_server::shared().await else { return };
    let (admin, namespace) = (api.admin(), api.namespace("events").await);
    let environment = [("KUBECONFIG", api.kubeconfig().to_str().unwrap())];
    let nicplug =
        Deployment::start(api, &namespace, FailurePolicy::Fail, &["--denial-namespaces=3"], &environment).await;
    let replica = &nicplug.replica;
    requests::create(&admin, Kind::Nad, &namespace, &nad("blue"), Run::Real).await.granted();
    let vm = vm().annotation("nicplug.io/apply", "on-restart").build();
    let vm = requests::create(&admin, Kind::Vm, &namespace, &vm, Run::Real).await.granted();
    let double = KubeVirtDouble::start(api, &namespace);
    let vmi = double.start_vm(VM).await;

    // A user reads the response, and a dry run changes nothing: neither causes an Event.
    let plug = Change::Merge(json!({"spec": vm_with_e1000e().guest()}));
    let controller = api.service_account("kubevirt", "kubevirt-controller");
    for (client, run) in [(&admin, Run::Real), (&controller, Run::Dry)] {
        let response = requests::change(client, Kind::Vmi, &namespace, VM, plug.clone(), run).await;
        assert_eq!(response.code, 422, "{response:?}");
    }

    // The annotation allows the change of the VM, and KubeVirt copies the NIC to the VMI at once.
    let template = Change::Merge(json!({"spec": {"template": {"spec": vm_with_e1000e().guest()}}}));
    requests::change(&admin, Kind::Vm, &namespace, VM, template, Run::Real).await.granted();
    eventually("KubeVirt's request is denied", async || (!double.errors().is_empty()).then_some(())).await;
    let are_sent = async || (metric(replica, "nicplug_events_sent_total").await == 2).then_some(());
    eventually("the Events of both changes are sent", are_sent).await;

    // KubeVirt tries again at each heartbeat.
    let rate = "nicplug_events_dropped_total{reason=\"rate\"}";
    for number in 0..3 {
        let errors = double.errors().len();
        double.heartbeat(VM, number).await;
        eventually("KubeVirt's request is denied again", async || (double.errors().len() > errors).then_some(())).await;
    }
    eventually("repeated Events are dropped", async || (metric(replica, rate).await >= 3).then_some(())).await;
    assert_eq!(metric(replica, "nicplug_events_sent_total").await, 2);

    // The denial of the user and the dry run of the controller are counted apart.
    let denials = async |requester: &str| {
        let labels = format!("requester=\"{requester}\",resource_namespace=\"{namespace}\"");
        metric(replica, &format!("nicplug_denials_total{{{labels}}}")).await
    };
    assert_eq!((denials("user").await, denials("serviceaccount").await), (1, 0));
    assert!(denials("kubevirt").await > 4, "{}", denials("kubevirt").await);

    // The change of the VM has an Event of its own: it waits for the restart.
    let mut events = events(&admin, &namespace).await;
    events.sort_by(|one, other| one.reason.cmp(&other.reason));
    let [postponed, event] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(postponed.reason.as_deref(), Some("InterfacePostponed"), "{postponed:?}");
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
