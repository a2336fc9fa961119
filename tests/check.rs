//! `nicplug check`: the verdict on manifests, its places, its outputs and its exit status.

// Helpers of tests fail as tests do.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod support;

use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use support::{cases::data, folder::Folder};

/// A VM with a NIC on the pod network and one on a bridge.
const VM: &str = "\
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {name: web, namespace: shop}
spec:
  runStrategy: Always
  template:
    spec:
      domain:
        devices:
          interfaces:
          - name: default
            masquerade: {}
          - name: blue
            bridge: {}
      networks:
      - name: default
        pod: {}
      - name: blue
        multus: {networkName: blue-net}
";

/// An interface without a network, which NP003 denies.
const BROKEN_VMI: &str = "\
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: a}
spec:
  domain: {devices: {interfaces: [{name: lost, bridge: {}}]}}
";

fn check_in(folder: &Path, args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_nicplug"))
        .arg("check")
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// Returns the exit status and the JSON of a check of standard input.
fn check(input: &str) -> (i32, Value) {
    json(&check_in(Path::new("."), &["-f", "-", "-o", "json"], input))
}

fn json(output: &Output) -> (i32, Value) {
    let error = String::from_utf8_lossy(&output.stderr);
    let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{error}"));
    (output.status.code().unwrap(), json)
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Returns rule, line and column of each finding.
fn places(json: &Value) -> Vec<(String, u64, u64)> {
    let findings = json["findings"].as_array().unwrap().iter();
    let place = |finding: &Value| {
        (
            finding["rule"].as_str().unwrap().to_owned(),
            finding["line"].as_u64().unwrap(),
            finding["column"].as_u64().unwrap(),
        )
    };
    findings.map(place).collect()
}

fn place(rule: &str, line: u64, column: u64) -> (String, u64, u64) {
    (rule.to_owned(), line, column)
}

#[test]
fn a_finding_shows_its_line_its_field_and_its_fix() {
    let folder = Folder::new("check");
    folder.write("vmi.yaml", BROKEN_VMI);
    let output = check_in(folder.path(), &["-f", "vmi.yaml"], "");
    let expected = "\
vmi.yaml:5:42: error[NP003] VirtualMachineInstance default/a
  interface \"lost\" has no network with the same name
  5 |   domain: {devices: {interfaces: [{name: lost, bridge: {}}]}}
    |                                          ^^^^
  fix: add an entry with that name to networks, or remove the interface

note: not checked, because --facts does not say it: without a KubeVirt: NP107
1 error in 1 object in 1 file
";
    assert_eq!(text(&output), expected);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn the_exit_status_does_not_depend_on_the_output() {
    for (input, expected) in [(VM, 0), (BROKEN_VMI, 1), ("kind: [", 2)] {
        for format in ["text", "json", "sarif", "junit", "github", "gitlab"] {
            let output = check_in(Path::new("."), &["-f", "-", "-o", format], input);
            assert_eq!(output.status.code(), Some(expected), "{format}: {}", text(&output));
            assert!(!output.stdout.is_empty(), "{format}");
        }
    }
}

#[test]
fn without_facts_each_unknown_kind_is_named_once() {
    let (status, json) = check(VM);
    assert_eq!((status, places(&json)), (0, vec![]));
    assert!(json["unchecked"]["NetworkAttachmentDefinition"].is_array(), "{json}");
}

#[test]
fn documents_of_all_kinds_are_checked_at_their_place() {
    let vmi = |name: &str| BROKEN_VMI.replace("name: a", &format!("name: {name}"));
    let json_vmi = r#"{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": "j"},
 "spec": {"domain": {"devices": {"interfaces": [{"name": "lost", "bridge": {}}]}}}}"#;
    let item = vmi("l").trim_end().replace('\n', "\n  ");
    let list = format!("kind: List\nitems:\n- {item}\n");
    let input = format!("{json_vmi}\n---\n{}---\n# only a comment\n---\n{list}---\nkind: ConfigMap\n", vmi("m"));
    let (status, json) = check(&input);
    assert_eq!(status, 1);
    assert_eq!(places(&json), [place("NP003", 2, 58), place("NP003", 8, 42), place("NP003", 18, 44)]);
    assert_eq!(json["summary"]["objects"], 3);
}

#[test]
fn a_broken_document_does_not_hide_the_others_and_gives_status_2() {
    let input = format!("kind: A\n\tspec: 1\n---\n{BROKEN_VMI}---\na: 1\na: 2\n");
    let (status, json) = check(&input);
    assert_eq!(status, 2);
    let rules: Vec<&str> = json["findings"].as_array().unwrap().iter().map(|it| it["rule"].as_str().unwrap()).collect();
    assert_eq!(rules, ["manifest", "NP003", "manifest"]);
    assert!(json["findings"][0]["what"].as_str().unwrap().contains("tab"), "{json}");
}

#[test]
fn a_field_of_a_wrong_type_is_at_its_place() {
    let (status, json) = check(&VM.replace("name: blue\n            bridge", "name: 5\n            bridge"));
    assert_eq!((status, places(&json)), (1, vec![place("manifest", 13, 19)]));
    assert!(json["findings"][0]["fix"].as_str().unwrap().contains("quotes"), "{json}");
}

#[test]
fn an_input_without_documents_is_an_error_and_one_without_guests_is_not() {
    let empty = check_in(Path::new("."), &["-f", "-"], "# nothing\n");
    assert_eq!(empty.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&empty.stderr).contains("no documents"));
    let other = check_in(Path::new("."), &["-f", "-"], "kind: ConfigMap\n");
    assert_eq!(other.status.code(), Some(0));
    assert_eq!(text(&other), "nothing to check: 1 document in 1 file and no object with a guest\n");
}

#[test]
fn what_is_not_a_file_is_refused() {
    let folder = Folder::new("check");
    let fifo = folder.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    folder.write("notes.txt", "x");
    for (path, part) in [
        ("/dev/zero", "not a file but a device"),
        (fifo.to_str().unwrap(), "not a file but a pipe"),
        ("/nowhere", "cannot be read"),
        (".", "no file that ends in .yaml"),
    ] {
        for args in [&["-f", path][..], &["-f", "-", "--facts", path]] {
            let output = check_in(folder.path(), args, VM);
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(error.contains(part), "{args:?}: {error}");
            assert_eq!(output.status.code(), Some(2));
        }
    }
    let output = check_in(folder.path(), &["-f", "-", "--settings", fifo.to_str().unwrap()], VM);
    assert!(String::from_utf8_lossy(&output.stderr).contains("is a pipe and not a file"));
    folder.write("other.yaml", "kind: Secret\n");
    let output = check_in(folder.path(), &["-f", "-", "--facts", "other.yaml"], VM);
    assert!(String::from_utf8_lossy(&output.stderr).contains("no object that nicplug reads"));
}

#[test]
fn facts_and_networks_of_the_same_files_are_known() {
    let facts = data("facts-default.yaml");
    let facts = ["-f", "-", "-o", "json", "--facts", facts.to_str().unwrap()];
    let (status, without) = json(&check_in(Path::new("."), &facts, VM));
    assert_eq!(status, 0, "{without}");
    assert!(without["findings"].to_string().contains("blue-net"), "{without}");
    let nad = "---\napiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: blue-net, \
               namespace: shop}\nspec: {config: '{\"cniVersion\": \"1.0.0\", \"name\": \"b\", \"type\": \"bridge\", \
               \"bridge\": \"br\"}'}\n";
    let (_, with) = json(&check_in(Path::new("."), &facts, &format!("{VM}{nad}")));
    assert!(!with["findings"].to_string().contains("blue-net"), "{with}");
}

#[test]
fn two_guests_with_one_address_are_found() {
    let vm = VM.replace("bridge: {}", "bridge: {}\n            macAddress: \"02:00:00:00:00:01\"");
    let (_, json) = check(&format!("{vm}---\n{}", vm.replace("name: web", "name: db")));
    assert_eq!(json["findings"][0]["rule"], "NP113", "{json}");
    assert_eq!(json["findings"][0]["object"], "VirtualMachine shop/db", "{json}");
}

#[test]
fn a_change_is_judged_like_a_hotplug() {
    let folder = Folder::new("check");
    let git = |args: &[&str]| {
        let identity = ["-c", "user.name=a", "-c", "user.email=a@b"];
        let output = Command::new("git").args(identity).args(args).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    git(&["init", "--quiet"]);
    std::fs::create_dir_all(folder.path().join("deploy/sub")).unwrap();
    std::fs::create_dir_all(folder.path().join("old")).unwrap();
    folder.write("old/vm.yaml", VM);
    folder.write("deploy/sub/vm.yaml", VM);
    git(&["add", "."]);
    git(&["commit", "--quiet", "--message", "one"]);
    let changed = VM.replace(
        "      networks:",
        "          - name: red\n            model: e1000e\n            bridge: {}\n      networks:",
    ) + "      - name: red\n        multus: {networkName: red-net}\n";
    folder.write("deploy/sub/vm.yaml", &changed);
    folder.write("deploy/new.yaml", &VM.replace("name: web", "name: new"));
    for args in [["--git", "HEAD"], ["--against", "old"]] {
        let args = [&["-R", "-o", "json", "deploy"], &args[..]].concat();
        let (status, json) = json(&check_in(folder.path(), &args, ""));
        assert_eq!((status, places(&json)), (1, vec![place("NP103", 16, 20)]), "{args:?}: {json}");
    }
    let (status, _) = json(&check_in(folder.path(), &["-R", "-o", "json", "deploy"], ""));
    assert_eq!(status, 0, "a new VM may have any model");
    let output = check_in(folder.path(), &["deploy", "-R", "--git", "nothing"], "");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--git nothing: "));
}

#[test]
fn an_ignored_finding_needs_a_reason_and_a_baseline_survives_moved_lines() {
    let folder = Folder::new("check");
    let with = |comment: &str| BROKEN_VMI.replace("{}}]}}", &format!("{{}}}}]}}}} # nicplug:ignore NP003 {comment}"));
    let (status, json_of) = check(&with("until=9999-12-31 the network comes with the next chart"));
    assert_eq!((status, places(&json_of), json_of["summary"]["ignored"].as_u64()), (0, vec![], Some(1)));
    let (status, json_of) = check(&with(""));
    assert_eq!((status, places(&json_of).len()), (1, 2), "{json_of}");

    folder.write("ignores", "NP003 VirtualMachineInstance default/* why not\n");
    let (status, _) =
        json(&check_in(folder.path(), &["-f", "-", "-o", "json", "--ignore-file", "ignores"], BROKEN_VMI));
    assert_eq!(status, 0);

    folder.write("vmi.yaml", BROKEN_VMI);
    let written = check_in(folder.path(), &["vmi.yaml", "--write-baseline", "base.json"], "");
    assert_eq!(written.status.code(), Some(0));
    folder.write("vmi.yaml", &format!("# moved\n\n{BROKEN_VMI}"));
    let (status, _) = json(&check_in(folder.path(), &["vmi.yaml", "--baseline", "base.json", "-o", "json"], ""));
    assert_eq!(status, 0);
    folder.write("vmi.yaml", &BROKEN_VMI.replace("name: a", "name: b"));
    let (status, json_of) = json(&check_in(folder.path(), &["vmi.yaml", "--baseline", "base.json", "-o", "json"], ""));
    assert_eq!(status, 1);
    assert!(json_of["findings"].to_string().contains("is fixed"), "{json_of}");
}

#[test]
fn outputs_are_written_into_files_by_their_ending() {
    let folder = Folder::new("check");
    folder.write("vmi.yaml", BROKEN_VMI);
    let args = ["vmi.yaml", "--output-file", "out.sarif", "--output-file", "out.xml", "--output-file", "gitlab=q.json"];
    check_in(folder.path(), &args, "");
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert!(read("out.sarif").contains("\"2.1.0\""));
    assert!(read("out.xml").starts_with("<?xml"));
    assert!(read("q.json").contains("check_name"));
}

#[test]
fn another_version_of_kubevirt_is_assumed_and_its_new_findings_say_so() {
    let facts = data("facts-default.yaml");
    let args = ["-f", "-", "-o", "json", "--kubevirt-version", "1.10", "--facts", facts.to_str().unwrap()];
    let (_, json_of) = json(&check_in(Path::new("."), &args, VM));
    assert!(json_of["assumptions"].to_string().contains("newer than nicplug knows"), "{json_of}");
    let args = ["-f", "-", "-o", "json", "--kubevirt-version", "1.9"];
    let (_, json_of) = json(&check_in(Path::new("."), &args, VM));
    assert!(json_of["assumptions"].to_string().contains("defaults are assumed"), "{json_of}");
    assert!(json_of["unchecked"]["KubeVirt"].is_null(), "{json_of}");
}
