//! For the fuzz target `server`: the routes without TLS and connections.

use std::{convert::Infallible, sync::Arc};

use axum::{Router, body::Body, extract::Request};
use futures_util::stream;
use http_body_util::BodyExt;
use hyper::{Method, header::CONTENT_TYPE};
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt;

use super::{
    body::BodyBudget,
    counts::Counts,
    denials::DenialCounts,
    in_flight::InFlight,
    limits::Limits,
    overload::Overload,
    routes::{self, AppState},
};
use crate::admission::{Endpoint, Reviewer};

/// The routes of a server with the default limits and without a cluster.
#[derive(Debug)]
pub struct Routes {
    router: Router,
    runtime: Runtime,
}

impl Routes {
    /// Returns the routes of a server with this reviewer.
    ///
    /// # Panics
    /// The runtime cannot be built.
    #[must_use]
    #[allow(clippy::expect_used, reason = "a fuzz target fails by a panic")]
    pub fn new(reviewer: Reviewer) -> Self {
        let limits = Limits::default();
        let router = routes::router(AppState {
            reviewer,
            rechecker: None,
            denial_events: None,
            change_events: None,
            denials: DenialCounts::new(0),
            counts: Counts::default(),
            in_flight: Arc::new(InFlight::new(limits.in_flight)),
            overload: Overload::new(),
            spans: None,
            max_body: limits.body,
            bodies: Arc::new(BodyBudget::new(limits.bodies)),
            body_window: limits.body_window,
            timeout: limits.request,
        });
        Self { router, runtime: Builder::new_current_thread().enable_time().build().expect("the runtime is built") }
    }

    /// Posts a body in parts of so many bytes; returns the status and the body of the response.
    ///
    /// # Panics
    /// The routes do not respond.
    #[must_use]
    #[allow(clippy::expect_used, reason = "a fuzz target fails by a panic")]
    pub fn post(&self, endpoint: Endpoint, body: &[u8], part: usize) -> (u16, Vec<u8>) {
        let parts: Vec<_> = body.chunks(part).map(|part| Ok::<_, Infallible>(part.to_vec())).collect();
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("/{}", endpoint.as_str()))
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from_stream(stream::iter(parts)))
            .expect("the request is valid");
        self.runtime.block_on(async {
            let response = self.router.clone().oneshot(request).await.expect("the routes answer each request");
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.expect("the response has a body");
            (status, body.to_bytes().to_vec())
        })
    }
}
