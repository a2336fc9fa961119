//! The built program: its output and exit status.

// Helpers of tests fail as tests do.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::unwrap_used)]

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{self, Receiver},
    time::Duration,
};

use nicplug::rules::RULES;
use serde_json::Value;
use support::{
    cases::{data, json_file},
    client::get,
    commands::output_for,
    folder::Folder,
};
use tokio::runtime::Builder;

#[test]
fn review_answers_each_line_and_continues_after_an_invalid_one() {
    let good = compact("real-vm-update-merge-patch-add-nic");
    let bad = compact("model-e1000e");
    let input = format!("{good}\nnot json\n\n{bad}\n");
    let output = run(&["review", "--facts", &facts("model-e1000e")], &input);
    let answers: Vec<Value> = lines(&output.stdout);
    assert_eq!(answers.len(), 3);
    assert_eq!(answers[0]["response"]["allowed"], true);
    assert!(answers[1]["error"].as_str().unwrap().contains("not JSON"));
    assert_eq!(answers[2]["response"]["allowed"], false);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn review_reads_whole_files_and_its_exit_status_says_whether_something_was_denied() {
    let denied = data("admission/model-e1000e/request.json");
    let output = run(&["review", "--facts", &facts("model-e1000e"), denied.to_str().unwrap()], "");
    assert_eq!(lines(&output.stdout)[0]["response"]["status"]["code"], 422);
    assert_eq!(output.status.code(), Some(1));
    let output = run(&["review", "--exit-zero", "--facts", &facts("model-e1000e"), denied.to_str().unwrap()], "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn review_refuses_manifests_and_empty_input() {
    for (input, part) in [
        ("apiVersion: kubevirt.io/v1\nkind: VirtualMachine\n", "use nicplug check"),
        ("---\nkind: VirtualMachine\n", "use nicplug check"),
        ("\n", "no AdmissionReview"),
    ] {
        let output = run(&["review"], input);
        assert_eq!(output.status.code(), Some(2));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(part) && error.lines().count() == 1, "{error}");
    }
}

#[test]
fn the_version_is_printed_for_people_and_programs() {
    assert!(run(&["version"], "").stdout.starts_with(b"nicplug v"));
    let json: Value = serde_json::from_slice(&run(&["version", "-o", "json"], "").stdout).unwrap();
    assert_eq!(json["version"], concat!("v", env!("CARGO_PKG_VERSION")));
}

#[test]
fn completion_and_manual_pages_are_generated() {
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let script = String::from_utf8(run(&["completion", shell], "").stdout).unwrap();
        assert!(script.contains("removeinterface"), "{shell}");
    }
    let folder = Folder::new("man");
    let output = run(&["man", "--directory", folder.path().to_str().unwrap()], "");
    assert_eq!(output.status.code(), Some(0));
    for page in ["nicplug.1", "nicplug-check.1", "nicplug-addinterface.1"] {
        assert!(fs::read_to_string(folder.path().join(page)).unwrap().contains("nicplug"), "{page}");
    }
}

#[test]
fn review_mutates_with_the_flag_mutate() {
    let input = compact("binding-left-out");
    let patched = run(&["review", "--mutate"], &input);
    assert_eq!(lines(&patched.stdout)[0]["response"]["patchType"], "JSONPatch");
    let validated = run(&["review"], &input);
    assert!(lines(&validated.stdout)[0]["response"]["patch"].is_null());
}

#[test]
fn settings_change_the_verdict() {
    let folder = Folder::new("cli");
    let settings = folder.write("settings.yaml", "rules: {NP103: warn}\n");
    let output = run(&["review", "--facts", &facts("model-e1000e"), "--settings", &settings], &compact("model-e1000e"));
    let answer = &lines(&output.stdout)[0]["response"];
    assert_eq!(answer["allowed"], true);
    assert!(answer["warnings"][0].as_str().unwrap().ends_with("[NP103]"), "{answer}");
}

