//! Settings: any text is accepted, or refused in one line that is not longer than a log line may be.

#![no_main]

use std::{path::Path, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use nicplug::{
    rules,
    server::reload::settings::{FileError, parse},
};

/// The longest message about a text that cannot be used.
const MESSAGE_AT_MOST: usize = 2048;

static RULES: LazyLock<Vec<&str>> = LazyLock::new(rules::ids);

fuzz_target!(|text: &str| {
    match parse(Path::new("settings.yaml"), &RULES, text) {
        Ok(settings) => {
            for namespace in ["", "demo", "team-a", "kube-system"] {
                for id in RULES.iter() {
                    let _ = settings.enforcement(id, namespace);
                }
                let _ = settings.live_changes("system:serviceaccount:kubevirt:kubevirt", || vec!["ops"], namespace);
            }
        }
        Err(error @ FileError::Invalid { .. }) => {
            let message = error.to_string();
            assert!(!message.contains('\n'), "more than one line: {message}");
            assert!(message.len() <= MESSAGE_AT_MOST.max(text.len() * 8), "{} bytes: {message}", message.len());
        }
        Err(error) => panic!("a text has the error of a file: {error}"),
    }
});
