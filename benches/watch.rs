//! Benchmarks one watch event, from its line to the facts: a heartbeat that changes no fact, and one that changes one.
//!
//! 100,000 VMIs that are updated once a minute cause 1,667 events per second. If all of them may use a twentieth of a
//! core, one event may take 30 µs.

#[path = "../examples/bench_facts/guests.rs"]
mod guests;

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

use self::guests::Guest;

/// The number of a guest with three NICs.
const GUEST: u64 = 4;

fn main() -> anyhow::Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    let [first, heartbeat] = [line(1), line(2)];
    let change = heartbeat.replace("\"net1\"", "\"another\"");
    let cache = Cache::new(Store::default()).0;
    apply(&cache, &first)?;
    ensure!(matches!(apply(&cache, &heartbeat)?, Effect::Unchanged), "a heartbeat changes a fact");
    ensure!(matches!(apply(&cache, &change)?, Effect::Changed), "a new NIC changes no fact");

    let mut group = criterion.benchmark_group("watch");
    group.throughput(Throughput::Bytes(u64::try_from(heartbeat.len())?));
    apply(&cache, &first)?;
    group.bench_function("heartbeat", |bencher| bencher.iter(|| apply(&cache, black_box(&heartbeat))));
    let mut lines = [&change, &first].into_iter().cycle();
    group.bench_function("change", |bencher| {
        bencher.iter(|| lines.next().map(|line| apply(&cache, black_box(line))));
    });
    group.finish();
    criterion.final_summary();
    Ok(())
}

/// Applies a line of a watch to the cache.
fn apply(cache: &Cache, line: &str) -> anyhow::Result<Effect> {
    match Event::read(line) {
        Some(Event::Applied(object)) => Ok(cache.apply(Kind::Vmi, object)),
        _ => None.context("not an update"),
    }
}

/// Returns the line of a watch that updates the guest.
fn line(heartbeat: u64) -> String {
    format!(r#"{{"type":"MODIFIED","object":{}}}"#, Guest::new(GUEST).vmi(heartbeat))
}
