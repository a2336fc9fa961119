//! Limits of the server: sizes, counts and times.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::{
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use futures_util::future::join_all;
use nicplug::{
    admission::Reviewer,
    change::Change,
    facts::{FactSource, Facts},
    server::Limits,
    settings::Settings,
};
use support::{
    client::get,
    metrics,
    server::{CONNECTOR, JSON, REVIEWS, RawConnection, SHORT, TestServer, answered, post, send_head_only},
    wait::{eventually, guarded},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::spawn_blocking,
};

// === Sizes ===

#[tokio::test]
async fn a_content_length_that_is_too_large_gets_413_before_the_body_is_sent() {
    guarded(async {
        let server = TestServer::start().await;
        let mut connection = RawConnection::open(server.address).await;
        let length = (8 << 20) + 1;
        let head = format!("POST /validate HTTP/1.1\r\nhost: x\r\n{JSON}content-length: {length}\r\n\r\n");
        let response = connection.request(head.as_bytes()).await;
        response.assert_error(413);
        assert!(response.closes());
        connection.closed().await;
    })
    .await;
}

#[tokio::test]
async fn a_chunked_body_that_becomes_too_large_gets_413() {
    guarded(async {
        let server = TestServer::start_with(|config| config.limits.body = 10_000).await;
        let chunked = format!("POST /validate HTTP/1.1\r\nhost: x\r\n{JSON}transfer-encoding: chunked\r\n\r\n");

        let mut connection = RawConnection::open(server.address).await;
        connection.send(format!("{chunked}2710\r\n{:10000}\r\n0\r\n\r\n", "").as_bytes()).await;
        connection.response().await.assert_error(400);

        connection.send(format!("{chunked}1388\r\n{:5000}\r\n1389\r\n{:5001}\r\n", "", "").as_bytes()).await;
        let response = connection.response().await;
        response.assert_error(413);
        assert!(response.closes());
    })
    .await;
}

/// A socket that is closed with unread bytes is reset, and the client would read the reset instead of the response.
#[tokio::test]
async fn a_client_that_sends_the_whole_large_body_first_reads_the_413() {
    guarded(async {
        let server = TestServer::start_with(|config| config.limits.body = 10_000).await;
        let mut connection = RawConnection::open(server.address).await;
        connection.send(&post("/validate", JSON, &vec![b' '; 6 << 20])).await;
        connection.response().await.assert_error(413);
        connection.closed().await;
    })
    .await;
}

// === Counts ===

/// Facts that let the test know when a request asks for them, and wait until the test ends.
struct BlockedFacts {
    asked: mpsc::Sender<()>,
    end: Mutex<mpsc::Receiver<()>>,
}

impl FactSource for BlockedFacts {
    fn facts_for(&self, _: &Change) -> Facts {
        // Only the first request is awaited.
        let _ = self.asked.send(());
        // The sender is dropped to end the wait.
        let _ = self.end.lock().unwrap().recv();
        Facts::default()
    }
}

#[tokio::test]
async fn requests_beyond_the_limit_get_503_until_another_one_ends() {
    guarded(async {
        // The blocked request occupies one of the threads for connections.
        if std::thread::available_parallelism().unwrap().get() < 2 {
            return;
        }
        let (asked, questions) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        let facts = Arc::new(BlockedFacts { asked, end: Mutex::new(ended) });
        let reviewer = Reviewer::new(facts, Settings::default());
        let server = TestServer::start_reviewing(reviewer, |config| config.limits.in_flight = 1).await;
        let review = REVIEWS.iter().find(|review| review.uid == "3ae79a1a-f3d7-409c-82ac-948f2f6306e8").unwrap();
        // The self-check has a connection of its own, and the two below must be on different threads.
        eventually("the server is ready", async || server.readiness.is_ready().then_some(())).await;
        let mut blocked = RawConnection::open(server.address).await;
        let mut other = RawConnection::open(server.address).await;
        blocked.send(&post("/validate", JSON, &review.body)).await;
        spawn_blocking(move || questions.recv().unwrap()).await.unwrap();

        for _ in 0..3 {
            let response = other.request(&post("/validate", JSON, &REVIEWS[0].body)).await;
            response.assert_error(503);
            assert_eq!(response.header("retry-after"), Some("1"));
            assert!(!response.closes(), "another handshake would cost more than the refused request");
        }

        drop(end);
        blocked.response().await.assert_answers(review);
        other.request(&post("/validate", JSON, &REVIEWS[0].body)).await.assert_answers(&REVIEWS[0]);
    })
    .await;
}

