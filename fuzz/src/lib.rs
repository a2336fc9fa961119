//! What the fuzz targets share: a reviewer, and what holds for each answer.

use std::sync::{Arc, LazyLock};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use json_patch::Patch;
use nicplug::{
    admission::{Endpoint, Reviewer},
    api::vmi::VirtualMachineInstance,
    change::Change,
    facts::{Fact, FactSource, Facts, KubeVirt, Vmi},
    settings::Settings,
};
use serde_json::Value;

/// The most bytes of an answer; see `docs/security.md`, T2.
const ANSWER_AT_MOST: usize = 64 << 10;

/// The guest that runs.
const VMI: &str = r#"{"spec": {"networks": [{"name": "defaultnetwork", "pod": {}}], "domain": {"devices": {
    "interfaces": [{"name": "defaultnetwork", "masquerade": {}}]}}}, "status": {"phase": "Running"}}"#;

/// A running VM on a KubeVirt without feature gates, so that most rules have findings.
struct Running;

impl FactSource for Running {
    fn facts_for(&self, _change: &Change) -> Facts {
        let kubevirt = KubeVirt { version: "v1.3.1".parse().ok(), ..KubeVirt::default() };
        let vmi: VirtualMachineInstance = serde_json::from_str(VMI).expect("the VMI is valid");
        let vmi = Vmi::of(&vmi, &vmi, &kubevirt);
        Facts { kubevirt: Fact::Known(Arc::new(kubevirt)), vmi: Fact::Known(Arc::new(vmi)), ..Facts::default() }
    }
}

/// A reviewer that knows of a running VM.
pub static REVIEWER: LazyLock<Reviewer> = LazyLock::new(|| Reviewer::new(Arc::new(Running), Settings::default()));

/// Returns the `response` of a reviewer to a body, or `None` if the body is not a review.
///
/// # Panics
/// The answer breaks a guarantee of the webhook.
pub fn answer(reviewer: &Reviewer, endpoint: Endpoint, body: &[u8]) -> Option<Value> {
    let answer = reviewer.review(endpoint, body);
    assert!(answer.body.len() <= ANSWER_AT_MOST, "the answer has {} bytes", answer.body.len());
    let mut review: Value = serde_json::from_slice(&answer.body).expect("the answer is JSON");
    match answer.status {
        200 => {}
        400 => {
            assert!(review["error"].is_string(), "rejected without a reason: {review}");
            return None;
        }
        status => panic!("the status is {status}"),
    }

    let response = review["response"].take();
    if let Some(uid) = uid(body) {
        assert_eq!(response["uid"], uid.as_str(), "another uid");
    }
    let is_allowed = response["allowed"].as_bool().expect("`allowed` is a Boolean");
    assert!(is_allowed || endpoint == Endpoint::Validate, "/mutate denies: {response}");
    assert!(is_allowed || !response["status"]["details"]["causes"][0].is_null(), "denied without a cause: {response}");
    Some(response)
}

/// Returns the body as the reviewer of `/mutate` patches it; `None` if there is no patch.
///
/// # Panics
/// An answer breaks a guarantee of the webhook, or the patched body is patched again.
pub fn patched_once(body: &[u8]) -> Option<Vec<u8>> {
    let patched = patched(body, &answer(&REVIEWER, Endpoint::Mutate, body)?)?;
    let again = answer(&REVIEWER, Endpoint::Mutate, &patched).expect("a patched review is readable");
    assert_eq!(again.get("patch"), None, "patched twice");
    Some(patched)
}

/// Returns the body with the patch of a response of `/mutate` applied to its object; `None` if there is no patch.
///
/// # Panics
/// The patch does not fit the object.
pub fn patched(body: &[u8], response: &Value) -> Option<Vec<u8>> {
    let patch = BASE64.decode(response.get("patch")?.as_str()?).expect("the patch is base64");
    let patch: Patch = serde_json::from_slice(&patch).expect("the patch is RFC 6902");
    // nicplug skips fields that it does not need without validating them, so the body may be invalid JSON.
    let mut review: Value = serde_json::from_slice(body).ok()?;
    json_patch::patch(&mut review["request"]["object"], &patch).expect("the patch fits the object");
    Some(serde_json::to_vec(&review).expect("a value is JSON"))
}

/// Returns `request.uid`, read without the parser of nicplug.
fn uid(body: &[u8]) -> Option<String> {
    let review: Value = serde_json::from_slice(body).ok()?;
    Some(review["request"]["uid"].as_str()?.to_owned())
}