#[test]
fn an_error_in_a_file_names_the_file_and_the_line() {
    let folder = Folder::new("cli");
    let unknown_rule = folder.write("unknown.yaml", "rules: {NP999: warn}\n");
    let unknown_value = folder.write("value.yaml", "rules:\n  NP103: loud\n");
    let broken = folder.write("broken.yaml", "kind: A\n---\nkind: B\nspec: [}\n");
    let wrong_type = folder.write(
        "wrong.yaml",
        "# one\n---\napiVersion: kubevirt.io/v1\nkind: KubeVirt\nmetadata: {name: kv}\nspec: {configuration: 5}\n",
    );
    for (args, parts) in [
        (["--settings", &unknown_rule], ["unknown.yaml", "\"NP999\"", "nicplug rules"]),
        (["--settings", &unknown_value], ["value.yaml", "loud", "deny"]),
        (["--settings", "/nowhere/settings.yaml"], ["settings", "/nowhere/settings.yaml", "cannot be read"]),
        (["--facts", "/nowhere/facts.yaml"], ["--facts", "/nowhere/facts.yaml", "cannot be read"]),
        (["--facts", &broken], ["broken.yaml:4:7: ", "--facts", "closes what"]),
        (["--facts", &wrong_type], ["wrong.yaml:6:", "KubeVirt \"kv\"", "spec.configuration"]),
    ] {
        let output = run(&["review", args[0], args[1]], "");
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{error}");
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in {error}");
        }
    }
}

#[test]
fn facts_are_read_from_a_folder() {
    let folder = Folder::new("cli");
    let all = fs::read_to_string(data("admission/gate-off/facts.yaml")).unwrap();
    for (number, document) in all.split("---\n").enumerate() {
        folder.write(&format!("{number}.yaml"), document);
    }
    folder.write("notes.txt", "kind: [not read");
    let output = run(&["review", "--facts", folder.path().to_str().unwrap()], &compact("gate-off"));
    assert!(String::from_utf8(output.stdout).unwrap().contains("[NP101]"));
}

#[test]
fn the_demo_shows_every_rule_in_eighty_columns_without_colours() {
    let text = demo(&["--all", "--once"]);
    let is_result = |line: &&str| {
        line.contains("is invalid:") || [" configured", " annotated"].iter().any(|end| line.ends_with(end))
    };
    let verdicts = text.lines().filter(is_result).count();
    assert!(verdicts >= 40, "{verdicts} in {text}");
    for part in ["patch: add /spec/template", "Warning: "] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    let missing: Vec<&str> = RULES.iter().map(|rule| rule.id).filter(|id| !text.contains(&format!("[{id}]"))).collect();
    assert!(missing.is_empty(), "no step shows {missing:?}");
}

#[test]
fn the_demo_has_six_beats_that_a_minute_suffices_to_read() {
    let text = demo(&[]);
    let titles: Vec<&str> =
        text.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_digit())).collect();
    assert!(titles.len() == 7 && titles[5].starts_with("6. ") && titles[6].starts_with("6 changes"), "{titles:?}");
    assert!(text.lines().count() <= 110, "{} lines:\n{text}", text.lines().count());
    for part in [
        "eth0  lo",
        "[NP103]",
        "use \"demo/new-fancy-net\", which exists",
        "nicplug.io/add-interfaces=dyniface1=new-fancy-net",
        "[NP106]",
        "vmi-fedora nicplug.io/reserve-ports=2\n   virtualmachine.kubevirt.io/vmi-fedora annotated\n",
        "✓ guest-agent    the guest has it as \"eth1\"\n   \"dyniface1\" is plugged\n",
        "nicplug demo --all shows every rule",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert_eq!(without_port(&text), without_port(&demo(&["--once"])));
}

/// Returns the output of the demo, in lines of at most 80 columns without colours.
fn demo(flags: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nicplug"));
    command.arg("demo").args(flags).env("COLUMNS", "80");
    let output = output_for(command, "");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line:?}");
        assert!(!line.contains('\u{1b}'), "{line:?}");
    }
    text
}

/// Removes the introduction, whose lines depend on the length of the port.
fn without_port(text: &str) -> &str {
    text.split_once("\n\n").unwrap().1
}

