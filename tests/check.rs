//! `nicplug check`: the verdict on manifests, its places, its outputs and its exit status.

// Helpers of tests fail as tests do.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod support;

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};
use support::{cases::data, commands::output_for, folder::Folder};

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
    let mut command = Command::new(env!("CARGO_BIN_EXE_nicplug"));
    command.arg("check").args(args).current_dir(folder);
    output_for(command, input)
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
fn the_annotation_of_a_namespace_without_effect_is_reported_like_by_the_webhook() {
    let namespace =
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n  annotations: {nicplug.io/rules: NP1O3=off}\n";
    let facts = data("facts-default.yaml");
    let args = ["-f", "-", "--facts", facts.to_str().unwrap(), "-o", "json"];
    let vm = VM
        .replace("        multus: {networkName: blue-net}", "        pod: {}")
        .replace("          - name: blue\n            bridge: {}\n", "")
        .replace("      - name: blue\n        pod: {}\n", "");
    let (status, found) = json(&check_in(Path::new("."), &args, &format!("{namespace}---\n{vm}")));
    assert_eq!((status, found["findings"][0]["rule"].as_str()), (0, Some("namespace")), "{found}");
    let (_, without) = json(&check_in(Path::new("."), &args, &vm));
    assert_eq!(places(&without), [], "{without}");
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

    // A commit hook checks some of the files.
    folder.write("vm.yaml", VM);
    let others = ["vm.yaml", "--baseline", "base.json", "-o", "json"];
    let (status, others_of) = json(&check_in(folder.path(), &others, ""));
    assert_eq!((status, places(&others_of)), (0, vec![]), "{others_of}");
    std::fs::remove_file(folder.path().join("vmi.yaml")).unwrap();
    let (_, others_of) = json(&check_in(folder.path(), &others, ""));
    assert!(others_of["findings"].to_string().contains("is fixed"), "{others_of}");
}

#[test]
fn warnings_are_errors_in_each_output_if_asked_for() {
    let facts = data("facts-default.yaml");
    let args = ["-f", "-", "--facts", facts.to_str().unwrap()];
    for (flag, expected) in [(&[][..], (0, "warning")), (&["--warnings-as-errors"], (1, "error"))] {
        let (status, found) = json(&check_in(Path::new("."), &[&args[..], &["-o", "json"], flag].concat(), VM));
        let finding = &found["findings"][0];
        assert_eq!((status, finding["level"].as_str().unwrap()), expected, "{found}");
        let junit = check_in(Path::new("."), &[&args[..], &["-o", "junit"], flag].concat(), VM);
        assert_eq!(text(&junit).contains("<failure"), expected.0 == 1, "{}", text(&junit));
    }
}

