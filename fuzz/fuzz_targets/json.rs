//! nicplug's JSON reader accepts what serde_json accepts, and returns the same values.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| nicplug::api::compare(text));