/// Facts that take a while, as the review of an object with many NICs does.
struct SlowFacts;

impl FactSource for SlowFacts {
    fn facts_for(&self, _: &Change) -> Facts {
        std::thread::sleep(SHORT);
        Facts::default()
    }
}

#[tokio::test]
async fn requests_that_wait_too_long_for_the_processor_get_503() {
    guarded(async {
        let reviewer = Reviewer::new(Arc::new(SlowFacts), Settings::default());
        let server = TestServer::start_reviewing(reviewer, |_| ()).await;
        self_check_has_ended(&server).await;
        let review = REVIEWS.iter().find(|review| review.uid == "3ae79a1a-f3d7-409c-82ac-948f2f6306e8").unwrap();
        // Small requests are not refused.
        let request = &post("/validate?timeout=1s", JSON, &[review.body.clone(), vec![b' '; 16 << 10]].concat());
        // The reviews of one thread would take 1.5 s together.
        let count = 15 * std::thread::available_parallelism().unwrap().get();
        let answers = join_all((0..count).map(async |_| {
            let mut connection = RawConnection::open(server.address).await;
            (connection.request(request).await, connection)
        }))
        .await;

        let mut refused = 0;
        for (response, mut connection) in answers {
            if response.status == 503 {
                assert_eq!(response.header("retry-after"), Some("1"));
                assert!(!response.closes(), "another handshake would cost more than the refusal");
                refused += 1;
                // A later request of the connection has not waited.
                connection.request(request).await.assert_answers(review);
            } else {
                response.assert_answers(review);
            }
        }
        assert!((1..count).contains(&refused), "{refused} of {count}");
        let counted = "nicplug_requests_refused_total{reason=\"processor\"}";
        assert_eq!(metrics::value::<usize>(&server.metrics().await, counted), refused);
    })
    .await;
}

#[tokio::test]
async fn bodies_that_lack_one_byte_take_no_place() {
    guarded(async {
        let server = TestServer::start_with(|config| config.limits.in_flight = 1).await;
        let review = &REVIEWS[0];
        let request = post("/validate", JSON, &review.body);
        let mut incomplete = Vec::new();
        for _ in 0..10 {
            let mut connection = RawConnection::open(server.address).await;
            connection.send(&request[..request.len() - 1]).await;
            incomplete.push(connection);
        }
        let mut other = RawConnection::open(server.address).await;
        other.request(&request).await.assert_answers(review);
        for connection in &mut incomplete {
            connection.request(&request[request.len() - 1..]).await.assert_answers(review);
        }
    })
    .await;
}

#[tokio::test]
async fn bodies_beyond_their_common_limit_get_503_until_another_one_ends() {
    guarded(async {
        let server = TestServer::start_with(|config| {
            config.limits.body = 100 << 10;
            config.limits.bodies = 150 << 10;
        })
        .await;
        let padded = [REVIEWS[0].body.clone(), vec![b' '; 90 << 10]].concat();
        let request = post("/validate", JSON, &padded);
        let mut first = RawConnection::open(server.address).await;
        first.send(&request[..request.len() - 1]).await;
        eventually("the body is counted", async || {
            let taken: usize = metrics::value(&server.metrics().await, "nicplug_request_body_bytes");
            (taken >= 80 << 10).then_some(())
        })
        .await;

        let mut second = RawConnection::open(server.address).await;
        for _ in 0..3 {
            let response = second.request(&request).await;
            response.assert_error(503);
            assert_eq!(response.header("retry-after"), Some("1"));
            assert!(!response.closes());
        }
        first.request(&request[request.len() - 1..]).await.assert_answers(&REVIEWS[0]);
        second.request(&request).await.assert_answers(&REVIEWS[0]);
        assert_eq!(metrics::value::<usize>(&server.metrics().await, "nicplug_request_body_bytes"), 0);
    })
    .await;
}

#[tokio::test]
async fn a_body_that_stops_is_cut() {
    guarded(async {
        let server = TestServer::start_with(|config| config.limits.body_window = SHORT).await;
        let mut connection = send_head_only(server.address, "/validate", &REVIEWS[0]).await;
        let response = connection.response().await;
        response.assert_error(408);
        assert!(response.closes());
        connection.closed().await;
    })
    .await;
}

async fn start_with_connections(limit: usize) -> TestServer {
    start_with_limits(|limits| limits.connections = limit).await
}

async fn start_with_limits(change: impl FnOnce(&mut Limits)) -> TestServer {
    let server = TestServer::start_with(|config| change(&mut config.limits)).await;
    self_check_has_ended(&server).await;
    server
}

