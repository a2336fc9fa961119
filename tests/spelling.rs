//! On a real API server: nicplug judges what the API server stores, however the client spells it.
//!
//! Each text goes to a namespace without a webhook, which shows the object that the API server makes of it, and to one
//! with nicplug. There the response must be the one that the pure function gives for that object: a rule has no way
//! around it by a key that comes twice, in other case, with escapes, or by features of YAML.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use hyper::http::Method;
use json_patch::Patch;
use kube::Client;
use nicplug::{admission::Reviewer, facts::NoFacts, settings::Settings};
use serde_json::{Map, Value, json};
use support::{
    api_server::{
        self,
        crds::Kind,
        requests::{Response, send},
        webhooks::FailurePolicy,
    },
    builders::{INTERFACES, VM, annotations_of, bare_vm, vm},
    cases::{Answer, Cause, patch_for},
    replica::Deployment,
};

/// How many requests are under way at once.
const AT_ONCE: usize = 8;

/// What the API server does with keys that are unknown or come twice.
const VALIDATIONS: [&str; 3] = ["Strict", "Warn", "Ignore"];

/// How a text is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Write {
    /// As JSON, to a new object, which is stored.
    Create,
    /// As YAML, to a new object, which is stored.
    CreateYaml,
    /// As a merge patch of [`VM`], in a dry run.
    Merge,
    /// As a server-side apply to [`VM`], in a dry run.
    Apply,
    /// As a server-side apply that creates an object, which is stored.
    ApplyNew,
    /// As a JSON patch of [`VM`], in a dry run.
    JsonPatch,
}

/// A text that a client sends. `NAME` in it stands for the name of the object.
#[derive(Clone, Debug)]
struct Case {
    spelling: String,
    write: Write,
    text: String,
}

/// The two namespaces.
struct Namespaces {
    admin: Client,
    plain: String,
    reviewed: String,
    reviewer: Reviewer,
}

/// What became of a case.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Outcome {
    /// The API server refuses the text itself.
    Refused,
    /// nicplug denies the object.
    Denied,
    /// The object is stored, or would be without the dry run.
    Stored,
}

#[tokio::test]
async fn an_object_is_judged_as_it_is_stored_however_it_is_spelled() {
    let Some(api) = api_server::shared().await else { return };
    let (plain, reviewed) = (api.namespace("plain").await, api.namespace("spelled").await);
    let admin = api.admin();
    for namespace in [&plain, &reviewed] {
        let text = good_vm().to_string();
        post(&admin, namespace, "application/json", "", &text.replace("NAME", VM)).await.granted();
    }
    // As the chart has it for the mutating webhook. Its match conditions fail for a list that is a number, which the
    // schema refuses a moment later.
    let _nicplug = Deployment::start(api, &reviewed, FailurePolicy::Ignore, &["--facts", "none"], &[]).await;
    let reviewer = Reviewer::new(Arc::new(NoFacts), Settings::default());
    let namespaces = Namespaces { admin, plain, reviewed, reviewer };

    let cases: Vec<Case> = spelled().chain(written_in_yaml()).chain(json_patches()).collect();
    let runs = cases.iter().enumerate().flat_map(|(number, case)| VALIDATIONS.map(|mode| (number, case, mode)));
    let checked = runs.map(|(number, case, mode)| check(&namespaces, number, case, mode));
    let outcomes: Vec<_> = stream::iter(checked).buffer_unordered(AT_ONCE).collect().await;

    let differences: Vec<&String> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    for difference in &differences {
        println!("{difference}\n");
    }
    assert!(differences.is_empty(), "{} differences", differences.len());
    let count = |outcome| outcomes.iter().filter(|found| **found == Ok(outcome)).count();
    let counts = [Outcome::Refused, Outcome::Denied, Outcome::Stored].map(count);
    println!("{} requests: refused, denied, stored: {counts:?}", outcomes.len());
    assert!(counts.iter().all(|count| *count > 100), "refused, denied, stored: {counts:?}");
}

