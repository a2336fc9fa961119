//! A real API server under the tests, and what tests on it need: KubeVirt's definitions, a double of its controllers,
//! and our own webhook beside it.
//!
//! A test begins with
//!
//! ```ignore
//! let Some(api) = apiserver::shared().await else { return };
//! let namespace = api.namespace("hotplug").await;
//! ```
//!
//! and works in its own namespace, since starting an API server takes seconds and one serves all tests of a file. There
//! are no controllers but the double, no kubelet, and nothing that empties a deleted namespace: all of it goes at once,
//! when the process of the tests ends.

// Each test compiles this module for itself and uses a part of it; its helpers fail as tests do.
#![allow(
    dead_code,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used
)]

pub(crate) mod apiserver;
pub(crate) mod crds;
mod kubebuilder;
pub(crate) mod kubevirt_double;
mod program;
pub(crate) mod request;
pub(crate) mod roles;
pub(crate) mod service;
pub(crate) mod webhook;

use std::{
    fs,
    future::Future,
    mem::ManuallyDrop,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use tokio::time;

/// How long a test waits for what must happen. Far longer than it takes: a test that meets this bound has failed.
pub(crate) const LONG: Duration = Duration::from_mins(1);

/// Asks until there is an answer; panics with `what` when there is none for a [`LONG`] time.
///
/// For what cannot be watched. A change of an object can: see `kube::runtime::wait`.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            time::sleep(Duration::from_millis(20)).await;
        }
    };
    time::timeout(LONG, asking).await.unwrap_or_else(|_| panic!("not within {LONG:?}: {what}"))
}

/// A new folder under `target/tmp` that goes away with its owner.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(purpose: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{purpose}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        // One of an earlier process of the same number.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Leaves the folder to somebody else.
    fn keep(self) -> PathBuf {
        ManuallyDrop::new(self).0.clone()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
