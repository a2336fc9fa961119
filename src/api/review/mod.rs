//! The AdmissionReview of `admission.k8s.io/v1`, request and response.
//!
//! These are nicplug's own types instead of kube's for three reasons: the object is read into borrowed views in the
//! same pass, the uid is found even when the object cannot be read, and a patch is encoded in base64, as the API server
//! requires.

mod request;
mod response;
mod shortened;

use std::{fmt, str};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, Visitor},
};

use self::shortened::shortened;
pub use self::{
    request::{GroupVersionKind, Object, ObjectKind, Operation, Request, UserInfo},
    response::{Failure, Response, ResponseReview, Status, StatusCause, StatusDetails, allowed_response},
};
use super::{
    JsonObject, JsonText, Text, json, nullable,
    quote::{cut_middle, quote, written},
};

/// The only version of AdmissionReview that nicplug supports.
pub const API_VERSION: &str = "admission.k8s.io/v1";

/// The longest uid of a request that a response repeats, in bytes. The API server sends 36.
const UID_AT_MOST: usize = 256;

/// The longest name and namespace of a request, in bytes: that of any name in Kubernetes. Both are copied for each NIC.
const NAME_AT_MOST: usize = 253;

/// A body that is not an AdmissionReview request, so the response cannot have a uid.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The bytes are not JSON.
    #[error("the body is not JSON: {0}; send an AdmissionReview of admission.k8s.io/v1")]
    NotJson(String),
    /// The JSON is another kind or version.
    #[error(
        "the body is {} of {}; nicplug reads AdmissionReview of \"admission.k8s.io/v1\" only",
        quote(.kind),
        quote(.api_version)
    )]
    OtherType {
        /// `apiVersion` of the body.
        api_version: String,
        /// `kind` of the body.
        kind: String,
    },
    /// There is no `request`, or it lacks a required field.
    #[error("the AdmissionReview cannot be answered: {0}")]
    InvalidRequest(String),
}

/// A request that was read, completely or as far as possible.
#[derive(Debug)]
pub enum ParsedRequest<'a> {
    /// Every field that nicplug reads has the expected type.
    Valid(Request<'a>),
    /// `object` or `oldObject` has a field of a wrong type. The request holds neither of the two.
    Invalid(Request<'a>, InvalidField),
}

/// A field of another type than in the API.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct InvalidField {
    /// Whether it is in `oldObject`, which is already stored and which the user cannot fix.
    pub in_old_object: bool,
    /// The path of the field from the object's root, as in `spec.networks[0].name`.
    pub field: String,
    /// The type that was found, and the expected one.
    pub message: String,
}

/// Reads the body of a request in one pass, with nicplug's own JSON reader. Only if that fails, serde_json reads the
/// body again to find the uid, the path of the wrong field and the reason.
///
/// # Errors
/// See [`BodyError`]: the response to those is HTTP 400.
pub fn read(body: &[u8]) -> Result<ParsedRequest<'_>, BodyError> {
    #[cfg(test)]
    parse_count::add();
    // One check of the whole body is cheaper than one per string.
    let text = simdutf8::basic::from_utf8(body).or_else(|_| {
        // Only the slower check gives a reason.
        str::from_utf8(body).map_err(|error| BodyError::NotJson(error.to_string()))
    })?;
    match json::read_pair::<Body<Eager>>(text) {
        Ok(Body { api_version, kind, request: Some(Eager(request)) })
            if is_review(&api_version, &kind) && check_lengths(&request).is_ok() =>
        {
            Ok(ParsedRequest::Valid(request))
        }
        _ => explain(text),
    }
}

/// Counts the calls of [`read`] on this thread, for a test that a body is parsed once.
#[cfg(test)]
pub(crate) mod parse_count {
    use std::cell::Cell;

