//! The AdmissionReview of `admission.k8s.io/v1`, request and response, as the API server speaks it.
//!
//! The types are ours and not kube's for three reasons: the object is read into borrowed views in the same pass, the
//! uid is found even when the object cannot be read, and a patch goes out in base64 as the API server wants it.

use std::{fmt, str};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, Visitor},
    ser::SerializeStruct,
};

use super::{
    JsonObject, JsonText, Text,
    json::{self, Unreadable},
    nullable,
    vm::{Annotations, Migration, Pool, ReplicaSet, VirtualMachine, VirtualMachineInstance},
};

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
pub enum Reading<'a> {
    /// Every field that nicplug reads has its type.
    Whole(Request<'a>),
    /// `object` or `oldObject` has a field of a wrong type; neither is in the request.
    Faulty(Request<'a>, Fault),
}

/// A field that has another type than the API says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    /// Whether it is in `oldObject`, which is stored already and which the user cannot mend.
    pub in_old_object: bool,
    /// The path of the field from the object's root, as in `spec.networks[0].name`.
    pub field: String,
    /// What was found and what was expected.
    pub message: String,
}

/// `request` of an AdmissionReview.
#[derive(Debug, Default)]
pub struct Request<'a> {
    /// `uid`: has to come back in the response.
    pub uid: Text<'a>,
    /// `kind`: of the objects, after any conversion to the version that the webhook registered.
    pub kind: GroupVersionKind<'a>,
    /// `subResource`, such as `status`; empty for the resource itself.
    pub sub_resource: Text<'a>,
    /// `namespace`.
    pub namespace: Text<'a>,
    /// `name`: empty where the API server makes it up (`generateName`).
    pub name: Text<'a>,
    /// `operation`.
    pub operation: Operation,
    /// `userInfo`.
    pub user_info: UserInfo<'a>,
    /// `dryRun`.
    pub dry_run: bool,
    /// `object`: what is to be stored.
    pub object: Option<Object<'a>>,
    /// `oldObject`: what is stored.
    pub old_object: Option<Object<'a>>,
    /// Whether it is an update that leaves spec and annotations as they are, as heartbeats do: the specs were compared
    /// as text and may be missing in the objects.
    pub is_unchanged: bool,
}

/// A group, version and kind.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct GroupVersionKind<'a> {
    /// `group`.
    #[serde(borrow, deserialize_with = "nullable")]
    pub group: Text<'a>,
    /// `version`.
    #[serde(borrow, deserialize_with = "nullable")]
    pub version: Text<'a>,
    /// `kind`.
    #[serde(borrow, deserialize_with = "nullable")]
    pub kind: Text<'a>,
}

/// `userInfo` of a request.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct UserInfo<'a> {
    /// `username`.
    #[serde(borrow, deserialize_with = "nullable")]
    pub username: Text<'a>,
}

/// `operation` of a request.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "UPPERCASE")]
pub enum Operation {
    /// `CONNECT`: carries no object of ours.
    Connect,
    /// `CREATE`.
    Create,
    /// `DELETE`: carries no object, or none that matters.
    Delete,
    /// `UPDATE`.
    Update,
    /// None, or one that Kubernetes does not have yet.
    #[default]
    #[serde(other)]
    Other,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 5] = [Self::Connect, Self::Create, Self::Delete, Self::Update, Self::Other];

    /// As a request writes it; `other` for one that is not known.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::Create => "CREATE",
            Self::Delete => "DELETE",
            Self::Update => "UPDATE",
            Self::Other => "other",
        }
    }
}

/// The kinds whose objects nicplug reads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ObjectKind {
    /// `VirtualMachineInstance`.
    Vmi,
    /// `VirtualMachineInstanceMigration`.
    Migration,
    /// Any other kind: its objects are skipped.
    Other,
    /// `VirtualMachinePool`.
    Pool,
    /// `VirtualMachineInstanceReplicaSet`.
    ReplicaSet,
    /// `VirtualMachine`.
    VirtualMachine,
}

impl ObjectKind {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::Vmi, Self::Migration, Self::Other, Self::Pool, Self::ReplicaSet, Self::VirtualMachine];

    /// `kind` of such an object; `other` for those that are skipped.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vmi => "VirtualMachineInstance",
            Self::Migration => "VirtualMachineInstanceMigration",
            Self::Other => "other",
            Self::Pool => "VirtualMachinePool",
            Self::ReplicaSet => "VirtualMachineInstanceReplicaSet",
            Self::VirtualMachine => "VirtualMachine",
        }
    }

    /// The kind that a group and a kind name, in any version.
    #[must_use]
    pub fn of(kind: &GroupVersionKind) -> Self {
        match (kind.group.as_str(), kind.kind.as_str()) {
            ("kubevirt.io", "VirtualMachine") => Self::VirtualMachine,
            ("kubevirt.io", "VirtualMachineInstance") => Self::Vmi,
            ("kubevirt.io", "VirtualMachineInstanceMigration") => Self::Migration,
            ("kubevirt.io", "VirtualMachineInstanceReplicaSet") => Self::ReplicaSet,
            ("pool.kubevirt.io", "VirtualMachinePool") => Self::Pool,
            _ => Self::Other,
        }
    }
}

