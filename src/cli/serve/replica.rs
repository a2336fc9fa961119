//! What `serve` knows of its own replica: its identity, its namespace and its environment.

use std::env;

use kube::Client;

/// Returns a name that no other replica has: the pod's or host's name and a random suffix, since a restarted pod may
/// have the same name.
pub(super) fn identity() -> String {
    let name = ["POD_NAME", "HOSTNAME"].into_iter().find_map(environment);
    // The API server allows 128 characters for the instance that reports an Event.
    let name: String = name.as_deref().unwrap_or("nicplug").chars().take(100).collect();
    format!("{name}_{:016x}", fastrand::u64(..))
}

/// Returns the namespace of this pod; outside of a pod that of the kubeconfig.
pub(super) fn own_namespace(client: &Client) -> String {
    environment("POD_NAMESPACE").unwrap_or_else(|| client.default_namespace().to_owned())
}

/// Returns a variable of the environment; `None` if it is empty.
pub(super) fn environment(key: &str) -> Option<String> {
    env::var(key).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_replicas_have_different_identities() {
        assert_ne!(identity(), identity());
    }
}
