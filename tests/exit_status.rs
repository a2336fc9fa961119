//! The exit status of each command: 0 if it did what was asked and found nothing, 1 if something was found, denied or
//! refused, 2 if it could not judge or was called with wrong arguments. It is the same for all output formats.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::{fs, process::Command};

use support::{
    builders::VM,
    cases::data,
    commands::{BY_MIGRATION, CommandFixture, NETWORK, POD, output_for},
    folder::Folder,
};
use tokio::task::spawn_blocking;

/// A VM that nothing is wrong with.
const GOOD: &str = "apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {name: vm}
spec:
  runStrategy: Halted
  template:
    spec:
      domain: {devices: {interfaces: [{name: default, masquerade: {}}]}}
      networks: [{name: default, pod: {}}]
";

/// A guest that KubeVirt does not start, because the annotation is not a number.
const NO_BOOT: &str = "apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {annotations: {kubevirt.io/pci-interface-slot-count: '5.0'}}
spec: {}
";

const NOT_YAML: &str = "kind: [\n";

/// The formats of each output; the empty text leaves the flag out.
const NONE: &[&str] = &[""];
const CHECK: &[&str] = &["", "text", "json", "sarif", "junit", "github", "gitlab"];
const SLOTS: &[&str] = &["", "text", "json", "svg"];
const RULES: &[&str] = &["", "table", "json", "markdown"];
const VERSION: &[&str] = &["", "text", "json"];
const STATUS: &[&str] = &["", "wide", "json", "yaml"];
const PLAN: &[&str] = &["", "text", "json", "yaml"];
const AUDIT: &[&str] = &["", "text", "json", "html", "sarif"];
const OBJECT: &[&str] = &["", "json", "name", "yaml"];

/// Runs a command with an input, and returns its exit status and its output.
fn run(mut command: Command, input: &str) -> (Option<i32>, String) {
    command.env_remove("KUBECONFIG");
    let output = output_for(command, input);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

fn nicplug(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nicplug"));
    command.args(args);
    command
}

/// Returns the arguments with a format.
fn with_format<'a>(args: &[&'a str], format: &'a str) -> Vec<&'a str> {
    if format.is_empty() { args.to_vec() } else { [args, &["-o", format]].concat() }
}

#[test]
fn commands_without_a_cluster() {
    let folder = Folder::new("exit");
    let full = folder.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("tls.key"), "mine").unwrap();
    let [full, empty] = [full, folder.path().join("empty")].map(|path| path.to_str().unwrap().to_owned());
    let request = |name: &str| fs::read_to_string(data(&format!("admission/{name}/request.json"))).unwrap();
    let facts = data("admission/model-e1000e/facts.yaml").to_str().unwrap().to_owned();
    // Its interface has no network.
    let faulty = GOOD.replace("[{name: default, pod: {}}]", "[]");
    let (allowed, denied) = (request("real-vm-update-merge-patch-add-nic"), request("model-e1000e"));
    for (args, input, formats, code) in [
        (&["--help"][..], "", NONE, 0),
        (&["--version"], "", NONE, 0),
        (&[], "", NONE, 2),
        (&["stauts"], "", NONE, 2),
        (&["version"], "", VERSION, 0),
        (&["version", "-o", "xml"], "", NONE, 2),
        (&["rules"], "", RULES, 0),
        (&["rules", "NP103"], "", RULES, 0),
        (&["rules", "NP999"], "", RULES, 2),
        (&["check", "-"], GOOD, CHECK, 0),
        (&["check", "-"], &faulty, CHECK, 1),
        (&["check", "-"], NOT_YAML, CHECK, 2),
        (&["check", "-"], "", CHECK, 2),
        (&["check", "/nowhere"], "", CHECK, 2),
        (&["slots", "-f", "-"], GOOD, SLOTS, 0),
        (&["slots", "-f", "-"], NO_BOOT, SLOTS, 1),
        (&["slots", "-f", "-"], "kind: Pod\n", SLOTS, 2),
        (&["slots", "-f", "/nowhere"], "", SLOTS, 2),
        (&["review", "--facts", &facts], &allowed, NONE, 0),
        (&["review", "--facts", &facts], &denied, NONE, 1),
        (&["review", "--exit-zero", "--facts", &facts], &denied, NONE, 0),
        (&["review", "--facts", &facts], "{}", NONE, 2),
        (&["review", "--facts", &facts], "", NONE, 2),
        (&["explain", "--offline", "denied [NP103]"], "", NONE, 0),
        (&["explain", "--offline", "denied"], "", NONE, 2),
        (&["completion", "bash"], "", NONE, 0),
        (&["completion", "tcsh"], "", NONE, 2),
        (&["man"], "", NONE, 0),
        (&["man", "--directory", "/proc/nowhere"], "", NONE, 2),
        (&["certs", &empty], "", NONE, 0),
        (&["certs", &full], "", NONE, 2),
        (&["demo", "--once"], "", NONE, 0),
        (&["demo", "--twice"], "", NONE, 2),
        (&["serve", "--facts", "none", "--kubeconfig", "a"], "", NONE, 2),
        (&["addinterface", "vm", "--name", "a"], "", NONE, 2),
        (&["removeinterface", "vm"], "", NONE, 2),
        (&["removeinterface", "vm", "--name", "a", "--wait", "90s", "--yes"], "", NONE, 2),
        (&["plan", "vm"], "", PLAN, 2),
        (&["probe", "--kubeconfig", "/nowhere"], "", NONE, 2),
    ] {
        for format in formats {
            let (found, text) = run(nicplug(&with_format(args, format)), input);
            assert_eq!(found, Some(code), "{args:?} -o {format:?}: {text}");
        }
    }
}

