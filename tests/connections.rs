//! How long connections are kept: an API server never closes its own, and all of them may lead to one replica.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::{net::SocketAddr, time::Duration};

use nicplug::{
    admission::Decision,
    server::{Counts, Limits},
};
use support::{
    client::{Client, LOCALHOST},
    clock::Clock,
    kube_proxy::KubeProxy,
    server::{BUNDLE, TestServer},
    wait::guarded,
};
use tokio::task::JoinSet;

async fn replica(limits: &Limits) -> (SocketAddr, Counts) {
    let server = TestServer::start_with(|config| config.limits = limits.clone()).await;
    // A server task runs until the test ends.
    (server.address, server.counts.clone())
}

fn client(address: SocketAddr) -> Client {
    Client::new(address, LOCALHOST, &Clock::default())
}

fn answered(counts: &Counts) -> u64 {
    Decision::ALL.into_iter().map(|decision| counts.of(decision)).sum()
}

/// Returns how many of 2,000 requests three replicas answered, over 25 connections that clients opened when there was
/// only one replica.
async fn shares(limits: &Limits) -> [u64; 3] {
    let replicas = [replica(limits).await, replica(limits).await, replica(limits).await];
    let proxy = KubeProxy::start().await;
    proxy.set_endpoints(&[replicas[0].0]);
    let mut clients = Vec::new();
    for _ in 0..25 {
        let mut client = client(proxy.address);
        client.send_review(&BUNDLE.ca).await.unwrap();
        clients.push(client);
    }
    proxy.set_endpoints(&replicas.each_ref().map(|(address, _)| *address));

    let before = replicas.each_ref().map(|(_, counts)| answered(counts));
    let mut load = JoinSet::new();
    for mut client in clients {
        load.spawn(async move {
            for _ in 0..80 {
                client.send_review(&BUNDLE.ca).await.unwrap();
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
async fn limited_connections_spread_the_load_over_replicas_that_start_later() {
    guarded(async {
        let unlimited = Limits { connection_requests: usize::MAX, ..Limits::default() };
        assert_eq!(shares(&unlimited).await, [2_000, 0, 0]);

        let limits = Limits { connection_requests: 10, ..Limits::default() };
        let shares = shares(&limits).await;
        // Up to 10 of a client's 80 requests go to the first replica, and the others to all replicas in turn.
        assert!(shares.iter().all(|share| *share > 400), "{shares:?}");
    })
    .await;
}

#[tokio::test]
async fn a_response_closes_an_old_connection_and_no_request_is_lost() {
    guarded(async {
        let (address, counts) =
            replica(&Limits { connection_age: Duration::from_millis(50), ..Limits::default() }).await;
        let mut client = client(address);
        let mut sent = 0;
        while client.opened < 4 {
            client.send_review(&BUNDLE.ca).await.unwrap();
            sent += 1;
        }
        assert_eq!(answered(&counts), sent);
    })
    .await;
}

#[tokio::test]
async fn the_last_response_of_a_connection_closes_it_before_its_limit_of_requests() {
    guarded(async {
        let (address, _) = replica(&Limits { connection_requests: 10, ..Limits::default() }).await;
        let mut client = client(address);
        for _ in 0..100 {
            client.send_review(&BUNDLE.ca).await.unwrap();
        }
        // Each connection gets a limit of five to ten.
        assert!((10..=20).contains(&client.opened), "{} connections for 100 requests", client.opened);
    })
    .await;
}
