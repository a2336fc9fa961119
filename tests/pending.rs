//! On a real API server: a NIC that a running guest lacks after a time has one Event for its reason on the VM, and another
//! one when it has arrived.
//!
//! The guests are those of KubeVirt's double. Each test has an API server of its own, because a leader follows the VMs of
//! all namespaces. The tests set the clock and send the ticks, and wait for events only.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::{process::Command, sync::Arc, time::Duration};

use futures_util::stream;
use k8s_openapi::api::events::v1::Event;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams},
};
use nicplug::{
    cluster::{
        cache::NicAttachment,
        persist_queue::PersistQueue,
        watch::{Tuning, WatchState, Watches},
    },
    controllers::pending::{PendingController, PendingCounts},
    hotplug::place::{PendingReason, Place},
    settings::{CurrentSettings, Settings},
};
use serde_json::json;
use support::{
    api_server::{
        ApiServer,
        crds::Kind,
        requests::{self, Change, Run},
        roles::Role,
    },
    builders::{INTERFACES, NETWORKS, VM, nad, vm},
    clock::Clock,
    commands::{BY_MIGRATION, create_kubevirt},
    folder::Folder,
    kubevirt::KubeVirtDouble,
    metrics,
    replica::Replica,
    wait::eventually,
};
use tokio::{sync::mpsc, task::JoinHandle};

const NIC: &str = "blue";

/// A namespace with a running VM, in a cluster without a dynamic-networks controller and with a KubeVirt that starts no
/// migration.
struct Fixture {
    namespace: String,
    admin: Client,
    kubevirt: KubeVirtDouble,
    watches: Watches,
    clock: Clock,
}

impl Fixture {
    async fn start(api: &ApiServer, name: &str) -> Self {
        let (namespace, admin) = (api.namespace(name).await, api.admin());
        create_kubevirt(&admin, &namespace).await;
        requests::create(&admin, Kind::Nad, &namespace, &nad("net"), Run::Real).await.granted();
        requests::create(&admin, Kind::Vm, &namespace, &vm().build(), Run::Real).await.granted();
        let kubevirt = KubeVirtDouble::start(api, &namespace);
        kubevirt.start_vm(VM).await;
        kubevirt.report_condition(VM, json!({"type": "LiveMigratable", "status": "True"})).await;
        let watches = Watches::start(&admin, PersistQueue::default(), &Tuning::default());
        let are_known = || {
            let mut states = watches.statuses().iter().map(|status| status.state().0);
            states.all(|state| !matches!(state, WatchState::Starting(_)))
        };
        eventually("the facts are known", async || are_known().then_some(())).await;
        Self { namespace, admin, kubevirt, watches, clock: Clock::default() }
    }

    /// Adds the NIC to the template, and waits until nicplug knows that the VMI has it and the guest lacks it.
    async fn add_nic(&self) {
        let patch = json!([
            {"op": "add", "path": format!("{NETWORKS}/-"), "value": {"name": NIC, "multus": {"networkName": "net"}}},
            {"op": "add", "path": format!("{INTERFACES}/-"), "value": {"name": NIC, "bridge": {}}}]);
        requests::change(&self.admin, Kind::Vm, &self.namespace, VM, Change::Json(patch), Run::Real).await.granted();
        self.when(NicAttachment::Lacking).await;
        eventually("the VMI has the NIC", async || {
            let vmi = Kind::Vmi.api(&self.admin, &self.namespace).get(VM).await.unwrap();
            (vmi.data["spec"]["networks"].as_array()?.len() == 2).then_some(())
        })
        .await;
        self.kubevirt.report_condition(VM, json!({"type": "MigrationRequired", "status": "True"})).await;
    }

    /// Waits until nicplug knows where the NIC is.
    async fn when(&self, attachment: NicAttachment) {
        eventually("the watches read it", async || {
            (self.watches.cache().attachment_of(&self.namespace, VM, NIC) == attachment).then_some(())
        })
        .await;
    }

    /// Starts a leader.
    fn leader(&self, client: Client) -> Leader {
        let settings = Settings::parse(BY_MIGRATION, &[]).unwrap();
        let (cache, clock) = (Arc::clone(self.watches.cache()), self.clock.clone());
        let controller =
            PendingController::new(client, cache, CurrentSettings::from(settings), "test", move || clock.now());
        let counts = controller.counts().clone();
        let (ticks, mut ticked) = mpsc::channel(1);
        let task = tokio::spawn(async move {
            controller.run(stream::poll_fn(move |cx| ticked.poll_recv(cx))).await;
        });
        Leader { ticks, counts, task }
    }

