//! `response` of an AdmissionReview.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::{Serialize, Serializer, ser::SerializeStruct};

use super::API_VERSION;

/// Returns the response to almost every request: allowed, without warnings or patch. The bytes equal those of a
/// serialized [`ResponseReview`].
#[must_use]
pub fn allowed_response(uid: &str) -> Vec<u8> {
    const START: &[u8] = br#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":"#;
    const END: &[u8] = br#","allowed":true,"status":{"code":200}}}"#;
    let mut text = Vec::with_capacity(START.len() + uid.len() + 2 + END.len());
    text.extend_from_slice(START);
    // Serializing a string to a vector cannot fail.
    let _ = serde_json::to_writer(&mut text, uid);
    text.extend_from_slice(END);
    text
}

/// An AdmissionReview with a `response`.
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
    /// Whether the request is allowed.
    pub allowed: bool,
    /// The reason of a denial. An API server ignores it in a response that allows; other clients expect it there too.
    pub status: Status<'r>,
    /// `patchType` and `patch`: a JSON patch (RFC 6902) as text.
    pub patch: Option<&'r [u8]>,
    /// `warnings`: kubectl prints each on a line.
    pub warnings: &'r [String],
}

/// Not derived, like that of [`Status`]: a derived implementation with `flatten` costs twice as much per response.
impl Serialize for Response<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let length = 3 + self.patch.map_or(0, |_| 2) + usize::from(!self.warnings.is_empty());
        let mut response = serializer.serialize_struct("Response", length)?;
        response.serialize_field("uid", self.uid)?;
        response.serialize_field("allowed", &self.allowed)?;
        response.serialize_field("status", &self.status)?;
        if let Some(patch) = self.patch {
            response.serialize_field("patchType", "JSONPatch")?;
            response.serialize_field("patch", &BASE64.encode(patch))?;
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
    /// The HTTP status of the API server's response to the user.
    pub code: u16,
    /// The text for the user; `None` if the request is allowed.
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

/// The fields of a `metav1.Status` for a denial.
#[derive(Debug)]
pub struct Failure<'r> {
    /// A machine-readable reason, such as `Invalid`.
    pub reason: &'static str,
    /// All causes in one text, for clients that show no causes.
    pub message: String,
    /// The causes one by one.
    pub details: StatusDetails<'r>,
}

/// `details` of a `metav1.Status`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusDetails<'r> {
    /// `group` of the object.
    pub group: &'r str,
    /// `kind` of the object.
    pub kind: &'r str,
    /// `name` of the object.
    pub name: &'r str,
    /// The causes, which kubectl prints as `FIELD: MESSAGE`.
    pub causes: Vec<StatusCause<'r>>,
}

/// `details.causes[]` of a `metav1.Status`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusCause<'r> {
    /// One of Kubernetes' cause types, such as `FieldValueInvalid`.
    pub reason: &'static str,
    /// What is wrong, and how to fix it.
    pub message: &'r str,
    /// The path of the field.
    pub field: &'r str,
}