/// What a client sees of a write.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    is_stored: bool,
    causes: Vec<Cause>,
    warnings: Vec<String>,
    spec: Value,
    annotations: Map<String, Value>,
    /// A key of the spec that a component which reads keys in any case would take for another one.
    other_spelling: Option<String>,
}

/// Sends a text to both namespaces and compares the response with the answer to the object; the difference, if any.
async fn check(namespaces: &Namespaces, number: usize, case: &Case, validation: &str) -> Result<Outcome, String> {
    let Namespaces { admin, plain, reviewed, reviewer } = namespaces;
    let creates = matches!(case.write, Write::Create | Write::CreateYaml | Write::ApplyNew);
    let name = if creates { format!("case-{number}-{}", validation.to_lowercase()) } else { VM.to_owned() };
    let text = case.text.replace("NAME", &name);
    let without = write(admin, plain, case.write, &name, validation, &text).await;
    let response = write(admin, reviewed, case.write, &name, validation, &text).await;
    let context = format!("{} as {:?}, {validation}: {text}", case.spelling, case.write);
    if !without.is_ok() {
        let [plain, reviewed] = [&without, &response].map(|response| (response.code, response.reason()));
        return if plain == reviewed { Ok(Outcome::Refused) } else { Err(format!("{context}\n{response:?}")) };
    }

    let mut object = without.body.clone();
    object["metadata"]["namespace"] = json!(reviewed);
    let old = if creates { None } else { Some(Kind::Vm.api(admin, reviewed).get(VM).await.unwrap()) };
    let old = serde_json::to_value(old).unwrap();
    let review = support::builders::review(("kubevirt.io", "VirtualMachine", ""), &old, &object);
    let mut review = of_object(review, &name, reviewed);
    json_patch::patch(&mut object, &Patch(patch_for(reviewer, &review))).unwrap();
    review["request"]["object"] = object.clone();
    let answer = Answer::to(reviewer, &review);
    let expected = if answer.is_allowed {
        Seen {
            is_stored: true,
            warnings: answer.warnings,
            spec: object["spec"].clone(),
            annotations: annotations_of(&object),
            ..Seen::default()
        }
    } else {
        Seen { causes: answer.causes, ..Seen::default() }
    };
    let seen = seen(&response, &name);
    if seen == expected {
        Ok(if expected.is_stored { Outcome::Stored } else { Outcome::Denied })
    } else {
        Err(format!("{context}\nexpected {expected:?}\ngot {seen:?}, {}", response.message()))
    }
}

fn seen(response: &Response, name: &str) -> Seen {
    if !response.is_ok() {
        return Seen { causes: response.causes(), ..Seen::default() };
    }
    let prefix = format!("{name}: ");
    let warnings = response.warnings.iter().filter(|warning| warning.contains("[NP"));
    Seen {
        is_stored: true,
        warnings: warnings.map(|warning| warning.strip_prefix(&prefix).unwrap_or(warning).to_owned()).collect(),
        spec: response.body["spec"].clone(),
        annotations: annotations_of(&response.body),
        other_spelling: other_spelling(&response.body["spec"]).map(str::to_owned),
        ..Seen::default()
    }
}

fn of_object(mut review: Value, name: &str, namespace: &str) -> Value {
    review["request"]["name"] = json!(name);
    review["request"]["namespace"] = json!(namespace);
    review
}

/// Returns a key of an object that differs from one of [`PATHS`] only in case.
fn other_spelling(value: &Value) -> Option<&str> {
    let keys: Vec<&str> = PATHS.iter().flat_map(|(_, path)| path.iter().copied()).collect();
    match value {
        Value::Object(fields) => fields.iter().find_map(|(key, value)| {
            let is_other = keys.iter().any(|known| *known != key && known.eq_ignore_ascii_case(key));
            if is_other { Some(key.as_str()) } else { other_spelling(value) }
        }),
        Value::Array(entries) => entries.iter().find_map(other_spelling),
        _ => None,
    }
}

// === Requests ===

