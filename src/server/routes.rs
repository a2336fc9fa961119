//! `POST /validate` and `POST /mutate`: from the HTTP request to the HTTP response.
//!
//! A request that is not a review gets an HTTP error and `{"error": "…"}`. A response that leaves a part of the body
//! unread has `Connection: close`, because the next request could not be told from the rest of the body.

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
use tokio::time::Instant;

use super::{
    body::{self, BodyBudget, BodyLimits, ReadError},
    change_events::ChangeEvents,
    counts::{Counts, RefusalReason},
    deadline::answer_within,
    decision_log::{self, Trace},
    denial_events::DenialEvents,
    denials::DenialCounts,
    in_flight::InFlight,
    overload::{Overload, Waited},
    recheck::Rechecker,
};
use crate::{
    admission::{self, Decision, Endpoint, Evaluation, Reviewer},
    telemetry::spans::Spans,
};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub(super) const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// Returns the routes of the webhook.
pub(super) fn router(state: AppState) -> Router {
    Router::new()
        .route("/validate", post(validate))
        .route("/mutate", post(mutate))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .with_state(Arc::new(state))
}

async fn validate(State(state): State<Arc<AppState>>, request: Request) -> Response {
    state.respond(Endpoint::Validate, request).await
}

async fn mutate(State(state): State<Arc<AppState>>, request: Request) -> Response {
    state.respond(Endpoint::Mutate, request).await
}

async fn method_not_allowed(State(state): State<Arc<AppState>>, request: Request) -> Response {
    state.counts.add_refused(RefusalReason::Method);
    // axum adds the Allow header.
    error(StatusCode::METHOD_NOT_ALLOWED, "send the AdmissionReview with POST").closing_if_unread(&request)
}

async fn not_found(State(state): State<Arc<AppState>>, request: Request) -> Response {
    state.counts.add_refused(RefusalReason::Path);
    error(StatusCode::NOT_FOUND, "unknown path: send the AdmissionReview to /validate or /mutate")
        .closing_if_unread(&request)
}

/// The state of the routes.
pub(super) struct AppState {
    pub(super) reviewer: Reviewer,
    /// `None` without a cluster.
    pub(super) rechecker: Option<Rechecker>,
    /// `None` without a cluster.
    pub(super) denial_events: Option<DenialEvents>,
    /// `None` without a cluster.
    pub(super) change_events: Option<ChangeEvents>,
    pub(super) denials: DenialCounts,
    pub(super) counts: Counts,
    pub(super) in_flight: Arc<InFlight>,
    pub(super) overload: Overload,
    /// `None` without a collector.
    pub(super) spans: Option<Spans>,
    /// The limit of a body, in bytes.
    pub(super) max_body: usize,
    /// The bytes that all bodies together may take.
    pub(super) bodies: Arc<BodyBudget>,
    /// The time in which a part of a body must arrive.
    pub(super) body_window: Duration,
    /// The limit of the time to answer.
    pub(super) timeout: Duration,
}

