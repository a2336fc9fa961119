//! Compares `nicplug audit -A` with kubectl: `just bench-audit`.
//!
//! A real API server (tests/apiserver) holds VMs with their VMIs and networks. kubectl prints the VMs and VMIs as JSON,
//! and nicplug audits them, in turns, so that other work of the machine affects both. The result is the ratio of the
//! times within a turn, and the largest resident memory of each program.
//!
//! After that `nicplug serve` starts until it is ready, in turns with a bare client that only reads the VMs and VMIs.

#[path = "bench_facts/guests.rs"]
mod guests;

use std::{
    collections::BTreeSet,
    env, fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use futures_util::{StreamExt, TryStreamExt, stream};
use hyper::Request;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::Deserialize;
use serde_json::{Value, json};

use self::guests::Guest;

const DEFINITIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/crds");

/// How many objects are created at the same time.
const AT_ONCE: usize = 32;

/// Compares `nicplug audit -A -o json` with `kubectl get virtualmachines,virtualmachineinstances -A -o json`.
#[derive(Parser)]
struct Args {
    /// Number of VMs.
    #[arg(default_value_t = 10_000)]
    vms: u64,
    /// Number of measurements of each program.
    #[arg(long, default_value_t = 3)]
    pairs: usize,
    /// The API server, which contains kubectl.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/target/apiserver/apiserver"))]
    apiserver: PathBuf,
    /// Binary to measure; defaults to the nicplug beside this program.
    #[arg(long)]
    nicplug: Option<PathBuf>,
    /// Write the page of `-o html` into this file too.
    #[arg(long)]
    html: Option<PathBuf>,
}

/// The time of a run and of its processor in seconds, and its largest resident memory in MiB.
#[derive(Clone, Copy, Debug)]
struct Cost {
    seconds: f64,
    processor: f64,
    peak: f64,
}

/// A page of a list, without its items.
#[derive(Deserialize)]
struct Page {
    metadata: ListMeta,
}

/// An API server. It ends when its standard input closes.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // An error means that it has ended.
        let _ = self.0.wait();
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    ensure!(args.apiserver.exists(), "{} does not exist: run `just apiserver`", args.apiserver.display());
    let nicplug = match &args.nicplug {
        Some(path) => path.clone(),
        None => env::current_exe()?.ancestors().nth(2).context("the program has no folder")?.join("nicplug"),
    };
    let mut apiserver = Command::new(&args.apiserver);
    apiserver.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = apiserver.spawn().context("the API server cannot be started")?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
    let _server = Server(child);
    let announcement: Value = serde_json::from_str(&line).context("the API server did not start")?;
    let kubeconfig = text(&announcement, "/kubeconfig");
    print(&format!("measured: {}, Kubernetes {}", nicplug.display(), text(&announcement, "/version")))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let start = Instant::now();
    runtime.block_on(fill(Path::new(kubeconfig), args.vms))?;
    print(&format!("{} VMs and as many VMIs created in {:.0} s", args.vms, start.elapsed().as_secs_f64()))?;

    let program = |path: &Path, words: &[&str]| {
        let mut command = Command::new(path);
        command.args(words).arg("--kubeconfig").arg(kubeconfig).stdin(Stdio::null());
        command
    };
    let all = "virtualmachines.kubevirt.io,virtualmachineinstances.kubevirt.io";
    let mut costs = Vec::new();
    for _ in 0..args.pairs {
        let kubectl = cost(&mut program(&args.apiserver, &["kubectl", "get", all, "-A", "-o", "json"]), &[0])?;
        let audit = cost(&mut program(&nicplug, &["audit", "-A", "-o", "json"]), &[0, 1])?;
        costs.push((kubectl, audit));
    }
    if let Some(path) = &args.html {
        let page = program(&nicplug, &["audit", "-A", "-o", "html"]).output()?;
        fs::write(path, page.stdout)?;
    }
    print(&format!("{:10}{:>10}{:>12}{:>10}", "", "seconds", "processor", "MiB"))?;
    let (of_kubectl, of_nicplug): (Vec<Cost>, Vec<Cost>) = costs.iter().copied().unzip();
    for (name, own) in [("kubectl", of_kubectl), ("nicplug", of_nicplug)] {
        let seconds = median(own.iter().map(|cost| cost.seconds));
        let peak = own.iter().map(|cost| cost.peak).fold(0.0, f64::max);
        let processor = median(own.iter().map(|cost| cost.processor));
        print(&format!("{name:10}{seconds:>10.2}{processor:>12.2}{peak:>10.0}"))?;
    }
    let ratios: Vec<f64> = costs.iter().map(|(kubectl, audit)| audit.seconds / kubectl.seconds).collect();
    let low = ratios.iter().copied().fold(f64::MAX, f64::min);
    let high = ratios.iter().copied().fold(0.0, f64::max);
    let middle = median(ratios.into_iter());
    print(&format!("ratio {middle:.2} (median of {} pairs, {low:.2} to {high:.2})", args.pairs))?;

    let mut starts = Vec::new();
    for _ in 0..args.pairs {
        let start = Instant::now();
        runtime.block_on(list(Path::new(kubeconfig)))?;
        starts.push((start.elapsed().as_secs_f64(), seconds_to_ready(&nicplug, kubeconfig)?));
    }
    let bare = median(starts.iter().map(|(bare, _)| *bare));
    let ready = median(starts.iter().map(|(_, ready)| *ready));
    print(&format!("a bare client lists in {bare:.2} s, nicplug serve is ready after {ready:.2} s (medians)"))
}