    thread_local! {
        static CALLS: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn add() {
        CALLS.set(CALLS.get() + 1);
    }

    /// Returns the number of calls since the last time, and starts again from 0.
    pub(crate) fn take() -> usize {
        CALLS.replace(0)
    }
}

/// Finds the reason why a body cannot be read, and reads the readable part of it.
fn explain(text: &str) -> Result<ParsedRequest<'_>, BodyError> {
    let body: Body<Bare> = json::read(text).map_err(|json::JsonError| reason(text))?;
    if !is_review(&body.api_version, &body.kind) {
        let (api_version, kind) = (body.api_version.to_string(), body.kind.to_string());
        return Err(BodyError::OtherType { api_version, kind });
    }
    let Some(Bare { request, object, old_object }) = body.request else {
        return Err(BodyError::InvalidRequest("request is missing".to_owned()));
    };
    check_lengths(&request)?;
    let kind = ObjectKind::of(&request.kind);
    let objects = [(object, false), (old_object, true)];
    let objects = objects.into_iter().filter_map(|(text, in_old_object)| Some((text?.as_str(), in_old_object)));
    let (long, short): (Vec<_>, Vec<_>) = objects.partition(|(text, _)| text.len() > OBJECT_EXPLAINED);
    for (text, in_old_object) in short {
        if let Some(fault) = find_invalid_field(kind, text, in_old_object)? {
            return Ok(ParsedRequest::Invalid(request, fault));
        }
    }
    // Something cannot be read, and it is neither a part around the objects nor in a short one.
    match long.first() {
        Some(&(text, in_old_object)) => {
            let message = format!("a field of the object is not of the type in the API ({} bytes)", text.len());
            let fault = InvalidField { in_old_object, field: "metadata.name".to_owned(), message };
            Ok(ParsedRequest::Invalid(request, fault))
        }
        None => Err(unreadable_whole()),
    }
}

/// Checks the fields of a request that only the API server writes, and that nicplug repeats.
fn check_lengths(request: &Request) -> Result<(), BodyError> {
    if request.uid.is_empty() {
        return Err(BodyError::InvalidRequest("request.uid is missing".to_owned()));
    }
    let bounds = [
        ("uid", request.uid.len(), "a response repeats", UID_AT_MOST),
        ("namespace", request.namespace.len(), "a name in Kubernetes has", NAME_AT_MOST),
        ("name", request.name.len(), "a name in Kubernetes has", NAME_AT_MOST),
    ];
    match bounds.into_iter().find(|(_, length, _, at_most)| length > at_most) {
        Some((field, length, what, at_most)) => {
            let message = format!("request.{field} has {length} bytes, but {what} at most {at_most}");
            Err(BodyError::InvalidRequest(message))
        }
        None => Ok(()),
    }
}

fn unreadable_whole() -> BodyError {
    BodyError::InvalidRequest("its parts can be read, but not the whole".to_owned())
}

/// The bytes of a body in which serde_json looks for the reason why its outer parts cannot be read. It takes 40
/// instructions for each, and only a client that is not an API server sends such a body.
const EXPLAINED: usize = 16 << 10;

/// The longest object in which the field of a wrong type is looked for, in bytes. Real ones are far shorter, and looking
/// for it takes ten times as long as reading the object.
const OBJECT_EXPLAINED: usize = 1 << 20;

/// The longest path of a field in an answer, in bytes. A key may be as long as the body.
const PATH_AT_MOST: usize = 512;

/// Returns why the parts around the objects of a body cannot be read.
fn reason(text: &str) -> BodyError {
    let start = text.floor_char_boundary(EXPLAINED);
    match serde_json::from_str::<Body<Bare>>(&text[..start]) {
        Err(error) if error.is_data() => BodyError::InvalidRequest(without_position(&error)),
        Err(error) if error.is_eof() && start < text.len() => {
            BodyError::InvalidRequest(format!("there is a fault after its first {start} bytes"))
        }
        Err(error) => BodyError::NotJson(error.to_string()),
        Ok(_) => unreadable_whole(),
    }
}

fn is_review(api_version: &str, kind: &str) -> bool {
    api_version == API_VERSION && kind == "AdmissionReview"
}

