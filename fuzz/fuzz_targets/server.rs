//! The server answers as the pure function does: for the body itself, and for the body that `/mutate` has patched, which
//! is the order in which the API server calls both webhooks.

#![no_main]

use std::{cell::LazyCell, thread_local};

use libfuzzer_sys::fuzz_target;
use nicplug::{admission::Endpoint, server::fuzzing::Routes};
use nicplug_fuzz::{REVIEWER, patched, patched_once};
use serde_json::Value;

thread_local! {
    static SERVER: LazyCell<Routes> = LazyCell::new(|| Routes::new(REVIEWER.clone()));
}

fuzz_target!(|body: &[u8]| {
    // Parts of any length, so that the body is copied together in different ways.
    let part = 1 + body.len() % 1500;
    let before = post(Endpoint::Validate, body, part);
    let (status, response) = post(Endpoint::Mutate, body, part);
    assert_eq!(post(Endpoint::Validate, body, part), before, "a second answer differs");
    let Some(of_function) = patched_once(body) else { return };
    let review: Value = serde_json::from_slice(&response).expect("the answer is JSON");
    assert_eq!(status, 200);
    let of_server = patched(body, &review["response"]).expect("there is a patch");
    assert_eq!(of_server, of_function);
    post(Endpoint::Validate, &of_server, part);
    post(Endpoint::Mutate, &of_server, part);
});

/// Returns the answer of the server, which is that of the function.
fn post(endpoint: Endpoint, body: &[u8], part: usize) -> (u16, Vec<u8>) {
    let answer = SERVER.with(|server| server.post(endpoint, body, part));
    let expected = REVIEWER.review(endpoint, body);
    assert_eq!(answer, (expected.status, expected.body), "{endpoint:?}");
    answer
}
