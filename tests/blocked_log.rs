//! A log whose reader has stopped delays neither an answer nor the end of the program.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use support::{
    client::{Client, LOCALHOST, get},
    clock::Clock,
    folder::Folder,
    metrics,
    wait::{eventually, guarded},
};
use tokio::task::spawn_blocking;

/// Kills the program when the test ends early.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_log_pipe_that_is_not_read_delays_neither_an_answer_nor_the_end() {
    guarded(async {
        let folder = Folder::new("blocked-log");
        let certs = Command::new(env!("CARGO_BIN_EXE_nicplug")).arg("certs").arg(folder.path()).output().unwrap();
        assert!(certs.status.success());
        let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let mut command = Command::new(env!("CARGO_BIN_EXE_nicplug"));
        command.args(["serve", "--facts", "none", "--log", "debug", "--log-format", "json", "--drain-grace", "10ms"]);
        command.args(["--listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0"]);
        command.args(["--tls-cert", &file("tls.crt"), "--tls-key", &file("tls.key")]);
        let mut child = Killed(command.env_remove("KUBECONFIG").stderr(Stdio::piped()).spawn().unwrap());

        // The pipe stays open, and nothing is read after these two lines.
        let mut log = BufReader::new(child.0.stderr.take().unwrap());
        let mut address_of = |message: &str| loop {
            let mut line = String::new();
            assert_ne!(log.read_line(&mut line).unwrap(), 0);
            let line: Value = serde_json::from_str(&line).unwrap();
            if line["message"] == message {
                break line["address"].as_str().unwrap().parse().unwrap();
            }
        };
        let health = address_of("health checks");
        let address = address_of("serving");
        eventually("/readyz answers 200", async || (get(health, "/readyz").await.0 == 200).then_some(())).await;

        let ca = std::fs::read_to_string(folder.path().join("ca.crt")).unwrap();
        let mut client = Client::new(address, LOCALHOST, &Clock::default());
        // A pipe holds 64 KiB, and the queue 1 MiB.
        loop {
            for _ in 0..500 {
                client.send_review(&ca).await.unwrap();
            }
            if metrics::value::<u64>(&get(health, "/metrics").await.1, "nicplug_log_lines_dropped_total") > 0 {
                break;
            }
        }

        assert!(Command::new("kill").args(["-TERM", &child.0.id().to_string()]).status().unwrap().success());
        let status = spawn_blocking(move || child.0.wait().unwrap()).await.unwrap();
        assert!(status.success(), "{status}");
        let mut rest = String::new();
        log.read_to_string(&mut rest).unwrap();
    })
    .await;
}
