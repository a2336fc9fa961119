//! The watches, fed by an API server of our own: a process beside this one, so that only what the watches need is
//! measured.
//!
//! It serves lists in pages and one watch of VMIs, over plain HTTP on loopback. TLS, which a cluster has, comes on top.

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
        persist_queue::Pending,
        watch::{self, Tuning, Watches},
    },
    k8s::kind::Kind,
};
use tokio::{
    net::TcpListener,
    runtime::Builder,
    sync::mpsc,
    time::{Instant, sleep},
};

use super::{Args, float, print, print_beat, print_memory, resident_memory};

/// How long a list, or the heartbeats of all guests, may take.
const PATIENCE: Duration = Duration::from_mins(10);

/// Clock ticks of `/proc`, which are these on every Linux that anybody runs.
const TICKS_PER_SECOND: f64 = 100.0;

/// Measures each number of guests in a process of its own, since memory that was once used may stay.
pub(crate) fn measure(args: &Args) -> anyhow::Result<()> {
    if let [count] = *args.guests.as_slice() {
        let runtime = Builder::new_multi_thread().enable_all().build()?;
        return runtime.block_on(measure_one(args, count));
    }
    for count in &args.guests {
        let mut command = Command::new(env::current_exe()?);
        command.args(["--wire", &count.to_string()]).args(args.unique.then_some("--unique"));
        ensure!(command.status()?.success(), "{command:?} failed");
    }
    Ok(())
}

async fn measure_one(args: &Args, count: u64) -> anyhow::Result<()> {
    let mut server = Server::start(args, count)?;
    let client = Client::try_from(Config::new(format!("http://{}", server.address).parse()?))?;
    let base = resident_memory()?;
    let watches = Watches::start(&client, Pending::default(), &Tuning::default());
    wait(&watches, Kind::Vm, count).await?;
    wait(&watches, Kind::Vmi, count).await?;
    print_memory("listed by watches", count, base)?;
    let before = processor_seconds()?;
    writeln!(server.input, "beat")?;
    // The last event of the round brings one guest more.
    wait(&watches, Kind::Vmi, count + 1).await?;
    let seconds = processor_seconds()? - before;
    let size: usize = (0..1_000).map(|number| event("MODIFIED", args, number, 1).len()).sum();
    print_beat(count, size as u64 / 1_000, seconds)?;
    print_memory("after their heartbeats", count, base)
}

/// Waits until the kind is watched and has so many objects.
async fn wait(watches: &Watches, kind: Kind, count: u64) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    let record = watches.status().of(kind).context("not watched")?;
    loop {
        let (state, known) = (record.state().0, watches.cache().count(kind) as u64);
        if state == watch::State::Synced && known == count {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{known} of {count} {kind}s after {PATIENCE:?}: {state:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// How long this process has had a processor, by all of its threads and in the kernel too.
fn processor_seconds() -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    // The name of the program comes second, in brackets, and may have blanks.
    let (_, fields) = text.rsplit_once(')').context("no name in /proc/self/stat")?;
    let ticks: Vec<u64> = fields.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(float(ticks.iter().sum()) / TICKS_PER_SECOND)
}

/// The API server's process; ends with this value.
struct Server {
    process: Child,
    input: ChildStdin,
    address: String,
}

impl Server {
    fn start(args: &Args, count: u64) -> anyhow::Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.args(["--serve", &count.to_string()]).args(args.unique.then_some("--unique"));
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (input, output) = (process.stdin.take(), process.stdout.take());
        let (input, output) = input.zip(output).context("a child without pipes")?;
        let mut address = String::new();
        BufReader::new(output).read_line(&mut address)?;
        Ok(Self { process, input, address: address.trim().to_owned() })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, and there is nobody to tell.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the API server knows.
#[derive(Clone)]
struct World {
    args: Arc<Args>,
    count: u64,
    /// Where the events of VMIs go: the watch that was opened last.
    watch: Arc<Mutex<Option<mpsc::Sender<String>>>>,
}

/// Serves the guests, until the standard input ends; each line of it makes all VMIs send a heartbeat.
pub(crate) fn serve(args: Args) -> anyhow::Result<()> {
    let count = *args.guests.first().context("how many guests?")?;
    let world = World { args: Arc::new(args), count, watch: Arc::default() };
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        print(&listener.local_addr()?.to_string())?;
        let router = Router::new().fallback(answer).with_state(world.clone());
        tokio::select! {
            result = axum::serve(listener, router).into_future() => Ok(result?),
            result = beat(&world) => result,
        }
    })
}

async fn beat(world: &World) -> anyhow::Result<()> {
    let (sender, mut lines) = mpsc::channel(1);
    thread::spawn(move || io::stdin().lines().map_while(Result::ok).try_for_each(|line| sender.blocking_send(line)));
    let mut last = world.count;
    while lines.recv().await.is_some() {
        let watch = world.watch.lock().unwrap_or_else(PoisonError::into_inner).clone().context("nobody watches")?;
        for number in 0..world.count {
            watch.send(event("MODIFIED", &world.args, number, 1)).await?;
        }
        watch.send(event("ADDED", &world.args, last, 0)).await?;
        last += 1;
    }
    Ok(())
}

/// One line of a watch.
fn event(kind: &str, args: &Args, number: u64, beat: u64) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{}}}\n", args.guest(number).vmi(beat))
}

async fn answer(State(world): State<World>, uri: Uri, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let value = |key: &str| query.split('&').find_map(|field| field.strip_prefix(key)?.strip_prefix('='));
    let plural = uri.path().rsplit('/').next().unwrap_or_default();
    if value("watch").is_some() {
        return world.events(plural == Kind::Vmi.plural()).into_response();
    }
    let number = |key: &str| value(key).and_then(|number| number.parse().ok());
    let from = number("continue").unwrap_or(0);
    let to = number("limit").unwrap_or(u64::MAX).saturating_add(from).min(world.count);
    let guests = (from..to).map(|number| world.args.guest(number));
    let items: Vec<String> = match plural {
        plural if plural == Kind::Vm.plural() => guests.map(|guest| guest.machine().to_string()).collect(),
        plural if plural == Kind::Vmi.plural() => guests.map(|guest| guest.vmi(0).to_string()).collect(),
        _ => Vec::new(),
    };
    let next = if items.is_empty() || to == world.count { String::new() } else { to.to_string() };
    let metadata = format!(r#"{{"resourceVersion":"1","continue":"{next}"}}"#);
    format!(r#"{{"metadata":{metadata},"items":[{}]}}"#, items.join(",")).into_response()
}

impl World {
    /// A watch that never ends, of VMIs or of a kind to which nothing happens.
    fn events(&self, is_of_instances: bool) -> Body {
        let (sender, receiver) = mpsc::channel(1);
        if is_of_instances {
            *self.watch.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender.clone());
        }
        // The sender lives as long as the stream, so that the stream has no end.
        let lines = stream::unfold((receiver, sender), |(mut receiver, sender)| async move {
            let line = receiver.recv().await?;
            Some((Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from(line))), (receiver, sender)))
        });
        Body::new(StreamBody::new(lines))
    }
}
