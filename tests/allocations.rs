//! Fields of an object that no rule reads cost no allocation.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::sync::Arc;

use allocation_counter::measure;
use nicplug::{
    admission::{Decision, Endpoint, Reviewer},
    facts::NoFacts,
    settings::Settings,
};
use serde_json::{Value, json};
use support::cases::data;

const REVIEWS: [&str; 3] = ["vm-update-merge-patch-add-nic", "vmi-update-status-heartbeat", "vmi-create"];

/// Adds entries to the lists of a review that no rule reads.
fn with_unread_entries(review: &Value, count: usize) -> Vec<u8> {
    let mut review = review.clone();
    let fields = json!({"manager": "other", "operation": "Update", "fieldsV1": {"f:spec": {"f:template": {}}}});
    for side in ["object", "oldObject"] {
        let object = &mut review["request"][side];
        if object.is_null() {
            continue;
        }
        object["metadata"]["managedFields"] = vec![fields.clone(); count].into();
        object["metadata"]["finalizers"] = vec![json!("example.com/one"); count].into();
        object["status"]["guestOSInfo"] = vec![json!({"name": "a \"quoted\" name", "id": 1.5}); count].into();
        let guest = match object["kind"].as_str() {
            Some("VirtualMachine") => &mut object["spec"]["template"]["spec"],
            _ => &mut object["spec"],
        };
        guest["volumes"] = vec![json!({"name": "disk", "containerDisk": {"image": "example.com/disk"}}); count].into();
        guest["accessCredentials"] =
            vec![json!({"sshPublicKey": {"source": {"secret": {"secretName": "key"}}}}); count].into();
    }
    serde_json::to_vec(&review).unwrap()
}

#[test]
fn a_hundred_times_as_many_unread_entries_cost_no_further_allocation() {
    let reviewer = Reviewer::new(Arc::new(NoFacts), Settings::default());
    for name in REVIEWS {
        let text = std::fs::read(data("reviews").join(name).with_extension("json")).unwrap();
        let review: Value = serde_json::from_slice(&text).unwrap();
        for endpoint in Endpoint::ALL {
            let allocations = |count| {
                let body = with_unread_entries(&review, count);
                let mut decision = None;
                let counted = measure(|| decision = Some(reviewer.review(endpoint, &body).decision));
                assert_ne!(decision, Some(Decision::Malformed), "{name}");
                counted.count_total
            };
            // The first review allocates what is allocated once.
            allocations(1);
            assert_eq!(allocations(1), allocations(100), "{name} {endpoint:?}");
        }
    }
}