/// An object of a request.
#[derive(Debug)]
pub enum Object<'a> {
    /// A VirtualMachineInstance.
    Vmi(Box<VirtualMachineInstance<'a>>),
    /// A VirtualMachineInstanceMigration.
    Migration(Box<Migration<'a>>),
    /// An object of a kind that nicplug does not read.
    Other,
    /// A VirtualMachinePool.
    Pool(Box<Pool<'a>>),
    /// A VirtualMachineInstanceReplicaSet.
    ReplicaSet(Box<ReplicaSet<'a>>),
    /// A VirtualMachine.
    VirtualMachine(Box<VirtualMachine<'a>>),
}

impl Request<'_> {
    /// Reads the specs that were put off; not those of a heartbeat.
    fn settle(&mut self) -> Result<(), Unreadable> {
        self.is_unchanged = self.changes_nothing();
        if self.is_unchanged { Ok(()) } else { self.read_specs() }
    }

    fn read_specs(&mut self) -> Result<(), Unreadable> {
        for object in self.object.iter_mut().chain(&mut self.old_object) {
            object.read_spec()?;
        }
        if let (Some(new), Some(old)) = (&mut self.object, &mut self.old_object) {
            old.take_from(new);
            new.take_from(old);
        }
        let is_whole = !self.object.iter().chain(&self.old_object).any(Object::repeats_spec);
        is_whole.then_some(()).ok_or(Unreadable)
    }

    fn changes_nothing(&self) -> bool {
        let (Some(new), Some(old)) = (&self.object, &self.old_object) else { return false };
        let is_update = self.operation == Operation::Update && self.sub_resource.is_empty();
        is_update && old.repeats_spec() && !new.repeats_spec() && new.has_same_annotations(old)
    }
}

impl<'a> Object<'a> {
    fn read_spec(&mut self) -> Result<(), Unreadable> {
        match self {
            Self::Vmi(vmi) => vmi.spec.read(),
            Self::Pool(pool) => pool.spec.virtual_machine_template.spec.read(),
            Self::VirtualMachine(vm) => vm.spec.read(),
            Self::Migration(_) | Self::Other | Self::ReplicaSet(_) => Ok(()),
        }
    }

    fn repeats_spec(&self) -> bool {
        match self {
            Self::Vmi(vmi) => vmi.spec.is_repeated(),
            Self::Pool(pool) => pool.spec.virtual_machine_template.spec.is_repeated(),
            Self::VirtualMachine(vm) => vm.spec.is_repeated(),
            Self::Migration(_) | Self::Other | Self::ReplicaSet(_) => false,
        }
    }

    fn take_from(&mut self, other: &Self) {
        match (self, other) {
            (Self::Vmi(own), Self::Vmi(other)) => own.spec.take_from(&other.spec),
            (Self::Pool(own), Self::Pool(other)) => {
                let other = &other.spec.virtual_machine_template.spec;
                own.spec.virtual_machine_template.spec.take_from(other);
            }
            (Self::VirtualMachine(own), Self::VirtualMachine(other)) => own.spec.take_from(&other.spec),
            _ => {}
        }
    }

    /// Whether both have the same annotations, and none that asks for a change by being there.
    fn has_same_annotations(&self, other: &Self) -> bool {
        let (own, other) = (self.annotations(), other.annotations());
        own == other && own.is_none_or(|own| own.add_interfaces.is_none() && own.remove_interfaces.is_none())
    }

    fn annotations(&self) -> Option<&Annotations<'a>> {
        let metadata = match self {
            Self::Vmi(vmi) => &vmi.metadata,
            Self::Migration(migration) => &migration.metadata,
            Self::Other => return None,
            Self::Pool(pool) => &pool.metadata,
            Self::ReplicaSet(set) => &set.metadata,
            Self::VirtualMachine(vm) => &vm.metadata,
        };
        metadata.annotations.as_ref()
    }
}

/// Reads an object of the kind; `null` is none.
impl<'de> DeserializeSeed<'de> for ObjectKind {
    type Value = Option<Object<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        fn boxed<'de, D, T>(deserializer: D, wrap: fn(Box<T>) -> Object<'de>) -> Result<Option<Object<'de>>, D::Error>
        where
            D: Deserializer<'de>,
            T: Deserialize<'de>,
        {
            let object = Option::<JsonObject<Box<T>>>::deserialize(deserializer)?;
            Ok(object.map(|object| wrap(object.0)))
        }

        match self {
            Self::Vmi => boxed(deserializer, Object::Vmi),
            Self::Migration => boxed(deserializer, Object::Migration),
            Self::Other => Option::<IgnoredAny>::deserialize(deserializer).map(|object| object.map(|_| Object::Other)),
            Self::Pool => boxed(deserializer, Object::Pool),
            Self::ReplicaSet => boxed(deserializer, Object::ReplicaSet),
            Self::VirtualMachine => boxed(deserializer, Object::VirtualMachine),
        }
    }
}