#[test]
fn serve_becomes_ready_answers_a_review_and_ends_on_sigterm() {
    let folder = Folder::new("cli");
    let certs = certificates(&folder);
    let mut server = ServeProcess::start(&certs, &["--log-format", "json"]);
    assert_eq!(server.health("/livez").0, 200);
    assert!(server.health("/readyz?verbose").1.contains("webhook"));
    let answer = server.review(&certs, &compact("real-vm-create"));
    assert!(answer.contains("\"allowed\":true"), "{answer}");
    server.terminate();
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

/// Returns an update of a VM with names that try to forge lines of the log.
fn hostile_review(names: &str) -> String {
    let vm = |networks: &str| {
        let metadata = r#"{"annotations": {"password": "hunter2"}}"#;
        format!(r#"{{"metadata": {metadata}, "spec": {{"template": {{"spec": {{{networks}}}}}}}}}"#)
    };
    let (new, old) = (vm(r#""networks": [{"name": "a", "pod": {}}, {"name": "a", "pod": {}}]"#), vm(""));
    let review = format!(
        r#"{{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {{"uid": "u-1{names}",
        "operation": "UPDATE", "kind": {{"group": "kubevirt.io", "version": "v1", "kind": "VirtualMachine"}},
        "namespace": "demo{names}", "name": "vm{names}", "userInfo": {{"username": "mallory{names}"}},
        "object": {new}, "oldObject": {old}}}}}"#
    );
    serde_json::from_str::<Value>(&review).unwrap().to_string()
}

#[test]
fn a_decision_is_one_line_of_json_with_user_object_operation_and_rules() {
    let folder = Folder::new("cli");
    let certs = certificates(&folder);
    let server = ServeProcess::start(&certs, &["--log-format", "json"]);
    let forged = r#"\n{\"level\":\"INFO\",\"message\":\"forged\"}"#;
    server.review(&certs, &hostile_review(forged));
    let line = server.line("\"decided\"");
    let decision: Value = serde_json::from_str(&line).unwrap();
    let name = "\n{\"level\":\"INFO\",\"message\":\"forged\"}";
    for (field, expected) in [
        ("target", "nicplug::decision".to_owned()),
        ("level", "INFO".to_owned()),
        ("uid", format!("u-1{name}")),
        ("user", format!("mallory{name}")),
        ("object", format!("VirtualMachine demo{name}/vm{name}")),
        ("operation", "UPDATE".to_owned()),
        ("endpoint", "validate".to_owned()),
        ("decision", "denied".to_owned()),
    ] {
        assert_eq!(decision[field], expected, "{field}: {line}");
    }
    assert!(decision["rules"].as_str().unwrap().split(',').any(|rule| rule == "NP001"), "{line}");
    assert!(decision["micros"].as_u64().is_some(), "{line}");
    assert!(!line.contains("hunter2") && !line.chars().any(char::is_control), "{line}");
}