#[test]
fn a_path_begins_at_the_root_of_the_repository_however_the_file_is_named() {
    let folder = Folder::new("check");
    for inner in [".git", "deploy/a b"] {
        std::fs::create_dir_all(folder.path().join(inner)).unwrap();
    }
    let file = folder.write("deploy/a b/vmi.yaml", BROKEN_VMI);
    let root = std::fs::canonicalize(folder.path()).unwrap();
    let mut fingerprints = BTreeSet::new();
    for (working, name) in [(".", "deploy/a b/vmi.yaml"), ("deploy", "./a b/../a b/vmi.yaml"), ("deploy/a b", &file)] {
        let outputs =
            ["--output-file=q.sarif", "--output-file=gitlab=q.json", "--output-file=q.xml", "--output=github"];
        let working = folder.path().join(working);
        let github = text(&check_in(&working, &[&[name], &outputs[..]].concat(), ""));
        assert!(github.starts_with("::error file=deploy/a b/vmi.yaml,line=5,"), "{name}: {github}");
        let read = |name: &str| std::fs::read_to_string(working.join(name)).unwrap();
        let (sarif, gitlab): (Value, Value) =
            (serde_json::from_str(&read("q.sarif")).unwrap(), serde_json::from_str(&read("q.json")).unwrap());
        let run = &sarif["runs"][0];
        let place = &run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"];
        assert_eq!(*place, json!({"uri": "deploy/a%20b/vmi.yaml", "uriBaseId": "%SRCROOT%"}), "{name}");
        assert_eq!(run["originalUriBaseIds"], json!({"%SRCROOT%": {"uri": format!("file://{}/", root.display())}}));
        assert_eq!(gitlab[0]["location"]["path"], "deploy/a b/vmi.yaml", "{name}");
        fingerprints.insert(gitlab[0]["fingerprint"].to_string());
        assert!(read("q.xml").contains("classname=\"deploy/a b/vmi.yaml VirtualMachineInstance default/a\""), "{name}");
    }
    assert_eq!(fingerprints.len(), 1, "a baseline serves in each folder");
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

/// What a reader of files says about a text: everything is fine, or a part of its message.
type Answer = Result<(), &'static str>;

/// A manifest, facts and settings, each in one document of YAML and of JSON, with the anchors of a merge key.
const GOOD: [[&str; 3]; 3] = [
    [
        "apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata: &m {name: a}\nspec: {domain: {}}\n",
        r#"{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": "a"}, "spec": {"domain": {}}}"#,
        "apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata: &m\n  <<: {name: a}\nspec: {domain: {}}\n",
    ],
    [
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n",
        r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}"#,
        "apiVersion: v1\nkind: Namespace\nmetadata: {labels: &l {a: b}, annotations: *l, <<: {name: a}}\n",
    ],
    [
        "rules:\n  NP003: warn\n",
        r#"{"rules": {"NP003": "warn"}}"#,
        "rules: {NP003: &w warn, NP105: *w, <<: {NP103: warn}}\n",
    ],
];

/// Reads a text as a manifest, as facts or as settings; returns the message if it is refused.
fn read_as(reader: usize, folder: &Folder, text: &[u8]) -> Result<(), String> {
    std::fs::write(folder.path().join("x.yaml"), text).unwrap();
    let args: &[&str] = match reader {
        0 => &["-f", "x.yaml"],
        1 => &["-f", "-", "--facts", "x.yaml"],
        _ => &["-f", "-", "--settings", "x.yaml"],
    };
    let output = check_in(folder.path(), args, "kind: ConfigMap\n");
    match output.status.code() {
        Some(0) => Ok(()),
        Some(2) => Err(text_of(&output)),
        code => panic!("{code:?}: {}", text_of(&output)),
    }
}

fn text_of(output: &Output) -> String {
    format!("{}{}", text(output), String::from_utf8_lossy(&output.stderr))
}

/// A list of aliases, each of which repeats the ten of the level before.
fn alias_bomb() -> String {
    let levels = (1..9).map(|level| {
        let list = vec![format!("*a{}", level - 1); 10].join(", ");
        format!("a{level}: &a{level} [{list}]\n")
    });
    format!("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n{}", levels.collect::<String>())
}

