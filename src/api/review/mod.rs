//! The AdmissionReview of `admission.k8s.io/v1`, request and response.
//!
//! These are nicplug's own types instead of kube's for three reasons: the object is read into borrowed views in the
//! same pass, the uid is found even when the object cannot be read, and a patch is encoded in base64, as the API server
//! requires.

mod request;
mod response;

use std::{fmt, str};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, Visitor},
};

pub use self::{
    request::{GroupVersionKind, Object, ObjectKind, Operation, Request, UserInfo},
    response::{Failure, Response, ResponseReview, Status, StatusCause, StatusDetails, allowed_response},
};
use super::{JsonObject, JsonText, Text, json, nullable};

/// The only version of AdmissionReview that nicplug speaks.
pub const API_VERSION: &str = "admission.k8s.io/v1";

/// A body that is no AdmissionReview request: there is no uid to answer to.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The bytes are not JSON.
    #[error("the body is not JSON: {0}; send an AdmissionReview of admission.k8s.io/v1")]
    NotJson(String),
    /// The JSON is another kind or version.
    #[error("the body is {kind:?} of {api_version:?}; nicplug reads AdmissionReview of \"admission.k8s.io/v1\" only")]
    OtherType {
        /// `apiVersion` of the body.
        api_version: String,
        /// `kind` of the body.
        kind: String,
    },
    /// There is no `request`, or it lacks what every request has.
    #[error("the AdmissionReview cannot be answered: {0}")]
    NoRequest(String),
}

/// A request that was read, whole or as far as it could be.
#[derive(Debug)]
pub enum ParsedRequest<'a> {
    /// Every field that nicplug reads has its type.
    Valid(Request<'a>),
    /// `object` or `oldObject` has a field of a wrong type; neither is in the request.
    Invalid(Request<'a>, InvalidField),
}

/// A field that has another type than the API says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct InvalidField {
    /// Whether it is in `oldObject`, which is stored already and which the user cannot mend.
    pub in_old_object: bool,
    /// The path of the field from the object's root, as in `spec.networks[0].name`.
    pub field: String,
    /// What was found and what was expected.
    pub message: String,
}

/// Reads the body of a request in one pass; only a body that this pass cannot read costs further ones, which find the
/// uid and the path of what is wrong. The one pass is our own reader's; the further ones are serde_json's, which can
/// tell what is wrong.
///
/// # Errors
/// See [`BodyError`]: the answer to those is HTTP 400.
pub fn read(body: &[u8]) -> Result<ParsedRequest<'_>, BodyError> {
    // Checked once and as a whole: cheaper than for each string, and every text below is then known to be UTF-8.
    let text = simdutf8::basic::from_utf8(body).or_else(|_| {
        // Only the slower check says what is wrong.
        str::from_utf8(body).map_err(|error| BodyError::NotJson(error.to_string()))
    })?;
    match json::read_pair::<Body<Eager>>(text) {
        Ok(Body { api_version, kind, request: Some(Eager(request)) })
            if is_review(&api_version, &kind) && !request.uid.is_empty() =>
        {
            Ok(ParsedRequest::Valid(request))
        }
        _ => explain(text),
    }
}

/// Reads of a request who asks for what, and not its objects; `None` where there is no request.
#[must_use]
pub fn head(body: &[u8]) -> Option<Request<'_>> {
    let body: Body<Bare> = json::read(simdutf8::basic::from_utf8(body).ok()?).ok()?;
    body.request.map(|bare| bare.request)
}

/// Tells why a body could not be read, or reads of it what can be read.
fn explain(text: &str) -> Result<ParsedRequest<'_>, BodyError> {
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| BodyError::NotJson(error.to_string()))?;
    let body: Body<Bare> =
        serde_json::from_str(text).map_err(|error| BodyError::NoRequest(without_position(&error)))?;
    if !is_review(&body.api_version, &body.kind) {
        let (api_version, kind) = (body.api_version.to_string(), body.kind.to_string());
        return Err(BodyError::OtherType { api_version, kind });
    }
    let Some(Bare { request, object, old_object }) = body.request else {
        return Err(BodyError::NoRequest("request is missing".to_owned()));
    };
    if request.uid.is_empty() {
        return Err(BodyError::NoRequest("request.uid is missing".to_owned()));
    }
    let kind = ObjectKind::of(&request.kind);
    match find_invalid_field(kind, object, false).or_else(|| find_invalid_field(kind, old_object, true)) {
        Some(fault) => Ok(ParsedRequest::Invalid(request, fault)),
        None => Err(BodyError::NoRequest("it can be read by parts, yet not as a whole".to_owned())),
    }
}