#[test]
fn a_decision_is_one_line_of_text_for_all_names() {
    let folder = Folder::new("cli");
    let certs = certificates(&folder);
    let server = ServeProcess::start(&certs, &["--log-format", "text"]);
    server.review(&certs, &hostile_review(r"\r\n2026-01-01T00:00:00Z INFO forged \u001b[2J\u009b1m\u202e"));
    let line = server.line("nicplug::decision");
    assert!(line.contains(r#"user="mallory\r\n2026-01-01T00:00:00Z INFO forged"#), "{line}");
    assert!(line.contains("decision=\"denied\"") && !line.contains("hunter2"), "{line}");
    assert!(!line.contains(|letter: char| letter.is_control() || letter == '\u{202e}'), "{line}");
}

#[test]
fn the_log_filter_is_reloaded_at_a_signal_and_an_invalid_one_is_rejected() {
    let folder = Folder::new("cli");
    let certs = certificates(&folder);
    let filter = folder.write("filter", "");
    let server = ServeProcess::start(&certs, &["--log-format", "json", "--log", "info", "--log-filter-file", &filter]);
    let allowed = compact("real-vmi-update-status-heartbeat");
    // This review is not logged: the next line is about the file.
    server.review(&certs, &allowed);
    folder.write("filter", "# for a while\ninfo\nnicplug::decision=debug\n");
    server.signal("HUP");
    let line = server.any_line();
    assert!(line.contains("info,nicplug::decision=debug") && line.contains("log filter"), "{line}");
    server.review(&certs, &allowed);
    let line = server.any_line();
    assert!(line.contains("DEBUG") && line.contains("nicplug::decision"), "{line}");
    folder.write("filter", "nicplug=loud\n");
    server.signal("HUP");
    let line = server.any_line();
    assert!(line.contains("WARN") && line.contains("the previous log filter stays") && line.contains("loud"), "{line}");
    server.review(&certs, &allowed);
    assert!(server.any_line().contains("nicplug::decision"));
}

#[test]
fn spans_are_exported_to_the_collector_of_the_flag_before_the_end() {
    let folder = Folder::new("cli");
    let certs = certificates(&folder);
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", collector.local_addr().unwrap());
    let mut server = ServeProcess::start(&certs, &["--log-format", "json", "--otlp-endpoint", &url]);
    server.review(&certs, &hostile_review(""));
    server.terminate();
    let (mut stream, _) = collector.accept().unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let head: Vec<String> = lines.by_ref().map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
    assert_eq!(head[0], "POST /v1/traces HTTP/1.1");
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").unwrap();
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    // The message is the rest of the stream.
    let message: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    let span = &message["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
    assert_eq!(span["name"], "validate", "{message}");
}

#[test]
fn the_help_names_every_limit_with_its_environment_variable_and_default() {
    let help = String::from_utf8(run(&["serve", "--help"], "").stdout).unwrap();
    for (flag, variable, default) in [
        ("--max-body", "NICPLUG_MAX_BODY", "8MiB"),
        ("--max-bodies", "NICPLUG_MAX_BODIES", "64MiB"),
        ("--max-in-flight", "NICPLUG_MAX_IN_FLIGHT", "default"),
        ("--handshake-timeout", "NICPLUG_HANDSHAKE_TIMEOUT", "default"),
        ("--header-timeout", "NICPLUG_HEADER_TIMEOUT", "default"),
        ("--idle-timeout", "NICPLUG_IDLE_TIMEOUT", "default"),
        ("--request-timeout", "NICPLUG_REQUEST_TIMEOUT", "default"),
        ("--drain-grace", "NICPLUG_DRAIN_GRACE", "15s"),
        ("--drain-deadline", "NICPLUG_DRAIN_DEADLINE", "default"),
    ] {
        let start = help.find(flag).unwrap_or_else(|| panic!("{flag} is not in {help}"));
        let text = &help[start..];
        for part in [variable, default] {
            assert!(text.contains(part), "{flag}: {part}");
        }
    }
}

/// A running `nicplug serve`; killed when this is dropped.
struct ServeProcess {
    child: Child,
    webhook: String,
    health: String,
    log: Receiver<String>,
}

impl ServeProcess {
    /// Starts it on free ports and waits until it logs their addresses.
    fn start(certs: &Path, args: &[&str]) -> Self {
        let file = |name: &str| certs.join(name).to_str().unwrap().to_owned();
        let mut child = Command::new(env!("CARGO_BIN_EXE_nicplug"))
            .args(["serve", "--facts", "none", "--tls-cert", &file("tls.crt"), "--tls-key", &file("tls.key")])
            .args(["--listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0"])
            .args(["--drain-grace", "10ms"])
            .args(args)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut address = |message: &str| loop {
            let line = log.next().unwrap().unwrap();
            if line.contains(message) {
                let end = line.split_once("127.0.0.1:").unwrap().1;
                let port: String = end.chars().take_while(char::is_ascii_digit).collect();
                break format!("127.0.0.1:{port}");
            }
        };
        let health = address("health checks");
        let webhook = address("serving");
        // The thread keeps reading, so that the process never blocks on a full pipe.
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || log.for_each(|line| drop(sender.send(line.unwrap()))));
        Self { child, webhook, health, log: lines }
    }

    /// Returns the next line of the log.
    fn any_line(&self) -> String {
        self.log.recv_timeout(Duration::from_mins(1)).expect("there is another line of the log")
    }

    /// Returns the next line of the log that contains a text.
    fn line(&self, part: &str) -> String {
        loop {
            let line = self.any_line();
            if line.contains(part) {
                return line;
            }
        }
    }

    /// Returns status and body of a GET to the health listener.
    fn health(&self, path: &str) -> (u16, String) {
        let runtime = Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(get(self.health.parse().unwrap(), path))
    }

    fn review(&self, certs: &Path, body: &str) -> String {
        use rustls::{
            ClientConfig, ClientConnection, RootCertStore, StreamOwned,
            pki_types::{CertificateDer, pem::PemObject},
        };
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(certs.join("ca.crt")).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(nicplug::certificates::crypto::provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connection = ClientConnection::new(config.into(), "localhost".try_into().unwrap()).unwrap();
        let mut stream = StreamOwned::new(connection, TcpStream::connect(&self.webhook).unwrap());
        let length = body.len();
        let head = "POST /validate?timeout=5s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";
        write!(stream, "{head}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    fn terminate(&self) {
        self.signal("TERM");
    }

    fn signal(&self, name: &str) {
        let killed = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(killed.success());
    }
}

impl Drop for ServeProcess {
    fn drop(&mut self) {
        // It has ended if the test has finished.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A VMI that booted with one NIC and two free ports, and got two NICs since.
const PLUGGED_VMI: &str = r#"{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
"metadata": {"name": "web", "namespace": "shop", "annotations": {"nicplug.io/boot-slots": "v1:port=2,nics=1,disks=0"}},
"spec": {"domain": {"devices": {"interfaces": [
  {"name": "default", "masquerade": {}}, {"name": "blue", "bridge": {}}, {"name": "red", "bridge": {}}]}},
  "networks": [{"name": "default", "pod": {}}, {"name": "blue", "multus": {"networkName": "blue-net"}},
    {"name": "red", "multus": {"networkName": "infra/red-net"}}]},
"status": {"phase": "Running", "interfaces": [
  {"name": "default", "infoSource": "domain", "mac": "02:00:00:00:00:0a"},
  {"name": "blue", "infoSource": "domain, multus-status", "mac": "02:00:00:00:00:0b"},
  {"name": "red", "infoSource": "domain, multus-status", "mac": "02:00:00:00:00:0c"}]}}"#;

#[test]
fn slots_of_a_vmi_in_a_file_are_those_that_its_record_leaves_free() {
    let output = |format: &str| {
        let output = run(&["slots", "-f", "-", "-o", format], PLUGGED_VMI);
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stdout).unwrap()
    };
    let text = output("text");
    for part in ["Now: 0 hotplug ports are free, of 2 at boot\n", "fix: unplug a NIC", "after the boot: blue, red\n"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let json: Value = serde_json::from_str(&output("json")).unwrap();
    for (field, expected) in [
        ("kind", "PciSlots".into()),
        ("schemaVersion", 1.into()),
        ("guest", "VirtualMachineInstance".into()),
        ("namespace", "shop".into()),
        ("name", "web".into()),
        ("pluggedLater", Value::from(vec!["blue", "red"])),
    ] {
        assert_eq!(json[field], expected, "{field}");
    }
    assert_eq!((&json["now"]["free"], &json["now"]["freeAtBoot"]), (&0.into(), &2.into()), "{json}");
    assert!(json["afterRestart"]["freePorts"].as_u64() > Some(0), "{json}");
    let svg = output("svg");
    for part in [
        "class=\"full\">Now: 0 hotplug ports are free, of 2 at boot<",
        ">As it would boot with these devices: 4 of",
        ">infra/red-net · 02:00:00:00:00:0c · virtio<",
        ">pod network · 02:00:00:00:00:0a · virtio<",
    ] {
        assert!(svg.contains(part), "{part} is not in {svg}");
    }
}

#[test]
fn slots_of_a_manifest_say_nothing_about_now() {
    let vm = r#"{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "web"},
        "spec": {"template": {"spec": {"domain": {"devices": {}}}}}}"#;
    let output = run(&["slots", "-f", "-", "-o", "json"], vm);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["name"], &json["guest"]), (&"web".into(), &"VirtualMachine".into()));
    assert!(json.get("now").is_none() && json["afterRestart"]["freePorts"].is_u64(), "{json}");
}

#[test]
fn slots_of_a_file_with_further_nics_need_no_cluster() {
    let folder = Folder::new("what-if");
    let vm = r#"{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"template": {"spec": {
            "domain": {"devices": {"interfaces": [{"name": "default", "masquerade": {}}]}},
            "networks": [{"name": "default", "pod": {}}]}}}}"#;
    let vm_file = folder.write("vm.json", vm);
    let nad = |name: &str| {
        format!(
            "apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{config: '{{\"cniVersion\": \"0.4.0\", \"type\": \"bridge\"}}'}}\n---\n"
        )
    };
    let version = "apiVersion: kubevirt.io/v1\nkind: KubeVirt\nmetadata: {name: kubevirt, namespace: kubevirt}\n\
        status: {observedKubeVirtVersion: v1.9.0}\n---\n";
    let stopped = folder.write("stopped.yaml", &format!("{version}{}", nad("blue-net")));
    // The guest of the VM booted with one NIC and two free ports, which NICs use that the template does not have.
    let running = folder.write("running.yaml", &format!("{version}{}{PLUGGED_VMI}", nad("blue-net")));
    let slots = |args: &[&str]| {
        let output = run(&[&["slots", "-f", &vm_file], args].concat(), "");
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code(), text)
    };
    for (args, status, parts) in [
        (
            &["--facts", &stopped, "--what-if", "green=blue-net"][..],
            0,
            &["Now: no guest runs\nWhat if green: at the next start: the VM does not run\n", " green "][..],
        ),
        (
            &["--facts", &stopped, "--what-if", "green=blu-net"],
            0,
            &["What if green: at the next start: the VM does not run\n\nVirtualMachine"],
        ),
        (&["--what-if", "green=blue-net"], 0, &["What if green: at the next start: the VM does not run\n"]),
        (
            &["--facts", &running, "--what-if", "green=blue-net"],
            1,
            &["Now: 0 hotplug ports are free, of 2 at boot\n", "What if green: never: ", "[NP106]"],
        ),
        (&["--facts", &running], 0, &["Now: 0 hotplug ports are free, of 2 at boot\n"]),
        (&["--facts", &stopped, "--what-if", "default=blue-net"], 1, &["What if default: "]),
    ] {
        let (code, text) = slots(args);
        assert_eq!(code, Some(status), "{args:?}: {text}");
        for part in parts {
            assert!(text.contains(part), "{args:?}: {part:?} is not in {text}");
        }
    }
    let vmi = folder.write("vmi.json", PLUGGED_VMI);
    let output = run(&["slots", "-f", &vmi, "--what-if", "green=blue-net"], "");
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("--what-if needs a VirtualMachine: \"web\" is only a VMI"), "{error}");
}

