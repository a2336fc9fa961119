//! `response` of an AdmissionReview.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::{Serialize, Serializer, ser::SerializeStruct};

use super::API_VERSION;

/// The answer that almost every request gets, in the bytes that [`ResponseReview`] would be written in: allowed, and
/// nothing more to say.
#[must_use]
pub fn allowed_response(uid: &str) -> Vec<u8> {
    const START: &[u8] = br#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":"#;
    const END: &[u8] = br#","allowed":true,"status":{"code":200}}}"#;
    let mut text = Vec::with_capacity(START.len() + uid.len() + 2 + END.len());
    text.extend_from_slice(START);
    // A string always has a JSON form, and a vector always takes it.
    let _ = serde_json::to_writer(&mut text, uid);
    text.extend_from_slice(END);
    text
}

/// The answer to a request: an AdmissionReview with a `response`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ResponseReview<'r> {
    api_version: &'static str,
    kind: &'static str,
    response: &'r Response<'r>,
}

impl<'r> ResponseReview<'r> {
    /// Wraps a response.
    #[must_use]
    pub fn new(response: &'r Response<'r>) -> Self {
        Self { api_version: API_VERSION, kind: "AdmissionReview", response }
    }
}

/// `response` of an AdmissionReview.
#[derive(Debug)]
pub struct Response<'r> {
    /// `uid` of the request.
    pub uid: &'r str,
    /// Whether the request may go on.
    pub allowed: bool,
    /// Why it may not. An API server does not read it when the request may go on; other readers expect it to be there.
    pub status: Status<'r>,
    /// `patchType` and `patch`: what to change, as JSON patch of RFC 6902.
    pub patch: Option<&'r json_patch::Patch>,
    /// Lines that kubectl prints.
    pub warnings: &'r [String],
}

/// Written by hand, as is that of [`Status`]: a derived one that flattens costs every answer twice as much.
impl Serialize for Response<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let length = 3 + self.patch.map_or(0, |_| 2) + usize::from(!self.warnings.is_empty());
        let mut response = serializer.serialize_struct("Response", length)?;
        response.serialize_field("uid", self.uid)?;
        response.serialize_field("allowed", &self.allowed)?;
        response.serialize_field("status", &self.status)?;
        if let Some(patch) = self.patch {
            let text = serde_json::to_vec(patch).map_err(serde::ser::Error::custom)?;
            response.serialize_field("patchType", "JSONPatch")?;
            response.serialize_field("patch", &BASE64.encode(text))?;
        }
        if !self.warnings.is_empty() {
            response.serialize_field("warnings", self.warnings)?;
        }
        response.end()
    }
}

/// `metav1.Status` of a response.
#[derive(Debug)]
pub struct Status<'r> {
    /// The HTTP status that the API server answers the user with.
    pub code: u16,
    /// What the user reads.
    pub failure: Option<Failure<'r>>,
}

impl Serialize for Status<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut status = serializer.serialize_struct("Status", if self.failure.is_some() { 5 } else { 1 })?;
        status.serialize_field("code", &self.code)?;
        if let Some(Failure { reason, message, details }) = &self.failure {
            status.serialize_field("status", "Failure")?;
            status.serialize_field("reason", reason)?;
            status.serialize_field("message", message)?;
            status.serialize_field("details", details)?;
        }
        status.end()
    }
}

/// What a `metav1.Status` says of a denial.
#[derive(Debug)]
pub struct Failure<'r> {
    /// A machine-readable reason, such as `Invalid`.
    pub reason: &'static str,
    /// Everything that is wrong, for clients that show no causes.
    pub message: String,
    /// Everything that is wrong, one by one.
    pub details: StatusDetails<'r>,
}

/// `details` of a `metav1.Status`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusDetails<'r> {
    /// Of the object.
    pub group: &'r str,
    /// Of the object.
    pub kind: &'r str,
    /// Of the object.
    pub name: &'r str,
    /// What kubectl prints: `FIELD: MESSAGE` each.
    pub causes: Vec<StatusCause<'r>>,
}

/// `details.causes[]` of a `metav1.Status`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusCause<'r> {
    /// One of Kubernetes' cause types, such as `FieldValueInvalid`.
    pub reason: &'static str,
    /// What is wrong and how to fix it.
    pub message: &'r str,
    /// Where it is wrong.
    pub field: &'r str,
}
