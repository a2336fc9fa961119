//! `addinterface` and `removeinterface` for several VMs, on a real API server.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use kube::api::{DynamicObject, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use support::{
    api_server::crds::Kind,
    builders::{INTERFACES, names},
    commands::{BY_MIGRATION, CommandFixture, Finished, IN_PLACE, NETWORK, run, vm},
    wait::eventually,
};

const NIC: &str = "dyniface1";
const ADD: [&str; 5] = ["addinterface", "--nad", NETWORK, "--name", NIC];
const REMOVE: [&str; 3] = ["removeinterface", "--name", NIC];

impl CommandFixture {
    /// Adds stopped VMs with the label `app: web`.
    async fn with_vms(name: &str, vms: &[&str]) -> Option<Self> {
        let fixture = Self::start(name).await?;
        for name in vms {
            fixture.create_vm(&vm().named(name)).await;
            let labels = Patch::Merge(json!({"metadata": {"labels": {"app": "web"}}}));
            let api = Kind::Vm.api(&fixture.admin, &fixture.namespace);
            api.patch(name, &PatchParams::default(), &labels).await.unwrap();
        }
        Some(fixture)
    }

    async fn run_vm(&self, name: &str) {
        self.kubevirt.start_vm(name).await;
        self.kubevirt.report_condition(name, json!({"type": "LiveMigratable", "status": "True"})).await;
    }

    /// Returns the NICs of a VM.
    async fn nics(&self, vm: &str) -> Vec<String> {
        let vm = Kind::Vm.api(&self.admin, &self.namespace).get(vm).await.unwrap();
        names(&serde_json::to_value(vm).unwrap(), INTERFACES)
    }
}

fn with(head: &[&'static str], more: &[&'static str]) -> Vec<&'static str> {
    [head, more].concat()
}

#[tokio::test]
async fn several_vms_are_changed_with_a_table_a_summary_and_the_command_that_undoes_it() {
    let vms = ["web-a", "web-b", "web-c"];
    let Some(fixture) = CommandFixture::with_vms("several", &vms).await else { return };
    fixture.run_vm("web-b").await;
    run(fixture.command(IN_PLACE, &with(&ADD, &["web-c"]))).await.check(0, &["patched"], &[]);

    let add = with(&ADD, &["vm/web-a", "web-b", "web-b", "web-c", "--yes"]);
    let finished = run(fixture.command(IN_PLACE, &add)).await.check(
        0,
        &[
            &format!(
                "Add NIC \"dyniface1\" on network \"new-fancy-net\" to 3 VMs of namespace {:?}:",
                fixture.namespace
            ),
            "  web-a  added for the next start: the VM does not run\n",
            "  web-b  attached at once: Multus' dynamic-networks controller is ready\n",
            "  web-c  no change: it has the NIC already\n",
            "virtualmachine.kubevirt.io/web-a patched\nvirtualmachine.kubevirt.io/web-b patched\n",
            "3 VMs: 2 changed, 1 unchanged\nTo undo this:\n  nicplug removeinterface web-a web-b --name dyniface1 -n ",
        ],
        &[],
    );
    assert_eq!(finished.stderr, "");
    for name in vms {
        assert_eq!(fixture.nics(name).await, ["default", NIC], "{name}");
    }

    let remove = with(&REMOVE, &["-l", "app=web", "--yes"]);
    let stdout =
        ["3 VMs: 3 changed", "  nicplug addinterface web-a web-b web-c --name dyniface1 --nad new-fancy-net -n"];
    run(fixture.command(IN_PLACE, &remove)).await.check(0, &stdout, &[]);
    assert_eq!(fixture.nics("web-a").await, ["default"]);
}

#[tokio::test]
async fn without_a_terminal_several_vms_need_a_flag_and_nothing_is_changed() {
    let Some(fixture) = CommandFixture::with_vms("noask", &["web-a", "web-b"]).await else { return };
    let advice = "there is no terminal for the question: pass --yes to change them, or --dry-run to see";
    for more in [&["web-a", "web-b"][..], &["-l", "app=web"], &["-l", "app=web", "-o", "json"]] {
        run(fixture.command(IN_PLACE, &with(&ADD, more))).await.check(2, &[], &[advice]);
    }
    let dry = with(&ADD, &["web-a", "web-b", "--dry-run"]);
    let finished = run(fixture.command(IN_PLACE, &dry)).await.check(0, &["2 VMs (dry run): 2 changed"], &[]);
    assert!(!finished.stdout.contains("undo"), "{finished:#?}");
    assert_eq!(fixture.nics("web-a").await, ["default"]);
}

