//! Compares `nicplug serve` with the floor (examples/floor.rs): `just bench-server`.
//!
//! Both services run all the time. Each pair of measurements puts load on one and then on the other, so that other work
//! of the machine affects both. The result is the ratio within a pair; the program prints the median of all pairs.

use std::{
    env, fs,
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, client::Resumption, crypto::ring, pki_types::ServerName,
};

/// The recorded reviews to send: an edit by a user, and the status heartbeat of a VMI.
const REVIEWS: [&str; 2] = ["vm-update-merge-patch-add-nic", "vmi-update-status-heartbeat"];

/// The number of connections: as many idle connections as client-go, and so the API server, keeps for one host.
const CONNECTIONS: usize = 25;

/// Other numbers of connections, measured with the edit.
const OTHER_CONNECTIONS: [usize; 4] = [1, 4, 64, 256];

/// The lengths of the objects in further measurements of the edit, in KiB.
const LENGTHS: [usize; 2] = [256, 1024];

/// The number of clients that open new connections in parallel.
const CONNECTING_CLIENTS: usize = 4;

/// Compares `nicplug serve` with a service that only reads a request and sends a fixed response.
#[derive(Parser)]
struct Args {
    /// Number of measurements of each service.
    #[arg(long, default_value_t = 9)]
    pairs: usize,
    /// Duration of the load in each measurement, in seconds.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Number of requests on a single connection to calculate the p50.
    #[arg(long, default_value_t = 5_000)]
    requests: usize,
    /// Directory of the reviews.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/reviews"))]
    reviews: PathBuf,
    /// Facts file of nicplug.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/bench_server.yaml"))]
    facts: PathBuf,
    /// Binary to measure, such as that of the image; defaults to the nicplug beside this program.
    #[arg(long)]
    nicplug: Option<PathBuf>,
    /// Floor to compare it with; defaults to the one beside this program.
    #[arg(long)]
    floor: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    require_h2load()?;
    let bins = folder_of_binaries()?;
    let work = bins.join("bench-server");
    fs::create_dir_all(&work)?;
    let tls = make_certificate(&work)?;
    let mut floor = program(args.floor.unwrap_or_else(|| bins.join("examples/floor")))?;
    let mut nicplug = program(args.nicplug.unwrap_or_else(|| bins.join("nicplug")))?;
    // The paths contain the profiles of the builds.
    for service in [&floor, &nicplug] {
        print(&format!("measured: {}", Path::new(service.get_program()).display()))?;
    }
    nicplug.args(["serve", "--health-listen", &free_address()?.to_string()]).arg("--facts").arg(&args.facts);
    let both = [Service::start(&mut floor, &work)?, Service::start(&mut nicplug, &work)?];

    print(&format!(
        "{:38}{:>10}{:>10}   ratio (median of {} pairs, and their range)",
        "", "floor", "nicplug", args.pairs
    ))?;
    for review in REVIEWS {
        let (file, body) = compact(&args.reviews.join(review).with_extension("json"), &work)?;
        let request = http_request(&body);
        print(&format!("{review}, {} bytes", body.len()))?;
        let loads = pairs(&both, args.pairs, |service| load(service, &file, CONNECTIONS, args.seconds, &work))?;
        let column = |value: fn(&Load) -> f64| loads.iter().map(|pair| pair.each_ref().map(value)).collect::<Vec<_>>();
        print_row("requests/s, 25 connections", &column(|load| load.rate))?;
        print_row("p99 of these requests, µs", &column(|load| load.p99))?;
        let pairs = self::pairs(&both, args.pairs, |service| latency(service, &tls, &request, args.requests))?;
        print_row("p50 of a request on 1 connection, µs", &pairs)?;
        let pairs = self::pairs(&both, args.pairs, |service| handshakes(service, &tls, &request, args.seconds))?;
        print_row("new connections/s, one request each", &pairs)?;
    }
    let (file, body) = compact(&args.reviews.join(REVIEWS[0]).with_extension("json"), &work)?;
    print(&format!("{}, requests/s", REVIEWS[0]))?;
    for connections in OTHER_CONNECTIONS {
        let pairs =
            pairs(&both, args.pairs, |service| Ok(load(service, &file, connections, args.seconds, &work)?.rate))?;
        print_row(&format!("{connections} connections"), &pairs)?;
    }
    for length in LENGTHS {
        let file = with_unread_fields(&body, length << 10, &work)?;
        let pairs =
            pairs(&both, args.pairs, |service| Ok(load(service, &file, CONNECTIONS, args.seconds, &work)?.rate))?;
        print_row(&format!("25 connections, objects of {length} KiB"), &pairs)?;
    }
    print("after all measurements")?;
    print_row("resident memory, MiB", &[[both[0].resident_memory()?, both[1].resident_memory()?]])
}

/// Returns the directory of the build, whose subdirectory `examples` contains this program.
fn folder_of_binaries() -> anyhow::Result<PathBuf> {
    let program = env::current_exe()?;
    let folder = program.ancestors().nth(2).context("the path of the program has too few directories")?;
    Ok(folder.to_owned())
}

