//! `nicplug audit` on a real API server: its outputs and exit status.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::process::Command;

use futures_util::{StreamExt, stream};
use hyper::http::Method;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use support::{
    api_server::{
        crds::Kind,
        requests::{self, Run},
    },
    builders::{VmBuilder, bare_vm},
    commands::{BY_MIGRATION, CommandFixture, Finished, IN_PLACE, NETWORK, run},
};
use tokio::task::spawn_blocking;

impl CommandFixture {
    /// Creates a VM and starts it. A guest that boots gets `boot-slots` with so many free ports.
    async fn create_running(&self, vm: &VmBuilder, name: &str, ports: u64, migratable: Value) {
        self.create_vm(vm).await;
        self.kubevirt.start_vm(name).await;
        self.kubevirt.report_condition(name, migratable).await;
        let slots = format!("v1:port={ports},nics=1,disks=0");
        let stamp = json!({"metadata": {"annotations": {"nicplug.io/boot-slots": slots}}});
        let vmis = Kind::Vmi.api(&self.admin, &self.namespace);
        vmis.patch(name, &PatchParams::default(), &Patch::Merge(stamp)).await.unwrap();
    }

    /// Runs the command of the admin.
    async fn audit(&self, args: &[&str]) -> Finished {
        self.audit_with(IN_PLACE, args).await
    }

    async fn audit_with(&self, settings: &str, args: &[&str]) -> Finished {
        run(self.command(settings, &[&["audit"], args].concat())).await
    }
}

/// Begins a VM that the user starts and stops, with one NIC on the pod network.
fn vm(name: &str) -> VmBuilder {
    bare_vm(name)
        .run_strategy("Manual")
        .nic_with(json!({"name": "default", "masquerade": {}}), json!({"name": "default", "pod": {}}))
}

fn can_migrate() -> Value {
    json!({"type": "LiveMigratable", "status": "True"})
}

/// Returns the topics of a guest's findings.
fn topics(audit: &Value, name: &str) -> Vec<String> {
    let guests = audit["guests"].as_array().unwrap();
    let guest = guests.iter().find(|guest| guest["name"] == name).unwrap_or_else(|| panic!("{name}: {audit:#}"));
    let findings = guest["findings"].as_array().unwrap().iter();
    findings.map(|finding| finding["topic"].as_str().unwrap().to_owned()).collect()
}

