//! Commands on a pseudo-terminal: progress, the question of a change, colours and the width of lines.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::net::TcpListener;

use serde_json::json;
use support::{
    api_server::crds::Kind,
    builders::VM,
    commands::{CommandFixture, IN_PLACE, NETWORK, output_for, vm},
    folder::Folder,
    terminal::{Terminal, nicplug, prepare, session},
};
use tokio::task::spawn_blocking;

/// A VMI with two faults, one of which has a long text.
const FAULTY: &str = r#"
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: web}
spec:
  domain: {devices: {interfaces: [{name: lost, bridge: {}}, {name: blue, bridge: {}, macAddress: "01:00:00:00:00:01"}]}}
  networks: [{name: blue, multus: {networkName: blue}}]
"#;

// === Progress ===

/// An API server that accepts connections and never answers.
struct SilentServer {
    _listener: TcpListener,
    kubeconfig: String,
    _folder: Folder,
}

impl SilentServer {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let folder = Folder::new("silent");
        let server = format!("http://{}", listener.local_addr().unwrap());
        let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "a", "users": [],
            "clusters": [{"name": "a", "cluster": {"server": server}}],
            "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}]});
        let kubeconfig = folder.write("config", &config.to_string());
        Self { _listener: listener, kubeconfig, _folder: folder }
    }
}

#[test]
fn a_terminal_shows_progress_after_a_second() {
    let server = SilentServer::start();
    let status = ["status", "--request-timeout=0", "--kubeconfig", &server.kubeconfig];
    Terminal::start(nicplug(&status, &[]), 80).wait_for("Reading the VMs and the cluster (1s)");
    let mut audit = status;
    audit[0] = "audit";
    // Standard output may be a file; the progress is on standard error.
    Terminal::start_without_output(nicplug(&audit, &[]), 80).wait_for("Reading the cluster (1s)");
}

#[test]
fn progress_leaves_nothing_on_the_screen_and_a_pipe_or_a_dumb_terminal_shows_none() {
    let server = SilentServer::start();
    // The request ends after the progress has begun.
    let status = ["status", "--request-timeout=2s", "--kubeconfig", &server.kubeconfig];
    let shown = session(nicplug(&status, &[]), 80);
    assert!(shown.text.contains("Reading the VMs and the cluster ("), "{shown:?}");
    let lines = shown.lines();
    assert!(lines.iter().all(|line| !line.contains("Reading")), "{lines:?}");
    let dumb = session(nicplug(&status, &[("TERM", "dumb")]), 80);
    assert!(!dumb.text.contains("Reading") && !dumb.text.contains('\u{1b}'), "{dumb:?}");
    let piped = output_for(nicplug(&status, &[]), "");
    let error = String::from_utf8(piped.stderr).unwrap();
    assert!(!error.contains("Reading") && error.contains("no answer within 2 s"), "{error}");
    assert_eq!((shown.code, dumb.code, piped.status.code()), (Some(2), Some(2), Some(2)));
}

#[tokio::test]
async fn the_wait_for_a_nic_shows_the_elapsed_time_and_the_limit() {
    let Some(fixture) = CommandFixture::with_running_vm("wait").await else { return };
    let add = ["addinterface", VM, "--name", "dyniface1", "--nad", NETWORK, "--wait=20s"];
    let mut command = fixture.command(IN_PLACE, &add);
    prepare(&mut command, &[]);
    spawn_blocking(move || {
        let mut terminal = Terminal::start(command, 100);
        // No double of Multus runs, so the NIC does not arrive.
        terminal.wait_for(" 0s of 20s ");
        terminal.wait_for(" 1s of 20s ");
        terminal.wait_for("waits for");
    })
    .await
    .unwrap();
}

// === The question ===

#[tokio::test]
async fn a_change_of_several_vms_is_asked_once() {
    let Some(fixture) = CommandFixture::with_vm("question").await else { return };
    fixture.create_vm(&vm().named("vm-other")).await;
    let add = ["addinterface", VM, "vm-other", "--name", "dyniface1", "--nad", NETWORK];
    for (answer, code, result) in [
        ("n", 1, "nothing was changed"),
        ("", 1, "nothing was changed"),
        ("what", 1, "nothing was changed"),
        ("y", 0, "2 VMs: 2 changed"),
        ("yes", 0, "2 VMs: 2 unchanged"),
    ] {
        let mut command = fixture.command(IN_PLACE, &add);
        prepare(&mut command, &[]);
        let is_asked = answer != "yes";
        let session = spawn_blocking(move || {
            let mut terminal = Terminal::start(command, 100);
            if is_asked {
                terminal.wait_for("[y/N] ");
                terminal.enter(answer);
            }
            terminal.end()
        })
        .await
        .unwrap();
        assert_eq!(session.code, Some(code), "{answer:?}: {}", session.text);
        assert_eq!(session.text.matches("Change 2 VMs? [y/N]").count(), usize::from(is_asked), "{}", session.text);
        assert!(session.text.contains(result), "{answer:?}: {}", session.text);
        let stored = Kind::Vm.api(&fixture.admin, &fixture.namespace).get("vm-other").await.unwrap();
        let count = stored.data["spec"]["template"]["spec"]["networks"].as_array().map(Vec::len);
        assert_eq!(count, Some(if code == 0 { 2 } else { 1 }), "{answer:?}");
    }
}

