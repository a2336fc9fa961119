//! The flags by which commands connect to a cluster, on a real API server and on one that never answers.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::{net::TcpListener, process::Command};

use serde_json::json;
use support::{
    builders::VM,
    commands::{CommandFixture, IN_PLACE, run, run_blocking},
    folder::Folder,
};

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
        let command = nicplug(&[args, &["--request-timeout=50ms", "--kubeconfig", &file]].concat());
        let error = run_blocking(command).check(2, &[], &[]).stderr;
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
            run_blocking(command).check(2, &[], &[part]);
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
        run_blocking(nicplug(args)).check(2, &[], &[part]);
    }
}

#[tokio::test]
async fn commands_act_as_another_user() {
    let Some(fixture) = CommandFixture::with_vm("impersonated").await else { return };
    let status = ["status", "--as", "nemo"];
    let refused = "User \"nemo\" cannot list resource \"virtualmachines\"";
    run(fixture.command(IN_PLACE, &status)).await.check(2, &[], &[refused]);
    let of_group = [&status[..], &["--as-group", "system:masters"]].concat();
    run(fixture.command(IN_PLACE, &of_group)).await.check(0, &[VM], &[]);
    let add = ["addinterface", VM, "--nad", "net", "--name", "blue", "--as", "nemo"];
    let refused = "User \"nemo\" cannot get resource \"virtualmachines\"";
    run(fixture.command(IN_PLACE, &add)).await.check(2, &[], &[refused]);
}

#[tokio::test]
async fn flags_may_stand_before_the_command() {
    let Some(fixture) = CommandFixture::with_vm("before").await else { return };
    let kubeconfig = fixture.api.kubeconfig().to_str().unwrap();
    for args in [
        ["-n", &fixture.namespace, "--kubeconfig", kubeconfig, "status", VM],
        ["--kubeconfig", kubeconfig, "--namespace", &fixture.namespace, "status", VM],
    ] {
        run(nicplug(&args)).await.check(0, &["default"], &[]);
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
            let command = nicplug(&[args, &["-n", namespace, "--kubeconfig", kubeconfig]].concat());
            let missing = format!("namespace {namespace:?} not found; ");
            run(command).await.check(2, &[], &[&missing, hint]);
        }
    }
}