#[test]
fn manifests_facts_and_settings_are_read_alike() {
    let folder = Folder::new("loader");
    for (reader, [yaml, json, merged]) in GOOD.into_iter().enumerate() {
        let second: Answer = if reader == 2 { Err("a second document begins") } else { Ok(()) };
        let cases: [(&str, String, Answer); 17] = [
            ("YAML", yaml.to_owned(), Ok(())),
            ("JSON", json.to_owned(), Ok(())),
            ("anchors, aliases and a merge key", merged.to_owned(), Ok(())),
            ("CRLF", yaml.replace('\n', "\r\n"), Ok(())),
            ("a byte order mark", format!("\u{feff}{yaml}"), Ok(())),
            ("a byte order mark and JSON", format!("\u{feff}{json}\r\n"), Ok(())),
            ("markers around", format!("---\n{yaml}---\n# nothing\n"), Ok(())),
            ("a document after a marker", format!("# first\n--- {json}\n"), Ok(())),
            ("JSON first, then a marker", format!("{json}\n---\n{json}\n"), second),
            ("JSON and YAML", format!("{json}\n---\n{yaml}"), second),
            ("a tab", yaml.replacen('\n', "\n\t", 1), Err("indented with a tab")),
            ("two equal keys", format!("{yaml}{yaml}"), Err("is in line 1 already")),
            ("an alias bomb", format!("{yaml}{}", alias_bomb()), Err("the aliases repeat more than")),
            ("an alias in its value", format!("{yaml}x: &x [*x]\n"), Err("the alias is inside the value")),
            ("too many levels", format!("{yaml}x: {}", "[".repeat(100_000)), Err("nested more than")),
            ("a template", format!("{yaml}x: {{{{ .Values.x }}}}\n"), Err("render it first")),
            ("a conflict", format!("<<<<<<< HEAD\n{yaml}"), Err("a merge conflict is not resolved")),
        ];
        for (what, content, expected) in cases {
            let found = read_as(reader, &folder, content.as_bytes());
            match (&found, expected) {
                (Ok(()), Ok(())) => {}
                (Err(message), Err(part)) => assert!(message.contains(part), "{what} as {reader}: {message}"),
                _ => panic!("{what} as {reader}: {found:?} and not {expected:?}"),
            }
        }
        let latin = read_as(reader, &folder, b"# caf\xe9\n").unwrap_err();
        assert!(latin.contains("not UTF-8 text"), "{latin}");
    }
}

#[test]
fn large_files_are_read_and_too_large_ones_are_not() {
    let folder = Folder::new("large");
    let path = folder.path().join("x.yaml");
    for (reader, [yaml, ..]) in GOOD.into_iter().enumerate() {
        let line = format!("# {}\n", "x".repeat(1021));
        let large = format!("{yaml}{}", line.repeat(100 << 10));
        assert!(large.len() > 100 << 20);
        read_as(reader, &folder, large.as_bytes()).unwrap();
        std::fs::File::create(&path).unwrap().set_len((512 << 20) + 1).unwrap();
        let file = path.to_str().unwrap();
        let args: &[&str] = match reader {
            0 => &["-f", file],
            1 => &["-f", "-", "--facts", file],
            _ => &["-f", "-", "--settings", file],
        };
        let output = check_in(folder.path(), args, "kind: ConfigMap\n");
        assert_eq!(output.status.code(), Some(2));
        let said = text_of(&output);
        assert!(said.contains("has more than 512 MiB") && said.contains("split it"), "{said}");
    }
}

#[test]
fn hidden_folders_are_read_neither_now_nor_before_and_what_was_broken_is_noted() {
    let folder = Folder::new("hidden");
    let git = |args: &[&str]| {
        let identity = ["-c", "user.name=a", "-c", "user.email=a@b"];
        let output = Command::new("git").args(identity).args(args).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    git(&["init", "--quiet"]);
    for sub in [".hidden", "sub"] {
        std::fs::create_dir_all(folder.path().join("deploy").join(sub)).unwrap();
    }
    folder.write("deploy/.hidden/broken.yaml", "kind: [\n");
    folder.write("deploy/sub/fixed.yaml", "kind: [\n");
    folder.write("deploy/vm.yaml", VM);
    git(&["add", "."]);
    git(&["commit", "--quiet", "--message", "one"]);
    folder.write("deploy/sub/fixed.yaml", &VM.replace("name: web", "name: new"));
    let (status, with) = json(&check_in(folder.path(), &["-R", "-o", "json", "deploy", "--git", "HEAD"], ""));
    assert_eq!((status, with["summary"]["objects"].as_u64()), (0, Some(2)), "{with}");
    let notes = with["assumptions"].to_string();
    assert!(notes.contains("deploy/sub/fixed.yaml: line 1"), "{notes}");
    assert!(notes.contains("taken to be new") && !notes.contains(".hidden"), "{notes}");
    let (_, flat) = json(&check_in(folder.path(), &["-o", "json", "deploy", "--git", "HEAD"], ""));
    assert_eq!(flat["summary"]["objects"], 1, "{flat}");
    assert!(!flat["assumptions"].to_string().contains("fixed.yaml"), "{flat}");
}
