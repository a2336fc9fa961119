//! Hostile clients beside a well-behaved one. `just hostile` has more of them, and measures.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::{iter, time::Duration};

use support::{
    metrics,
    server::{JSON, REVIEWS, RawConnection, TestServer, answered, post},
    wait::{eventually, guarded},
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

/// The second request of each connection below: a server that misreads the length of the first one answers it.
const SMUGGLED: &[u8] = b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n";

/// Headers that two servers could read as two different lengths.
const AMBIGUOUS: &[&str] = &[
    "content-length: 5\r\ntransfer-encoding: chunked\r\n",
    "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
    "content-length: 5\r\ncontent-length: 41\r\n",
    "content-length: 5, 41\r\n",
    "content-length: +5\r\n",
    "content-length: -1\r\n",
    "content-length: 0x5\r\n",
    "content-length: 99999999999999999999\r\n",
    "transfer-encoding : chunked\r\n",
    "transfer-encoding: chunked, identity\r\n",
    "transfer-encoding: xchunked\r\n",
    "transfer-encoding: \x0bchunked\r\n",
    "transfer-encoding:\r\n chunked\r\n",
    "x: y\rtransfer-encoding: chunked\r\n",
    "x: \0\r\n",
];

#[tokio::test]
async fn a_request_with_an_ambiguous_length_gets_400_and_nothing_after_it_is_read() {
    guarded(async {
        let server = TestServer::start().await;
        for headers in AMBIGUOUS {
            let mut connection = RawConnection::open(server.address).await;
            let head = format!("POST /validate HTTP/1.1\r\nhost: nicplug\r\n{JSON}{headers}\r\n");
            connection.send(&[head.as_bytes(), b"0\r\n\r\n", SMUGGLED].concat()).await;
            assert_eq!(connection.response().await.status, 400, "{headers:?}");
            connection.closed().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_header_without_an_end_gets_431() {
    guarded(async {
        let server = TestServer::start().await;
        let many = "x-header: y\r\n".repeat(10_000);
        for bomb in [many, format!("x: {}\r\n", "y".repeat(200_000))] {
            let mut connection = RawConnection::open(server.address).await;
            // The server may have closed it before all is sent.
            let _ = connection.try_send(format!("POST /validate HTTP/1.1\r\nhost: x\r\n{bomb}").as_bytes()).await;
            assert!(connection.try_response().await.is_ok_and(|response| response.status == 431));
        }
    })
    .await;
}

/// Returns bodies that are no valid review, most of them.
fn malformed() -> impl Iterator<Item = Vec<u8>> {
    let review = &REVIEWS[0].body;
    let positions = (0..review.len()).step_by(review.len() / 60 + 1);
    let changed = positions.flat_map(move |position| {
        let (before, after) = review.split_at(position);
        [
            before.to_vec(),
            [before, b"\xff\xfe\0", after].concat(),
            [before, b"{\"a\":1,\"a\":2,", after].concat(),
            [before, b"[1e999]", after].concat(),
            [after, before].concat(),
        ]
    });
    let deep = ["[", "{\"a\":"].map(|open| open.repeat(100_000).into_bytes());
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)).into_bytes();
    changed.chain(deep).chain(iter::once(nested))
}

#[tokio::test]
async fn hostile_clients_take_nothing_from_a_well_behaved_one() {
    guarded(async {
        let server = TestServer::start_with(|config| {
            config.limits.connections = 40;
            config.limits.arrival = Duration::ZERO;
        })
        .await;
        eventually("the server is ready", async || server.readiness.is_ready().then_some(())).await;
        let request = post("/validate", JSON, &REVIEWS[0].body);

        let mut half = Vec::new();
        for _ in 0..100 {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            // The server closes the oldest ones, here and below.
            let _ = stream.write_all(&[22, 3, 1]).await;
            half.push(stream);
        }
        let mut incomplete = Vec::new();
        for _ in 0..100 {
            let mut connection = RawConnection::open(server.address).await;
            let _ = connection.try_send(&request[..request.len() / 2]).await;
            incomplete.push(connection);
        }
        for body in malformed() {
            let mut connection = RawConnection::open(server.address).await;
            let response = connection.request(&post("/validate", JSON, &body)).await;
            assert!(matches!(response.status, 200 | 400), "{}", response.head);
            answered(server.address, &REVIEWS[0]).await;
        }
        incomplete.remove(0).closed().await;
        drop((half, incomplete));
        eventually("all connections are closed", async || {
            let open: usize = metrics::value(&server.metrics().await, "nicplug_connections");
            (open == 0).then_some(())
        })
        .await;
    })
    .await;
}
