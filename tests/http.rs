//! Requests and responses of the server: reviews, errors, readiness and metrics.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::sync::Arc;

use nicplug::admission::Decision;
use support::{
    client::get,
    metrics::value,
    server::{JSON, REVIEWS, RawConnection, TestServer, post},
    wait::guarded,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Barrier,
    task::JoinSet,
};

// === Reviews ===

#[tokio::test]
async fn every_real_review_is_answered_with_its_uid_over_one_connection() {
    guarded(async {
        let server = TestServer::start().await;
        let mut connection = RawConnection::open(server.address).await;
        for path in ["/validate", "/mutate?timeout=10s"] {
            for review in REVIEWS.iter() {
                let response = connection.request(&post(path, JSON, &review.body)).await;
                response.assert_answers(review);
                assert!(!response.closes());
            }
        }
    })
    .await;
}

#[tokio::test]
async fn every_real_review_is_answered_with_its_uid_over_a_connection_of_its_own() {
    guarded(async {
        let server = TestServer::start().await;
        for review in REVIEWS.iter() {
            let mut connection = RawConnection::open(server.address).await;
            let headers = format!("{JSON}connection: close\r\n");
            connection.request(&post("/validate", &headers, &review.body)).await.assert_answers(review);
            connection.closed().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_that_is_sent_in_pieces_is_read_as_one() {
    guarded(async {
        let server = TestServer::start().await;
        let mut connection = RawConnection::open(server.address).await;
        let review = &REVIEWS[0];

        let request = post("/validate", JSON, &review.body);
        for piece in request.chunks(1000) {
            connection.send(piece).await;
        }
        connection.response().await.assert_answers(review);

        connection
            .send(format!("POST /validate HTTP/1.1\r\nhost: x\r\n{JSON}transfer-encoding: chunked\r\n\r\n").as_bytes())
            .await;
        for piece in review.body.chunks(700) {
            connection.send(format!("{:x}\r\n", piece.len()).as_bytes()).await;
            connection.send(piece).await;
            connection.send(b"\r\n").await;
        }
        connection.send(b"0\r\n\r\n").await;
        connection.response().await.assert_answers(review);

        // Two requests in one write, which are answered one after the other.
        connection.send(&[request.clone(), request].concat()).await;
        connection.response().await.assert_answers(review);
        connection.response().await.assert_answers(review);
    })
    .await;
}

#[tokio::test]
async fn twenty_five_connections_at_once_are_all_answered() {
    guarded(async {
        let server = TestServer::start().await;
        let barrier = Arc::new(Barrier::new(25));
        let mut clients = JoinSet::new();
        for _ in 0..25 {
            let (address, barrier) = (server.address, Arc::clone(&barrier));
            clients.spawn(async move {
                let mut connection = RawConnection::open(address).await;
                for review in REVIEWS.iter().cycle().take(24) {
                    barrier.wait().await;
                    connection.request(&post("/validate?timeout=30s", JSON, &review.body)).await.assert_answers(review);
                }
            });
        }
        clients.join_all().await;
    })
    .await;
}

// === Errors ===

#[tokio::test]
async fn a_body_that_is_not_a_review_gets_400_and_the_connection_stays_open() {
    guarded(async {
        let server = TestServer::start().await;
        let mut connection = RawConnection::open(server.address).await;
        for body in ["", "{", "no JSON", "{}", "[]", "null", "\u{0}"] {
            let response = connection.request(&post("/validate", JSON, body.as_bytes())).await;
            response.assert_error(400);
            assert!(!response.closes());
        }
        connection.request(&post("/validate", JSON, &REVIEWS[0].body)).await.assert_answers(&REVIEWS[0]);
    })
    .await;
}

#[tokio::test]
async fn another_content_type_gets_415() {
    guarded(async {
        let server = TestServer::start().await;
        for headers in ["content-type: application/yaml\r\n", ""] {
            let mut connection = RawConnection::open(server.address).await;
            let response = connection.request(&post("/validate", headers, &REVIEWS[0].body)).await;
            response.assert_error(415);
        }
        let mut connection = RawConnection::open(server.address).await;
        let headers = "content-type: application/json; charset=utf-8\r\n";
        connection.request(&post("/validate", headers, &REVIEWS[0].body)).await.assert_answers(&REVIEWS[0]);
    })
    .await;
}

#[tokio::test]
async fn another_path_gets_404_and_another_method_405() {
    guarded(async {
        let server = TestServer::start().await;
        let mut connection = RawConnection::open(server.address).await;
        for path in ["/", "/validate/", "/Validate", "/metrics"] {
            connection.request(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.assert_error(404);
        }
        for path in ["/validate", "/mutate"] {
            let response = connection.request(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await;
            response.assert_error(405);
            assert_eq!(response.header("allow"), Some("post"));
            assert!(!response.closes(), "no unread body is left");
        }
        let response = connection.request(&post("/elsewhere", JSON, &REVIEWS[0].body)).await;
        response.assert_error(404);
        assert!(response.closes());
        connection.closed().await;
    })
    .await;
}

// === Readiness and metrics ===

#[tokio::test]
async fn readiness_reports_each_check_by_name() {
    guarded(async {
        let server = TestServer::start().await;
        while get(server.health, "/readyz").await.0 != 200 {}
        assert_eq!(get(server.health, "/readyz").await, (200, "ok\n".to_owned()));
        assert_eq!(
            get(server.health, "/readyz?verbose").await,
            (200, "[+]webhook ok\n[+]connections ok\nready\n".to_owned())
        );

        let facts = server.readiness.add("facts", "KubeVirt has not been listed yet");
        let (status, body) = get(server.health, "/readyz").await;
        assert_eq!(status, 503);
        assert!(body.contains("[-]facts failed: KubeVirt has not been listed yet"), "{body}");
        assert_eq!(get(server.health, "/livez").await, (200, "ok\n".to_owned()));
        facts.pass();
        assert_eq!(get(server.health, "/readyz").await.0, 200);
        assert_eq!(get(server.health, "/validate").await.0, 404);
    })
    .await;
}

#[tokio::test]
async fn every_review_is_counted_by_its_outcome() {
    guarded(async {
        let server = TestServer::start().await;
        let mut connection = RawConnection::open(server.address).await;
        for review in REVIEWS.iter() {
            connection.request(&post("/validate", JSON, &review.body)).await;
        }
        connection.request(&post("/validate", JSON, b"no review")).await;
        let count = |decision| server.counts.of(decision);
        // Without facts no review is denied, and warnings say what was not checked. The deletion and the status update
        // are not reviewed.
        assert_eq!(Decision::ALL.map(count), [1, 0, 1, 0, 2, 5]);
    })
    .await;
}

#[tokio::test]
async fn the_metrics_count_reviews_refusals_and_connections() {
    guarded(async {
        let server = TestServer::start_with(|config| config.limits.body = 1 << 20).await;
        // The self-check has ended then.
        while get(server.health, "/readyz").await.0 != 200 {}
        let refused = |reason: &str| format!("nicplug_requests_refused_total{{reason=\"{reason}\"}}");
        let text = server.metrics().await;
        let before = |series: &str| value::<u64>(&text, series);
        let (connections, failures) =
            (before("nicplug_connections_opened_total"), before("nicplug_handshake_failures_total"));
        assert_eq!(before(&refused("method")), 1);
        let mut connection = RawConnection::open(server.address).await;
        for review in REVIEWS.iter() {
            connection.request(&post("/validate", JSON, &review.body)).await.assert_answers(review);
            connection.request(&post("/mutate", JSON, &review.body)).await.assert_answers(review);
        }
        connection.request(&post("/validate", JSON, b"{}")).await.assert_error(400);
        connection.request(&post("/elsewhere", JSON, b"")).await.assert_error(404);
        connection.request(b"GET /validate HTTP/1.1\r\nhost: nicplug\r\n\r\n").await.assert_error(405);
        connection.request(&post("/validate", "content-type: text/plain\r\n", b"")).await.assert_error(415);
        connection.request(&post("/validate", JSON, &vec![b' '; 2 << 20])).await.assert_error(413);
        connection.closed().await;
        let mut plain = TcpStream::connect(server.address).await.unwrap();
        plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        while let Ok(1..) = plain.read(&mut [0; 64]).await {}
        let open = RawConnection::open(server.address).await;

        let vm = |operation, verdict| {
            format!(
                "nicplug_requests_total{{endpoint=\"validate\",kind=\"VirtualMachine\",operation=\"{operation}\",\
                 decision=\"{verdict}\"}}"
            )
        };
        let expected_values = [
            (vm("UPDATE", "warned"), 2),
            (vm("DELETE", "unhandled"), 1),
            (refused("path"), 1),
            (refused("method"), 2),
            (refused("media_type"), 1),
            (refused("body_too_large"), 1),
            (refused("overload"), 0),
            ("nicplug_request_duration_seconds_count{endpoint=\"validate\"}".to_owned(), 9),
            ("nicplug_request_duration_seconds_count{endpoint=\"mutate\"}".to_owned(), 8),
            ("nicplug_requests_in_flight".to_owned(), 0),
            ("nicplug_connections_opened_total".to_owned(), connections + 3),
            ("nicplug_handshake_failures_total".to_owned(), failures + 1),
        ];
        let text = server.metrics().await;
        for (series, expected) in expected_values {
            assert_eq!(value::<u64>(&text, &series), expected, "{series}\n{text}");
        }
        assert!(value::<f64>(&text, "nicplug_request_duration_seconds_sum{endpoint=\"validate\"}") > 0.0);
        assert!(value::<f64>(&text, "process_start_time_seconds") > 1.7e9);
        assert!(value::<u64>(&text, "nicplug_connections") >= 1);
        drop(open);
    })
    .await;
}
