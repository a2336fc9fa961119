//! `POST /validate` and `POST /mutate`: bytes in, bytes out.
//!
//! Whatever is no review gets a status of its own and `{"error": "…"}`. An answer that leaves a part of the body unread
//! says `Connection: close`: what follows on that connection could not be told from the rest of the body.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, HttpBody},
    extract::{Request, State},
    response::Response,
    routing::post,
};
use hyper::{
    HeaderMap, StatusCode,
    header::{CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};
use tokio::time::{Instant, timeout_at};

use super::{
    body::{self, Unreadable},
    counts::{Counts, Refusal},
    deadline::answer_within,
    decision_log::{self, Trace},
    denial_events::DenialEvents,
    in_flight::InFlight,
    recheck::Rechecker,
};
use crate::{
    admission::{self, Decision, Endpoint, Evaluation, ParsedBody, Reviewer},
    telemetry::spans::Spans,
};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub(super) const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// The routes of the webhook.
pub(super) fn router(state: AppState) -> Router {
    Router::new()
        .route("/validate", post(validate))
        .route("/mutate", post(mutate))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .with_state(Arc::new(state))
}

async fn validate(State(state): State<Arc<AppState>>, request: Request) -> Response {
    state.answer(Endpoint::Validate, request).await
}

async fn mutate(State(state): State<Arc<AppState>>, request: Request) -> Response {
    state.answer(Endpoint::Mutate, request).await
}

async fn method_not_allowed(State(state): State<Arc<AppState>>, request: Request) -> Response {
    state.counts.refuse(Refusal::Method);
    // axum adds the Allow header.
    refuse(StatusCode::METHOD_NOT_ALLOWED, "send the AdmissionReview by POST").closing_if_unread(&request)
}

async fn not_found(State(state): State<Arc<AppState>>, request: Request) -> Response {
    state.counts.refuse(Refusal::Path);
    refuse(StatusCode::NOT_FOUND, "no such path: send the AdmissionReview to /validate or /mutate")
        .closing_if_unread(&request)
}

/// Where reviews are handed in.
pub(super) struct AppState {
    pub(super) reviewer: Reviewer,
    /// In a cluster.
    pub(super) rechecker: Option<Rechecker>,
    /// The same.
    pub(super) denial_events: Option<DenialEvents>,
    pub(super) counts: Counts,
    pub(super) in_flight: Arc<InFlight>,
    /// Where a collector takes them.
    pub(super) spans: Option<Spans>,
    /// In bytes.
    pub(super) largest_body: usize,
    pub(super) longest: Duration,
}

impl AppState {
    async fn answer(&self, endpoint: Endpoint, request: Request) -> Response {
        if !is_json(request.headers()) {
            self.counts.refuse(Refusal::MediaType);
            return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the content type has to be application/json")
                .closing_if_unread(&request);
        }
        let trace = self.spans.as_ref().and_then(|spans| Trace::of(spans, request.headers()));
        let start = Instant::now();
        let deadline = start + answer_within(request.uri().query(), self.longest);
        let Some(_place) = self.in_flight.enter() else {
            return self.answer_overload(request.into_body(), deadline).await;
        };
        match timeout_at(deadline, body::read(request.into_body(), self.largest_body)).await {
            Ok(Ok(body)) => {
                // The body is parsed once; all that follows borrows from it.
                let parsed = admission::parse(&body);
                let evaluation = self.evaluate(endpoint, &parsed, deadline).await;
                let answer = evaluation.render();
                let took = start.elapsed();
                self.counts.add(evaluation.labels(), took);
                decision_log::write(&evaluation, took, trace.as_ref());
                if let Some(denial_events) = &self.denial_events {
                    denial_events.emit(&evaluation);
                }
                let status = StatusCode::from_u16(evaluation.http_status());
                json(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), Body::from(answer))
            }
            Ok(Err(Unreadable::TooLarge)) => self.refuse_large_body().closing(),
            Ok(Err(Unreadable::Broken)) => {
                self.counts.refuse(Refusal::BodyBroken);
                refuse(StatusCode::BAD_REQUEST, "the body ended before its end, or its chunks are malformed").closing()
            }
            Err(_) => {
                self.counts.refuse(Refusal::BodyLate);
                refuse(StatusCode::GATEWAY_TIMEOUT, "the body did not arrive in time").closing()
            }
        }
    }

    async fn evaluate<'r>(&self, endpoint: Endpoint, body: &'r ParsedBody<'r>, deadline: Instant) -> Evaluation<'r> {
        // The guard lives as long as the request: settings that are replaced meanwhile apply to the next request.
        let settings = self.reviewer.settings();
        let evaluator = self.reviewer.evaluator(&settings);
        let evaluation = evaluator.evaluate(endpoint, body);
        match &self.rechecker {
            Some(rechecker) if matches!(evaluation.decision(), Decision::Denied | Decision::Patched) => {
                // Boxed, so that the other requests do not allocate its state.
                Box::pin(rechecker.confirm(evaluator, body, evaluation, deadline)).await
            }
            _ => evaluation,
        }
    }

    /// The body is read all the same, into nothing: under load a new TLS handshake for the client's next try would
    /// cost a hundred times as much.
    async fn answer_overload(&self, body: Body, deadline: Instant) -> Response {
        self.counts.refuse(Refusal::Overload);
        let mut response = refuse(StatusCode::SERVICE_UNAVAILABLE, "too many requests at once: try again in a second");
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        match timeout_at(deadline, body::discard(body, self.largest_body)).await {
            Ok(Ok(())) => response,
            _ => response.closing(),
        }
    }

    fn refuse_large_body(&self) -> Response {
        self.counts.refuse(Refusal::BodyTooLarge);
        let limit = self.largest_body;
        refuse(StatusCode::PAYLOAD_TOO_LARGE, &format!("the body has more than {limit} bytes (--max-body)"))
    }
}

/// `application/json`, with parameters or without (RFC 9110, section 8.3.1).
fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else { return false };
    let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(JSON.as_bytes())
}

/// An error for whoever sent no review. `message` has nothing that JSON would have to escape.
fn refuse(status: StatusCode, message: &str) -> Response {
    json(status, Body::from(format!(r#"{{"error":"{message}"}}"#)))
}

fn json(status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

trait Closing: Sized {
    fn closing(self) -> Self;
    fn closing_if_unread(self, request: &Request) -> Self;
}

impl Closing for Response {
    fn closing(mut self) -> Self {
        self.headers_mut().insert(CONNECTION, CLOSE);
        self
    }

    fn closing_if_unread(self, request: &Request) -> Self {
        if request.body().is_end_stream() { self } else { self.closing() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_told_by_its_media_type_alone() {
        for (value, expected) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/json ;x=y", true),
            ("application/json-patch+json", false),
            ("text/plain", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]);
            assert_eq!(is_json(&headers), expected, "{value:?}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}
