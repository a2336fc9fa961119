//! Measures the watches with a fake API server. That server is another process, so that its memory and time are not
//! measured.
//!
//! It serves lists in pages and one watch of VMIs, over plain HTTP on loopback. In a cluster TLS adds to the cost.

use std::{
    env,
    io::{self, BufRead, BufReader, Write},
    net::Ipv4Addr,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, ensure};
use axum::{
    Router,
    body::Body,
    extract::{RawQuery, State},
    http::Uri,
    response::{IntoResponse, Response},
};
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame};
use kube::{Client, Config};
use nicplug::{
    cluster::{
        persist_queue::PersistQueue,
        watch::{self, Tuning, Watches},
    },
    k8s::kind::Kind,
};
use tokio::{
    net::TcpListener,
    runtime::Builder,
    sync::mpsc,
    time::{Instant, interval, sleep},
};

use super::{Args, float, guests::Guest, print, print_heartbeats, print_memory, resident_memory};

/// The time limit for a list, for the heartbeats of all guests, and for the updates.
const TIMEOUT: Duration = Duration::from_mins(15);

/// The rate of [`Args::updates`], and in how many parts of a second they are sent.
const UPDATES_A_SECOND: u32 = 10_000;
const PARTS: u32 = 100;

/// How often memory is measured during the updates.
const REPORT: Duration = Duration::from_mins(1);

/// The clock ticks of `/proc`; `USER_HZ` is 100 on all common architectures of Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// Measures each number of guests in a new process, since the allocator may keep memory that was used before.
pub(crate) fn measure(args: &Args) -> anyhow::Result<()> {
    if let [count] = *args.guests.as_slice() {
        // As in `nicplug serve`.
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        return runtime.block_on(measure_one(args, count));
    }
    for count in &args.guests {
        let mut command = process(args, "--wire", *count)?;
        ensure!(command.status()?.success(), "{command:?} failed");
    }
    Ok(())
}

/// Returns this program in another mode, for so many guests of the same kind.
fn process(args: &Args, mode: &str, count: u64) -> io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.args([mode, &count.to_string()]).args(args.unique.then_some("--unique"));
    command.args(args.updates.map(|seconds| format!("--updates={seconds}")));
    Ok(command)
}

async fn measure_one(args: &Args, count: u64) -> anyhow::Result<()> {
    let mut server = Server::start(args, count)?;
    let client = Client::try_from(Config::new(format!("http://{}", server.address).parse()?))?;
    let base = resident_memory()?;
    let watches = Watches::start(&client, PersistQueue::default(), &Tuning::default());
    wait(&watches, Kind::Vm, count).await?;
    wait(&watches, Kind::Vmi, count).await?;
    print_memory("listed by watches", count, base)?;
    let before = processor_seconds()?;
    writeln!(server.input, "heartbeats")?;
    // The last event adds one more guest.
    wait(&watches, Kind::Vmi, count + 1).await?;
    let seconds = processor_seconds()? - before;
    let size: usize = (0..1_000).map(|number| event("MODIFIED", args.guest(number), 1).len()).sum();
    print_heartbeats(count, size as u64 / 1_000, seconds)?;
    print_memory("after their heartbeats", count, base)?;
    match args.updates {
        Some(seconds) => measure_updates(&mut server, &watches, count, base, seconds).await,
        None => Ok(()),
    }
}

/// Has the guests updated for some seconds, and prints the memory each minute.
async fn measure_updates(
    server: &mut Server,
    watches: &Watches,
    count: u64,
    base: u64,
    seconds: u64,
) -> anyhow::Result<()> {
    let (start, before) = (Instant::now(), processor_seconds()?);
    writeln!(server.input, "updates")?;
    let mut report = interval(REPORT);
    report.tick().await;
    // The last event adds one more guest.
    let end = wait(watches, Kind::Vmi, count + 2);
    tokio::pin!(end);
    loop {
        tokio::select! {
            result = &mut end => break result?,
            _ = report.tick() => print_memory(&format!("after {} s of updates", start.elapsed().as_secs()), count, base)?,
        }
    }
    let (elapsed, busy) = (start.elapsed().as_secs_f64(), processor_seconds()? - before);
    let rate = float(seconds) * f64::from(UPDATES_A_SECOND) / elapsed;
    print(&format!("{rate:>9.0} updates a second for {elapsed:.0} s: {:.0} % of a core", busy / elapsed * 100.0))?;
    print_memory("after the updates", count, base)
}

