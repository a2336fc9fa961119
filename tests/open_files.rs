//! The limit of open files: few of them silence no probe.

#![cfg(unix)]
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
};

use serde_json::Value;
use support::{
    client::{Client, LOCALHOST, get},
    clock::Clock,
    folder::Folder,
    wait::{eventually, guarded},
};
use tokio::{io::AsyncWriteExt, net::TcpStream, task::spawn_blocking};

/// A running program, which ends when this is dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_probe_is_answered_when_no_file_descriptor_is_left() {
    guarded(async {
        let folder = Folder::new("open-files");
        let nicplug = env!("CARGO_BIN_EXE_nicplug");
        assert!(Command::new(nicplug).arg("certs").arg(folder.path()).output().unwrap().status.success());
        let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        // Each thread for connections has three descriptors. The health listener alone could use 64.
        let files = 3 * thread::available_parallelism().unwrap().get() + 45;
        let mut command = Command::new("sh");
        command.args(["-c", r#"ulimit -n "$0" && exec "$@""#, &files.to_string(), nicplug]);
        command.args(["serve", "--facts", "none", "--log-format", "json"]);
        command.args(["--listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0"]);
        command.args(["--tls-cert", &file("tls.crt"), "--tls-key", &file("tls.key")]);
        let mut child = Killed(command.env_remove("KUBECONFIG").stderr(Stdio::piped()).spawn().unwrap());
        let log = BufReader::new(child.0.stderr.take().unwrap()).lines();
        let (lines, logged) = mpsc::channel();
        // The test reads only the first lines.
        thread::spawn(move || log.map_while(Result::ok).for_each(|line| lines.send(line).unwrap_or_default()));
        let (health, address) = spawn_blocking(move || {
            let line_with = |text: &str| loop {
                let line: Value = serde_json::from_str(&logged.recv().unwrap()).unwrap();
                if line["message"].as_str().unwrap().contains(text) {
                    break line;
                }
            };
            let reduced = line_with("--max-connections is reduced");
            assert_eq!((&reduced["wanted"], &reduced["open_files"]), (&1000.into(), &files.into()), "{reduced}");
            let address = |line: Value| line["address"].as_str().unwrap().parse::<SocketAddr>().unwrap();
            let addresses = (address(line_with("health checks")), address(line_with("serving")));
            thread::spawn(move || logged.iter().for_each(drop));
            addresses
        })
        .await
        .unwrap();
        eventually("/readyz answers 200", async || (get(health, "/readyz").await.0 == 200).then_some(())).await;

        // Probes that never complete their header take every descriptor.
        let mut unfinished = Vec::new();
        for _ in 0..60 {
            let mut stream = TcpStream::connect(health).await.unwrap();
            // The server may have closed it already.
            let _ = stream.write_all(b"GET /livez HTTP/1.1\r\nHost: ").await;
            unfinished.push(stream);
        }
        for _ in 0..3 {
            assert_eq!(get(health, "/livez").await.0, 200);
        }

        drop(unfinished);
        let ca = std::fs::read_to_string(folder.path().join("ca.crt")).unwrap();
        eventually("a review is answered", async || {
            Client::new(address, LOCALHOST, &Clock::default()).send_review(&ca).await.ok()
        })
        .await;
    })
    .await;
}
