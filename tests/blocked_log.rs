//! A log that cannot be written delays neither an answer nor the end of the program.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::{
    io::{BufRead, BufReader, Read},
    net::{IpAddr, SocketAddr},
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

/// A running `nicplug serve`, which is killed when the test ends early.
struct Nicplug {
    process: Child,
    ca: String,
    _folder: Folder,
}

impl Nicplug {
    /// Starts the program with its standard error on `stderr`. The address of the webhook is 127.0.0.1, that of the
    /// health listener 127.0.0.2.
    fn start(name: &str, stderr: Stdio) -> Self {
        let folder = Folder::new(name);
        let certs = Command::new(env!("CARGO_BIN_EXE_nicplug")).arg("certs").arg(folder.path()).output().unwrap();
        assert!(certs.status.success());
        let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let mut command = Command::new(env!("CARGO_BIN_EXE_nicplug"));
        command.args(["serve", "--facts", "none", "--log", "debug", "--log-format", "json", "--drain-grace", "10ms"]);
        command.args(["--listen", "127.0.0.1:0", "--health-listen", "127.0.0.2:0"]);
        command.args(["--tls-cert", &file("tls.crt"), "--tls-key", &file("tls.key")]);
        let process = command.env_remove("KUBECONFIG").stderr(stderr).spawn().unwrap();
        let ca = std::fs::read_to_string(folder.path().join("ca.crt")).unwrap();
        Self { process, ca, _folder: folder }
    }

    /// Sends reviews until log lines are dropped, then SIGTERM, and expects that the program ends well.
    async fn answers_until_its_end(mut self, address: SocketAddr, health: SocketAddr) {
        eventually("/readyz answers 200", async || (get(health, "/readyz").await.0 == 200).then_some(())).await;
        let mut client = Client::new(address, LOCALHOST, &Clock::default());
        // A pipe holds 64 KiB, and the queue 1 MiB.
        loop {
            for _ in 0..500 {
                client.send_review(&self.ca).await.unwrap();
            }
            if metrics::value::<u64>(&get(health, "/metrics").await.1, "nicplug_log_lines_dropped_total") > 0 {
                break;
            }
        }
        assert!(Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status().unwrap().success());
        let status = spawn_blocking(move || self.process.wait().unwrap()).await.unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Nicplug {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn a_log_pipe_that_is_not_read_delays_neither_an_answer_nor_the_end() {
    guarded(async {
        let mut nicplug = Nicplug::start("blocked-log", Stdio::piped());
        // The pipe stays open, and nothing is read after these two lines.
        let mut log = BufReader::new(nicplug.process.stderr.take().unwrap());
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
        nicplug.answers_until_its_end(address, health).await;
        let mut rest = String::new();
        log.read_to_string(&mut rest).unwrap();
    })
    .await;
}

/// Returns the addresses on which a process listens.
#[cfg(target_os = "linux")]
fn listening(process: u32) -> Vec<SocketAddr> {
    let files = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let targets =
        files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok()?.into_os_string().into_string().ok());
    let sockets: Vec<String> = targets.collect();
    let table = std::fs::read_to_string(format!("/proc/{process}/net/tcp")).unwrap();
    let address_of = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        // 0A is the state LISTEN; the address is in the byte order of the processor.
        let is_own = fields[3] == "0A" && sockets.contains(&format!("socket:[{}]", fields[9]));
        let (address, port) = fields[1].split_once(':')?;
        let address = u32::from_str_radix(address, 16).ok()?.to_ne_bytes();
        is_own.then_some((address, u16::from_str_radix(port, 16).ok()?).into())
    };
    table.lines().skip(1).filter_map(address_of).collect()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_delays_neither_an_answer_nor_the_end() {
    guarded(async {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let nicplug = Nicplug::start("full-disk", full.into());
        let process = nicplug.process.id();
        let listens_on = async |ip: [u8; 4]| {
            let find = || listening(process).into_iter().find(|address| address.ip() == IpAddr::from(ip));
            eventually("the program listens", async || find()).await
        };
        let (address, health) = (listens_on([127, 0, 0, 1]).await, listens_on([127, 0, 0, 2]).await);
        nicplug.answers_until_its_end(address, health).await;
    })
    .await;
}
