//! The flags by which commands connect to a cluster, on a real API server and on one that never answers.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::{
    net::TcpListener,
    process::{Command, Output},
};

use serde_json::json;
use support::{
    builders::VM,
    commands::{CommandFixture, IN_PLACE},
    folder::Folder,
};
use tokio::task::spawn_blocking;

/// Each command that reads a cluster, with arguments by which it does.
const CONNECTING: [&[&str]; 9] = [
    &["addinterface", VM, "--nad", "net", "--name", "blue"],
    &["audit"],
    &["check", "--cluster", "-"],
    &["plan", VM, "--remove", "blue"],
    &["probe"],
    &["removeinterface", VM, "--name", "blue"],
    &["slots", VM],
    &["status"],
    &["why", VM],
];

/// Runs a command, and returns its exit status and its standard error on one line.
fn finish(mut command: Command) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = String::from_utf8(stderr).unwrap();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    (
        status.code(),
        format!("{text}{}", if status.success() { String::from_utf8(stdout).unwrap() } else { String::new() }),
    )
}

async fn run(command: Command) -> (Option<i32>, String) {
    spawn_blocking(move || finish(command)).await.unwrap()
}

fn nicplug(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nicplug"));
    command.args(args).env_remove("KUBECONFIG").env_remove("COLUMNS");
    command
}

/// Writes a kubeconfig of a server.
fn kubeconfig(folder: &Folder, server: &str) -> String {
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "staging",
        "clusters": [{"name": "a", "cluster": {"server": server}}], "users": [],
        "contexts": [{"name": "staging", "context": {"cluster": "a", "user": "a"}},
            {"name": "production", "context": {"cluster": "a", "user": "a"}}]});
    folder.write("config", &config.to_string())
}

#[test]
fn a_request_timeout_ends_each_command_that_reads_a_cluster() {
    // Connections are accepted by the kernel, and no response comes.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = Folder::new("connection");
    let file = kubeconfig(&folder, &format!("http://{}", listener.local_addr().unwrap()));
    for args in CONNECTING {
        let (code, error) = finish(nicplug(&[args, &["--request-timeout=50ms", "--kubeconfig", &file]].concat()));
        assert_eq!(code, Some(2), "{args:?}: {error}");
        assert!(error.contains("no answer within 0.05 s") || error.contains("timed out"), "{args:?}: {error}");
    }
}

#[test]
fn a_kubeconfig_or_a_context_that_does_not_exist_is_named() {
    let folder = Folder::new("connection");
    let file = kubeconfig(&folder, "http://127.0.0.1:1");
    for args in CONNECTING {
        for (flags, variable, part) in [
            (&["--kubeconfig", "/nowhere/config"][..], "", "--kubeconfig /nowhere/config cannot be read: "),
            (&["--kubeconfig", &file, "--context", "stagin"], "", "did you mean \"staging\"?"),
            (
                &["--context", "other"],
                &file,
                "--context other cannot be used: the kubeconfig has no such context; it has",
            ),
            (&["--context", "other"], "/nowhere/config", "cannot be used: /nowhere/config: No such file"),
            (&[], "/nowhere/config", "no kubeconfig can be used (/nowhere/config: No such file"),
        ] {
            let mut command = nicplug(&[args, flags].concat());
            if !variable.is_empty() {
                command.env("KUBECONFIG", variable);
            }
            let (code, error) = finish(command);
            assert_eq!(code, Some(2), "{args:?} {flags:?}: {error}");
            assert!(error.contains(part), "{args:?} {flags:?}: {error}");
        }
    }
}

#[test]
fn a_command_that_reads_no_cluster_refuses_the_flags_of_one() {
    let folder = Folder::new("connection");
    let vm = folder.write("vm.yaml", "apiVersion: kubevirt.io/v1\nkind: VirtualMachine\nmetadata: {name: vm}\n");
    for (args, part) in [
        (&["-n", "demo", "rules"][..], "error: the command rules has no flag -n"),
        (&["rules", "-n", "demo"], "unexpected argument '-n'"),
        (&["--as", "jane", "version"], "error: the command version has no flag --as"),
        (&["check", "-f", &vm, "--as", "jane"], "--as selects a cluster, which only --cluster reads"),
        (&["slots", "-f", &vm, "-n", "demo"], "--namespace selects a cluster, and -f reads a file"),
        (&["explain", "--offline", "--context", "a", "x [NP103]"], "--context selects a cluster, and --offline"),
        (&["status", "--as-group", "staff"], "--as <USER>"),
    ] {
        let (code, error) = finish(nicplug(args));
        assert_eq!(code, Some(2), "{args:?}: {error}");
        assert!(error.contains(part), "{args:?}: {error}");
    }
}

#[tokio::test]
async fn commands_act_as_another_user() {
    let Some(fixture) = CommandFixture::with_vm("impersonated").await else { return };
    for (flags, code, part) in [
        (&["--as", "nemo"][..], 2, "User \"nemo\" cannot list resource \"virtualmachines\""),
        (&["--as", "nemo", "--as-group", "system:masters"], 0, VM),
    ] {
        let (found, text) = run(fixture.command(IN_PLACE, &[&["status"], flags].concat())).await;
        assert_eq!(found, Some(code), "{text}");
        assert!(text.contains(part), "{text}");
    }
    let add = ["addinterface", VM, "--nad", "net", "--name", "blue", "--as", "nemo"];
    let (code, text) = run(fixture.command(IN_PLACE, &add)).await;
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("User \"nemo\" cannot get resource \"virtualmachines\""), "{text}");
}

#[tokio::test]
async fn flags_may_stand_before_the_command() {
    let Some(fixture) = CommandFixture::with_vm("before").await else { return };
    let kubeconfig = fixture.api.kubeconfig().to_str().unwrap();
    for args in [
        ["-n", &fixture.namespace, "--kubeconfig", kubeconfig, "status", VM],
        ["--kubeconfig", kubeconfig, "--namespace", &fixture.namespace, "status", VM],
    ] {
        let (code, text) = run(nicplug(&args)).await;
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("default"), "{text}");
    }
}

#[tokio::test]
async fn a_namespace_that_does_not_exist_is_named() {
    let Some(fixture) = CommandFixture::with_vm("missing").await else { return };
    let near = format!("{}x", fixture.namespace);
    let kubeconfig = fixture.api.kubeconfig().to_str().unwrap();
    for args in CONNECTING.into_iter().filter(|args| !["check", "probe"].contains(&args[0])) {
        for (namespace, hint) in [(near.as_str(), fixture.namespace.as_str()), ("elsewhere", "pass -n for another one")]
        {
            let (code, text) = run(nicplug(&[args, &["-n", namespace, "--kubeconfig", kubeconfig]].concat())).await;
            assert_eq!(code, Some(2), "{args:?}: {text}");
            assert!(text.contains(&format!("namespace {namespace:?} not found; ")), "{args:?}: {text}");
            assert!(text.contains(hint), "{args:?}: {text}");
        }
    }
}
