//! Waiting for events. No test waits for a time to pass.

use std::{future::Future, time::Duration};

use tokio::time;

/// How long a test waits for an event. Events take far less: a test that reaches this limit has failed.
pub(crate) const LONG: Duration = Duration::from_mins(1);

/// How long a whole test may take before [`guarded`] ends it.
const GUARD: Duration = Duration::from_mins(15);

/// Calls `check` until it returns a value; panics with `what` if it returns none within [`LONG`].
///
/// It is for state that cannot be watched. Changes of objects can: see `kube::runtime::wait`.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, check: impl FnMut() -> F) -> T {
    within(LONG, what, check).await
}

/// As [`eventually`], for an event that may take longer than [`LONG`].
pub(crate) async fn within<T, F: Future<Output = Option<T>>>(
    limit: Duration,
    what: &str,
    mut check: impl FnMut() -> F,
) -> T {
    let polling = async {
        loop {
            if let Some(value) = check().await {
                return value;
            }
            time::sleep(Duration::from_millis(20)).await;
        }
    };
    time::timeout(limit, polling).await.unwrap_or_else(|_| panic!("did not happen within {limit:?}: {what}"))
}

/// Runs a test and fails it if it hangs. No test depends on how long the limit is.
pub(crate) async fn guarded<T>(test: impl Future<Output = T>) -> T {
    time::timeout(GUARD, Box::pin(test)).await.expect("the test waited for an event that did not happen")
}
