//! For the fuzz target `json`.

use std::fmt::Debug;

use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

use super::{read, read_pair};
use crate::api::{cluster::NetworkAttachmentDefinition, vm::VirtualMachine, vmi::VirtualMachineInstance};

/// Reads a text with nicplug's reader and with serde_json, as any value and as the objects of requests.
///
/// # Panics
/// The results differ. A view skips fields without checking them, so it may be read from a text that is not JSON.
#[allow(clippy::panic, reason = "a fuzz target fails by a panic")]
pub fn compare(text: &str) {
    let expected = serde_json::from_str::<Value>(text).ok();
    assert_eq!([read(text).ok(), read_pair(text).ok()], [expected.clone(), expected], "a value");
    if serde_json::from_str::<IgnoredAny>(text).is_ok() {
        assert!(read::<IgnoredAny>(text).is_ok(), "a skipped value");
        assert!(read_pair::<IgnoredAny>(text).is_ok(), "a skipped value of a pair");
        compare_views::<VirtualMachine>(text);
        compare_views::<VirtualMachineInstance>(text);
        let of_nad = |nad: NetworkAttachmentDefinition| (nad.metadata.name, nad.spec.config);
        let expected = serde_json::from_str(text).ok().map(of_nad);
        assert_eq!(read(text).ok().map(of_nad), expected, "a NetworkAttachmentDefinition");
    } else {
        // Only the result of serde_json is known.
        drop((read::<IgnoredAny>(text), read::<VirtualMachine>(text), read::<VirtualMachineInstance>(text)));
        drop(read_pair::<IgnoredAny>(text));
    }
}

fn compare_views<'t, T: Deserialize<'t> + Debug + PartialEq>(text: &'t str) {
    assert_eq!(read::<T>(text).ok(), serde_json::from_str::<T>(text).ok(), "a view");
}