#[tokio::test]
async fn commands_on_a_cluster() {
    let Some(fixture) = CommandFixture::with_running_vm("exit").await else { return };
    fixture.start_pod(VM, POD).await;
    let add = ["addinterface", VM, "--name", "blue", "--dry-run", "--nad"];
    let plan = ["plan", VM, "--add"];
    let cases = |cases: &[(Vec<&'static str>, &'static [&'static str], i32)]| cases.to_vec();
    let before = cases(&[
        (vec!["status", VM], STATUS, 0),
        (vec!["status", "-l", "app=none"], STATUS, 0),
        (vec!["status", "gone"], STATUS, 2),
        (vec!["why", VM], NONE, 0),
        (vec!["why", VM, "gone"], NONE, 2),
        (vec!["slots", VM], SLOTS, 0),
        (vec!["slots", VM, "--what-if", "blue=nowhere"], SLOTS, 1),
        (vec!["slots", "gone"], SLOTS, 2),
        ([&plan[..], &["blue=new-fancy-net"]].concat(), PLAN, 0),
        ([&plan[..], &["blue=nowhere"]].concat(), PLAN, 1),
        (vec!["plan", VM, "--remove", "gone"], PLAN, 1),
        (vec!["plan", "gone", "--remove", "blue"], PLAN, 2),
        ([&add[..], &[NETWORK]].concat(), OBJECT, 0),
        ([&add[..], &["nowhere"]].concat(), OBJECT, 1),
        (vec!["addinterface", "gone", "--name", "blue", "--nad", NETWORK], OBJECT, 2),
        (vec!["removeinterface", VM, "--name", "gone"], OBJECT, 1),
        (vec!["removeinterface", VM, "--name", "gone", "--ignore-not-found"], OBJECT, 0),
        (vec!["removeinterface", "gone", "--name", "blue"], OBJECT, 2),
        (vec!["removeinterface", "gone", VM, "--name", "blue", "--dry-run"], OBJECT, 2),
        (vec!["removeinterface", "gone", VM, "--name", "blue"], OBJECT, 2),
    ]);
    let after = cases(&[
        (vec!["status", VM], STATUS, 1),
        (vec!["status", "--problems"], STATUS, 1),
        (vec!["why", VM], NONE, 1),
        (vec!["audit"], AUDIT, 1),
    ]);
    check(&fixture, before).await;
    let add = ["addinterface", VM, "--name", "blue", "--nad", NETWORK];
    check(&fixture, cases(&[(add.to_vec(), NONE, 0)])).await;
    fixture.vmi_when(|vmi| vmi["spec"]["networks"].as_array().unwrap().len() == 2).await;
    fixture.kubevirt.end_grace_period().await;
    check(&fixture, after).await;
}

async fn check(fixture: &CommandFixture, cases: Vec<(Vec<&str>, &[&str], i32)>) {
    for (args, formats, code) in cases {
        for format in formats {
            let command = fixture.command(BY_MIGRATION, &with_format(&args, format));
            let (found, text) = spawn_blocking(|| run(command, "")).await.unwrap();
            assert_eq!(found, Some(code), "{args:?} -o {format:?}: {text}");
        }
    }
}
