//! `nicplug status`, `why` and `plan` on a real API server: their output and exit status.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::process::Command;

use hyper::http::Method;
use kube::api::{Patch, PatchParams};
use nicplug::hotplug::progress::pod_interface;
use serde_json::{Value, json};
use support::{
    api_server::{
        crds::Kind,
        requests::{self, Run},
    },
    builders::VM,
    commands::{BY_MIGRATION, CommandFixture, Finished, IN_PLACE, NETWORK, POD, Running, run, vm},
};

const NIC: &str = "dyniface1";

impl CommandFixture {
    /// Adds a running VM, with the pod of its guest.
    async fn with_guest(name: &str) -> Option<Self> {
        let fixture = Self::with_running_vm(name).await?;
        fixture.start_pod(VM, POD).await;
        Some(fixture)
    }

    /// Adds the NIC to the template of the VM, and waits until the VMI has it.
    async fn add_nic(&self) {
        let add = ["addinterface", VM, "--network-attachment-definition-name", NETWORK, "--name", NIC];
        run(self.command(IN_PLACE, &add)).await.check(0, &["patched"], &[]);
        self.vmi_when(|vmi| vmi["spec"]["networks"].as_array().unwrap().len() == 2).await;
    }
}

impl Finished {
    /// Returns the line of the table about a NIC.
    #[track_caller]
    fn line(&self, nic: &str) -> String {
        let line = self.stdout.lines().find(|line| line.split_whitespace().nth(1) == Some(nic));
        line.unwrap_or_else(|| panic!("no line is about {nic}: {self:#?}")).to_owned()
    }
}

// === status ===

#[tokio::test]
async fn the_status_follows_a_nic_from_the_template_to_the_guest() {
    let Some(fixture) = CommandFixture::with_guest("status").await else { return };
    let status = || run(fixture.command(IN_PLACE, &["status"]));
    let before = status().await.check(0, &["VM ", "NETWORK", "WHERE", "PORTS"], &[]);
    assert!(before.line("default").contains(" guest "), "{before:#?}");
    fixture.add_nic().await;
    let copied = status().await.check(0, &[], &[]).line(NIC);
    assert!(copied.contains(" vmi ") && copied.contains("request it from Multus on pod"), "{copied}");
    fixture.kubevirt.report_nics(VM, &[("default", "domain"), (NIC, "multus-status")]).await;
    let attached = status().await.line(NIC);
    assert!(attached.contains(" pod ") && attached.contains("waits for libvirt"), "{attached}");
    fixture.kubevirt.report_nics(VM, &[("default", "domain"), (NIC, "domain, multus-status")]).await;
    let plugged = status().await.check(0, &[], &[]).line(NIC);
    assert!(plugged.contains(" guest ") && !plugged.contains("waits"), "{plugged}");
}

#[tokio::test]
async fn a_nic_that_needs_a_user_is_a_problem_with_exit_status_1() {
    let Some(fixture) = CommandFixture::with_guest("problem").await else { return };
    let problems = ["status", "--problems"];
    let fine = run(fixture.command(BY_MIGRATION, &problems)).await;
    fine.check(0, &[], &["No NIC needs anything from you (1 VM checked)"]);
    fixture.add_nic().await;
    let since = "2026-11-27T10:00:00Z";
    let required = json!({"type": "MigrationRequired", "status": "True", "lastTransitionTime": since});
    fixture.kubevirt.report_condition(VM, required).await;
    let found = run(fixture.command(BY_MIGRATION, &problems)).await;
    let found = found.check(1, &["which a user must start", "To do: start a live migration"], &[]);
    assert_eq!(found.stdout.lines().count(), 2, "{found:#?}");
    for format in ["json", "yaml"] {
        let output = run(fixture.command(BY_MIGRATION, &["status", "-o", format])).await.check(1, &[], &[]);
        let value: Value = serde_saphyr::from_str(&output.stdout).unwrap();
        assert_eq!((value["kind"].clone(), value["schemaVersion"].clone()), (json!("NicStatus"), json!(1)));
        let nic = &value["guests"][0]["nics"][1];
        assert_eq!((&nic["name"], &nic["place"], &nic["needs"]), (&json!(NIC), &json!("vmi"), &json!("action")));
        assert_eq!((&nic["since"], &nic["needsMigration"]), (&json!(since), &json!(true)), "{nic}");
    }
    for (width, lines) in [("80", 5), ("160", 3)] {
        let mut command = fixture.command(BY_MIGRATION, &["status", &format!("vm/{VM}")]);
        command.env("COLUMNS", width);
        let output = run(command).await.check(1, &[], &[]);
        assert!(output.stdout.lines().all(|line| line.chars().count() <= width.parse().unwrap()), "{output:#?}");
        assert!(output.stdout.lines().count() >= lines, "{output:#?}");
    }
}

