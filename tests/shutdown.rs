//! Graceful shutdown of the server: the grace period, the deadline, and shutdowns under load.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::{collections::BTreeSet, future::Future, net::SocketAddr};

use nicplug::server::Drain;
use support::{
    client::get,
    server::{CONNECTOR, JSON, REVIEWS, RawConnection, SHORT, TestServer, post, send_head_only},
    wait::guarded,
};
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    sync::{mpsc, watch},
    task::JoinSet,
};

#[tokio::test]
async fn during_the_grace_period_every_request_is_answered_and_its_connection_closed() {
    guarded(async {
        let mut server = TestServer::start().await;
        let request = post("/validate", JSON, &REVIEWS[0].body);
        let mut idle = RawConnection::open(server.address).await;
        idle.request(&request).await.assert_answers(&REVIEWS[0]);
        let mut fresh = RawConnection::open(server.address).await;
        server.begin_shutdown().await;
        assert_eq!(get(server.health, "/livez").await.0, 200);

        let late = RawConnection::open(server.address).await;
        for mut connection in [idle, late] {
            let response = connection.request(&request).await;
            response.assert_answers(&REVIEWS[0]);
            assert!(response.closes());
            connection.closed().await;
        }
        // Error responses close the connection as well.
        let response = fresh.request(b"GET /validate HTTP/1.1\r\nhost: x\r\n\r\n").await;
        response.assert_error(405);
        assert!(response.closes());
        fresh.closed().await;

        assert!(!server.running.is_finished());
        server.skip_grace();
        server.running.await.unwrap();
        assert!(TcpStream::connect(server.address).await.is_err());
    })
    .await;
}

