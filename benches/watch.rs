//! What one event of a watch costs, from its line to the facts: a heartbeat that changes none, and one that does.
//!
//! A hundred thousand guests that are each updated once a minute make 1,667 events a second. For all of them to take
//! less than a twentieth of a core, one may take 30 µs.

#[path = "../examples/bench_facts/world.rs"]
mod world;

use std::hint::black_box;

use anyhow::{Context, ensure};
use criterion::{Criterion, Throughput};
use nicplug::{
    cluster::{
        cache::{Cache, Effect},
        store::Store,
        watch::Event,
    },
    k8s::kind::Kind,
};

use self::world::Guest;

/// One with three NICs.
const GUEST: u64 = 4;

fn main() -> anyhow::Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    let [first, heartbeat] = [line(1), line(2)];
    let change = heartbeat.replace("\"net1\"", "\"another\"");
    let cache = Cache::new(Store::default()).0;
    take(&cache, &first)?;
    ensure!(matches!(take(&cache, &heartbeat)?, Effect::Unchanged), "a heartbeat changes a fact");
    ensure!(matches!(take(&cache, &change)?, Effect::Changed), "a new NIC changes no fact");

    let mut group = criterion.benchmark_group("watch");
    group.throughput(Throughput::Bytes(u64::try_from(heartbeat.len())?));
    take(&cache, &first)?;
    group.bench_function("heartbeat", |bencher| bencher.iter(|| take(&cache, black_box(&heartbeat))));
    let mut turn = [&change, &first].into_iter().cycle();
    group.bench_function("change", |bencher| {
        bencher.iter(|| turn.next().map(|line| take(&cache, black_box(line))));
    });
    group.finish();
    criterion.final_summary();
    Ok(())
}

/// What a watch does with a line.
fn take(cache: &Cache, line: &str) -> anyhow::Result<Effect> {
    match Event::read(line) {
        Some(Event::Applied(object)) => Ok(cache.apply(Kind::Vmi, object)),
        _ => None.context("another event"),
    }
}

/// The line of an update of a guest.
fn line(beat: u64) -> String {
    format!(r#"{{"type":"MODIFIED","object":{}}}"#, Guest::new(GUEST).vmi(beat))
}