async fn self_check_has_ended(server: &TestServer) {
    eventually("the server is ready", async || server.readiness.is_ready().then_some(())).await;
    eventually("the self-check has closed its connection", async || {
        (open_connections(server).await == 0).then_some(())
    })
    .await;
}

async fn open_connections(server: &TestServer) -> usize {
    metrics::value(&server.metrics().await, "nicplug_connections")
}

async fn limit_is_reported(server: &TestServer) {
    eventually("/readyz says that the limit was reached", async || {
        let (status, report) = get(server.health, "/readyz?verbose").await;
        (status == 200 && report.contains("the limit was reached")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_connection_beyond_the_limit_replaces_the_one_that_is_idle_longest() {
    guarded(async {
        let server = start_with_connections(8).await;
        let request = post("/validate", JSON, &REVIEWS[0].body);
        let mut open = Vec::new();
        for _ in 0..8 {
            let mut connection = RawConnection::open(server.address).await;
            connection.request(&request).await.assert_answers(&REVIEWS[0]);
            open.push(connection);
        }
        for connection in &mut open[1..] {
            connection.request(&request).await.assert_answers(&REVIEWS[0]);
        }
        let mut further = RawConnection::open(server.address).await;
        further.request(&request).await.assert_answers(&REVIEWS[0]);
        open.remove(0).closed().await;
        for connection in open.iter_mut().chain([&mut further]) {
            connection.request(&request).await.assert_answers(&REVIEWS[0]);
        }

        limit_is_reported(&server).await;
        eventually("one connection was removed", async || {
            let removed: u64 = metrics::value(&server.metrics().await, "nicplug_connections_removed_total");
            (removed == 1).then_some(())
        })
        .await;
        assert_eq!(metrics::value::<u64>(&server.metrics().await, "nicplug_connections_limit"), 8);
    })
    .await;
}

#[tokio::test]
async fn half_handshakes_at_the_limit_lock_no_client_out() {
    guarded(async {
        let server = start_with_connections(8).await;
        let mut half = Vec::new();
        for _ in 0..100 {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            // The server may have closed it already.
            let _ = stream.write_all(&[22, 3, 1]).await;
            half.push(stream);
        }
        answered(server.address, &REVIEWS[0]).await;
        assert!(matches!(half[0].read(&mut [0]).await, Ok(0) | Err(_)));
    })
    .await;
}

/// The choice used to be made before the new connection arrived: if the chosen one had a request by then, none was
/// closed for the new one, and none later.
#[tokio::test]
async fn a_connection_with_a_request_keeps_its_place_at_the_limit() {
    guarded(async {
        let server = start_with_connections(1).await;
        let review = &REVIEWS[0];
        let mut busy = send_head_only(server.address, "/validate", review).await;
        for _ in 0..2 {
            answered(server.address, review).await.closed().await;
        }
        busy.request(&review.body).await.assert_answers(review);
    })
    .await;
}

#[tokio::test]
async fn a_connection_waits_while_all_have_requests() {
    guarded(async {
        let server = start_with_connections(1).await;
        let review = &REVIEWS[0];
        let mut busy = Vec::new();
        // The limit, and those that may be open while others end.
        for _ in 0..17 {
            busy.push(send_head_only(server.address, "/validate", review).await);
        }
        let address = server.address;
        let waiting = tokio::spawn(async move { answered(address, &REVIEWS[0]).await });
        limit_is_reported(&server).await;
        assert_eq!(open_connections(&server).await, 17);

        busy[3].request(&review.body).await.assert_answers(review);
        waiting.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn bodies_that_do_not_arrive_lock_no_client_out() {
    guarded(async {
        let server = start_with_limits(|limits| (limits.connections, limits.arrival) = (8, Duration::ZERO)).await;
        let review = &REVIEWS[0];
        let mut incomplete = Vec::new();
        for _ in 0..40 {
            incomplete.push(send_head_only(server.address, "/validate", review).await);
        }
        answered(server.address, review).await;
        incomplete.remove(0).closed().await;
    })
    .await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_address_above_its_share_loses_its_own_connection_first() {
    /// Opens a connection from an address of loopback, and sends a request.
    async fn open(server: &TestServer, address: u8) -> RawConnection {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, address], 0).into()).unwrap();
        let stream = socket.connect(server.address).await.unwrap();
        let mut connection = RawConnection::over(stream, &CONNECTOR).await.unwrap();
        connection.request(&post("/validate", JSON, &REVIEWS[0].body)).await.assert_answers(&REVIEWS[0]);
        connection
    }

    guarded(async {
        // An address has a share of four.
        let server = start_with_connections(8).await;
        let mut oldest = open(&server, 2).await;
        let mut many = Vec::new();
        for _ in 0..7 {
            many.push(open(&server, 3).await);
        }
        for connection in &mut many[1..] {
            connection.request(&post("/validate", JSON, &REVIEWS[0].body)).await.assert_answers(&REVIEWS[0]);
        }
        let _further = open(&server, 4).await;
        many.remove(0).closed().await;
        oldest.request(&post("/validate", JSON, &REVIEWS[0].body)).await.assert_answers(&REVIEWS[0]);
    })
    .await;
}

// === Times ===

#[tokio::test]
async fn a_client_that_does_not_complete_the_handshake_is_disconnected() {
    guarded(async {
        let server = TestServer::start_with(|config| config.limits.handshake = SHORT).await;
        let mut silent = TcpStream::connect(server.address).await.unwrap();
        assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);

        let mut half = TcpStream::connect(server.address).await.unwrap();
        half.write_all(&[22, 3, 1]).await.unwrap();
        assert!(matches!(half.read(&mut [0]).await, Ok(0) | Err(_)));
    })
    .await;
}

#[tokio::test]
async fn a_client_that_does_not_complete_the_header_is_disconnected_and_an_idle_one_is_not() {
    guarded(async {
        let server = TestServer::start_with(|config| config.limits.header = SHORT).await;
        let mut fresh = RawConnection::open(server.address).await;
        let mut idle = RawConnection::open(server.address).await;
        idle.request(&post("/validate", JSON, &REVIEWS[0].body)).await.assert_answers(&REVIEWS[0]);

        let mut first = RawConnection::open(server.address).await;
        first.send(b"POST /validate HTTP/1.1\r\nhost: ").await;
        first.closed().await;
        let mut second = RawConnection::open(server.address).await;
        second.request(&post("/validate", JSON, &REVIEWS[0].body)).await.assert_answers(&REVIEWS[0]);
        second.send(b"P").await;
        second.closed().await;

        // The header timeout has passed twice, and these two have sent nothing since.
        for connection in [&mut fresh, &mut idle] {
            connection.request(&post("/validate", JSON, &REVIEWS[0].body)).await.assert_answers(&REVIEWS[0]);
        }
    })
    .await;
}

#[tokio::test]
async fn an_idle_client_is_disconnected_with_close_notify() {
    guarded(async {
        let server = TestServer::start_with(|config| config.limits.idle = SHORT).await;
        let mut fresh = RawConnection::open(server.address).await;
        assert_eq!(fresh.stream.read(&mut [0]).await.unwrap(), 0);

        // On a busy machine the timeout may pass before the request is sent; then the test tries again.
        let request = post("/validate", JSON, &REVIEWS[0].body);
        let mut used = loop {
            let mut connection = RawConnection::open(server.address).await;
            if connection.try_send(&request).await.is_ok()
                && connection.try_response().await.is_ok_and(|response| response.status == 200)
            {
                break connection;
            }
        };
        assert_eq!(used.stream.read(&mut [0]).await.unwrap(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_body_that_arrives_later_than_the_timeout_of_the_api_server_gets_504() {
    guarded(async {
        let server = TestServer::start().await;
        let mut connection = send_head_only(server.address, "/validate?timeout=50ms", &REVIEWS[0]).await;
        let response = connection.response().await;
        response.assert_error(504);
        assert!(response.closes());
        connection.closed().await;
    })
    .await;
}

#[tokio::test]
async fn a_body_that_arrives_later_than_the_request_timeout_gets_504() {
    guarded(async {
        let server = TestServer::start_with(|config| config.limits.request = SHORT).await;
        let mut connection = send_head_only(server.address, "/validate?timeout=30s", &REVIEWS[0]).await;
        connection.response().await.assert_error(504);
    })
    .await;
}

// === The health listener ===

#[tokio::test]
async fn unfinished_requests_do_not_silence_the_health_listener() {
    guarded(async {
        let server = TestServer::start().await;
        let mut unfinished = Vec::new();
        for _ in 0..100 {
            let mut stream = TcpStream::connect(server.health).await.unwrap();
            stream.write_all(b"GET /livez HTTP/1.1\r\nHost: ").await.unwrap();
            unfinished.push(stream);
        }
        assert_eq!(get(server.health, "/livez").await.0, 200);
        // The oldest one was ended for a newer one.
        assert!(matches!(unfinished[0].read(&mut [0]).await, Ok(0) | Err(_)));
    })
    .await;
}