fn program(file: PathBuf) -> anyhow::Result<Command> {
    ensure!(file.exists(), "{} is missing: run `just bench-server`", file.display());
    Ok(Command::new(file))
}

fn require_h2load() -> anyhow::Result<()> {
    match Command::new("h2load").arg("--version").stdout(Stdio::null()).status() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("h2load is missing: it is part of nghttp2 (Debian: `apt-get install nghttp2-client`)")
        }
        other => other.map(drop).context("cannot run h2load"),
    }
}

/// Writes `tls.crt` and `tls.key` for 127.0.0.1 into the directory and returns a client that trusts them.
fn make_certificate(folder: &Path) -> anyhow::Result<Arc<ClientConfig>> {
    let pair = rcgen::generate_simple_self_signed([Ipv4Addr::LOCALHOST.to_string()])?;
    fs::write(folder.join("tls.crt"), pair.cert.pem())?;
    fs::write(folder.join("tls.key"), pair.signing_key.serialize_pem())?;

    let mut roots = RootCertStore::empty();
    roots.add(pair.cert.der().clone())?;
    let mut client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.resumption = Resumption::disabled();
    Ok(Arc::new(client))
}

/// Writes the review as the API server sends it, without whitespace, and returns the file and the bytes.
fn compact(review: &Path, folder: &Path) -> anyhow::Result<(PathBuf, Vec<u8>)> {
    let text = fs::read(review).with_context(|| format!("cannot read {}", review.display()))?;
    let body = serde_json::to_vec(&serde_json::from_slice::<serde_json::Value>(&text)?)?;
    let file = folder.join(review.file_name().context("the review has no file name")?);
    fs::write(&file, &body)?;
    Ok((file, body))
}

/// Writes the review with fields of about `length` bytes in each object that no rule reads, and returns the file.
fn with_unread_fields(body: &[u8], length: usize, folder: &Path) -> anyhow::Result<PathBuf> {
    let mut review: serde_json::Value = serde_json::from_slice(body)?;
    let entry = serde_json::json!({
        "manager": "other", "operation": "Update", "fieldsV1": {"f:spec": {"f:template": {"f:a": {}, "f:b": {}}}},
    });
    let entries = vec![entry.clone(); length / entry.to_string().len()];
    for object in ["object", "oldObject"] {
        let fields = review.pointer_mut(&format!("/request/{object}/metadata/managedFields"));
        *fields.context("the review has no managedFields")? = entries.clone().into();
    }
    let file = folder.join(format!("{length}.json"));
    fs::write(&file, serde_json::to_vec(&review)?)?;
    Ok(file)
}

