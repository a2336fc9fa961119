//! Measures the memory for the facts of a large cluster and the time for its heartbeats: `just bench-facts`.
//!
//! Every guest is a VirtualMachine and its VirtualMachineInstance, of about 8 KiB each. Their JSON texts are created
//! and dropped one by one, so they do not count as resident memory. With `--wire` a fake API server on loopback sends
//! them in the pages of lists and the events of watches, as in a cluster.

mod guests;
mod wire;

use std::{
    fs,
    io::{self, Write},
    time::Instant,
};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use nicplug::{
    cluster::{
        cache::{Cache, Effect},
        store::Store,
        watch::Event,
    },
    k8s::kind::Kind,
};

use self::guests::Guest;

/// The same allocator as in src/main.rs.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The time between two updates of a VMI, in seconds.
const HEARTBEAT_INTERVAL: f64 = 60.0;

/// Measures memory and heartbeats.
#[derive(Parser)]
struct Args {
    /// Numbers of guests to measure, in ascending order.
    #[arg(default_values_t = [10_000, 100_000])]
    guests: Vec<u64>,
    /// Give the NICs of each guest unique names and networks, so that guests share no strings.
    #[arg(long)]
    unique: bool,
    /// Read the guests through watches from a fake API server on loopback.
    #[arg(long)]
    wire: bool,
    /// With --wire: then update 10,000 guests a second, every second time on another node, for so many seconds.
    #[arg(long, value_name = "SECONDS")]
    updates: Option<u64>,
    /// Run as that API server.
    #[arg(long, hide = true)]
    serve: bool,
}

impl Args {
    fn guest(&self, number: u64) -> Guest {
        if self.unique { Guest::unique(number) } else { Guest::new(number) }
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    match args {
        Args { serve: true, .. } => wire::serve(args),
        Args { wire: true, .. } => wire::measure(&args),
        _ => measure(&args),
    }
}

/// Applies the objects one by one, from their texts to the facts.
fn measure(args: &Args) -> anyhow::Result<()> {
    print_sizes(args)?;
    warm_up(args)?;
    let cache = Cache::new(Store::default()).0;
    let base = resident_memory()?;
    let mut known = 0;
    for &count in &args.guests {
        for number in known..count {
            let guest = args.guest(number);
            for (kind, text) in [(Kind::Vm, guest.vm().to_string()), (Kind::Vmi, guest.vmi(0).to_string())] {
                let effect = cache.apply(kind, &text);
                ensure!(matches!(effect, Effect::Changed), "guest {number}: {effect:?}");
            }
        }
        known = count;
        print_memory("filled", count, base)?;
        measure_heartbeats(args, &cache, count)?;
        for kind in [Kind::Vm, Kind::Vmi] {
            begin_sync(args, &cache, kind, count)?;
        }
        print_memory("listed again", count, base)?;
    }
    for kind in [Kind::Vm, Kind::Vmi] {
        cache.begin_sync(kind);
        cache.finish_sync(kind);
        ensure!(cache.count(kind) == 0, "{kind}s remain");
    }
    print_memory("all deleted", known, base)
}

/// Adds some guests and drops them, so that the code that has run is resident and part of the base.
fn warm_up(args: &Args) -> anyhow::Result<()> {
    let cache = Cache::new(Store::default()).0;
    for number in 0..100 {
        let guest = args.guest(number);
        cache.apply(Kind::Vm, &guest.vm().to_string());
        cache.apply(Kind::Vmi, &guest.vmi(0).to_string());
    }
    ensure!(cache.count(Kind::Vmi) == 100, "guests are missing");
    Ok(())
}

/// Applies one heartbeat of each guest as a watch does. The median ignores the few that other processes interrupt.
fn measure_heartbeats(args: &Args, cache: &Cache, count: u64) -> anyhow::Result<()> {
    let (mut times, mut bytes) = (Vec::new(), 0);
    for number in 0..count {
        let line = format!(r#"{{"type":"MODIFIED","object":{}}}"#, args.guest(number).vmi(1));
        bytes += line.len() as u64;
        let start = Instant::now();
        let Some(Event::Applied(object)) = Event::read(&line) else {
            bail!("not an update");
        };
        let effect = cache.apply(Kind::Vmi, object);
        times.push(start.elapsed().as_secs_f64());
        ensure!(matches!(effect, Effect::Unchanged), "a heartbeat changes guest {number}: {effect:?}");
    }
    times.sort_by(f64::total_cmp);
    let median = times.get(times.len() / 2).context("no guests")?;
    print_heartbeats(count, bytes / count, median * float(count))
}

/// Prints the cost of one heartbeat of every guest, which took `seconds` of a core.
fn print_heartbeats(guests: u64, bytes: u64, seconds: f64) -> anyhow::Result<()> {
    print(&format!(
        "{guests:>9} guests, a heartbeat of {bytes} bytes: {:.1} µs; of all of them each minute: {:.1} % of a core",
        seconds / float(guests) * 1e6,
        seconds / HEARTBEAT_INTERVAL * 100.0
    ))
}

/// Lists all objects of a kind again.
fn begin_sync(args: &Args, cache: &Cache, kind: Kind, count: u64) -> anyhow::Result<()> {
    cache.begin_sync(kind);
    for number in 0..count {
        let guest = args.guest(number);
        let object = if kind == Kind::Vm { guest.vm() } else { guest.vmi(2) };
        let effect = cache.apply(kind, &object.to_string());
        ensure!(matches!(effect, Effect::Unchanged), "guest {number} has changed: {effect:?}");
    }
    cache.finish_sync(kind);
    ensure!(cache.count(kind) as u64 == count, "{kind}s are missing");
    Ok(())
}

fn print_sizes(args: &Args) -> anyhow::Result<()> {
    let guests = || (0..1_000).map(|number| args.guest(number));
    let vms: usize = guests().map(|guest| guest.vm().to_string().len()).sum();
    let vmis: usize = guests().map(|guest| guest.vmi(0).to_string().len()).sum();
    print(&format!("a VM has {} bytes on average, a VMI {}", vms / 1_000, vmis / 1_000))
}

fn print_memory(step: &str, guests: u64, base: u64) -> anyhow::Result<()> {
    let more = resident_memory()?.saturating_sub(base);
    print(&format!(
        "{guests:>9} guests, {step}: {:.1} MiB over the base of {:.1} MiB, {} bytes a guest",
        float(more) / 1024.0 / 1024.0,
        float(base) / 1024.0 / 1024.0,
        more / guests.max(1)
    ))
}

/// Returns the resident memory of this process, in bytes.
fn resident_memory() -> anyhow::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB"));
    Ok(kib.context("no VmRSS in /proc")?.trim().parse::<u64>()? * 1024)
}

#[expect(clippy::cast_precision_loss, reason = "the figures are only printed")]
fn float(number: u64) -> f64 {
    number as f64
}

fn print(line: &str) -> anyhow::Result<()> {
    Ok(writeln!(io::stdout(), "{line}")?)
}