#[tokio::test]
async fn all_namespaces_and_labels_select_vms() {
    let Some(fixture) = CommandFixture::with_guest("select").await else { return };
    let mut other = vm().named("vm-other").build();
    other["metadata"]["labels"] = json!({"app": fixture.namespace});
    requests::create(&fixture.admin, Kind::Vm, &fixture.namespace, &other, Run::Real).await.granted();
    let selected = run(fixture.command(IN_PLACE, &["status", "-l", &format!("app={}", fixture.namespace)])).await;
    let selected = selected.check(0, &["vm-other", "template", "comes at the next start"], &[]);
    assert!(!selected.stdout.contains(VM), "{selected:#?}");
    let mut all = Command::new(env!("CARGO_BIN_EXE_nicplug"));
    all.args(["status", "-A", "-o", "wide"]).env_remove("COLUMNS").arg("--kubeconfig").arg(fixture.api.kubeconfig());
    let all = run(all).await;
    let line = all.stdout.lines().find(|line| line.starts_with(&fixture.namespace) && line.contains("vm-other"));
    assert!(line.is_some_and(|line| line.contains("masquerade") && line.contains("virtio")), "{all:#?}");
    assert!(all.stdout.starts_with("NAMESPACE"), "{all:#?}");
    let both = run(fixture.command(IN_PLACE, &["status", VM, "vm/vm-other", VM])).await.check(0, &[], &[]);
    assert_eq!(both.stdout.lines().count(), 3, "{both:#?}");
    run(fixture.command(IN_PLACE, &["status", "vm-fedra"])).await.check(2, &[], &["did you mean \"vm-fedora\"?"]);
}

#[tokio::test]
async fn a_user_who_may_read_the_vm_only_gets_a_status_and_the_list_of_what_was_not_read() {
    let Some(fixture) = CommandFixture::with_guest("reader").await else { return };
    fixture.add_nic().await;
    let rules = json!([{"apiGroups": ["kubevirt.io"], "resources": ["virtualmachines"], "verbs": ["get"]}]);
    let named = fixture.command_as("reader", rules, IN_PLACE, &["status", VM]).await;
    let unread = ["Not read, no permission: ", "Events", "Pods", "VirtualMachineInstance"];
    let output = run(named).await.check(0, &["is in the template; whether the guest has it is not known"], &unread);
    assert!(output.line(NIC).contains("?/?"), "{output:#?}");
    let without_rights = fixture.command_as("nothing", json!([]), IN_PLACE, &["status"]).await;
    run(without_rights).await.check(2, &[], &["VirtualMachines", "cannot be listed"]);
}

#[tokio::test]
async fn the_watch_prints_the_line_that_changes() {
    let Some(fixture) = CommandFixture::with_guest("watch").await else { return };
    let mut running = Running::start(fixture.command(IN_PLACE, &["status", "-w"]));
    running.wait_for(&["default", " guest "]).await;
    fixture.add_nic().await;
    running.wait_for(&[NIC, " vmi "]).await;
    fixture.kubevirt.report_nics(VM, &[("default", "domain"), (NIC, "domain, multus-status")]).await;
    running.wait_for(&[NIC, " guest "]).await;
}