    /// Returns the notes of the Events with this reason on the VM.
    async fn notes(&self, reason: &str) -> Vec<String> {
        let events: Api<Event> = Api::namespaced(self.admin.clone(), &self.namespace);
        let events = events.list(&ListParams::default()).await.unwrap().items;
        let is_meant = |event: &Event| {
            event.reason.as_deref() == Some(reason)
                && event.regarding.as_ref().is_some_and(|object| object.name.as_deref() == Some(VM))
        };
        events.into_iter().filter(is_meant).map(|event| event.note.unwrap()).collect()
    }
}

/// A controller that leads, until it is dropped.
struct Leader {
    ticks: mpsc::Sender<()>,
    counts: PendingCounts,
    task: JoinHandle<()>,
}

impl Leader {
    /// Sends a tick and waits until it is processed.
    async fn tick(&self) {
        // The channel holds one tick: when the third one is accepted, the second one is being processed.
        for _ in 0..3 {
            self.ticks.send(()).await.unwrap();
        }
    }

    fn pending(&self) -> u64 {
        self.counts.of(Place::Vmi, PendingReason::ManualMigration)
    }

    /// Ends the term.
    async fn stop(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
        assert_eq!(self.counts.of(Place::Vmi, PendingReason::ManualMigration), 0);
    }
}

#[tokio::test]
async fn a_nic_that_does_not_come_has_one_event_and_another_one_when_it_has_come() {
    let Some(api) = ApiServer::start().await else { return };
    let fixture = Fixture::start(&api, "pending").await;
    fixture.add_nic().await;
    let leader = fixture.leader(fixture.admin.clone());
    leader.tick().await;
    fixture.clock.advance(Duration::from_secs(100));
    leader.tick().await;
    assert_eq!((fixture.notes("InterfacePending").await, leader.pending()), (Vec::new(), 0), "there is still time");
    fixture.clock.advance(Duration::from_secs(30));
    leader.tick().await;
    let why = "\"blue\" is in the VMI, and not in the pod: it waits for a live migration, which a user must start \
        (KubeVirt lacks workloadUpdateMethods LiveMigrate); to do: start a live migration";
    assert_eq!((fixture.notes("InterfacePending").await, leader.pending()), (vec![why.to_owned()], 1));
    // The command says the same, and for how long.
    let folder = Folder::new("settings");
    let settings = folder.write("settings.yaml", BY_MIGRATION);
    let mut command = Command::new(env!("CARGO_BIN_EXE_nicplug"));
    command.args(["why", VM, NIC, "--namespace", &fixture.namespace, "--settings", &settings]);
    let output = command.env("KUBECONFIG", api.kubeconfig()).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let (sentence, fix) = why.split_once("; to do: ").unwrap();
    let (place, reason) = sentence.split_once(": it ").unwrap();
    let is_same = told.starts_with(&format!("{place} (for ")) && told.contains(&format!("): it {reason}\n"));
    assert!(is_same && told.contains(&format!("To do: {fix}\n")), "{told}");
    fixture.clock.advance(Duration::from_mins(10));
    leader.tick().await;
    leader.stop().await;

    let next = fixture.leader(fixture.admin.clone());
    next.tick().await;
    fixture.clock.advance(Duration::from_mins(3));
    next.tick().await;
    assert_eq!((fixture.notes("InterfacePending").await.len(), next.pending()), (1, 1), "the next leader repeats none");
    next.stop().await;

    // The NIC arrives while no replica leads.
    fixture.kubevirt.migrate(VM).await;
    fixture.when(NicAttachment::Attached).await;
    for _ in 0..2 {
        let last = fixture.leader(fixture.admin.clone());
        last.tick().await;
        assert_eq!(fixture.notes("InterfaceAttached").await, ["\"blue\" is in the guest"]);
        assert_eq!((fixture.notes("InterfacePending").await.len(), last.pending()), (1, 0));
        last.stop().await;
    }
}

