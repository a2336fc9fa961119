//! Manifests and facts in YAML or JSON: any text is read or refused with a place in it, and a review with any facts has
//! an answer.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use nicplug::{
    admission::{Endpoint, Reviewer},
    cluster::{
        files,
        manifests::{self, Manifest, Position},
        store::Store,
    },
    settings::Settings,
};
use nicplug_fuzz::answer;
use serde_json::Value;

/// Reviews whose rules use facts of many kinds.
const REVIEWS: [&[u8]; 3] = [
    include_bytes!("../../tests/data/reviews/vm-update-merge-patch-add-nic.json"),
    include_bytes!("../reviews/vm-update-add-nic-denied.json"),
    include_bytes!("../../tests/data/reviews/vmi-create.json"),
];

fuzz_target!(|text: &str| {
    // In YAML a carriage return alone ends a line too.
    let lines = text.matches(['\n', '\r']).count() + 1;
    let mut store = Store::complete();
    let mut has_facts = false;
    for document in manifests::documents(text) {
        for comment in document.comments() {
            assert!((1..=lines).contains(&comment.line), "{comment:?}");
        }
        match document.read() {
            Ok(objects) => {
                for manifest in objects {
                    check(&manifest, lines);
                    match files::insert(&mut store, &manifest) {
                        Ok(()) => has_facts |= store.reads(&manifest.object),
                        Err(error) => check_place(error.at, lines),
                    }
                }
            }
            Err(error) => {
                check_place(error.at, lines);
                assert!(!error.message.is_empty());
            }
        }
    }
    if has_facts {
        let reviewer = Reviewer::new(Arc::new(store), Settings::default());
        for review in REVIEWS {
            for endpoint in Endpoint::ALL {
                answer(&reviewer, endpoint, review);
            }
        }
    }
});

/// An object is the same when it is written as JSON and read again.
fn check(manifest: &Manifest, lines: usize) {
    check_place(manifest.places.at, lines);
    for path in ["metadata.name", "spec.template.spec.networks[0].name", "metadata.annotations[nicplug.io/persist]"] {
        check_place(manifest.places.find(path), lines);
    }
    if let Value::Object(object) = &manifest.object
        && !has_fraction(&manifest.object)
        && !object.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"))
    {
        let again = manifests::read(&manifest.object.to_string()).expect("JSON is read");
        assert_eq!(again.len(), 1);
        assert_eq!(again[0].object, manifest.object);
    }
}

/// Whether a number has a fraction: serde_json may read one that it has written with another last digit.
fn has_fraction(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(entries) => entries.iter().any(has_fraction),
        Value::Object(fields) => fields.values().any(has_fraction),
        _ => false,
    }
}

fn check_place(at: Position, lines: usize) {
    assert!((1..=lines).contains(&at.line) && at.column > 0, "{at:?} in {lines} lines");
}