/// Returns the field of an object that has another type than in the API.
fn find_invalid_field(kind: ObjectKind, text: &str, in_old_object: bool) -> Result<Option<InvalidField>, BodyError> {
    let text = &shortened(text);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let mut track = serde_path_to_error::Track::new();
    let read = kind.deserialize(serde_path_to_error::Deserializer::new(&mut deserializer, &mut track));
    let Err(error) = read else { return Ok(None) };
    if !error.is_data() {
        // JSON that is nested too deeply is JSON.
        serde_json::from_str::<IgnoredAny>(text).map_err(|error| BodyError::NotJson(error.to_string()))?;
    }
    let message = without_position(&error);
    Ok(Some(InvalidField { in_old_object, field: written(track.path(), PATH_AT_MOST), message }))
}

/// Returns the message of an error without line and column, which are useless for a body that the user never sees.
///
/// serde quotes a value of a wrong type, which may be as long as the body.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    cut_middle(match text.rsplit_once(" at line ") {
        Some((message, _)) => message.to_owned(),
        None => text,
    })
}

/// The outermost JSON object. `R` decides how the request is read.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a, R> {
    #[serde(borrow, default, deserialize_with = "nullable")]
    api_version: Text<'a>,
    #[serde(borrow, default, deserialize_with = "nullable")]
    kind: Text<'a>,
    request: Option<R>,
}

/// A request whose objects are read.
#[derive(Debug)]
struct Eager<'a>(Request<'a>);

/// A request whose objects stay JSON text.
struct Bare<'a> {
    request: Request<'a>,
    object: Option<JsonText<'a>>,
    old_object: Option<JsonText<'a>>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Eager<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Bare { mut request, object, old_object } =
            deserializer.deserialize_map(RequestVisitor { reads_objects: true })?;
        // Only if an object comes before `kind`. No API server does that.
        let kind = ObjectKind::of(&request.kind);
        let read = |text: JsonText<'de>| json::read_seed(kind, text.as_str()).map_err(Error::custom);
        if let Some(text) = object {
            request.object = read(text)?;
        }
        if let Some(text) = old_object {
            request.old_object = read(text)?;
        }
        request.resolve().map_err(Error::custom)?;
        Ok(Self(request))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Bare<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RequestVisitor { reads_objects: false })
    }
}