impl AppState {
    async fn respond(&self, endpoint: Endpoint, request: Request) -> Response {
        if !is_json(request.headers()) {
            self.counts.add_refused(RefusalReason::MediaType);
            return error(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the content type must be application/json")
                .closing_if_unread(&request);
        }
        let trace = self.spans.as_ref().and_then(|spans| Trace::of(spans, request.headers()));
        let start = Instant::now();
        let time = answer_within(request.uri().query(), self.timeout);
        let deadline = start + time;
        let waited = request.extensions().get::<Waited>().copied();
        let limits = BodyLimits { length: self.max_body, start, deadline, window: self.body_window };
        let mut share = self.bodies.share();
        let mut body = request.into_body();
        match body::read(&mut body, limits, &mut share).await {
            Ok(body) if self.overload.refuses(waited, body.len(), time).await => {
                self.respond_overload(RefusalReason::Processor, "the request waited too long for the processor")
            }
            Ok(body) => {
                // A place is taken only now, so that a client that sends slowly takes none.
                let Some(_permit) = self.in_flight.enter() else {
                    return self.respond_overload(RefusalReason::Overload, "too many requests at once");
                };
                // The body is parsed once; everything below borrows from it.
                let parsed = admission::parse(&body);
                // Held for the whole request: settings that are replaced meanwhile apply to the next one.
                let settings = self.reviewer.settings();
                let evaluator = self.reviewer.evaluator(&settings);
                let mut evaluation = evaluator.evaluate(endpoint, &parsed);
                if let Some(rechecker) = self.rechecker_for(&evaluation) {
                    // Boxed, so that the other requests do not allocate the state of a recheck.
                    evaluation = Box::pin(rechecker.confirm(evaluator, &parsed, evaluation, deadline)).await;
                }
                let answer = evaluation.render();
                let took = start.elapsed();
                self.counts.add(evaluation.labels(), took);
                self.denials.add(&evaluation, |user| self.is_of_kubevirt(user));
                decision_log::write(&evaluation, took, trace.as_ref());
                if let Some(denial_events) = &self.denial_events {
                    denial_events.emit(&evaluation);
                }
                if let Some(change_events) = &self.change_events {
                    change_events.follow(evaluator, &evaluation, &settings);
                }
                let status = StatusCode::from_u16(evaluation.http_status());
                json(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), Body::from(answer))
            }
            Err(ReadError::TooLarge) => self.respond_too_large().closing(),
            Err(ReadError::Full) => {
                drop(share);
                self.respond_full(body, limits).await
            }
            Err(ReadError::Broken) => {
                self.counts.add_refused(RefusalReason::BodyBroken);
                error(StatusCode::BAD_REQUEST, "the body is incomplete, or its chunks are malformed").closing()
            }
            Err(ReadError::Late) => {
                self.counts.add_refused(RefusalReason::BodyLate);
                error(StatusCode::GATEWAY_TIMEOUT, "the body did not arrive in time").closing()
            }
            Err(ReadError::Slow) => {
                self.counts.add_refused(RefusalReason::BodySlow);
                error(StatusCode::REQUEST_TIMEOUT, "the body arrived too slowly").closing()
            }
        }
    }

    /// Whether a user is a component of KubeVirt; `false` without a cluster.
    fn is_of_kubevirt(&self, user: &str) -> bool {
        self.denial_events.as_ref().is_some_and(|events| events.is_of_kubevirt(user))
    }

    /// Returns the rechecker if newer facts could change the evaluation.
    fn rechecker_for(&self, evaluation: &Evaluation) -> Option<&Rechecker> {
        let is_harmful = matches!(evaluation.decision(), Decision::Denied | Decision::Patched);
        let is_postponed = !evaluation.verdict().postponed.is_empty();
        self.rechecker.as_ref().filter(|_| is_harmful || is_postponed)
    }

    /// Responds, and keeps the connection: a new TLS handshake for the client's next try takes a hundred times as long.
    fn respond_overload(&self, reason: RefusalReason, what: &str) -> Response {
        self.counts.add_refused(reason);
        let mut response = error(StatusCode::SERVICE_UNAVAILABLE, &format!("{what}: try again in a second"));
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        response
    }

    /// Discards the rest of the body and responds; the connection is kept as for other overload.
    async fn respond_full(&self, body: Body, limits: BodyLimits) -> Response {
        let what = "the bodies of all requests are too large together";
        let response = self.respond_overload(RefusalReason::BodiesTooLarge, what);
        match body::discard(body, limits).await {
            Ok(()) => response,
            Err(_) => response.closing(),
        }
    }

    fn respond_too_large(&self) -> Response {
        self.counts.add_refused(RefusalReason::BodyTooLarge);
        let limit = self.max_body;
        error(StatusCode::PAYLOAD_TOO_LARGE, &format!("the body has more than {limit} bytes (--max-body)"))
    }
}

/// Whether the content type is `application/json`, with or without parameters (RFC 9110, section 8.3.1).
fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else { return false };
    let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(JSON.as_bytes())
}

/// Returns the response to a request that is not a review. `message` must not have characters that JSON escapes.
fn error(status: StatusCode, message: &str) -> Response {
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
    fn only_the_media_type_says_that_a_body_is_json() {
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