async fn write(admin: &Client, namespace: &str, write: Write, name: &str, validation: &str, text: &str) -> Response {
    let query = format!("fieldValidation={validation}");
    let patch = async |content_type: &str, parameters: &str| {
        let path = format!("{}/{name}?{query}{parameters}", Kind::Vm.path(namespace));
        send(admin, Method::PATCH, &path, &format!("application/{content_type}"), text).await
    };
    match write {
        Write::Create => post(admin, namespace, "application/json", &query, text).await,
        Write::CreateYaml => post(admin, namespace, "application/yaml", &query, text).await,
        Write::Merge => patch("merge-patch+json", "&dryRun=All").await,
        Write::Apply => patch("apply-patch+yaml", "&dryRun=All&fieldManager=gitops&force=true").await,
        Write::ApplyNew => patch("apply-patch+yaml", "&fieldManager=gitops&force=true").await,
        Write::JsonPatch => patch("json-patch+json", "&dryRun=All").await,
    }
}

async fn post(admin: &Client, namespace: &str, content_type: &str, query: &str, text: &str) -> Response {
    send(admin, Method::POST, &format!("{}?{query}", Kind::Vm.path(namespace)), content_type, text).await
}

// === Texts ===

/// The fields that are spelled, each with the value in which the good and the bad object differ.
const PATHS: [(Pair, &[&str]); 9] = [
    (Pair::Interfaces, &["spec"]),
    (Pair::Interfaces, &["spec", "template"]),
    (Pair::Interfaces, &["spec", "template", "spec", "domain", "devices"]),
    (Pair::Interfaces, &["spec", "template", "spec", "domain", "devices", "interfaces"]),
    (Pair::Networks, &["spec", "template", "spec"]),
    (Pair::Networks, &["spec", "template", "spec", "networks"]),
    (Pair::Annotation, &["metadata"]),
    (Pair::Annotation, &["metadata", "annotations"]),
    (Pair::Annotation, &["metadata", "annotations", "nicplug.io/add-interfaces"]),
];

/// What is wrong with the bad object.
#[derive(Clone, Copy, Debug)]
enum Pair {
    /// It has an interface without a network.
    Interfaces,
    /// It has a network without an interface.
    Networks,
    /// Its request to add an interface cannot be read; that of the good one adds an interface.
    Annotation,
}

fn good_vm() -> Value {
    vm().named("NAME").annotation("nicplug.io/note", "good").build()
}

/// Returns the good and the bad object.
fn pair(pair: Pair) -> [Value; 2] {
    let good = vm().named("NAME");
    match pair {
        Pair::Interfaces => [good.build(), good.interface(json!({"name": "ghost", "bridge": {}})).build()],
        Pair::Networks => {
            [good.build(), good.network(json!({"name": "ghost", "multus": {"networkName": "net"}})).build()]
        }
        Pair::Annotation => {
            let with = |text: &str| good.clone().annotation("nicplug.io/add-interfaces", text).build();
            [with("eth1=net"), with("no network")]
        }
    }
}

/// Each field in each spelling, in each kind of write.
fn spelled() -> impl Iterator<Item = Case> {
    PATHS.into_iter().flat_map(|(kind, path)| {
        let [good, bad] = pair(kind);
        let pointer: Vec<String> = path.iter().map(|key| format!("/{}", key.replace('/', "~1"))).collect();
        let pointer = pointer.concat();
        let values = [&good, &bad].map(|object| object.pointer(&pointer).unwrap().to_string());
        spellings(path.last().unwrap(), &values).into_iter().flat_map(move |(spelling, entry)| {
            let text = with_entry(&good, path, &entry);
            [Write::Create, Write::CreateYaml, Write::Merge, Write::Apply, Write::ApplyNew].map(|write| Case {
                spelling: format!("{} {spelling}", path.join(".")),
                write,
                text: text.clone(),
            })
        })
    })
}

/// Returns the JSON of an object, with this text for the entry at a path.
fn with_entry(object: &Value, path: &[&str], text: &str) -> String {
    let Some((first, rest)) = path.split_first() else { return object.to_string() };
    let entries = object.as_object().unwrap().iter().map(|(key, value)| match key == first {
        true if rest.is_empty() => text.to_owned(),
        true => format!("{}:{}", json!(key), with_entry(value, rest, text)),
        false => format!("{}:{value}", json!(key)),
    });
    format!("{{{}}}", entries.collect::<Vec<_>>().join(","))
}