fn http_request(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /validate?timeout=10s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Returns an unused address. If another program takes it before the service does, the start of the service fails.
fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// A running service; dropping this value kills it.
struct Service {
    process: Child,
    address: SocketAddr,
}

impl Service {
    /// Starts the program on a free port, with the certificate in `folder`, and waits until it listens.
    fn start(program: &mut Command, folder: &Path) -> anyhow::Result<Self> {
        let address = free_address()?;
        program.arg("--tls-cert").arg(folder.join("tls.crt")).arg("--tls-key").arg(folder.join("tls.key"));
        program.args(["--listen", &address.to_string()]).stdin(Stdio::null()).stdout(Stdio::null());
        let process = program.spawn().with_context(|| format!("cannot start {program:?}"))?;
        let mut service = Self { process, address };
        for _ in 0..100 {
            if TcpStream::connect(address).is_ok() {
                return Ok(service);
            }
            if let Some(status) = service.process.try_wait()? {
                bail!("{program:?} ended at once: {status}");
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("{program:?} does not listen on {address} after five seconds")
    }

    /// Returns the resident memory in MiB.
    fn resident_memory(&self) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB"));
        Ok(kib.context("no VmRSS in /proc")?.trim().parse::<f64>()? / 1024.0)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Both fail only if the process has already ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Measures both services `count` times, and alternates which one comes first.
fn pairs<T>(
    [floor, nicplug]: &[Service; 2],
    count: usize,
    mut measure: impl FnMut(&Service) -> anyhow::Result<T>,
) -> anyhow::Result<Vec<[T; 2]>> {
    let mut pairs = Vec::with_capacity(count);
    for round in 0..count {
        if round % 2 == 0 {
            pairs.push([measure(floor)?, measure(nicplug)?]);
        } else {
            let second = measure(nicplug)?;
            pairs.push([measure(floor)?, second]);
        }
    }
    Ok(pairs)
}

/// What h2load measured.
#[derive(Clone, Copy)]
struct Load {
    /// Requests per second.
    rate: f64,
    /// The 99th percentile of their times, in microseconds.
    p99: f64,
}

/// Sends the body over persistent connections with h2load.
fn load(service: &Service, body: &Path, connections: usize, seconds: u64, folder: &Path) -> anyhow::Result<Load> {
    let log = folder.join("h2load.log");
    let output = Command::new("h2load")
        .args(["--h1", "--clients", &connections.to_string(), "--warm-up-time", "1"])
        .args(["--duration", &seconds.to_string(), "--header", "content-type: application/json", "--data"])
        .arg(body)
        .arg("--log-file")
        .arg(&log)
        .arg(format!("https://{}/validate?timeout=10s", service.address))
        .output()?;
    let report = String::from_utf8(output.stdout)?;
    ensure!(report.contains(" 0 failed, 0 errored, 0 timeout"), "h2load has failed requests:\n{report}");
    ensure!(report.contains(" 0 3xx, 0 4xx, 0 5xx"), "h2load got responses other than 200:\n{report}");
    let rate =
        report.lines().find_map(|line| line.strip_prefix("finished in ")?.split(", ").nth(1)?.strip_suffix(" req/s"));
    let rate = rate.with_context(|| format!("h2load printed no rate:\n{report}"))?.parse()?;
    // The columns are the start, the status and the time.
    let times = fs::read_to_string(&log)?.lines().filter_map(|line| line.rsplit('\t').next()?.parse().ok()).collect();
    fs::remove_file(&log)?;
    Ok(Load { rate, p99: percentile(times, 99).context("h2load logged no request")? })
}

/// Returns the median time of a request on one connection, in microseconds. A server may close the connection after a
/// number of requests; the time to open the next one is not counted.
fn latency(service: &Service, tls: &Arc<ClientConfig>, request: &[u8], count: usize) -> anyhow::Result<f64> {
    let mut connection = Connection::open(service.address, tls)?;
    let warm_up = count / 10;
    let mut times = Vec::with_capacity(warm_up + count);
    for _ in 0..warm_up + count {
        let start = Instant::now();
        let stays_open = connection.exchange(request)?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
        if !stays_open {
            connection = Connection::open(service.address, tls)?;
        }
    }
    median(times.split_off(warm_up)).context("no requests to measure")
}

/// Returns the new connections per second, each with a full handshake and one request.
fn handshakes(service: &Service, tls: &Arc<ClientConfig>, request: &[u8], seconds: u64) -> anyhow::Result<f64> {
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds);
    let connect = || -> anyhow::Result<u32> {
        let mut count = 0;
        while Instant::now() < end {
            Connection::open(service.address, tls)?.exchange(request)?;
            count += 1;
        }
        Ok(count)
    };
    let counts: Vec<_> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CONNECTING_CLIENTS).map(|_| scope.spawn(connect)).collect();
        clients.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    let mut total = 0;
    for count in counts {
        total += count.map_err(|_| anyhow::anyhow!("a client panicked"))??;
    }
    Ok(f64::from(total) / start.elapsed().as_secs_f64())
}

/// A connection that sends requests one after the other and waits for each response.
struct Connection(BufReader<StreamOwned<ClientConnection, TcpStream>>);

impl Connection {
    fn open(address: SocketAddr, tls: &Arc<ClientConfig>) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let session = ClientConnection::new(Arc::clone(tls), ServerName::from(address.ip()))?;
        Ok(Self(BufReader::new(StreamOwned::new(session, stream))))
    }

    /// Sends the request and reads the response, which must be a 200. Returns whether the connection stays open.
    fn exchange(&mut self, request: &[u8]) -> anyhow::Result<bool> {
        self.0.get_mut().write_all(request)?;
        let status = self.line()?;
        ensure!(status.starts_with("HTTP/1.1 200 "), "the response is {status:?}");
        let (mut length, mut stays_open) = (None, true);
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').unwrap_or_default();
            if name.eq_ignore_ascii_case("content-length") {
                length = Some(value.trim().parse()?);
            }
            stays_open &= !(name.eq_ignore_ascii_case("connection") && value.trim() == "close");
        }
        let mut body = vec![0; length.context("the response has no content-length")?];
        self.0.read_exact(&mut body)?;
        Ok(stays_open)
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        Ok(line.strip_suffix("\r\n").with_context(|| format!("the connection ended after {line:?}"))?.to_owned())
    }
}

/// Prints the median of each service and the median ratio.
fn print_row(name: &str, pairs: &[[f64; 2]]) -> anyhow::Result<()> {
    let median_of = |value: fn(&[f64; 2]) -> f64| median(pairs.iter().map(value).collect()).context("no pairs");
    let (floor, nicplug) = (median_of(|[floor, _]| *floor)?, median_of(|[_, nicplug]| *nicplug)?);
    let ratios = || pairs.iter().map(|[floor, nicplug]| nicplug / floor);
    let (least, most) = (ratios().fold(f64::INFINITY, f64::min), ratios().fold(0.0, f64::max));
    let ratio = median(ratios().collect()).context("no pairs")?;
    print(&format!("  {name:36}{floor:>10.1}{nicplug:>10.1}   {ratio:.2} ({least:.2} to {most:.2})"))
}

fn median(values: Vec<f64>) -> Option<f64> {
    percentile(values, 50)
}

fn percentile(mut values: Vec<f64>, percent: usize) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() * percent / 100).copied()
}

fn print(line: &str) -> anyhow::Result<()> {
    Ok(writeln!(io::stdout(), "{line}")?)
}
