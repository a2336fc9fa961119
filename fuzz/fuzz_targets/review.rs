#![no_main]
use libfuzzer_sys::fuzz_target;
fuzz_target!(|body: &[u8]| {
    let _ = serde_json::from_slice::<nicplug::api::network::Interface>(body);
});