#[tokio::test]
async fn an_error_of_one_vm_does_not_end_the_command() {
    let Some(fixture) = CommandFixture::with_vms("errors", &["web-a", "web-b"]).await else { return };
    let add = with(&ADD, &["web-aa", "web-a", "web-b", "--yes"]);
    run(fixture.command(IN_PLACE, &add)).await.check(
        2,
        &["not judged: VirtualMachine \"web-aa\" not found in namespace", "did you mean \"web-a\"?", "(web-aa)"],
        &[],
    );
    assert_eq!(fixture.nics("web-b").await, ["default", NIC]);

    // A NIC of this name is on another network in one of them.
    run(fixture.command(IN_PLACE, &with(&REMOVE, &["web-a"]))).await.check(0, &[], &[]);
    let other = ["addinterface", "--nad", "other", "--name", NIC, "web-a", "web-b", "--yes"];
    let stdout = ["web-b  refused: ", "already exists, on network \"new-fancy-net\"", "1 refused (web-b)"];
    run(fixture.command(IN_PLACE, &other)).await.check(1, &stdout, &[]);

    let missing = ["removeinterface", "--name", "nowhere", "web-a", "web-b", "--yes"];
    run(fixture.command(IN_PLACE, &missing)).await.check(1, &["2 VMs: 2 refused (web-a, web-b)"], &[]);
    let ignored = with(&missing, &["--ignore-not-found"]);
    run(fixture.command(IN_PLACE, &ignored)).await.check(0, &["2 VMs: 2 unchanged"], &[]);
    let none = with(&ADD, &["-l", "app=none", "--yes"]);
    run(fixture.command(IN_PLACE, &none)).await.check(2, &[], &["has the labels \"app=none\""]);
}

#[tokio::test]
async fn the_output_for_programs_has_the_changed_vms_and_the_same_exit_status() {
    let Some(fixture) = CommandFixture::with_vms("objects", &["web-a", "web-b"]).await else { return };
    let add = with(&ADD, &["web-a", "web-b", "gone", "--dry-run=server"]);
    let json = run(fixture.command(IN_PLACE, &with(&add, &["-o", "json"]))).await.check(2, &[], &["2 changed"]);
    let list: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(list["kind"], "List");
    let found: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|vm| &vm["metadata"]["name"]).collect();
    assert_eq!(found, ["web-a", "web-b"]);
    let yaml = run(fixture.command(IN_PLACE, &with(&add, &["-o", "yaml"]))).await.check(2, &[], &[]);
    assert_eq!(serde_saphyr::from_str::<Value>(&yaml.stdout).unwrap()["items"].as_array().unwrap().len(), 2);
    let names = run(fixture.command(IN_PLACE, &with(&add, &["-o", "name"]))).await.check(2, &[], &[]);
    assert_eq!(names.stdout, "virtualmachine.kubevirt.io/web-a\nvirtualmachine.kubevirt.io/web-b\n");
}

#[tokio::test]
async fn migrations_are_paced() {
    let vms = ["web-a", "web-b", "web-c"];
    let Some(fixture) = CommandFixture::with_vms("paced", &vms).await else { return };
    for name in vms {
        fixture.run_vm(name).await;
    }
    let add = with(&ADD, &["web-a", "web-b", "web-c", "--yes", "--migrate", "--wait=60s", "--max-migrations", "1"]);
    let command = run(fixture.command(BY_MIGRATION, &add));
    let migrations = Kind::Migration.api(&fixture.admin, &fixture.namespace);
    let work = async {
        let mut waiting = vms.to_vec();
        for count in 1..=vms.len() {
            let vmis = Kind::Vmi.api(&fixture.admin, &fixture.namespace);
            eventually("one more guest is to get the NIC", async || {
                let all = vmis.list(&ListParams::default()).await.unwrap().items;
                let has_nic = |vmi: &&DynamicObject| vmi.data["spec"]["networks"].as_array().unwrap().len() == 2;
                (all.iter().filter(has_nic).count() == count).then_some(())
            })
            .await;
            fixture.kubevirt.end_grace_period().await;
            let all = eventually("there is one more migration", async || {
                let all = migrations.list(&ListParams::default()).await.unwrap().items;
                (all.len() >= count).then_some(all)
            })
            .await;
            assert_eq!(all.len(), count, "one migration at a time");
            let open = all.iter().find(|one| one.data["status"]["phase"] != "Succeeded").unwrap();
            let vm = open.data["spec"]["vmiName"].as_str().unwrap().to_owned();
            waiting.retain(|other| *other != vm);
            for other in &waiting {
                assert_eq!(fixture.nics(other).await, ["default"], "{other} waits for {vm}");
            }
            let status = Patch::Merge(json!({"status": {"phase": "Succeeded"}}));
            let name = open.metadata.name.as_deref().unwrap();
            migrations.patch_status(name, &PatchParams::default(), &status).await.unwrap();
            fixture.kubevirt.report_nics(&vm, &[("default", "domain"), (NIC, "domain, multus-status")]).await;
        }
    };
    let (finished, ()) = tokio::join!(command, work);
    let stdout = ["attached by a live migration", "web-b: \"dyniface1\" is plugged", "3 VMs: 3 changed"];
    finished.check(0, &stdout, &[]);
}