#[test]
fn an_error_about_the_settings_names_the_command_as_the_user_called_it() {
    let folder = Folder::new("plugin");
    let settings = folder.write("settings.yaml", "rules: {NP999: warn}");
    let plugin = folder.path().join("kubectl-nicplug");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_nicplug"), &plugin).unwrap();
    for (program, name) in
        [(plugin.as_path(), "kubectl nicplug"), (Path::new(env!("CARGO_BIN_EXE_nicplug")), "nicplug")]
    {
        let mut command = Command::new(program);
        command.args(["status", "--settings", &settings]);
        let error = String::from_utf8(output_for(command, "").stderr).unwrap();
        let expected = format!("settings.yaml: line 1: unknown rule \"NP999\"; `{name} rules` lists the ids\n");
        assert!(error.ends_with(&expected), "{error}");
    }
}

/// Creates the certificates of a server by the command, and returns their folder.
fn certificates(folder: &Folder) -> PathBuf {
    let certificates = folder.path().join("certificates");
    assert!(run(&["certs", certificates.to_str().unwrap()], "").status.success());
    certificates
}

fn run(args: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nicplug"));
    command.args(args);
    output_for(command, input)
}

fn lines(output: &[u8]) -> Vec<Value> {
    output
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

fn compact(case: &str) -> String {
    json_file(&data(&format!("admission/{case}/request.json"))).to_string()
}

fn facts(case: &str) -> String {
    data(&format!("admission/{case}/facts.yaml")).to_str().unwrap().to_owned()
}