/// Within which `nicplug serve` must be ready.
const READY_WITHIN: Duration = Duration::from_mins(2);

/// Starts `nicplug serve`, and returns the seconds until it is ready.
fn seconds_to_ready(nicplug: &Path, kubeconfig: &str) -> anyhow::Result<f64> {
    let folder = env::temp_dir().join(format!("bench-audit-{}", std::process::id()));
    let certificates = Command::new(nicplug).arg("certs").arg(&folder).stdout(Stdio::null()).status()?;
    ensure!(certificates.success(), "nicplug certs: {certificates}");
    let health = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let mut command = Command::new(nicplug);
    command.arg("serve").arg("--tls-cert").arg(folder.join("tls.crt")).arg("--tls-key").arg(folder.join("tls.key"));
    command.args(["--listen", "127.0.0.1:0", "--persist", "off", "--health-listen", &health.to_string()]);
    command.args(["--kubeconfig", kubeconfig]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let start = Instant::now();
    let mut child = command.spawn()?;
    while !is_ready(health) && child.try_wait()?.is_none() && start.elapsed() < READY_WITHIN {
        thread::sleep(Duration::from_millis(5));
    }
    let (seconds, status) = (start.elapsed(), child.try_wait()?);
    child.kill()?;
    child.wait()?;
    fs::remove_dir_all(&folder)?;
    ensure!(
        status.is_none() && seconds < READY_WITHIN,
        "{command:?}: not ready after {seconds:.1?}, status {status:?}"
    );
    Ok(seconds.as_secs_f64())
}

fn is_ready(health: SocketAddr) -> bool {
    let ask = || -> io::Result<String> {
        let mut stream = TcpStream::connect(health)?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 "))
}

async fn connect(kubeconfig: &Path) -> anyhow::Result<Client> {
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &options).await?;
    Ok(Client::try_from(config)?)
}

/// Reads all VMs and VMIs, in pages and both kinds at the same time, and keeps none.
async fn list(kubeconfig: &Path) -> anyhow::Result<()> {
    let client = connect(kubeconfig).await?;
    let pages = async |plural: &str| -> anyhow::Result<()> {
        let mut next = String::new();
        loop {
            let path = format!("/apis/kubevirt.io/v1/{plural}?limit=500&continue={next}");
            let page = client.request_text(Request::get(path).body(Vec::new())?).await?;
            match serde_json::from_str::<Page>(&page)?.metadata.continue_ {
                Some(token) if !token.is_empty() => next = token,
                _ => return Ok(()),
            }
        }
    };
    tokio::try_join!(pages("virtualmachines"), pages("virtualmachineinstances")).map(drop)
}

/// Runs a program, which must end with one of these statuses. Linux keeps the largest resident memory of a process in
/// its status, so the last values before the end are those of the whole run, except for its last milliseconds.
fn cost(command: &mut Command, statuses: &[i32]) -> anyhow::Result<Cost> {
    let start = Instant::now();
    let mut child = command.stdout(Stdio::null()).spawn()?;
    let folder = PathBuf::from(format!("/proc/{}", child.id()));
    let (mut peak, mut processor) = (0.0_f64, 0.0_f64);
    loop {
        if let Some(status) = child.try_wait()? {
            let seconds = start.elapsed().as_secs_f64();
            ensure!(status.code().is_some_and(|code| statuses.contains(&code)), "{command:?}: {status}");
            return Ok(Cost { seconds, processor, peak });
        }
        let stat = fs::read_to_string(folder.join("stat")).unwrap_or_default();
        processor = processor.max(processor_seconds(&stat));
        let text = fs::read_to_string(folder.join("status")).unwrap_or_default();
        let kib = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok());
        peak = peak.max(kib.unwrap_or(0.0) / 1024.0);
        thread::sleep(Duration::from_millis(5));
    }
}