// === why ===

#[tokio::test]
async fn the_reason_comes_from_conditions_rules_and_events() {
    let Some(fixture) = CommandFixture::with_guest("why").await else { return };
    let why = |settings: &'static str, args: &'static [&'static str]| run(fixture.command(settings, args));
    why(IN_PLACE, &["why", VM]).await.check(0, &["\"vm-fedora\" has its NIC in the guest"], &[]);
    fixture.add_nic().await;
    let waits = why(IN_PLACE, &["why", VM, NIC]).await;
    waits.check(0, &["\"dyniface1\" is in the VMI, and not in the pod", "To do: nothing yet"], &[]);
    let required = json!({"type": "MigrationRequired", "status": "True"});
    fixture.kubevirt.report_condition(VM, required).await;
    let manual = why(BY_MIGRATION, &["why", VM]).await;
    let parts = ["which a user must start (KubeVirt lacks workloadUpdateMethods LiveMigrate)", "kubectl create -f -"];
    manual.check(1, &parts, &[]);
    fixture
        .create_core(
            "events",
            json!({"metadata": {"generateName": "e-", "namespace": fixture.namespace}, "type": "Warning",
                "reason": "Failed", "message": format!("adding {}: no bridge br1", pod_interface(NIC)),
                "involvedObject": {"kind": "Pod", "name": POD, "namespace": fixture.namespace},
                "lastTimestamp": "2099-01-01T00:00:00Z"}),
        )
        .await;
    let event = why(BY_MIGRATION, &["why", VM]).await;
    event.check(1, &["; Event Failed of Pod \"virt-launcher-vm-fedora-abcde\" (adding pod", "no bridge br1)"], &[]);
    why(IN_PLACE, &["why", VM, "dyniface"]).await.check(
        2,
        &[],
        &["has no NIC \"dyniface\"; did you mean \"dyniface1\"?"],
    );
    why(IN_PLACE, &["why", "pod/x"]).await.check(2, &[], &["write NAME, vm/NAME or vmi/NAME"]);
}

// === plan ===

#[tokio::test]
async fn the_plan_tells_when_each_change_arrives_and_how_to_make_it() {
    let Some(fixture) = CommandFixture::with_guest("plan").await else { return };
    let add = format!("{NIC}={NETWORK}");
    let plan = async |settings: &'static str, more: &[&str]| {
        run(fixture.command(settings, &[&["plan", VM], more].concat())).await
    };
    let at_once = plan(IN_PLACE, &["--add", &add]).await;
    let parts = ["+ dyniface1: at once", "Free ports for hotplug: ", "kubectl patch virtualmachine vm-fedora "];
    let at_once = at_once.check(0, &parts, &[]);
    let manual = plan(BY_MIGRATION, &["--add", &add]).await;
    manual.check(0, &["by a live migration, which a user must start", "kind: VirtualMachineInstanceMigration"], &[]);
    let wrong = plan(IN_PLACE, &["--add", "a=new-fancy-nett", "--remove", "none"]).await;
    let parts = ["! none: never: the template has no NIC", "+ a: never: ", "[NP105]", "No command: "];
    wrong.check(1, &parts, &[]);
    let later = plan(IN_PLACE, &["--set", "default.model=e1000e"]).await;
    later.check(0, &["~ default: at the next restart: "], &[]);
    plan(IN_PLACE, &[]).await.check(2, &[], &["nothing to plan"]);
    plan(IN_PLACE, &["--set", "x"]).await.check(2, &[], &["write NIC.FIELD=VALUE"]);
    let json = plan(IN_PLACE, &["--add", &add, "-o", "json"]).await.check(0, &[], &[]).json();
    assert_eq!((&json["kind"], &json["nics"][0]["when"]), (&json!("NicPlan"), &json!("atOnce")), "{json}");

    // The printed command makes the change.
    let (_, patch) = at_once.stdout.split_once("--patch='").unwrap();
    let (patch, _) = patch.split_once('\'').unwrap();
    let path = format!("{}/{VM}", Kind::Vm.path(&fixture.namespace));
    let send = |patch: &str| {
        requests::send(&fixture.admin, Method::PATCH, &path, "application/json-patch+json", patch.to_owned())
    };
    send(patch).await.granted();
    fixture.vmi_when(|vmi| vmi["spec"]["networks"].as_array().unwrap().len() == 2).await;
    plan(IN_PLACE, &["--add", &add]).await.check(0, &["= dyniface1: nothing to do: the template has it already"], &[]);
}