/// Not derived, because the type of the objects depends on `kind`.
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
                // The last one would count, and might repeat a value that was lost with the first one.
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

    use proptest::prelude::*;

    use super::*;
    use crate::api::vm::VirtualMachineSpec;

    fn body(request: &str) -> String {
        format!(r#"{{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{request}}}"#)
    }

    const VMI: &str = r#""kind":{"group":"kubevirt.io","version":"v1","kind":"VirtualMachineInstance"}"#;
    const VM: &str = r#""kind":{"group":"kubevirt.io","version":"v1","kind":"VirtualMachine"}"#;
    const POOL: &str = r#""kind":{"group":"pool.kubevirt.io","version":"v1","kind":"VirtualMachinePool"}"#;

    fn valid(text: &str) -> Request<'_> {
        match read(text.as_bytes()).unwrap() {
            ParsedRequest::Valid(request) => request,
            ParsedRequest::Invalid(_, fault) => panic!("{fault:?}"),
        }
    }

    fn invalid(text: &str) -> (String, InvalidField) {
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
        let request = valid(&text);
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
        let request = valid(&text);
        let Some(Object::Vm(new)) = &request.object else { panic!("{request:?}") };
        let Some(Object::Vm(old)) = &request.old_object else { panic!("{request:?}") };
        assert_eq!((new.metadata.name.as_str(), old.metadata.name.as_str()), ("new", "old"));
    }

    #[test]
    fn the_groups_of_the_user_are_read_only_from_a_list_of_strings() {
        for (user_info, expected) in [
            (r#"{"username":"alice","groups":["ops","system:authenticated"]}"#, &["ops", "system:authenticated"][..]),
            (r#"{"groups": [ "a\"b" ], "username": "alice"}"#, &["a\"b"]),
            (r#"{"username":"alice"}"#, &[]),
            (r#"{"username":"alice","groups":null}"#, &[]),
            (r#"{"username":"alice","groups":5}"#, &[]),
            (r#"{"username":"alice","groups":["ops",5]}"#, &[]),
        ] {
            let text = body(&format!(r#"{{"uid":"u",{VM},"userInfo":{user_info}}}"#));
            let request = valid(&text);
            assert_eq!(request.user_info.username.as_str(), "alice");
            let groups = request.user_info.groups();
            assert_eq!(groups.iter().map(Text::as_str).collect::<Vec<_>>(), expected, "{user_info}");
        }
    }

    #[test]
    fn the_uid_is_found_although_the_object_has_a_field_of_a_wrong_type() {
        let text = body(&format!(
            r#"{{{VM},"object":{{"spec":{{"template":{{"spec":{{"domain":{{"devices":{{"interfaces":[{{}},{{"name":5}}]}}}}}}}}}}}},"uid":"after"}}"#
        ));
        let (uid, fault) = invalid(&text);
        assert_eq!(uid, "after");
        assert_eq!(fault.field, "spec.template.spec.domain.devices.interfaces[1].name");
        assert_eq!(fault.message, "invalid type: integer `5`, expected a string");
        assert!(!fault.in_old_object);
    }

    #[test]
    fn a_field_with_a_long_key_or_value_is_reported_by_its_beginning() {
        let reported = |networks: &str| {
            let template = format!(r#"{{"template":{{"spec":{{"networks":{networks}}}}}}}"#);
            let (_, fault) = invalid(&body(&format!(r#"{{"uid":"u",{VM},"object":{{"spec":{template}}}}}"#)));
            assert!(fault.field.len() < 600 && fault.message.len() < 600, "{fault:?}");
            fault
        };
        for length in [100_000, 4 << 20] {
            let long = "x".repeat(length);
            let by_key = reported(&format!(r#"[{{"{long}":1e999}}]"#));
            let by_value = reported(&format!("\"{long}\""));
            if length < OBJECT_EXPLAINED {
                assert!(by_key.field.starts_with("spec.template.spec.networks[0].xxx"), "{by_key:?}");
                assert_eq!(by_value.field, "spec.template.spec.networks");
                assert!(by_value.message.ends_with("…\", expected a sequence"), "{by_value:?}");
            } else {
                assert!([by_key, by_value].iter().all(|fault| fault.message.contains("not of the type in the API")));
            }
        }
    }

    #[test]
    fn an_invalid_field_of_the_old_object_is_marked_as_such() {
        let text = body(&format!(r#"{{"uid":"u",{VM},"object":{{}},"oldObject":{{"spec":[]}}}}"#));
        let (_, fault) = invalid(&text);
        assert!(fault.in_old_object);
        assert_eq!(fault.field, "spec");
    }

    #[test]
    fn a_repeated_spec_is_shared_and_any_other_is_read() {
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
            let request = valid(&text);
            let (Some(Object::Vm(new)), Some(Object::Vm(old))) = (&request.object, &request.old_object) else {
                panic!("{request:?}")
            };
            assert_eq!(ptr::eq(&raw const *new.spec, &raw const *old.spec), is_shared, "{text}");
            let alone = old_spec(&text);
            assert_eq!(*old.spec, serde_json::from_str::<VirtualMachineSpec>(&alone).unwrap(), "{text}");
        }
    }

    /// A list of interfaces or networks, or another value that may stand in its place.
    fn nic_list() -> impl Strategy<Value = String> {
        let nic = prop::sample::select(vec![
            r#"{"name":"a","bridge":{}}"#,
            r#"{"name":"a","pod":{}}"#,
            r#"{ "multus" : {"networkName":"net"},"name":"b"}"#,
            r#"{"name":"]","other":[{"x":"\""},[]]}"#,
            r#"{"name":5}"#,
            "{}",
            "null",
        ]);
        let list = prop::collection::vec(nic, 0..4).prop_map(|nics| format!("[{}]", nics.join(",")));
        prop_oneof![8 => list, 1 => prop::sample::select(vec!["null", "{}", "[}", "[ ]", "[1]"]).prop_map(str::to_owned)]
    }

    /// The spec of a VM with these lists, in a few forms.
    fn spec_of([interfaces, networks]: &[String; 2], form: usize) -> String {
        let cpu = ["1", "2"][form % 2];
        let (interfaces, networks) = (format!(r#""interfaces":{interfaces}"#), format!(r#""networks":{networks}"#));
        let domain = format!(r#""domain":{{"cpu":{{"cores":{cpu}}},"devices":{{{interfaces},"rng":{{}}}}}}"#);
        let guest = match form / 2 {
            0 => format!(r#"{domain},{networks},"volumes":[]"#),
            1 => format!("{networks},{domain}"),
            _ => domain,
        };
        format!(r#"{{"runStrategy":"Always","template":{{"metadata":{{"labels":{{}}}},"spec":{{{guest}}}}}}}"#)
    }

    proptest! {
        #[test]
        fn objects_that_differ_in_their_nics_are_read_as_serde_json_reads_them(
            new in [nic_list(), nic_list()],
            old in [nic_list(), nic_list()],
            is_same in [any::<bool>(), any::<bool>()],
            forms in prop_oneof![3 => (0..6_usize).prop_map(|form| [form; 2]), 1 => [0..6_usize, 0..6_usize]],
            space in prop_oneof![3 => Just(""), 1 => Just(" ")],
            kind in prop::sample::select(vec![VM, POOL]),
        ) {
            let old = [0, 1].map(|index| if is_same[index] { new[index].clone() } else { old[index].clone() });
            let object = |nics, form| match kind {
                VM => format!(r#"{{"spec":{space}{}}}"#, spec_of(nics, form)),
                _ => format!(r#"{{"spec":{{"virtualMachineTemplate":{{"spec":{space}{}}}}}}}"#, spec_of(nics, form)),
            };
            let (new, old) = (object(&new, forms[0]), object(&old, forms[1]));
            for (first, second) in [("object", "oldObject"), ("oldObject", "object")] {
                let text = body(&format!(r#"{{"uid":"u",{kind},"{first}":{new},"{second}":{old},"operation":"UPDATE"}}"#));
                let ours = json::read_pair::<Body<Eager>>(&text).ok().and_then(with_deferred);
                let theirs = serde_json::from_str::<Body<Eager>>(&text).ok().and_then(with_deferred);
                prop_assert_eq!(ours, theirs, "{}", text);
            }
        }
    }

    #[test]
    fn of_an_object_that_differs_in_its_nics_only_these_are_read() {
        let nics = |names: &[&str]| {
            let list = |field: &str| {
                let entries: Vec<_> =
                    names.iter().map(|name| format!(r#"{{"name":"{name}","{field}":{{}}}}"#)).collect();
                format!("[{}]", entries.join(","))
            };
            [list("bridge"), list("pod")]
        };
        let [new, old] = [&["a", "b"][..], &["a"]].map(|names| spec_of(&nics(names), 0));
        let text = body(&format!(
            r#"{{"uid":"u",{VM},"operation":"UPDATE","object":{{"spec":{new}}},"oldObject":{{"spec":{old}}}}}"#
        ));
        let request = valid(&text);
        let (Some(Object::Vm(new)), Some(Object::Vm(old))) = (&request.object, &request.old_object) else {
            panic!("{request:?}")
        };
        let [new, old] = [new, old].map(|vm| &vm.spec.template.spec);
        assert_eq!([new, old].map(|guest| (guest.interfaces().len(), guest.networks.len())), [(2, 2), (1, 1)]);
        let volumes = [new, old].map(|guest| guest.volumes.text().unwrap().as_ptr());
        assert_eq!(volumes[0], volumes[1], "the text of the other object");
    }

    /// Returns `oldObject.spec` of a body, or an empty object.
    fn old_spec(body: &str) -> String {
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        match &body["request"]["oldObject"]["spec"] {
            serde_json::Value::Null => "{}".to_owned(),
            spec => spec.to_string(),
        }
    }

    #[test]
    fn only_a_request_without_a_relevant_change_is_unchanged() {
        let is_unchanged = |more: &str, new: &str, old: &str| {
            let text = body(&format!(
                r#"{{"uid":"u",{VMI},"object":{{{new}}},"oldObject":{{{old}}},"operation":"UPDATE"{more}}}"#
            ));
            let request = valid(&text);
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
    fn a_request_with_a_duplicate_object_is_an_error() {
        for twice in ["object", "oldObject"] {
            let text = body(&format!(
                r#"{{"uid":"u",{VM},"{twice}":{{"spec":{{"a":1}}}},"{twice}":{{"spec":{{}}}},"object":{{"spec":{{"a":1}}}}}}"#
            ));
            let error = read(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(&format!("duplicate field `{twice}`")), "{error}");
        }
    }

    #[test]
    fn objects_of_other_kinds_are_skipped_whatever_their_fields() {
        let text = body(
            r#"{"uid":"u","kind":{"group":"apps","version":"v1","kind":"Deployment"},"object":{"spec":7,"metadata":[]}}"#,
        );
        assert!(matches!(valid(&text).object, Some(Object::Other)));
    }

    /// Returns the debug text of a body after reading the deferred objects; `None` if one cannot be read.
    fn with_deferred(mut body: Body<Eager>) -> Option<String> {
        if let Some(Eager(request)) = &mut body.request {
            request.read_deferred().ok()?;
            request.is_unchanged = false;
        }
        Some(format!("{body:?}"))
    }

    #[test]
    fn a_real_review_is_read_as_serde_json_reads_it_however_it_is_cut() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/reviews");
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let reviews: Vec<_> =
            files.filter(|file| file.extension().is_some_and(|extension| extension == "json")).collect();
        assert!(!reviews.is_empty());
        let read = |text: &str| {
            let ours = json::read_pair::<Body<Eager>>(text).ok().and_then(with_deferred);
            let theirs = serde_json::from_str::<Body<Eager>>(text).ok().and_then(with_deferred);
            // Text that is cut inside a skipped value may still be accepted.
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
    fn the_allowed_response_has_the_bytes_of_the_serialized_one() {
        for uid in ["4ab850ca-bb05-4514-9f30-5d166d14a1ec", "", "\"quoted\" \\ \n é"] {
            let status = Status { code: 200, failure: None };
            let response = Response { uid, allowed: true, status, patch: None, warnings: &[] };
            let long = serde_json::to_string(&ResponseReview::new(&response)).unwrap();
            assert_eq!(String::from_utf8(allowed_response(uid)).unwrap(), long);
        }
    }

    #[test]
    fn the_error_of_a_body_names_the_missing_part() {
        let error = |text: &str| read(text.as_bytes()).unwrap_err().to_string();
        assert!(error("").starts_with("the body is not JSON: EOF"), "{}", error(""));
        assert!(error("{\"a\":").contains("not JSON"));
        assert!(error("[]").contains("cannot be answered"), "{}", error("[]"));
        assert!(error("{}").contains("nicplug reads AdmissionReview"), "{}", error("{}"));
        assert!(error(&body("null")).contains("request is missing"));
        assert!(error(&body("{}")).contains("request.uid is missing"));
        assert!(error(&body(r#"{"uid":5}"#)).contains("expected a string"));
        for field in ["name", "namespace"] {
            let named = |length| body(&format!(r#"{{"uid":"u",{VM},"{field}":"{}"}}"#, "n".repeat(length)));
            assert!(read(named(253).as_bytes()).is_ok());
            let error = error(&named(254));
            assert!(error.contains(&format!("request.{field} has 254 bytes")), "{error}");
        }
        let beta = r#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1beta1","request":{"uid":"u"}}"#;
        assert!(error(beta).contains("\"admission.k8s.io/v1beta1\""), "{}", error(beta));
        let broken = body(&format!(r#"{{"uid":"u",{VM},"object":{{"metadata":{{"name":nul}}}}}}"#));
        assert!(error(&broken).contains("not JSON: expected"), "{}", error(&broken));
        let deep = format!("{{\"a\":{}", "[".repeat(100_000));
        assert!(error(&deep).contains("a fault after its first 16384 bytes"), "{}", error(&deep));
        let late = body(&format!(r#"{{"options":"{}","uid":5}}"#, "é".repeat(100_000)));
        assert!(error(&late).contains("a fault after its first 1638"), "{}", error(&late));
        assert!(read(b"\xff\xfe").unwrap_err().to_string().contains("not JSON"));
    }
}