/// Returns the user and system time in `/proc/PID/stat`, which Linux counts in hundredths of a second.
fn processor_seconds(stat: &str) -> f64 {
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields.split_whitespace()).into_iter().flatten();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Creates the definitions, KubeVirt, and the VMs with their VMIs and networks.
async fn fill(kubeconfig: &Path, vms: u64) -> anyhow::Result<()> {
    let client = connect(kubeconfig).await?;
    for entry in fs::read_dir(DEFINITIONS)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
            post(&client, definitions, "application/yaml", fs::read(path)?).await?;
        }
    }
    let kinds =
        ["kubevirt.io/v1/kubevirts", "kubevirt.io/v1/virtualmachines", "kubevirt.io/v1/virtualmachineinstances"];
    for path in kinds.into_iter().chain(["k8s.cni.cncf.io/v1/network-attachment-definitions"]) {
        serves(&client, &format!("/apis/{path}")).await?;
    }
    create(&client, "", "v1/namespaces", &namespace("kubevirt")).await?;
    let kubevirt = json!({"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt", "metadata": {"name": "kubevirt"},
        "spec": {"configuration": {"vmRolloutStrategy": "LiveUpdate"}}});
    create(&client, "kubevirt", "kubevirt.io/v1/kubevirts", &kubevirt).await?;
    let status = json!({"status": {"observedKubeVirtVersion": "v1.9.0", "phase": "Deployed"}});
    let request = Request::patch("/apis/kubevirt.io/v1/namespaces/kubevirt/kubevirts/kubevirt/status")
        .header("content-type", "application/merge-patch+json")
        .body(serde_json::to_vec(&status)?)?;
    client.request_text(request).await?;

    let (mut namespaces, mut networks) = (BTreeSet::new(), BTreeSet::new());
    let namespace_of = |object: &Value| text(object, "/metadata/namespace").to_owned();
    for number in 1..=vms {
        let vm = Guest::new(number).vm();
        let namespace = namespace_of(&vm);
        let networks_of_vm = vm.pointer("/spec/template/spec/networks").and_then(Value::as_array);
        for network in networks_of_vm.into_iter().flatten() {
            let name = text(network, "/multus/networkName");
            if name.is_empty() {
                continue;
            }
            let (namespace, name) = name.split_once('/').unwrap_or((&namespace, name));
            networks.insert((namespace.to_owned(), name.to_owned()));
            namespaces.insert(namespace.to_owned());
        }
        namespaces.insert(namespace);
    }
    for name in &namespaces {
        create(&client, "", "v1/namespaces", &namespace(name)).await?;
    }
    let of_networks = networks.into_iter().map(|(namespace, name)| {
        let object = json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
            "metadata": {"name": name},
            "spec": {"config": r#"{"cniVersion": "0.3.1", "type": "bridge", "bridge": "br1"}"#}});
        (namespace, "k8s.cni.cncf.io/v1/network-attachment-definitions", object)
    });
    let of_guests = (1..=vms).flat_map(|number| {
        let guest = Guest::new(number);
        let vm = (guest.vm(), "kubevirt.io/v1/virtualmachines");
        let vmi = (guest.vmi(1), "kubevirt.io/v1/virtualmachineinstances");
        [vm, vmi].map(|(mut object, path)| {
            let namespace = namespace_of(&object);
            if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.retain(|key, _| ["annotations", "labels", "name"].contains(&key.as_str()));
            }
            (namespace, path, object)
        })
    });
    let client = &client;
    let all = stream::iter(of_networks.chain(of_guests));
    all.map(|(namespace, path, object)| async move { create(client, &namespace, path, &object).await })
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(())
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Creates an object; `path` is `GROUP/VERSION/PLURAL`, or `VERSION/PLURAL` of the core group.
async fn create(client: &Client, namespace: &str, path: &str, object: &Value) -> anyhow::Result<()> {
    let (version, plural) = path.rsplit_once('/').context("no plural")?;
    let root = if version.contains('/') { "apis" } else { "api" };
    let namespace = if namespace.is_empty() { String::new() } else { format!("/namespaces/{namespace}") };
    let path = format!("/{root}/{version}{namespace}/{plural}");
    post(client, &path, "application/json", serde_json::to_vec(object)?).await
}

async fn post(client: &Client, path: &str, content: &str, body: Vec<u8>) -> anyhow::Result<()> {
    let request = Request::post(path).header("content-type", content).body(body)?;
    client.request_text(request).await.map(drop).with_context(|| path.to_owned())
}

/// Waits until the API server serves a resource.
async fn serves(client: &Client, path: &str) -> anyhow::Result<()> {
    for _ in 0..600 {
        let request = Request::get(format!("{path}?limit=1")).body(Vec::new())?;
        if client.request_text(request).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("{path} is not served")
}

fn print(line: &str) -> anyhow::Result<()> {
    Ok(writeln!(io::stdout(), "{line}")?)
}