#[tokio::test]
async fn a_plan_without_the_permission_to_read_the_guest_cannot_judge() {
    let Some(fixture) = CommandFixture::with_guest("unsure").await else { return };
    let rules = json!([{"apiGroups": ["kubevirt.io"], "resources": ["virtualmachines"], "verbs": ["get"]},
        {"apiGroups": ["k8s.cni.cncf.io"], "resources": ["*"], "verbs": ["get"]}]);
    let add = format!("{NIC}={NETWORK}");
    let plan = fixture.command_as("unsure", rules, IN_PLACE, &["plan", VM, "--add", &add]).await;
    run(plan).await.check(2, &["+ dyniface1: not known: its VirtualMachineInstance is not known"], &["Not read"]);
}

// === slots ===

#[tokio::test]
async fn the_ports_of_now_are_those_of_the_record_and_not_those_of_the_template() {
    let Some(fixture) = CommandFixture::with_guest("slots").await else { return };
    let vmis = Kind::Vmi.api(&fixture.admin, &fixture.namespace);
    let stamp = json!({"metadata": {"annotations": {"nicplug.io/boot-slots": "v1:port=2,nics=1,disks=0"}}});
    vmis.patch(VM, &PatchParams::default(), &Patch::Merge(stamp)).await.unwrap();
    fixture.add_nic().await;
    fixture.kubevirt.report_nics(VM, &[("default", "domain"), (NIC, "domain, multus-status")]).await;
    let slots = async |more: &[&str]| run(fixture.command(IN_PLACE, &[&["slots", VM], more].concat())).await;
    let parts = [
        "Now: 1 hotplug port is free, of 2 at boot",
        "Plugged after the boot: dyniface1",
        "vm-fedora, after the next restart",
    ];
    slots(&[]).await.check(0, &parts, &[]);
    let json = slots(&["-o", "json"]).await.check(0, &[], &[]).json();
    assert_eq!(json["now"], json!({"free": 1, "freeAtBoot": 2, "isEstimate": false}), "{json}");
    assert_eq!((&json["pluggedLater"], &json["name"]), (&json!([NIC]), &json!(VM)), "{json}");
    assert_eq!((&json["schemaVersion"], &json["guest"]), (&json!(1), &json!("VirtualMachine")), "{json}");
    assert_ne!(json["afterRestart"]["freePorts"], json!(1), "{json}");
    let parts = ["Now: 1 hotplug port is free, of 2 at boot<", ">After the next restart: ", ">new-fancy-net · "];
    slots(&["-o", "svg"]).await.check(0, &parts, &[]);
    let one = format!("red={NETWORK}");
    slots(&["--what-if", &one]).await.check(
        0,
        &["What if red: at once: Multus attaches it", "With them 0 are free now"],
        &[],
    );
    let two = format!("green={NETWORK}");
    slots(&["--what-if", &one, &two]).await.check(1, &["never: no free hotplug port for", "[NP106]"], &[]);
    run(fixture.command(IN_PLACE, &["slots"])).await.check(2, &[], &["required"]);
}