/// Reads the body of a request in one pass; only a body that this pass cannot read costs further ones, which find the
/// uid and the path of what is wrong. The one pass is our own reader's; the further ones are serde_json's, which can
/// tell what is wrong.
///
/// # Errors
/// See [`BodyError`]: the answer to those is HTTP 400.
pub fn read(body: &[u8]) -> Result<Reading<'_>, BodyError> {
    #[cfg(test)]
    parse_count::add();
    // Checked once and as a whole: cheaper than for each string, and every text below is then known to be UTF-8.
    let text = simdutf8::basic::from_utf8(body).or_else(|_| {
        // Only the slower check says what is wrong.
        str::from_utf8(body).map_err(|error| BodyError::NotJson(error.to_string()))
    })?;
    match json::read_pair::<Body<Eager>>(text) {
        Ok(Body { api_version, kind, request: Some(Eager(request)) })
            if is_review(&api_version, &kind) && !request.uid.is_empty() =>
        {
            Ok(Reading::Whole(request))
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

/// Tells why a body could not be read, or reads of it what can be read.
fn explain(text: &str) -> Result<Reading<'_>, BodyError> {
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
    match find_fault(kind, object, false).or_else(|| find_fault(kind, old_object, true)) {
        Some(fault) => Ok(Reading::Faulty(request, fault)),
        None => Err(BodyError::NoRequest("it can be read by parts, yet not as a whole".to_owned())),
    }
}

fn is_review(api_version: &str, kind: &str) -> bool {
    api_version == API_VERSION && kind == "AdmissionReview"
}

fn find_fault(kind: ObjectKind, text: Option<JsonText>, in_old_object: bool) -> Option<Fault> {
    let mut deserializer = serde_json::Deserializer::from_str(text?.as_str());
    let mut track = serde_path_to_error::Track::new();
    let error = kind.deserialize(serde_path_to_error::Deserializer::new(&mut deserializer, &mut track)).err()?;
    let message = without_position(&error);
    Some(Fault { in_old_object, field: track.path().to_string(), message })
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
        let read = |text: JsonText<'de>| json::read_with(kind, text.as_str()).map_err(Error::custom);
        if let Some(text) = object {
            request.object = read(text)?;
        }
        if let Some(text) = old_object {
            request.old_object = read(text)?;
        }
        request.settle().map_err(Error::custom)?;
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

/// The answer that almost every request gets, in the bytes that [`ResponseReview`] would be written in: allowed, and
/// nothing more to say.
#[must_use]
pub fn allowing(uid: &str) -> Vec<u8> {
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
            Reading::Whole(request) => request,
            Reading::Faulty(_, fault) => panic!("{fault:?}"),
        }
    }

    fn fault(text: &str) -> (String, Fault) {
        match read(text.as_bytes()).unwrap() {
            Reading::Whole(request) => panic!("{request:?}"),
            Reading::Faulty(request, fault) => (request.uid.to_string(), fault),
        }
    }

    #[test]
    fn an_object_is_read_by_its_kind() {
        let text = body(&format!(
            r#"{{"uid":"u",{VM},"operation":"UPDATE","object":{{"spec":{{"template":{{"spec":{{"networks":[{{"name":"n"}}]}}}}}}}},"oldObject":null}}"#
        ));
        let request = whole(&text);
        let Some(Object::VirtualMachine(vm)) = &request.object else { panic!("{request:?}") };
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
        let Some(Object::VirtualMachine(new)) = &request.object else { panic!("{request:?}") };
        let Some(Object::VirtualMachine(old)) = &request.old_object else { panic!("{request:?}") };
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
            let (Some(Object::VirtualMachine(new)), Some(Object::VirtualMachine(old))) =
                (&request.object, &request.old_object)
            else {
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
            assert_eq!(String::from_utf8(allowing(uid)).unwrap(), long);
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