/// Waits until the watch of the kind is synced and has `count` objects.
async fn wait(watches: &Watches, kind: Kind, count: u64) -> anyhow::Result<()> {
    let end = Instant::now() + TIMEOUT;
    let record = watches.statuses().of(kind).context("not watched")?;
    loop {
        let (state, known) = (record.state().0, watches.cache().count(kind) as u64);
        if state == watch::WatchState::Synced && known == count {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{known} of {count} {kind}s after {TIMEOUT:?}: {state:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Returns the CPU time of all threads of this process, in user and kernel mode.
fn processor_seconds() -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    // The second field is the name of the program, in parentheses, and may contain spaces.
    let (_, fields) = text.rsplit_once(')').context("no program name in /proc/self/stat")?;
    let ticks: Vec<u64> = fields.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(float(ticks.iter().sum()) / TICKS_PER_SECOND)
}

/// The process of the fake API server; dropping this value kills it.
struct Server {
    process: Child,
    input: ChildStdin,
    address: String,
}

impl Server {
    fn start(args: &Args, count: u64) -> anyhow::Result<Self> {
        let mut process = process(args, "--serve", count)?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (input, output) = (process.stdin.take(), process.stdout.take());
        let (input, output) = input.zip(output).context("the child has no pipes")?;
        let mut address = String::new();
        BufReader::new(output).read_line(&mut address)?;
        Ok(Self { process, input, address: address.trim().to_owned() })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only if the process has already ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The state of the fake API server.
#[derive(Clone)]
struct ApiServer {
    args: Arc<Args>,
    count: u64,
    /// The most recent watch of VMIs, which receives the events.
    watch: Arc<Mutex<Option<mpsc::Sender<Bytes>>>>,
}

/// Serves the guests until standard input closes. A line on it triggers one heartbeat of every VMI, or the updates.
pub(crate) fn serve(args: Args) -> anyhow::Result<()> {
    let count = *args.guests.first().context("the number of guests is missing")?;
    let api_server = ApiServer { args: Arc::new(args), count, watch: Arc::default() };
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        print(&listener.local_addr()?.to_string())?;
        let router = Router::new().fallback(answer).with_state(api_server.clone());
        tokio::select! {
            result = axum::serve(listener, router).into_future() => Ok(result?),
            result = answer_lines(&api_server) => result,
        }
    })
}

async fn answer_lines(api_server: &ApiServer) -> anyhow::Result<()> {
    let (sender, mut lines) = mpsc::channel(1);
    thread::spawn(move || io::stdin().lines().map_while(Result::ok).try_for_each(|line| sender.blocking_send(line)));
    let mut last = api_server.count;
    let updates = api_server.args.updates.map(|seconds| (seconds, update_lines(&api_server.args, last)));
    while let Some(line) = lines.recv().await {
        let watch = api_server
            .watch
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .context("there is no watch of VMIs")?;
        match &updates {
            Some((seconds, lines)) if line == "updates" => send_updates(&watch, lines, *seconds).await?,
            _ => {
                for number in 0..api_server.count {
                    watch.send(event("MODIFIED", api_server.args.guest(number), 1)).await?;
                }
            }
        }
        watch.send(event("ADDED", api_server.args.guest(last), 0)).await?;
        last += 1;
    }
    Ok(())
}

/// Returns the updates of the guests: of each in turn two on its node and two after its migration.
fn update_lines(args: &Args, count: u64) -> Vec<Bytes> {
    let line = |number, heartbeat| match heartbeat {
        2 | 3 => event("MODIFIED", args.guest(number), heartbeat),
        _ => event("MODIFIED", args.guest(number).moved(), heartbeat),
    };
    (2..6).flat_map(|heartbeat| (0..count).map(move |number| line(number, heartbeat))).collect()
}

/// Sends 10,000 updates a second.
async fn send_updates(watch: &mpsc::Sender<Bytes>, lines: &[Bytes], seconds: u64) -> anyhow::Result<()> {
    let mut ticks = interval(Duration::from_secs(1) / PARTS);
    let at_once = usize::try_from(UPDATES_A_SECOND / PARTS)?;
    let updates = usize::try_from(seconds * u64::from(UPDATES_A_SECOND))?;
    for (number, line) in lines.iter().cycle().take(updates).enumerate() {
        if number % at_once == 0 {
            ticks.tick().await;
        }
        watch.send(line.clone()).await?;
    }
    Ok(())
}

/// Returns one line of a watch.
fn event(kind: &str, guest: Guest, heartbeat: u64) -> Bytes {
    format!("{{\"type\":\"{kind}\",\"object\":{}}}\n", guest.vmi(heartbeat)).into()
}

async fn answer(State(api_server): State<ApiServer>, uri: Uri, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let value = |key: &str| query.split('&').find_map(|field| field.strip_prefix(key)?.strip_prefix('='));
    let plural = uri.path().rsplit('/').next().unwrap_or_default();
    if value("watch").is_some() {
        return api_server.events(plural == Kind::Vmi.plural()).into_response();
    }
    let number = |key: &str| value(key).and_then(|number| number.parse().ok());
    let from = number("continue").unwrap_or(0);
    let to = number("limit").unwrap_or(u64::MAX).saturating_add(from).min(api_server.count);
    let guests = (from..to).map(|number| api_server.args.guest(number));
    let items: Vec<String> = match plural {
        plural if plural == Kind::Vm.plural() => guests.map(|guest| guest.vm().to_string()).collect(),
        plural if plural == Kind::Vmi.plural() => guests.map(|guest| guest.vmi(0).to_string()).collect(),
        _ => Vec::new(),
    };
    let next = if items.is_empty() || to == api_server.count { String::new() } else { to.to_string() };
    let metadata = format!(r#"{{"resourceVersion":"1","continue":"{next}"}}"#);
    format!(r#"{{"metadata":{metadata},"items":[{}]}}"#, items.join(",")).into_response()
}

impl ApiServer {
    /// Returns a watch that never ends; only the watch of VMIs receives events.
    fn events(&self, is_of_vmis: bool) -> Body {
        let (sender, receiver) = mpsc::channel(1);
        if is_of_vmis {
            *self.watch.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender.clone());
        }
        // The stream owns a sender, so that the channel never closes.
        let lines = stream::unfold((receiver, sender), |(mut receiver, sender)| async move {
            let line = receiver.recv().await?;
            Some((Ok::<_, std::convert::Infallible>(Frame::data(line)), (receiver, sender)))
        });
        Body::new(StreamBody::new(lines))
    }
}
