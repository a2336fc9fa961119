//! The API groups in which a cluster serves the kinds of KubeVirt: its own, or those of a fork.

use std::sync::{Arc, OnceLock};

use hyper::{Request, Uri};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder},
};
use tokio::time::sleep;
use tower::util::MapRequestLayer;

use super::{
    api_error::root_cause,
    backoff::{Backoff, Delays},
    log_once::LogOnce,
};

/// Which group the cluster serves for each group of KubeVirt of which a fork may exist. The clients of one cluster share
/// it.
///
/// The rest of nicplug knows the groups of KubeVirt only: a client of [`Self::client`] sends each request for a group of
/// KubeVirt to the group that the cluster serves.
#[derive(Clone, Debug, Default)]
pub struct ServedGroups(Arc<[Group]>);

/// One group of KubeVirt, and the groups of its forks.
#[derive(Debug)]
struct Group {
    name: &'static str,
    forks: Vec<String>,
    /// The group that the cluster serves; unset as long as that is not known, or none of them.
    served: OnceLock<String>,
}

impl ServedGroups {
    /// Returns the groups of a cluster about which nothing is known yet: for some groups of KubeVirt those of its forks.
    pub fn new(forks: impl IntoIterator<Item = (&'static str, Vec<String>)>) -> Self {
        let groups = forks.into_iter().filter(|(_, forks)| !forks.is_empty());
        Self(groups.map(|(name, forks)| Group { name, forks, served: OnceLock::new() }).collect())
    }

    /// Whether the cluster serves the kinds of a group of KubeVirt in this group.
    #[must_use]
    pub fn serves(&self, group: &str, of: &str) -> bool {
        match self.find(of) {
            None => group == of,
            Some(known) => known.served.get().is_some_and(|served| served == group),
        }
    }

    /// Returns the group in which the cluster serves the kinds of a group of KubeVirt; the latter if that is not known.
    #[must_use]
    pub fn of<'g>(&'g self, group: &'g str) -> &'g str {
        self.find(group).and_then(|known| known.served.get()).map_or(group, String::as_str)
    }

    fn find(&self, name: &str) -> Option<&Group> {
        self.0.iter().find(|group| group.name == name)
    }

    /// Builds a client that sends the requests for groups of KubeVirt to the groups that the cluster serves.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub fn client(&self, config: Config) -> kube::Result<Client> {
        if self.0.is_empty() {
            return Client::try_from(config);
        }
        let groups = self.clone();
        let layer = MapRequestLayer::new(move |mut request: Request<Body>| {
            if let Some(uri) = groups.uri(request.uri()) {
                *request.uri_mut() = uri;
            }
            request
        });
        // The inner layers of kube prepend the address of the cluster to the path.
        Ok(ClientBuilder::try_from(config)?.with_layer(&layer).build())
    }

    /// Returns the URI for the group that the cluster serves; `None` if it is the same.
    fn uri(&self, uri: &Uri) -> Option<Uri> {
        let (group, rest) = uri.path().strip_prefix("/apis/")?.split_once('/')?;
        let served = self.find(group)?.served.get().filter(|served| *served != group)?;
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = Some(format!("/apis/{served}/{rest}{query}").parse().ok()?);
        Uri::from_parts(parts).ok()
    }

    /// Asks the API server which groups it serves, unless all are known. A fork that the settings name comes before
    /// KubeVirt itself.
    ///
    /// # Errors
    /// The API server cannot be asked.
    pub async fn discover(&self, client: &Client) -> kube::Result<()> {
        if self.are_known() {
            return Ok(());
        }
        let served = client.list_api_groups().await?;
        let is_served = |name: &str| served.groups.iter().any(|group| group.name == name);
        for Group { name, forks, served } in self.0.iter() {
            let found = forks.iter().map(String::as_str).chain([*name]).find(|name| is_served(name));
            if let Some(found) = found.filter(|_| served.get().is_none()) {
                // Another task may have set it meanwhile, to the same.
                let _ = served.set(found.to_owned());
            }
        }
        Ok(())
    }

