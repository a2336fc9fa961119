//! Whole reviews: each folder of `tests/data/admission` is a case.
//!
//! A folder has `request.json`, a README, the expected responses `validate.json` and `mutate.json`, and `facts.yaml` if
//! facts are known. `UPDATE_CASES=1 cargo test --test admission` rewrites the responses; review them before the commit.

// Helpers of tests fail as tests do.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

mod support;

use std::{env, fs, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use nicplug::admission::{Endpoint, Reviewer};
use serde_json::{Value, json};
use support::cases::{data, entries, json_file, reviewer_of_file, shared};

#[test]
fn every_case_is_answered_as_expected() {
    let cases = entries(&data("admission"));
    assert!(cases.len() > 30, "tests/data/admission has too few cases");
    let wrong: Vec<String> = cases.iter().flat_map(|case| differences(case)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_patched_object_gets_no_second_patch() {
    let mut patched = 0;
    for case in entries(&data("admission")) {
        let review = json_file(&case.join("request.json"));
        let answer = answer(&case, Endpoint::Mutate, &review);
        let Some(patch) = answer.pointer("/body/response/patch") else { continue };
        patched += 1;
        let patch: json_patch::Patch = serde_json::from_value(patch.clone()).unwrap();
        let mut again = review.clone();
        json_patch::patch(&mut again["request"]["object"], &patch).unwrap();
        assert_ne!(review, again, "{}: the patch changes nothing", case.display());
        let answer = self::answer(&case, Endpoint::Mutate, &again);
        assert_eq!(answer.pointer("/body/response/patch"), None, "{}: there is a second patch", case.display());
    }
    assert!(patched > 0, "no case is patched");
}

#[test]
fn the_type_of_the_kube_crate_reads_every_response() {
    use kube::core::{DynamicObject, admission::AdmissionReview};
    for case in entries(&data("admission")) {
        let review = json_file(&case.join("request.json"));
        for endpoint in [Endpoint::Validate, Endpoint::Mutate] {
            let answer = reviewer(&case).review(endpoint, review.to_string().as_bytes());
            if answer.status != 200 {
                continue;
            }
            let mut body: Value = serde_json::from_slice(&answer.body).unwrap();
            // kube's type has the patch as a list of numbers, which no API server sends or accepts.
            if let Some(patch) = body.pointer_mut("/response/patch") {
                *patch = json!(BASE64.decode(patch.as_str().unwrap()).unwrap());
            }
            let read: AdmissionReview<DynamicObject> = serde_json::from_value(body.clone()).unwrap();
            let response = read.response.unwrap();
            assert_eq!(Some(response.uid.as_str()), review.pointer("/request/uid").and_then(Value::as_str));
            assert_eq!(response.allowed, body["response"]["allowed"] == json!(true));
            assert_eq!(response.allowed, response.result.code == 200, "{}", case.display());
        }
    }
}

#[test]
fn every_recorded_review_is_allowed_and_has_its_uid() {
    let Some(reviews) = shared("cases/reviews") else { return };
    let facts = shared("cases/facts-default.yaml").unwrap();
    let reviewer = reviewer_of_file(&facts);
    let mut count = 0;
    for review in entries(&reviews) {
        let body = fs::read(review).unwrap();
        let uid = serde_json::from_slice::<Value>(&body).unwrap()["request"]["uid"].clone();
        let answer: Value = serde_json::from_slice(&reviewer.review(Endpoint::Validate, &body).body).unwrap();
        assert_eq!(answer["response"]["uid"], uid);
        assert_eq!(answer["response"]["allowed"], json!(true), "{answer}");
        count += 1;
    }
    assert_eq!(count, 8);
}

fn differences(case: &Path) -> Vec<String> {
    let review = json_file(&case.join("request.json"));
    let mut differences = Vec::new();
    for (endpoint, file) in [(Endpoint::Validate, "validate.json"), (Endpoint::Mutate, "mutate.json")] {
        let answer = answer(case, endpoint, &review);
        let path = case.join(file);
        if env::var_os("UPDATE_CASES").is_some() {
            fs::write(&path, serde_json::to_string_pretty(&answer).unwrap() + "\n").unwrap();
        }
        let expected = json_file(&path);
        if answer != expected {
            differences.push(format!("{}: expected {expected:#}, answered {answer:#}", path.display()));
        }
    }
    differences
}

/// Returns status and body, with the patch decoded so that it can be read.
fn answer(case: &Path, endpoint: Endpoint, review: &Value) -> Value {
    let answer = reviewer(case).review(endpoint, review.to_string().as_bytes());
    let mut body: Value = serde_json::from_slice(&answer.body).unwrap();
    if let Some(patch) = body.pointer_mut("/response/patch") {
        *patch = serde_json::from_slice(&BASE64.decode(patch.as_str().unwrap()).unwrap()).unwrap();
    }
    json!({"status": answer.status, "body": body})
}

fn reviewer(case: &Path) -> Reviewer {
    reviewer_of_file(&case.join("facts.yaml"))
}
