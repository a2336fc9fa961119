//! The third step: an evaluation becomes the body of the answer.

use serde::Serialize;

use super::Evaluation;
use crate::api::review::{
    self, BodyError, Failure, Request, Response, ResponseReview, Status, StatusCause, StatusDetails,
};

/// The capacity that is enough for most answers, in bytes.
const ANSWER_LENGTH: usize = 192;

/// The longest name of an object, in bytes.
const NAME_LENGTH: usize = 253;

impl Evaluation<'_> {
    /// Returns the status of the HTTP response.
    #[must_use]
    pub fn http_status(&self) -> u16 {
        if self.request.is_ok() { 200 } else { 400 }
    }

    /// Returns the body of the HTTP response, as JSON.
    #[must_use]
    pub fn render(&self) -> Vec<u8> {
        let request = match self.request {
            Ok(request) => request,
            Err(error) => return render_error(error),
        };
        if self.verdict.is_allowed() && self.patch.is_none() && self.verdict.warnings.is_empty() {
            return review::allowed_response(&request.uid);
        }
        let response = Response {
            uid: &request.uid,
            allowed: self.verdict.is_allowed(),
            status: self.status(request),
            patch: self.patch.as_ref(),
            warnings: &self.verdict.warnings,
        };
        to_json(&ResponseReview::new(&response))
    }

    fn status<'s>(&'s self, request: &'s Request) -> Status<'s> {
        if self.verdict.is_allowed() {
            return Status { code: 200, failure: None };
        }
        let causes = self.verdict.causes.iter().map(|cause| StatusCause {
            reason: cause.reason.as_str(),
            message: &cause.message,
            field: &cause.field,
        });
        let details = StatusDetails {
            group: shorten(&request.kind.group),
            kind: shorten(&request.kind.kind),
            name: shorten(&request.name),
            causes: causes.collect(),
        };
        let failure = Failure { reason: "Invalid", message: self.verdict.message(), details };
        Status { code: 422, failure: Some(failure) }
    }
}

/// Cuts a name that no object can have, so that the answer stays short.
fn shorten(name: &str) -> &str {
    name.get(..name.floor_char_boundary(NAME_LENGTH)).unwrap_or(name)
}

fn render_error(error: &BodyError) -> Vec<u8> {
    #[derive(Serialize)]
    struct ErrorBody {
        error: String,
    }

    to_json(&ErrorBody { error: error.to_string() })
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    let mut text = Vec::with_capacity(ANSWER_LENGTH);
    // Writing cannot fail: strings, numbers and lists of them have a JSON form, and the vector grows.
    let _ = serde_json::to_writer(&mut text, value);
    text
}