#[tokio::test]
async fn without_permission_for_pods_and_events_the_event_says_so_and_is_not_repeated() {
    let Some(api) = ApiServer::start().await else { return };
    let fixture = Fixture::start(&api, "pending-blind").await;
    let role = Role { api: &api, name: "pending-blind".to_owned() };
    role.grant(&[
        json!({"apiGroups": ["kubevirt.io"], "resources": ["virtualmachines", "virtualmachineinstances"],
            "verbs": ["get"]}),
        json!({"apiGroups": ["kubevirt.io"], "resources": ["virtualmachineinstancemigrations"], "verbs": ["list"]}),
        json!({"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]}),
    ])
    .await;
    fixture.add_nic().await;
    for _ in 0..2 {
        let leader = fixture.leader(api.user("pending-blind"));
        leader.tick().await;
        fixture.clock.advance(Duration::from_mins(3));
        leader.tick().await;
        assert_eq!(leader.pending(), 1);
        let notes = fixture.notes("InterfacePending").await;
        assert!(notes.len() == 1 && notes[0].contains("not read, so the reason may be another one: pods, Events"));
        leader.stop().await;
    }
}

#[tokio::test]
async fn each_reason_has_one_event_however_often_it_comes_back() {
    let Some(api) = ApiServer::start().await else { return };
    let fixture = Fixture::start(&api, "pending-reasons").await;
    fixture.add_nic().await;
    let leader = fixture.leader(fixture.admin.clone());
    leader.tick().await;
    let migration = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceMigration",
        "metadata": {"name": "m", "namespace": fixture.namespace}, "spec": {"vmiName": VM}});
    let migrations = Kind::Migration.api(&fixture.admin, &fixture.namespace);
    for (is_running, manual, running) in [(false, 1, 0), (true, 1, 1), (false, 1, 1), (true, 1, 1)] {
        if is_running {
            requests::create(&fixture.admin, Kind::Migration, &fixture.namespace, &migration, Run::Real)
                .await
                .granted();
        } else if running > 0 {
            migrations.delete("m", &DeleteParams::default()).await.unwrap();
        }
        fixture.clock.advance(Duration::from_mins(31));
        leader.tick().await;
        let notes = fixture.notes("InterfacePending").await;
        let count = |part: &str| notes.iter().filter(|note| note.contains(part)).count();
        assert_eq!((count("a user must start"), count("migration \"m\"")), (manual, running), "{notes:?}");
        assert_eq!(leader.pending(), u64::from(!is_running));
    }
    leader.stop().await;
}

#[tokio::test]
async fn of_two_replicas_the_leader_reports_and_its_successor_repeats_nothing() {
    let Some(api) = ApiServer::start().await else { return };
    let fixture = Fixture::start(&api, "pending-replicas").await;
    let folder = Folder::new("settings");
    let settings = folder.write("settings.yaml", &format!("{BY_MIGRATION}\nevents: {{pendingAfterSeconds: 1}}"));
    let flags = [
        "--settings",
        &settings,
        "--persist",
        "off",
        "--lease-namespace",
        &fixture.namespace,
        "--lease-retry",
        "200ms",
    ];
    let environment = [("KUBECONFIG", api.kubeconfig().to_str().unwrap())];
    let mut replicas =
        vec![Replica::start_with(&flags, &environment).await, Replica::start_with(&flags, &environment).await];
    fixture.add_nic().await;
    // Whether each replica leads, and how many pending NICs it reports.
    let numbers = async |replicas: &[Replica]| {
        let mut numbers = Vec::new();
        for replica in replicas {
            let page = replica.page("/metrics").await;
            let pending = "nicplug_interfaces_pending{stage=\"vmi\",reason=\"manual-migration\"}";
            numbers.push(["nicplug_leader", pending].map(|series| metrics::value::<u64>(&page, series)));
        }
        numbers
    };
    let found = eventually("the leader reports the NIC", async || {
        let found = numbers(&replicas).await;
        let leads = found.iter().position(|[leads, _]| *leads == 1)?;
        (found[leads] == [1, 1] && found[1 - leads] == [0, 0]).then_some(leads)
    });
    let leads = found.await;
    assert_eq!(fixture.notes("InterfacePending").await.len(), 1);
    replicas.remove(leads).stop().await;
    let succeeds = async || (numbers(&replicas).await == [[1, 1]]).then_some(());
    eventually("the other replica leads and counts the NIC", succeeds).await;
    assert_eq!(fixture.notes("InterfacePending").await.len(), 1);
}
