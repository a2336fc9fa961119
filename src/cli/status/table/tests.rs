use super::*;
use crate::{
    facts::Fact,
    hotplug::place::Place,
    rules::{FreePorts, PortCount},
};

fn nic(name: &str, place: Place, need: Need, why: &str, fix: &str) -> NicReport {
    NicReport {
        name: name.to_owned(),
        network: "new-fancy-net".to_owned(),
        binding: "bridge".to_owned(),
        model: "virtio".to_owned(),
        mac: Some("02:00:00:00:00:01".to_owned()),
        place,
        direction: Direction::Attach,
        since: Some("2026-11-27T11:00:00Z".to_owned()),
        is_of_boot: None,
        need,
        why: why.to_owned(),
        fix: fix.to_owned(),
        needs_migration: false,
        unread: Vec::new(),
    }
}

fn guest() -> GuestReport {
    let why = "waits for a live migration, which a user must start (KubeVirt lacks workloadUpdateMethods LiveMigrate)";
    GuestReport {
        namespace: "demo".to_owned(),
        name: "vm-fedora".to_owned(),
        has_vm: true,
        runs: Fact::Known(()),
        nics: vec![
            nic("default", Place::Guest, Need::Nothing, "", ""),
            nic("dyniface1", Place::Vmi, Need::Action, why, "start a live migration"),
        ],
        ports: FreePorts {
            now: PortCount::Free { free: 2, at_boot: 4, name: "hotplug port", is_estimate: true },
            details: String::new(),
            after_restart: PortCount::Free { free: 3, at_boot: 3, name: "hotplug port", is_estimate: false },
        },
    }
}

fn table(width: Option<usize>, is_wide: bool, has_namespace: bool) -> String {
    let now = "2026-11-27T12:00:00Z".parse().unwrap();
    render(&[guest()], &Layout { has_namespace, is_wide, width, now }, Painter::for_stdout())
}

#[test]
fn at_eighty_columns_a_reason_is_below_its_nic() {
    assert_eq!(
        table(Some(80), false, false),
        "\
VM         NIC        NETWORK        WHERE  SINCE  PORTS
vm-fedora  default    new-fancy-net  guest  60m    ~2/3
vm-fedora  dyniface1  new-fancy-net  vmi    60m    ~2/3
    waits for a live migration, which a user must start (KubeVirt lacks
    workloadUpdateMethods LiveMigrate). To do: start a live migration
"
    );
}

#[test]
fn at_a_hundred_and_twenty_columns_a_reason_is_beside_its_nic() {
    assert_eq!(
        table(Some(120), false, false),
        "\
VM         NIC        NETWORK        WHERE  SINCE  PORTS  WHY NOT FURTHER
vm-fedora  default    new-fancy-net  guest  60m    ~2/3
vm-fedora  dyniface1  new-fancy-net  vmi    60m    ~2/3   waits for a live migration, which a user must start (KubeVirt
                                                          lacks workloadUpdateMethods LiveMigrate). To do: start a live
                                                          migration
"
    );
}

#[test]
fn in_a_pipe_each_nic_is_one_line() {
    let text = table(None, true, true);
    assert_eq!(text.lines().count(), 3, "{text}");
    let line = text.lines().nth(2).unwrap();
    let start =
        "demo       vm-fedora  dyniface1  new-fancy-net  bridge   virtio  02:00:00:00:00:01  vmi    60m    ~2/3   ";
    assert!(line.starts_with(start), "{text}");
    assert!(line.ends_with("To do: start a live migration"), "{text}");
}

#[test]
fn a_name_cannot_change_the_state_of_a_terminal() {
    let mut guest = guest();
    guest.nics[0].network = "\u{1b}[31m".to_owned();
    let layout = Layout { has_namespace: false, is_wide: false, width: None, now: Timestamp::UNIX_EPOCH };
    assert!(!render(&[guest], &layout, Painter::for_stdout()).contains('\u{1b}'));
}