/// Returns the data in a page.
fn data_of(page: &str) -> Value {
    let (_, rest) = page.split_once(r#"<script type="application/json" id="data">"#).unwrap();
    serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
}

#[tokio::test]
async fn an_audit_lists_what_hurts_the_worst_first() {
    let Some(fixture) = CommandFixture::start("audit").await else { return };
    fixture.create_running(&vm("vm-fine"), "vm-fine", 3, can_migrate()).await;
    let fine = fixture.audit(&[]).await.check_output(0, &["nothing found in 1 guest of namespace \"audit"]);
    assert_eq!(fine.stdout.lines().count(), 1, "{fine:#?}");

    let two_bindings = json!({"name": "blue", "bridge": {}, "sriov": {}});
    let network = json!({"name": "blue", "multus": {"networkName": NETWORK}});
    fixture.create_vm(&vm("vm-denied").nic_with(two_bindings, network)).await;
    fixture.create_vm(&vm("vm-typo").nic("blue", "new-fancy-nett")).await;
    fixture
        .create_vm(&vm("vm-broken").template_metadata(json!({"annotations":
        {"kubevirt.io/pci-interface-slot-count": "5.0"}})))
        .await;
    let pinned = json!({"type": "LiveMigratable", "status": "False", "reason": "DisksNotLiveMigratable"});
    fixture.create_running(&vm("vm-pinned"), "vm-pinned", 3, pinned).await;
    fixture.create_running(&vm("vm-full"), "vm-full", 0, can_migrate()).await;

    let json = fixture.audit(&["-o", "json"]).await.check_output(1, &[]).json();
    assert_eq!((&json["kind"], &json["schemaVersion"]), (&json!("NicAudit"), &json!(1)));
    assert_eq!(json["summary"]["guests"], 6, "{json:#}");
    for (name, expected) in [
        ("vm-fine", &[][..]),
        ("vm-denied", &["denied"]),
        ("vm-typo", &["warned"]),
        ("vm-broken", &["will-not-boot"]),
        ("vm-pinned", &["cannot-migrate"]),
        ("vm-full", &["ports-full"]),
    ] {
        assert_eq!(topics(&json, name), expected, "{json:#}");
    }
    let order: Vec<&str> =
        json["guests"].as_array().unwrap().iter().map(|guest| guest["name"].as_str().unwrap()).collect();
    assert_eq!(order, ["vm-broken", "vm-denied", "vm-pinned", "vm-full", "vm-typo", "vm-fine"]);

    let text = fixture.audit(&[]).await.check_output(
        1,
        &[
            "2 errors, 3 warnings in 6 guests of namespace \"audit",
            "     1  Would not boot\n",
            "\nWould be denied if created now\n",
            "NetworkAttachmentDefinition \"new-fancy-nett\" does not exist",
            "[NP006]",
            "/vm-typo\n",
            "To do: ",
            "the running guest cannot migrate (DisksNotLiveMigratable)",
        ],
    );
    let places =
        ["Would not boot\n  ", "Would be denied if created now\n  ", "Cannot migrate\n  ", "No free PCI port now\n  "]
            .map(|heading| text.stdout.find(heading).unwrap_or_else(|| panic!("{heading}: {text:#?}")));
    assert!(places.is_sorted(), "{}", text.stdout);

    let sarif = fixture.audit(&["-o", "sarif"]).await.check_output(1, &[]).json();
    let results = sarif["runs"][0]["results"].as_array().unwrap();
    let ids: Vec<&str> = results.iter().map(|result| result["ruleId"].as_str().unwrap()).collect();
    assert_eq!(ids, ["will-not-boot", "NP006", "cannot-migrate", "ports-full", "NP105"], "{sarif:#}");
    let uri = &results[4]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"];
    assert_eq!(*uri, format!("namespaces/{}/virtualmachines/vm-typo", fixture.namespace));

    let page = fixture.audit(&["-o", "html"]).await.check_output(1, &["<!doctype html>"]);
    let data = data_of(&page.stdout);
    assert_eq!(data["guests"].as_array().unwrap().len(), 6);
    let buses = data["buses"].as_array().unwrap();
    assert!(buses.iter().any(|bus| bus["state"] == "cannotBoot") && buses.len() < 6, "{data:#}");
}

#[tokio::test]
async fn a_nic_that_does_not_arrive_is_a_finding_and_one_on_its_way_a_note() {
    let Some(fixture) = CommandFixture::start("arrive").await else { return };
    fixture.create_running(&vm("vm-a"), "vm-a", 3, can_migrate()).await;
    let template = vm("vm-a").nic("blue", NETWORK).build()["spec"]["template"].clone();
    let vms = Kind::Vm.api(&fixture.admin, &fixture.namespace);
    let patch = Patch::Merge(json!({"spec": {"template": template}}));
    vms.patch("vm-a", &PatchParams::default(), &patch).await.unwrap();
    let pending = fixture.audit(&[]).await;
    pending.check_output(0, &["1 note in 1 guest", "NIC is on its way\n  \"blue\" waits for "]);
    fixture.start_pod("vm-a", "virt-launcher-vm-a").await;
    fixture.kubevirt.report_condition("vm-a", json!({"type": "MigrationRequired", "status": "True"})).await;
    let stuck = fixture.audit_with(BY_MIGRATION, &["-o", "json"]).await.check_output(1, &[]).json();
    assert_eq!(topics(&stuck, "vm-a"), ["nic-stuck"], "{stuck:#}");
    assert_eq!(stuck["guests"][0]["findings"][0]["nic"], "blue");
}

#[tokio::test]
async fn a_nic_that_the_template_has_lost_is_a_finding_and_the_ports_of_an_instancetype_are_counted() {
    let Some(fixture) = CommandFixture::start("dropped").await else { return };
    fixture.create_running(&vm("vm-a").nic("blue", NETWORK), "vm-a", 3, can_migrate()).await;
    let template = vm("vm-a").build()["spec"]["template"].clone();
    let vms = Kind::Vm.api(&fixture.admin, &fixture.namespace);
    let patch = Patch::Merge(json!({"spec": {"template": template}}));
    vms.patch("vm-a", &PatchParams::default(), &patch).await.unwrap();
    let path = format!("/apis/instancetype.kubevirt.io/v1beta1/namespaces/{}", fixture.namespace);
    let instancetype = json!({"apiVersion": "instancetype.kubevirt.io/v1beta1", "kind": "VirtualMachineInstancetype",
        "metadata": {"name": "small"}, "spec": {"cpu": {"guest": 1}, "memory": {"guest": "1Gi"}}});
    let collection = format!("{path}/virtualmachineinstancetypes");
    requests::send(&fixture.admin, Method::POST, &collection, "application/json", instancetype.to_string())
        .await
        .granted();
    let mut sized = vm("vm-b").build();
    sized["spec"]["instancetype"] = json!({"kind": "VirtualMachineInstancetype", "name": "small"});
    requests::create(&fixture.admin, Kind::Vm, &fixture.namespace, &sized, Run::Real).await.granted();
    let audit = fixture.audit(&["-o", "json"]).await.check_output(1, &[]).json();
    assert_eq!(topics(&audit, "vm-a"), ["nic-dropped"], "{audit:#}");
    let guests = audit["guests"].as_array().unwrap();
    let finding = &guests[0]["findings"][0];
    assert_eq!((&finding["nic"], &finding["level"]), (&json!("blue"), &json!("warning")));
    let sized = guests.iter().find(|guest| guest["name"] == "vm-b").unwrap();
    assert!(sized["ports"]["afterRestart"]["free"].is_u64(), "{sized:#}");
}

#[tokio::test]
async fn vms_of_several_pages_are_joined_with_their_vmis() {
    const VMS: usize = 620;
    let Some(fixture) = CommandFixture::start("pages").await else { return };
    stream::iter(0..VMS)
        .for_each_concurrent(16, async |number| fixture.create_vm(&vm(&format!("vm-{number}"))).await)
        .await;
    // Neither the order of the names nor a VMI without a VM may mix up the lists.
    for name in ["vm-0", "vm-619", "vm-99"] {
        fixture.kubevirt.start_vm(name).await;
    }
    for name in ["a-first", "vm-50a", "z-last"] {
        let vmi = vm(name).build_vmi();
        requests::create(&fixture.admin, Kind::Vmi, &fixture.namespace, &vmi, Run::Real).await.granted();
    }
    let audit = fixture.audit(&["-o", "json"]).await.json();
    let guests = audit["guests"].as_array().unwrap();
    assert_eq!(guests.len(), VMS + 3);
    let names = |is_of: &dyn Fn(&Value) -> bool| {
        let mut names: Vec<&str> =
            guests.iter().filter(|guest| is_of(guest)).map(|guest| guest["name"].as_str().unwrap()).collect();
        names.sort_unstable();
        names
    };
    assert_eq!(names(&|guest| guest["kind"] == "VirtualMachineInstance"), ["a-first", "vm-50a", "z-last"]);
    let running = names(&|guest| guest["runs"] == true && guest["kind"] == "VirtualMachine");
    assert_eq!(running, ["vm-0", "vm-619", "vm-99"]);
    let all = fixture.audit(&["-A", "-l", "app=none"]).await;
    all.check_output(0, &["nothing found in 0 guests of all namespaces, labels app=none"]);
}

#[tokio::test]
async fn what_only_another_version_of_kubevirt_finds_is_marked() {
    let Some(fixture) = CommandFixture::start("version").await else { return };
    fixture.create_running(&vm("vm-a"), "vm-a", 3, can_migrate()).await;
    let same = fixture.audit(&["--kubevirt-version", "v1.9.0"]).await;
    same.check_output(0, &["nothing found in 1 guest", "KubeVirt v1.9.0"]);
    let newer = fixture.audit(&["--kubevirt-version", "v1.12.0"]).await;
    newer.check_output(0, &["KubeVirt v1.12.0 is newer than nicplug knows"]);
    let wrong = fixture.audit(&["--kubevirt-version", "x"]).await;
    assert_eq!(wrong.code, Some(2), "{wrong:#?}");
}