/// Returns the entry of a key with the good value, the bad one, or both, in many spellings.
fn spellings(key: &str, [good, bad]: &[String; 2]) -> Vec<(&'static str, String)> {
    let escaped: Vec<String> = key.chars().map(|letter| format!("\\u{:04x}", u32::from(letter))).collect();
    let escaped = escaped.concat();
    let first_escaped = format!("\\u{:04X}{}", u32::from(key.chars().next().unwrap()), &key[1..]);
    let slashes = key.replace('/', "\\/");
    let upper = key.to_uppercase();
    let title = format!("{}{}", key[..1].to_uppercase(), &key[1..]);
    // Go's decoder for structs takes the long s for an s, and the Kelvin sign for a k.
    let folded = key.replacen('s', "ſ", 1).replacen('k', "\u{212a}", 1);
    let one = |key: &str, value: &str| format!("\"{key}\":{value}");
    let two = |key: &str, value: &str, other: &str, last: &str| format!("{},{}", one(key, value), one(other, last));
    vec![
        ("plain", one(key, bad)),
        ("escaped", one(&escaped, bad)),
        ("with an escaped slash", one(&slashes, bad)),
        ("twice, the bad one last", two(key, good, key, bad)),
        ("twice, the bad one first", two(key, bad, key, good)),
        ("twice, an escaped one last", two(key, good, &first_escaped, bad)),
        ("twice, an escaped one first", two(&first_escaped, bad, key, good)),
        ("twice the bad one", two(key, bad, key, bad)),
        ("null last", two(key, bad, key, "null")),
        ("null first", two(key, "null", key, bad)),
        ("in upper case last", two(key, good, &upper, bad)),
        ("in upper case first", two(&upper, bad, key, good)),
        ("with a capital last", two(key, good, &title, bad)),
        ("with a capital, and good the other way", two(&title, good, key, bad)),
        ("with letters that fold to ASCII", two(key, good, &folded, bad)),
        ("with a NUL", two(key, good, &format!("{key}\\u0000"), bad)),
        ("with a blank", two(key, good, &format!("{key} "), bad)),
        ("with a byte order mark", two(key, good, &format!("\u{feff}{key}"), bad)),
        ("of another type last", two(key, bad, key, "5")),
    ]
}