// === Colours ===

#[test]
fn the_environment_decides_about_colours() {
    let folder = Folder::new("colours");
    let file = folder.write("vmi.yaml", FAULTY);
    let check = |variables: &[(&str, &str)]| nicplug(&["check", "-f", &file], variables);
    for (variables, on_a_terminal, in_a_pipe) in [
        (&[][..], true, false),
        (&[("NO_COLOR", "1")], false, false),
        (&[("NO_COLOR", "")], true, false),
        (&[("CLICOLOR", "0")], false, false),
        (&[("CLICOLOR_FORCE", "1")], true, true),
        (&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], false, false),
        (&[("TERM", "dumb")], false, false),
    ] {
        let shown = session(check(variables), 80);
        assert_eq!((shown.text.contains('\u{1b}'), shown.code), (on_a_terminal, Some(1)), "{variables:?}: {shown:?}");
        let piped = output_for(check(variables), "");
        assert_eq!(piped.stdout.contains(&b'\x1b'), in_a_pipe, "{variables:?}");
        let plain = String::from_utf8(output_for(check(&[]), "").stdout).unwrap();
        // Only the colours and the line breaks differ.
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&shown.lines().join("\n")), words(&plain), "{variables:?}");
    }
}

// === The width ===

#[test]
fn lines_end_at_the_width_of_the_terminal_and_are_not_broken_in_a_pipe() {
    let folder = Folder::new("width");
    folder.write(
        "a.yaml",
        "kind: VirtualMachineInstance\napiVersion: kubevirt.io/v1\nmetadata: {name: a}\nspec:\n  \
        domain: {devices: {interfaces: [\n    {name: x, bridge: {},\n    macAddress: \"01:00:00:00:00:01\"}]}}\n  \
        networks: [{name: x, multus: {networkName: a}}]\n",
    );
    let message = "The VirtualMachine \"web\" is invalid: spec: Invalid value: \"\": model e1000e of \"blue\" cannot be \
        hotplugged [NP103]";
    let nowhere = "--kubeconfig=none";
    for args in [
        &["check", "-f", "a.yaml"][..],
        &["slots", "-f", "a.yaml"],
        &["rules"],
        &["rules", "NP105"],
        &["explain", message, nowhere],
        &["demo", "--once"],
    ] {
        let command = || {
            let mut command = nicplug(args, &[]);
            command.current_dir(folder.path());
            command
        };
        let pipe = output_for(command(), "");
        let pipe = String::from_utf8([pipe.stdout, pipe.stderr].concat()).unwrap();
        let words = |text: &str| text.replace('─', "").split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        for columns in [64, 80, 120] {
            let lines = session(command(), columns).lines();
            let long = lines.iter().find(|line| line.chars().count() > columns.into());
            // What the user types and applies in the demo is not broken. Its introduction names a port.
            if args[0] == "demo" {
                assert!(long.is_none() || columns < 80, "{long:?}");
            } else {
                assert_eq!(long, None, "{args:?} at {columns}");
                assert_eq!(words(&lines.join("\n")), words(&pipe), "{args:?} at {columns}");
            }
        }
        // A sentence is one line.
        let longest = pipe.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(longest >= 80, "{args:?} has {longest} columns in a pipe");
    }
}

#[tokio::test]
async fn a_command_that_is_printed_stays_on_one_line() {
    let Some(fixture) = CommandFixture::with_vm("copied").await else { return };
    let mut command = fixture.command(IN_PLACE, &["plan", VM, "--add", &format!("dyniface1={NETWORK}")]);
    prepare(&mut command, &[]);
    let session = spawn_blocking(move || session(command, 60)).await.unwrap();
    let lines = session.lines();
    let line = lines.iter().find(|line| line.trim_start().starts_with("kubectl patch ")).unwrap();
    assert!(line.contains(" --patch='[{") && line.ends_with("]'"), "{session:?}");
    let is_broken = |line: &&String| line.chars().count() > 60 && !line.contains("kubectl patch");
    assert_eq!(lines.iter().find(is_broken), None, "{session:?}");
}
