//! Reviews arbitrary bytes: nicplug must not panic, each response must keep the guarantees of the webhook, and the
//! spelling of the JSON must not matter.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nicplug::admission::{Decision, Endpoint};
use nicplug_fuzz::{REVIEWER, answer, patched_once};
use serde_json::Value;

fuzz_target!(|body: &[u8]| {
    answer(&REVIEWER, Endpoint::Validate, body);
    patched_once(body);
    if let Ok(review) = serde_json::from_slice::<Value>(body) {
        let compact = review.to_string();
        let escaped = escaped(&compact);
        let indented = serde_json::to_string_pretty(&review).expect("a value is JSON");
        let apart = with_old_object_apart(review);
        for endpoint in Endpoint::ALL {
            let expected = REVIEWER.review(endpoint, compact.as_bytes());
            for spelling in [&escaped, &indented, &apart] {
                let answer = REVIEWER.review(endpoint, spelling.as_bytes());
                // The reason why a body is malformed is not looked for in all of a long body.
                if expected.decision == Decision::Malformed {
                    assert_eq!(answer.decision, expected.decision, "{spelling}");
                } else {
                    assert_eq!(answer, expected, "{spelling}");
                }
            }
        }
    }
});

/// Returns compact JSON in which only `oldObject` is indented, so that it repeats no text of `object`.
fn with_old_object_apart(mut review: Value) -> String {
    const PLACE: &str = "the old object stands here";
    let Some(old) = review.pointer_mut("/request/oldObject") else { return review.to_string() };
    let old = std::mem::replace(old, Value::from(PLACE));
    let indented = serde_json::to_string_pretty(&old).expect("a value is JSON");
    review.to_string().replacen(&format!("\"{PLACE}\""), &indented, 1)
}

/// Returns the same JSON with the first letter of each string, keys included, as an escape.
fn escaped(compact: &str) -> String {
    let mut text = String::with_capacity(compact.len() * 2);
    let (mut is_inside, mut is_first, mut is_escape) = (false, false, false);
    for letter in compact.chars() {
        if is_inside && is_first && letter.is_ascii_alphanumeric() {
            text.push_str(&format!("\\u{:04x}", u32::from(letter)));
        } else {
            text.push(letter);
        }
        is_first = false;
        if is_escape {
            is_escape = false;
        } else if is_inside && letter == '\\' {
            is_escape = true;
        } else if letter == '"' {
            is_inside = !is_inside;
            is_first = is_inside;
        }
    }
    text
}