fn is_review(api_version: &str, kind: &str) -> bool {
    api_version == API_VERSION && kind == "AdmissionReview"
}

fn find_invalid_field(kind: ObjectKind, text: Option<JsonText>, in_old_object: bool) -> Option<InvalidField> {
    let mut deserializer = serde_json::Deserializer::from_str(text?.as_str());
    let mut track = serde_path_to_error::Track::new();
    let error = kind.deserialize(serde_path_to_error::Deserializer::new(&mut deserializer, &mut track)).err()?;
    let message = without_position(&error);
    Some(InvalidField { in_old_object, field: track.path().to_string(), message })
}

/// The message of an error without line and column: an API server's body is one line that no person ever sees.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((message, _)) => message.to_owned(),
        None => text,
    }
}

/// The outermost JSON object, with the request read in one way or another.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a, R> {
    #[serde(borrow, default, deserialize_with = "nullable")]
    api_version: Text<'a>,
    #[serde(borrow, default, deserialize_with = "nullable")]
    kind: Text<'a>,
    request: Option<R>,
}

/// A request with its objects read on the way.
#[derive(Debug)]
struct Eager<'a>(Request<'a>);

/// A request with its objects left as text.
struct Bare<'a> {
    request: Request<'a>,
    object: Option<JsonText<'a>>,
    old_object: Option<JsonText<'a>>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Eager<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Bare { mut request, object, old_object } =
            deserializer.deserialize_map(RequestVisitor { reads_objects: true })?;
        // Only where an object stood before `kind`, which no API server does.
        let kind = ObjectKind::of(&request.kind);
        let read = |text: JsonText<'de>| json::read_seed(kind, text.as_str()).map_err(Error::custom);
        if let Some(text) = object {
            request.object = read(text)?;
        }
        if let Some(text) = old_object {
            request.old_object = read(text)?;
        }
        request.resolve_specs().map_err(Error::custom)?;
        Ok(Self(request))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Bare<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RequestVisitor { reads_objects: false })
    }
}

/// Written by hand because the type of the objects depends on `kind`.
struct RequestVisitor {
    reads_objects: bool,
}

impl<'de> Visitor<'de> for RequestVisitor {
    type Value = Bare<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the request of an AdmissionReview")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut request = Request::default();
        let (mut object, mut old_object) = (None, None);
        let mut kind = None;
        while let Some(key) = map.next_key::<Text>()? {
            match key.as_str() {
                "uid" => request.uid = map.next_value()?,
                "kind" => {
                    request.kind = map.next_value::<JsonObject<_>>()?.0;
                    kind = Some(ObjectKind::of(&request.kind)).filter(|_| self.reads_objects);
                }
                "subResource" => request.sub_resource = optional(&mut map)?,
                "namespace" => request.namespace = optional(&mut map)?,
                "name" => request.name = optional(&mut map)?,
                "operation" => request.operation = optional(&mut map)?,
                "userInfo" => request.user_info = map.next_value::<JsonObject<_>>()?.0,
                "dryRun" => request.dry_run = optional(&mut map)?,
                // Of two the last would count, and might repeat what went with the first.
                "object" if request.object.is_some() || object.is_some() => {
                    return Err(Error::duplicate_field("object"));
                }
                "oldObject" if request.old_object.is_some() || old_object.is_some() => {
                    return Err(Error::duplicate_field("oldObject"));
                }
                "object" => match kind {
                    Some(kind) => request.object = map.next_value_seed(kind)?,
                    None => object = map.next_value()?,
                },
                "oldObject" => match kind {
                    Some(kind) => request.old_object = map.next_value_seed(kind)?,
                    None => old_object = map.next_value()?,
                },
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Bare { request, object, old_object })
    }
}

