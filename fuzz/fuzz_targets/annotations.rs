//! The texts of the annotations. Each line of the input is the value of one annotation of a VM that runs, and each line
//! is read by each parser: a text that is accepted is the same when it is written and read again.

#![no_main]

use std::{fmt::Display, str::FromStr, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use nicplug::{
    admission::Endpoint,
    annotations::{
        interfaces::{Additions, Removals},
        persist::PersistRequest,
    },
    settings::overrides::Overrides,
};
use nicplug_fuzz::{REVIEWER, answer, patched_once};
use serde_json::{Value, json};

/// The annotations of the lines, in this order.
const KEYS: [&str; 9] = [
    "nicplug.io/add-interfaces",
    "nicplug.io/remove-interfaces",
    "nicplug.io/persist",
    "nicplug.io/apply",
    "nicplug.io/reserve-ports",
    "nicplug.io/unplug",
    "nicplug.io/boot-slots",
    "kubevirt.io/pci-interface-slot-count",
    "kubevirt.io/pci-topology-version",
];

/// The longest message about a text that cannot be read.
const MESSAGE_AT_MOST: usize = 512;

/// An update of a VM that changes nothing.
static REVIEW: LazyLock<Value> = LazyLock::new(|| {
    let guest = json!({"networks": [{"name": "defaultnetwork", "pod": {}}, {"name": "lan", "multus": {
        "networkName": "net"}}], "domain": {"devices": {"interfaces": [{"name": "defaultnetwork", "masquerade": {}},
        {"name": "lan", "bridge": {}}]}}});
    let object = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "vm",
        "namespace": "demo"}, "spec": {"runStrategy": "Always", "template": {"metadata": {}, "spec": guest}}});
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u",
        "kind": {"group": "kubevirt.io", "version": "v1", "kind": "VirtualMachine"}, "operation": "UPDATE",
        "name": "vm", "namespace": "demo", "userInfo": {"username": "alice"}, "object": object, "oldObject": object}})
});

fuzz_target!(|text: &str| {
    let mut annotations = json!({});
    for (line, key) in text.lines().zip(KEYS) {
        parse::<Additions>(line);
        parse::<Removals>(line);
        let _ = line.parse::<PersistRequest>();
        if let Ok(overrides) = Overrides::parse(line) {
            let written: Vec<String> = overrides.iter().map(|(id, word)| format!("{id}={}", word.as_str())).collect();
            assert_eq!(Overrides::parse(&written.join(",")), Ok(overrides));
        }
        if !line.is_empty() {
            annotations[key] = json!(line);
        }
    }
    for place in ["/request/object/metadata", "/request/object/spec/template/metadata"] {
        let mut review = REVIEW.clone();
        review.pointer_mut(place).expect("the VM has metadata")["annotations"] = annotations.clone();
        let body = review.to_string().into_bytes();
        answer(&REVIEWER, Endpoint::Validate, &body);
        if let Some(patched) = patched_once(&body) {
            answer(&REVIEWER, Endpoint::Validate, &patched).expect("a patched review is readable");
        }
    }
});

/// Reads a text; one that is accepted is the same when it is written and read again.
fn parse<T>(text: &str)
where
    T: Display + FromStr<Err: Display> + PartialEq + std::fmt::Debug,
{
    match text.parse::<T>() {
        Ok(value) => match value.to_string().parse::<T>() {
            Ok(again) => assert_eq!(again, value),
            Err(error) => panic!("{value:?} is not read again: {error}"),
        },
        Err(error) => {
            let message = error.to_string();
            assert!(!message.is_empty() && message.len() <= MESSAGE_AT_MOST, "{message}");
        }
    }
}
