//! The third step: an evaluation becomes the body of the answer.

use std::borrow::Cow;

use serde::Serialize;

use super::{Evaluation, verdict::without_control_characters};
use crate::api::{
    quote::cut_inside,
    review::{self, BodyError, Failure, Request, Response, ResponseReview, Status, StatusCause, StatusDetails},
};

/// The capacity that is enough for most answers, in bytes.
const ANSWER_LENGTH: usize = 192;

/// The longest name of an object, in bytes.
const NAME_LENGTH: usize = 253;

/// The longest name before a warning, in characters: the longest that a VM can have, because KubeVirt writes it to a
/// label. With the name, a warning stays below the 256 characters at which the API server may cut it.
const WARNED_NAME_LENGTH: usize = 63;

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
        let warnings = named(&self.verdict.warnings, request.object_name());
        let response = Response {
            uid: &request.uid,
            allowed: self.verdict.is_allowed(),
            status: self.status(request),
            patch: self.patch.as_ref().map(|patch| &*patch.text),
            warnings: &warnings,
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

/// Returns the warnings, each after the name of its object: kubectl prints equal lines once, so that the warnings about
/// two objects of one `kubectl apply` would look like those about one.
fn named<'w>(warnings: &'w [String], name: &str) -> Cow<'w, [String]> {
    if name.is_empty() || warnings.is_empty() {
        return Cow::Borrowed(warnings);
    }
    let name = cut_inside(name, WARNED_NAME_LENGTH);
    let name = without_control_characters(&name);
    warnings.iter().map(|warning| format!("{name}: {warning}")).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_warning_begins_with_the_name_of_its_object() {
        let warnings = ["\"blue\" waits [NP112]".to_owned(), "not known [NP101]".to_owned()];
        assert_eq!(*named(&warnings, "web-0"), ["web-0: \"blue\" waits [NP112]", "web-0: not known [NP101]"]);
        assert_eq!(*named(&warnings, ""), warnings, "the name is not generated yet");
        assert!(named(&[], "web-0").is_empty());
        // Names that differ only at their ends stay different.
        let long = |end: &str| format!("{}{end}", "x".repeat(300));
        let [one, other] = ["one", "two"].map(|end| named(&warnings, &long(end))[0].clone());
        assert!(one != other && one.chars().count() == WARNED_NAME_LENGTH + 2 + warnings[0].len(), "{one}");
        assert!(!named(&warnings, "a\nb")[0].contains('\n'));
    }
}
