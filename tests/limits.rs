//! Limits of the server: sizes, counts and times.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use support::{
    server::{JSON, REVIEWS, RawConnection, SHORT, TestServer, post, send_head_only},
    wait::guarded,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
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

#[tokio::test]
async fn requests_beyond_the_limit_get_503_until_another_one_ends() {
    guarded(async {
        let server = TestServer::start_with(|config| config.limits.in_flight = 2).await;
        let review = &REVIEWS[0];
        let mut pending = [
            send_head_only(server.address, "/validate", review).await,
            send_head_only(server.address, "/mutate", review).await,
        ];

        let mut third = RawConnection::open(server.address).await;
        for _ in 0..3 {
            let response = third.request(&post("/validate", JSON, &review.body)).await;
            response.assert_error(503);
            assert_eq!(response.header("retry-after"), Some("1"));
            assert!(!response.closes(), "another handshake would cost more than the refused request");
        }

        for connection in &mut pending {
            connection.request(&review.body).await.assert_answers(review);
        }
        third.request(&post("/validate", JSON, &review.body)).await.assert_answers(review);
    })
    .await;
}

#[tokio::test]
async fn a_connection_beyond_the_limit_is_served_when_another_one_ends() {
    guarded(async {
        let server = TestServer::start_with(|config| config.limits.connections = 1).await;
        let mut first = RawConnection::open(server.address).await;
        let second = tokio::spawn(RawConnection::open(server.address));
        first.request(&post("/validate", JSON, &REVIEWS[0].body)).await.assert_answers(&REVIEWS[0]);
        drop(first);
        let mut second = second.await.unwrap();
        second.request(&post("/validate", JSON, &REVIEWS[0].body)).await.assert_answers(&REVIEWS[0]);
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