/// Texts that only YAML can have, and values that are spelled in several ways.
fn written_in_yaml() -> impl Iterator<Item = Case> {
    let head = "apiVersion: kubevirt.io/v1\nkind: VirtualMachine\nmetadata: {name: NAME}\n";
    let vm = |devices: &str, rest: &str| {
        let guest = format!("{{domain: {{devices: {devices}}}, networks: [{{name: default, pod: {{}}}}]}}");
        format!("{head}{rest}spec: {{runStrategy: Always, template: {{spec: {guest}}}}}\n")
    };
    let good = "[{name: default, masquerade: {}}]";
    let bad = "[{name: default, masquerade: {}}, {name: ghost, bridge: {}}]";
    let texts = [
        ("flow", vm(&format!("{{interfaces: {bad}}}"), "")),
        ("quoted key", vm(&format!("{{\"\\u0069nterfaces\": {bad}}}"), "")),
        ("hexadecimal escape", vm(&format!("{{\"\\x69nterfaces\": {bad}}}"), "")),
        ("key twice", vm(&format!("{{interfaces: {good}, interfaces: {bad}}}"), "")),
        ("key twice, the bad one first", vm(&format!("{{interfaces: {bad}, interfaces: {good}}}"), "")),
        ("key twice, one quoted", vm(&format!("{{interfaces: {good}, 'interfaces': {bad}}}"), "")),
        ("tagged key", vm(&format!("{{!!str interfaces: {bad}}}"), "")),
        ("explicit key", vm(&format!("{{? interfaces : {bad}}}"), "")),
        ("alias", vm("{interfaces: *bad}", &format!("x: &bad {bad}\n"))),
        ("merge key", vm("{<<: *bad}", &format!("x: &bad {{interfaces: {bad}}}\n"))),
        (
            "merge key under a good one",
            vm(&format!("{{<<: *bad, interfaces: {good}}}"), &format!("x: &bad {{interfaces: {bad}}}\n")),
        ),
        (
            "merge key over a good one",
            vm(&format!("{{interfaces: {good}, <<: *bad}}"), &format!("x: &bad {{interfaces: {bad}}}\n")),
        ),
        ("name twice", vm("{interfaces: [{name: default, name: ghost, masquerade: {}}]}", "")),
        (
            "names that are equal",
            vm("{interfaces: [{name: default, masquerade: {}}, {name: \"def\\u0061ult\", bridge: {}}]}", ""),
        ),
        ("name in other case", vm("{interfaces: [{name: default, Name: ghost, masquerade: {}}]}", "")),
        ("binding twice", vm("{interfaces: [{name: default, masquerade: {}, bridge: {}}]}", "")),
        ("binding in other case", vm("{interfaces: [{name: default, masquerade: {}, Bridge: {}}]}", "")),
        ("number as a name", vm("{interfaces: [{name: 5, masquerade: {}}]}", "")),
        ("word that YAML 1.1 reads as a Boolean", vm("{interfaces: [{name: yes, masquerade: {}}]}", "")),
        ("second document", format!("{}---\n{}", vm(&format!("{{interfaces: {good}}}"), ""), vm(bad, ""))),
    ];
    texts.into_iter().flat_map(|(spelling, text)| {
        [Write::CreateYaml, Write::Apply, Write::ApplyNew].map(|write| Case {
            spelling: format!("YAML: {spelling}"),
            write,
            text: text.clone(),
        })
    })
}

/// JSON patches whose own keys, paths and values are spelled.
fn json_patches() -> impl Iterator<Item = Case> {
    let [good, bad] = pair(Pair::Interfaces).map(|vm| vm.pointer(INTERFACES).unwrap().to_string());
    let keys = [("op", ["\"test\"", "\"add\""]), ("path", ["\"/metadata/labels\"", ""]), ("value", [&good, &bad])];
    let path = json!(INTERFACES).to_string();
    let mut cases: Vec<(String, String)> = Vec::new();
    for (key, [first, second]) in keys {
        let second = if key == "path" { &path } else { second };
        for (spelling, entry) in spellings(key, &[first.to_owned(), second.to_owned()]) {
            let entries = [("op", "\"replace\""), ("path", &path), ("value", &bad)];
            let entries =
                entries.map(|(other, value)| if other == key { entry.clone() } else { format!("\"{other}\":{value}") });
            cases.push((format!("{key} {spelling}"), format!("[{{{}}}]", entries.join(","))));
        }
    }
    let ghost = bare_vm("x").interface(json!({"name": "ghost", "bridge": {}})).build();
    let ghost = &ghost.pointer(INTERFACES).unwrap()[0];
    for (spelling, operations) in [
        ("appended", json!([{"op": "add", "path": format!("{INTERFACES}/-"), "value": ghost}])),
        ("copied", json!([{"op": "copy", "from": format!("{INTERFACES}/0"), "path": format!("{INTERFACES}/-")}])),
        (
            "removed and added in other case",
            json!([{"op": "move", "from": INTERFACES, "path": INTERFACES.replace("interfaces", "Interfaces")}]),
        ),
        (
            "escaped for JSON pointer",
            json!([{"op": "add", "path": "/metadata/annotations/nicplug.io~1add-interfaces",
            "value": "no network"}]),
        ),
        (
            "replaced twice",
            json!([{"op": "add", "path": format!("{INTERFACES}/-"), "value": ghost},
            {"op": "remove", "path": format!("{INTERFACES}/1")}]),
        ),
    ] {
        cases.push((spelling.to_owned(), operations.to_string()));
    }
    let case = |(spelling, text)| Case { spelling: format!("JSON patch: {spelling}"), write: Write::JsonPatch, text };
    cases.into_iter().map(case)
}