#[tokio::test]
async fn after_the_grace_period_idle_connections_are_closed_and_pending_requests_answered() {
    guarded(async {
        let mut server = TestServer::start().await;
        let mut idle = RawConnection::open(server.address).await;
        idle.request(&post("/validate", JSON, &REVIEWS[0].body)).await.assert_answers(&REVIEWS[0]);
        let fresh = RawConnection::open(server.address).await;
        let mut at_handshake = TcpStream::connect(server.address).await.unwrap();
        let late = TcpStream::connect(server.address).await.unwrap();
        let mut busy = send_head_only(server.address, "/validate", &REVIEWS[0]).await;

        server.begin_shutdown().await;
        server.skip_grace();
        idle.closed().await;
        fresh.closed().await;
        // A client that completes its handshake now still gets its answer.
        let mut late = RawConnection::over(late, &CONNECTOR).await.unwrap();
        let response = late.request(&post("/validate", JSON, &REVIEWS[0].body)).await;
        response.assert_answers(&REVIEWS[0]);
        assert!(response.closes());
        late.closed().await;
        assert!(matches!(at_handshake.read(&mut [0]).await, Ok(0) | Err(_)));

        let response = busy.request(&REVIEWS[0].body).await;
        response.assert_answers(&REVIEWS[0]);
        assert!(response.closes());
        busy.closed().await;
        // The server has ended before its deadline of an hour.
        server.running.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn at_the_deadline_a_request_that_never_ends_is_aborted() {
    guarded(async {
        let mut server = TestServer::start_with(|config| config.drain = Drain { grace: SHORT, deadline: SHORT }).await;
        let body = send_head_only(server.address, "/validate", &REVIEWS[0]).await;
        let mut header = RawConnection::open(server.address).await;
        header.send(b"POST /validate HTTP/1.1\r\n").await;
        server.shutdown.take().unwrap().send(()).unwrap();
        server.running.await.unwrap();
        body.closed().await;
        header.closed().await;
    })
    .await;
}

/// Twenty rolling updates: the old replica is stopped under load before the clients know the new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_shutdowns_under_load_lose_no_request() {
    guarded(async {
        let mut old = TestServer::start().await;
        let (endpoint, endpoints) = watch::channel(Endpoint { round: 0, address: old.address });
        let (arrived, mut arrivals) = mpsc::unbounded_channel();
        let (burst, bursts) = watch::channel(());
        let (finished, mut burst_ends) = mpsc::unbounded_channel();
        let mut clients = JoinSet::new();
        for name in 0..8 {
            let client = BusyClient {
                name,
                endpoints: endpoints.clone(),
                arrived: arrived.clone(),
                connection: None,
                answered: 0,
            };
            if name < 4 {
                clients.spawn(send_continuously(client));
            } else {
                clients.spawn(idle_then_burst(client, bursts.clone(), finished.clone()));
            }
        }
        wait_for_all(&mut arrivals, &mut clients, 0).await;

        for round in 1..=20 {
            let new = TestServer::start().await;
            old.begin_shutdown().await;
            // The idle clients send requests to the old server, before they know the new one.
            burst.send(()).unwrap();
            for _ in 4..8 {
                until_failure(&mut clients, burst_ends.recv()).await.unwrap();
            }
            endpoint.send(Endpoint { round, address: new.address }).unwrap();
            wait_for_all(&mut arrivals, &mut clients, round).await;
            old.skip_grace();
            old.running.await.unwrap();
            old = new;
        }

        drop((endpoint, burst));
        let answered: usize = clients.join_all().await.into_iter().sum();
        assert!(answered >= 20 * 8, "{answered}");
    })
    .await;
}

/// Waits for an event, or for the first client to fail.
async fn until_failure<T>(clients: &mut JoinSet<usize>, event: impl Future<Output = T>) -> T {
    tokio::select! {
        value = event => value,
        Some(end) = clients.join_next() => panic!("a client ended early: {end:?}"),
    }
}

/// Waits until each client has an answer of the endpoint of `round`, and so has left the one before.
async fn wait_for_all(
    arrivals: &mut mpsc::UnboundedReceiver<(usize, usize)>,
    clients: &mut JoinSet<usize>,
    round: usize,
) {
    let mut arrived = BTreeSet::new();
    while arrived.len() < clients.len() {
        let (name, arrival) = until_failure(clients, arrivals.recv()).await.unwrap();
        if arrival == round {
            arrived.insert(name);
        }
    }
}

/// The address of the current server.
#[derive(Clone, Copy)]
struct Endpoint {
    round: usize,
    address: SocketAddr,
}

/// A client that keeps its connection, closes it when the server asks for that, and retries nothing.
struct BusyClient {
    name: usize,
    endpoints: watch::Receiver<Endpoint>,
    arrived: mpsc::UnboundedSender<(usize, usize)>,
    connection: Option<RawConnection>,
    answered: usize,
}

impl BusyClient {
    async fn send_review(&mut self) {
        let review = &REVIEWS[self.answered % REVIEWS.len()];
        let mut arrival = None;
        if self.connection.is_none() {
            let endpoint = *self.endpoints.borrow_and_update();
            self.connection = Some(RawConnection::open(endpoint.address).await);
            arrival = Some((self.name, endpoint.round));
        }
        let response =
            self.connection.as_mut().unwrap().request(&post("/validate?timeout=10s", JSON, &review.body)).await;
        response.assert_answers(review);
        self.answered += 1;
        if response.closes() {
            self.connection = None;
        }
        if let Some(arrival) = arrival {
            // At the end of the test the receiver is gone.
            let _ = self.arrived.send(arrival);
        }
    }
}

/// Sends reviews without a pause, until the test drops the endpoints.
async fn send_continuously(mut client: BusyClient) -> usize {
    while client.endpoints.has_changed().is_ok() {
        client.send_review().await;
    }
    client.answered
}

/// Keeps an idle connection until the test asks for a burst, and moves to the next endpoint after it.
async fn idle_then_burst(
    mut client: BusyClient,
    mut bursts: watch::Receiver<()>,
    finished: mpsc::UnboundedSender<()>,
) -> usize {
    client.send_review().await;
    while bursts.changed().await.is_ok() {
        assert!(client.connection.is_some(), "the idle connection stayed open");
        for _ in 0..5 {
            client.send_review().await;
            assert!(client.connection.is_none(), "every response closes the connection");
        }
        finished.send(()).unwrap();
        client.endpoints.changed().await.unwrap();
        client.send_review().await;
    }
    client.answered
}
