//! How long connections are kept: an API server keeps its own for ever, and they may all lead to one replica.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod clients;

use std::{
    future::{self, Future},
    net::SocketAddr,
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use clients::{Balancer, Client, Time};
use nicplug::{
    admission::{Decision, Reviewer},
    certificates::{self, Bundle, Host},
    facts::NoFacts,
    server::{Config, Counts, Limits, Server, tls::Pair},
    settings::Settings,
};
use tokio::{task::JoinSet, time::timeout};

static BUNDLE: LazyLock<Bundle> =
    LazyLock::new(|| certificates::generate(&Host::local().unwrap(), SystemTime::now()).unwrap());

/// A guard against hanging; no test depends on how long it is.
async fn guarded<T>(test: impl Future<Output = T>) -> T {
    timeout(Duration::from_mins(3), Box::pin(test)).await.expect("the awaited event never came")
}

async fn replica(limits: &Limits) -> (SocketAddr, Counts) {
    let config = Config { limits: limits.clone(), ..Config::new(Pair::try_from(&*BUNDLE).unwrap().into()) };
    let server = Server::bind(config, Reviewer::new(Arc::new(NoFacts), Settings::default())).await.unwrap();
    let (address, counts) = (server.local_addr(), server.counts().clone());
    tokio::spawn(server.run(future::pending()));
    (address, counts)
}

fn answered(counts: &Counts) -> u64 {
    Decision::ALL.into_iter().map(|decision| counts.of(decision)).sum()
}

/// The shares of three replicas in 2,000 requests over 25 connections that were opened when there was but one replica.
async fn shares(limits: &Limits) -> [u64; 3] {
    let replicas = [replica(limits).await, replica(limits).await, replica(limits).await];
    let balancer = Balancer::start().await;
    balancer.set(&[replicas[0].0]);
    let mut clients = Vec::new();
    for _ in 0..25 {
        let mut client = Client::new(balancer.address, &Time::default());
        client.ask(&BUNDLE.ca).await.unwrap();
        clients.push(client);
    }
    balancer.set(&replicas.each_ref().map(|(address, _)| *address));

    let before = replicas.each_ref().map(|(_, counts)| answered(counts));
    let mut load = JoinSet::new();
    for mut client in clients {
        load.spawn(async move {
            for _ in 0..80 {
                client.ask(&BUNDLE.ca).await.unwrap();
            }
        });
    }
    load.join_all().await;
    let shares: [u64; 3] = std::array::from_fn(|replica| answered(&replicas[replica].1) - before[replica]);
    assert_eq!(shares.iter().sum::<u64>(), 2_000, "each request is answered once");
    shares
}

/// Kubernetes issue 127335.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_end_spread_the_load_over_replicas_that_came_later() {
    guarded(async {
        let for_ever = Limits { connection_requests: usize::MAX, ..Limits::default() };
        assert_eq!(shares(&for_ever).await, [2_000, 0, 0]);

        let limits = Limits { connection_requests: 10, ..Limits::default() };
        let shares = shares(&limits).await;
        // Of a client's 80 requests up to 10 go to the first replica; the rest goes to all of them in turn.
        assert!(shares.iter().all(|share| *share > 400), "{shares:?}");
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_is_old_is_closed_by_an_answer_and_no_request_is_lost() {
    guarded(async {
        let (address, counts) =
            replica(&Limits { connection_age: Duration::from_millis(50), ..Limits::default() }).await;
        let mut client = Client::new(address, &Time::default());
        let mut asked = 0;
        while client.opened < 4 {
            client.ask(&BUNDLE.ca).await.unwrap();
            asked += 1;
        }
        assert_eq!(answered(&counts), asked);
    })
    .await;
}

#[tokio::test]
async fn a_connection_brings_no_more_requests_than_it_may_and_its_last_answer_says_so() {
    guarded(async {
        let (address, _) = replica(&Limits { connection_requests: 10, ..Limits::default() }).await;
        let mut client = Client::new(address, &Time::default());
        for _ in 0..100 {
            client.ask(&BUNDLE.ca).await.unwrap();
        }
        // Each was given five to ten.
        assert!((10..=20).contains(&client.opened), "{} connections for 100 requests", client.opened);
    })
    .await;
}