    fn are_known(&self) -> bool {
        self.0.iter().all(|group| group.served.get().is_some())
    }

    /// As [`Self::discover`], again and again until the API server has answered.
    pub async fn ask(&self, client: &Client, retry_delays: Delays) {
        let mut backoff = Backoff::new(retry_delays);
        let mut log_once = LogOnce::default();
        while let Err(error) = self.discover(client).await {
            if let Some(error) = log_once.changed(Some(root_cause(&error))) {
                tracing::warn!(error, "cannot ask the API server whether it serves KubeVirt or a fork of it");
            }
            sleep(backoff.next_delay()).await;
        }
    }

    /// Asks again, some time after [`Self::ask`], until all groups are known: the cluster serves the group of a fork only
    /// when the fork is installed.
    pub async fn ask_for_all(&self, client: &Client, retry_delays: Delays) {
        let mut backoff = Backoff::new(retry_delays);
        while !self.are_known() {
            sleep(backoff.next_delay()).await;
            // After an error it asks again too.
            let _ = self.discover(client).await;
        }
        for Group { name, served, .. } in self.0.iter() {
            if let Some(served) = served.get().filter(|served| served != name) {
                tracing::info!(group = name, served, "the cluster serves a fork of KubeVirt");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(served: Option<&str>) -> ServedGroups {
        let groups = ServedGroups::new([("kubevirt.io", vec!["kubevirt.example.com".to_owned()])]);
        if let Some(served) = served {
            groups.0[0].served.set(served.to_owned()).unwrap();
        }
        groups
    }

    #[test]
    fn a_request_goes_to_the_group_that_the_cluster_serves() {
        for (served, uri, expected) in [
            (Some("kubevirt.example.com"), "/apis/kubevirt.io/v1/kubevirts?limit=2&x=a%2Fb", true),
            (Some("kubevirt.example.com"), "/apis/pool.kubevirt.io/v1/virtualmachinepools", false),
            (Some("kubevirt.example.com"), "/apis/apps/v1/daemonsets", false),
            (Some("kubevirt.example.com"), "/apis", false),
            (Some("kubevirt.example.com"), "/api/v1/nodes", false),
            (Some("kubevirt.io"), "/apis/kubevirt.io/v1/kubevirts?limit=2", false),
            (None, "/apis/kubevirt.io/v1/kubevirts?limit=2", false),
        ] {
            let found = groups(served).uri(&uri.parse().unwrap()).map(|uri| uri.to_string());
            let rewritten = uri.replace("/kubevirt.io/", "/kubevirt.example.com/");
            assert_eq!(found, expected.then_some(rewritten), "{uri} {served:?}");
        }
        let uri = "https://10.0.0.1:6443/apis/kubevirt.io/v1/kubevirts".parse().unwrap();
        let found = groups(Some("kubevirt.example.com")).uri(&uri).unwrap().to_string();
        assert_eq!(found, "https://10.0.0.1:6443/apis/kubevirt.example.com/v1/kubevirts");
    }

    #[test]
    fn only_the_served_group_counts_once_a_fork_is_named() {
        let serves = |served: Option<&str>, group: &str| groups(served).serves(group, "kubevirt.io");
        assert!(ServedGroups::default().serves("kubevirt.io", "kubevirt.io"));
        assert!(!ServedGroups::default().serves("kubevirt.example.com", "kubevirt.io"));
        assert!(!serves(None, "kubevirt.io") && !serves(None, "kubevirt.example.com"));
        assert!(serves(Some("kubevirt.example.com"), "kubevirt.example.com"));
        assert!(!serves(Some("kubevirt.example.com"), "kubevirt.io"));
        assert_eq!(groups(None).of("kubevirt.io"), "kubevirt.io");
        assert_eq!(groups(Some("kubevirt.example.com")).of("kubevirt.io"), "kubevirt.example.com");
    }
}