fn optional<'de, A: MapAccess<'de>, T: Default + Deserialize<'de>>(map: &mut A) -> Result<T, A::Error> {
    Ok(map.next_value::<Option<T>>()?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, ptr};

    use super::*;
    use crate::api::vm::VirtualMachineSpec;

    fn body(request: &str) -> String {
        format!(r#"{{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{request}}}"#)
    }

    const VMI: &str = r#""kind":{"group":"kubevirt.io","version":"v1","kind":"VirtualMachineInstance"}"#;
    const VM: &str = r#""kind":{"group":"kubevirt.io","version":"v1","kind":"VirtualMachine"}"#;

    fn whole(text: &str) -> Request<'_> {
        match read(text.as_bytes()).unwrap() {
            ParsedRequest::Valid(request) => request,
            ParsedRequest::Invalid(_, fault) => panic!("{fault:?}"),
        }
    }

    fn fault(text: &str) -> (String, InvalidField) {
        match read(text.as_bytes()).unwrap() {
            ParsedRequest::Valid(request) => panic!("{request:?}"),
            ParsedRequest::Invalid(request, fault) => (request.uid.to_string(), fault),
        }
    }

    #[test]
    fn an_object_is_read_by_its_kind() {
        let text = body(&format!(
            r#"{{"uid":"u",{VM},"operation":"UPDATE","object":{{"spec":{{"template":{{"spec":{{"networks":[{{"name":"n"}}]}}}}}}}},"oldObject":null}}"#
        ));
        let request = whole(&text);
        let Some(Object::Vm(vm)) = &request.object else { panic!("{request:?}") };
        assert_eq!(vm.spec.template.spec.networks[0].name.as_str(), "n");
        assert!(request.old_object.is_none());
        assert_eq!(request.operation, Operation::Update);
    }

    #[test]
    fn the_order_of_the_fields_does_not_matter() {
        let text = body(&format!(
            r#"{{"oldObject":{{"metadata":{{"name":"old"}}}},"object":{{"metadata":{{"name":"new"}}}},{VM},"uid":"u"}}"#
        ));
        let request = whole(&text);
        let Some(Object::Vm(new)) = &request.object else { panic!("{request:?}") };
        let Some(Object::Vm(old)) = &request.old_object else { panic!("{request:?}") };
        assert_eq!((new.metadata.name.as_str(), old.metadata.name.as_str()), ("new", "old"));
    }

    #[test]
    fn the_uid_comes_back_from_an_object_with_a_field_of_a_wrong_type() {
        let text = body(&format!(
            r#"{{{VM},"object":{{"spec":{{"template":{{"spec":{{"domain":{{"devices":{{"interfaces":[{{}},{{"name":5}}]}}}}}}}}}}}},"uid":"after"}}"#
        ));
        let (uid, fault) = fault(&text);
        assert_eq!(uid, "after");
        assert_eq!(fault.field, "spec.template.spec.domain.devices.interfaces[1].name");
        assert_eq!(fault.message, "invalid type: integer `5`, expected a string");
        assert!(!fault.in_old_object);
    }

    #[test]
    fn a_fault_in_the_old_object_is_told_apart() {
        let text = body(&format!(r#"{{"uid":"u",{VM},"object":{{}},"oldObject":{{"spec":[]}}}}"#));
        let (_, fault) = fault(&text);
        assert!(fault.in_old_object);
        assert_eq!(fault.field, "spec");
    }

    #[test]
    fn a_spec_that_is_repeated_is_shared_and_any_other_is_read() {
        let spec = |name: &str| format!(r#"{{"template":{{"spec":{{"networks":[{{"name":"{name}"}}]}}}}}}"#);
        let request = |new: &str, old: &str| {
            body(&format!(
                r#"{{"uid":"u",{VM},"operation":"UPDATE","object":{{"metadata":{{"annotations":{{}}}},"spec":{new}}},"oldObject":{{"spec": {old}}}}}"#
            ))
        };
        for (new, old, is_shared) in [
            (spec("a"), spec("a"), true),
            (spec("a"), spec("b"), false),
            (spec("a"), spec("a").replace(':', " : "), false),
            ("null".to_owned(), "null".to_owned(), false),
            ("{}".to_owned(), "{}".to_owned(), true),
        ] {
            let text = request(&new, &old);
            let request = whole(&text);
            let (Some(Object::Vm(new)), Some(Object::Vm(old))) = (&request.object, &request.old_object) else {
                panic!("{request:?}")
            };
            assert_eq!(ptr::eq(&raw const *new.spec, &raw const *old.spec), is_shared, "{text}");
            let alone = old_spec(&text);
            assert_eq!(*old.spec, serde_json::from_str::<VirtualMachineSpec>(&alone).unwrap(), "{text}");
        }
    }

    /// `oldObject.spec` of a body, or an empty one.
    fn old_spec(body: &str) -> String {
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        match &body["request"]["oldObject"]["spec"] {
            serde_json::Value::Null => "{}".to_owned(),
            spec => spec.to_string(),
        }
    }

    #[test]
    fn only_what_changes_nothing_that_matters_is_unchanged() {
        let is_unchanged = |more: &str, new: &str, old: &str| {
            let text = body(&format!(
                r#"{{"uid":"u",{VMI},"object":{{{new}}},"oldObject":{{{old}}},"operation":"UPDATE"{more}}}"#
            ));
            let request = whole(&text);
            let Some(Object::Vmi(vmi)) = &request.object else { panic!("{request:?}") };
            assert_eq!(vmi.spec.networks.is_empty(), request.is_unchanged, "{text}");
            request.is_unchanged
        };
        let spec = r#""spec":{"networks":[{"name":"a"}]}"#;
        let with = |annotations: &str| format!(r#""metadata":{{"annotations":{annotations},"uid":"u"}},{spec}"#);
        assert!(is_unchanged("", spec, spec));
        assert!(is_unchanged("", &format!(r#"{spec},"status":{{"x":1}}"#), spec));
        assert!(is_unchanged("", &with(r#"{"other":"1"}"#), &with("{}")));
        assert!(!is_unchanged("", spec, &spec.replace('a', "b")));
        assert!(!is_unchanged("", &with(r#"{"nicplug.io/apply":"on-restart"}"#), &with("{}")));
        let asks = with(r#"{"nicplug.io/add-interfaces":"a=b"}"#);
        assert!(!is_unchanged("", &asks, &asks));
        assert!(!is_unchanged(r#","subResource":"status""#, spec, spec));
        assert!(!is_unchanged(r#","operation":"CREATE""#, spec, spec));
    }

    #[test]
    fn a_request_with_an_object_twice_is_none() {
        for twice in ["object", "oldObject"] {
            let text = body(&format!(
                r#"{{"uid":"u",{VM},"{twice}":{{"spec":{{"a":1}}}},"{twice}":{{"spec":{{}}}},"object":{{"spec":{{"a":1}}}}}}"#
            ));
            let error = read(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(&format!("duplicate field `{twice}`")), "{error}");
        }
    }

    #[test]
    fn objects_of_other_kinds_are_skipped_whatever_they_hold() {
        let text = body(
            r#"{"uid":"u","kind":{"group":"apps","version":"v1","kind":"Deployment"},"object":{"spec":7,"metadata":[]}}"#,
        );
        assert!(matches!(whole(&text).object, Some(Object::Other)));
    }

    /// A body with all that was put off.
    fn shown(mut body: Body<Eager>) -> String {
        if let Some(Eager(request)) = &mut body.request {
            request.read_specs().unwrap();
            request.is_unchanged = false;
        }
        format!("{body:?}")
    }

    #[test]
    fn a_real_review_is_read_as_serde_json_reads_it_however_it_is_cut() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/reviews");
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let reviews: Vec<_> =
            files.filter(|file| file.extension().is_some_and(|extension| extension == "json")).collect();
        assert!(!reviews.is_empty());
        let read = |text: &str| {
            let ours = json::read_pair::<Body<Eager>>(text).map(shown).ok();
            let theirs = serde_json::from_str::<Body<Eager>>(text).map(shown).ok();
            // What is cut where nobody reads may still be walked past.
            assert!(theirs.is_none() || ours == theirs, "{text}");
            theirs.is_some()
        };
        for file in reviews {
            let text = fs::read_to_string(file).unwrap();
            assert!(read(&text));
            for place in (0..text.len()).step_by(37) {
                let (start, end) = (&text[..place], &text[place + 1..]);
                read(&format!("{start}{end}"));
                read(&format!("{start}0{end}"));
                read(&format!("{start}\"{end}"));
            }
        }
    }

    #[test]
    fn an_allowing_answer_has_the_bytes_of_any_other_answer() {
        for uid in ["4ab850ca-bb05-4514-9f30-5d166d14a1ec", "", "\"quoted\" \\ \n é"] {
            let status = Status { code: 200, failure: None };
            let response = Response { uid, allowed: true, status, patch: None, warnings: &[] };
            let long = serde_json::to_string(&ResponseReview::new(&response)).unwrap();
            assert_eq!(String::from_utf8(allowed_response(uid)).unwrap(), long);
        }
    }

    #[test]
    fn a_body_that_is_no_request_says_what_is_missing() {
        let error = |text: &str| read(text.as_bytes()).unwrap_err().to_string();
        assert!(error("").starts_with("the body is not JSON: EOF"), "{}", error(""));
        assert!(error("{\"a\":").contains("not JSON"));
        assert!(error("[]").contains("cannot be answered"), "{}", error("[]"));
        assert!(error("{}").contains("nicplug reads AdmissionReview"), "{}", error("{}"));
        assert!(error(&body("null")).contains("request is missing"));
        assert!(error(&body("{}")).contains("request.uid is missing"));
        assert!(error(&body(r#"{"uid":5}"#)).contains("expected a string"));
        let beta = r#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1beta1","request":{"uid":"u"}}"#;
        assert!(error(beta).contains("\"admission.k8s.io/v1beta1\""), "{}", error(beta));
        assert!(read(b"\xff\xfe").unwrap_err().to_string().contains("not JSON"));
    }
}