#[tokio::test]
async fn the_bus_of_a_stopped_vm_has_the_memory_of_its_instancetype() {
    let Some(fixture) = CommandFixture::start("slots-typed").await else { return };
    let path = format!("/apis/instancetype.kubevirt.io/v1beta1/namespaces/{}", fixture.namespace);
    let instancetype = json!({"apiVersion": "instancetype.kubevirt.io/v1beta1", "kind": "VirtualMachineInstancetype",
        "metadata": {"name": "large"}, "spec": {"cpu": {"guest": 1}, "memory": {"guest": "4Gi"}}});
    let path = format!("{path}/virtualmachineinstancetypes");
    requests::send(&fixture.admin, Method::POST, &path, "application/json", instancetype.to_string()).await.granted();
    let mut vm = vm().build();
    vm["spec"]["instancetype"] = json!({"name": "large", "kind": "VirtualMachineInstancetype"});
    vm["spec"]["template"]["spec"]["domain"].as_object_mut().unwrap().remove("memory");
    requests::create(&fixture.admin, Kind::Vm, &fixture.namespace, &vm, Run::Real).await.granted();
    let slots = run(fixture.command(IN_PLACE, &["slots", VM])).await;
    let slots = slots.check(0, &["Now: no guest runs", "more than 2Gi"], &[]);
    assert!(!slots.stdout.contains("instancetype names is not known"), "{slots:#?}");
}

#[tokio::test]
async fn the_instancetypes_of_many_vms_are_read_once_with_the_copies_that_kubevirt_keeps() {
    let Some(fixture) = CommandFixture::start("typed").await else { return };
    let instancetype = |memory: &str| {
        json!({"apiVersion": "instancetype.kubevirt.io/v1beta1", "kind": "VirtualMachineInstancetype",
            "metadata": {"name": "sized", "namespace": fixture.namespace},
            "spec": {"cpu": {"guest": 1}, "memory": {"guest": memory}}})
    };
    let create = async |path: &str, object: Value| {
        let path = format!("/apis/{path}");
        requests::send(&fixture.admin, Method::POST, &path, "application/json", object.to_string()).await.granted();
    };
    let namespace = format!("namespaces/{}", fixture.namespace);
    create(&format!("instancetype.kubevirt.io/v1beta1/{namespace}/virtualmachineinstancetypes"), instancetype("4Gi"))
        .await;
    // The instancetype was smaller when KubeVirt copied it for the second VM.
    let copy = json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "revision": 1, "data": instancetype("1Gi"),
        "metadata": {"name": "vm-kept-sized-1", "labels": {"instancetype.kubevirt.io/object-name": "sized"}}});
    create(&format!("apps/v1/{namespace}/controllerrevisions"), copy).await;
    let create_vm = async |name: &str, copy: Option<&str>| {
        let mut vm = vm().named(name).build();
        vm["spec"]["instancetype"] =
            json!({"name": "sized", "kind": "VirtualMachineInstancetype", "revisionName": copy});
        vm["spec"]["template"]["spec"]["domain"].as_object_mut().unwrap().remove("memory");
        requests::create(&fixture.admin, Kind::Vm, &fixture.namespace, &vm, Run::Real).await.granted();
    };
    create_vm("vm-new", None).await;
    create_vm("vm-kept", Some("vm-kept-sized-1")).await;
    let free = async |args: &[&str], name: &str| {
        let output = run(fixture.command(IN_PLACE, args)).await;
        let value: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("{output:#?}"));
        let guest = value["guests"].as_array().unwrap().iter().find(|guest| guest["name"] == name).unwrap().clone();
        guest["ports"]["afterRestart"]["free"].as_u64().unwrap_or_else(|| panic!("{args:?} {name}: {guest:#}"))
    };
    for args in
        [&["status", "-o", "json"][..], &["status", "vm-kept", "vm-new", "-o", "json"], &["audit", "-o", "json"]]
    {
        // KubeVirt adds more placeholders to a guest with more than 2Gi of memory.
        assert_eq!((free(args, "vm-kept").await, free(args, "vm-new").await), (4, 12), "{args:?}");
    }
}
