//! Loads the configuration of a cluster: the only place that reads a kubeconfig.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, anyhow};
use clap::Args;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};

use super::{arguments::quoted, values::HumanDuration};
use crate::{
    facts::nad::closest_name,
    k8s::{api_error::root_cause, served_groups::ServedGroups},
    settings::Settings,
};

/// The time for a response with `--request-timeout=0`: longer than any command runs.
const UNLIMITED: Duration = Duration::from_hours(24 * 365);

/// The largest number of contexts that an error lists.
const MAX_CONTEXTS: usize = 10;

/// The configuration that is tried first if no flag names one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Preferred {
    /// `KUBECONFIG`, else `~/.kube/config`: a user who runs a command in a pod chooses the cluster by it.
    Kubeconfig,
    /// The service account of the pod. A kubeconfig that is mounted into the pod is for other programs.
    Pod,
}

/// The reason for which no configuration can be loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error("--kubeconfig {} cannot be read: {reason}", .path.display())]
    Unreadable { path: PathBuf, reason: String },
    #[error("--kubeconfig {} cannot be used: {reason}", .path.display())]
    Unusable { path: PathBuf, reason: String },
    #[error("--context {context} cannot be used: {reason}")]
    Context { context: String, reason: String },
    #[error("nicplug does not run in a pod, and no kubeconfig can be used ({0}); set KUBECONFIG or pass --kubeconfig")]
    NotFound(String),
}

/// Reads the file of `--kubeconfig` with the context of `--context`. Without both it reads the preferred configuration,
/// else the other one.
pub(super) async fn load(
    kubeconfig: Option<&Path>,
    context: Option<&str>,
    preferred: Preferred,
) -> Result<Config, LoadError> {
    if let Some(path) = kubeconfig {
        let kubeconfig = Kubeconfig::read_from(path)
            .map_err(|error| LoadError::Unreadable { path: path.to_owned(), reason: root_cause(&error) })?;
        return config_of(kubeconfig, context).await.map_err(|reason| match context {
            Some(context) => LoadError::Context { context: context.to_owned(), reason },
            None => LoadError::Unusable { path: path.to_owned(), reason },
        });
    }
    if let Some(context) = context {
        return from_environment(Some(context))
            .await
            .map_err(|reason| LoadError::Context { context: context.to_owned(), reason });
    }
    if let (Preferred::Pod, Ok(config)) = (preferred, Config::incluster()) {
        return Ok(config);
    }
    match from_environment(None).await {
        Ok(config) => Ok(config),
        Err(reason) => Config::incluster().map_err(|_| LoadError::NotFound(reason)),
    }
}

/// Reads the files of `KUBECONFIG`, else `~/.kube/config`.
async fn from_environment(context: Option<&str>) -> Result<Config, String> {
    let kubeconfig = Kubeconfig::read().map_err(|error| match &error {
        KubeconfigError::ReadConfig(error, path) => format!("{}: {error}", path.display()),
        error => root_cause(error),
    })?;
    config_of(kubeconfig, context).await
}

/// Returns the configuration of a context; of the current one if none is named.
async fn config_of(kubeconfig: Kubeconfig, context: Option<&str>) -> Result<Config, String> {
    let names: Vec<String> = kubeconfig.contexts.iter().map(|context| context.name.clone()).collect();
    let current = kubeconfig.current_context.clone().filter(|name| !name.is_empty());
    let chosen = context.or(current.as_deref());
    if chosen.is_none_or(|chosen| !names.iter().any(|name| name == chosen)) {
        return Err(missing_context(chosen, context.is_some(), &names));
    }
    let options = KubeConfigOptions { context: chosen.map(str::to_owned), ..KubeConfigOptions::default() };
    Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| root_cause(&error))
}

/// Returns the reason for which there is no context, and which ones there are.
fn missing_context(chosen: Option<&str>, is_flag: bool, names: &[String]) -> String {
    let what = match chosen {
        Some(_) if is_flag => "the kubeconfig has no such context".to_owned(),
        Some(current) => format!("it has no context {current:?}, which it names as the current one"),
        None => "it names no current context".to_owned(),
    };
    let near = chosen.and_then(|chosen| closest_name(chosen, names.iter().map(String::as_str)));
    let list =
        |end: &str| format!("it has: {}{end}", names.iter().take(MAX_CONTEXTS).cloned().collect::<Vec<_>>().join(", "));
    let hint = match near {
        Some(near) => format!("did you mean {near:?}?"),
        None if names.is_empty() => "it has no context at all".to_owned(),
        None if names.len() > MAX_CONTEXTS => list(", …"),
        None => list(""),
    };
    format!("{what}; {hint}")
}

/// The flags by which a command connects to a cluster, as kubectl has them.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Cluster")]
pub(super) struct ConnectionArgs {
    /// The context of the kubeconfig [default: its current context].
    #[arg(long, value_name = "CONTEXT")]
    context: Option<String>,

    /// The kubeconfig [default: $KUBECONFIG, else ~/.kube/config, else the service account of the pod].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// Act as this user, which needs the permission to impersonate it; a service account is
    /// system:serviceaccount:NAMESPACE:NAME.
    #[arg(long = "as", value_name = "USER")]
    as_user: Option<String>,

    /// Act as a member of this group; may be repeated.
    #[arg(long = "as-group", value_name = "GROUP", requires = "as_user")]
    as_groups: Vec<String>,

    /// The longest time for each response of the API server, such as 5s or 1m30s; 0 for no limit [default: 5s to 30s,
    /// by what is read].
    #[arg(long, value_name = "TIME")]
    request_timeout: Option<HumanDuration>,
}

/// The flags that select a cluster and a namespace, as kubectl has them.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Cluster")]
pub(super) struct ClusterArgs {
    /// The namespace [default: that of the context].
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,

    #[command(flatten)]
    pub(super) connection: ConnectionArgs,
}

/// A client of a cluster, and the namespace of the command.
pub(super) struct Cluster {
    pub(super) client: Client,
    /// The groups in which the cluster serves the kinds of KubeVirt.
    pub(super) groups: ServedGroups,
    pub(super) namespace: String,
    /// The time of `--request-timeout`.
    pub(super) request_timeout: Option<Duration>,
}

impl Cluster {
    /// Returns the longest time for a response: that of the flag, else `default`.
    pub(super) fn timeout(&self, default: Duration) -> Duration {
        self.request_timeout.unwrap_or(default)
    }
}

impl ConnectionArgs {
    /// Returns the first flag that is set, for a command that reads no cluster.
    pub(super) fn given(&self) -> Option<&'static str> {
        let Self { context, kubeconfig, as_user, as_groups: _, request_timeout } = self;
        let all = [
            (context.is_some(), "--context"),
            (kubeconfig.is_some(), "--kubeconfig"),
            (as_user.is_some(), "--as"),
            (request_timeout.is_some(), "--request-timeout"),
        ];
        all.into_iter().find(|(is_given, _)| *is_given).map(|(_, flag)| flag)
    }

    /// Loads the configuration; sends nothing yet.
    pub(super) async fn config(&self, preferred: Preferred) -> anyhow::Result<Config> {
        let mut config = load(self.kubeconfig.as_deref(), self.context.as_deref(), preferred).await?;
        if let Some(user) = &self.as_user {
            // The flags replace all of what the kubeconfig impersonates, as in kubectl.
            config.auth_info.impersonate = Some(user.clone());
            config.auth_info.impersonate_uid = None;
            config.auth_info.impersonate_groups = Some(self.as_groups.clone()).filter(|groups| !groups.is_empty());
            config.auth_info.impersonate_user_extra = None;
        }
        if let Some(limit) = self.request_timeout() {
            config.connect_timeout = Some(limit);
            config.read_timeout = Some(limit);
            config.reset_reader_on_write = true;
        }
        Ok(config)
    }

    fn request_timeout(&self) -> Option<Duration> {
        self.request_timeout.map(|HumanDuration(limit)| if limit.is_zero() { UNLIMITED } else { limit })
    }
}

impl ClusterArgs {
    /// Returns the namespace of `--namespace`.
    pub(super) fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// Returns the flags that are set, for a command that is printed; each begins with a blank.
    pub(super) fn repeated(&self) -> String {
        let ConnectionArgs { context, kubeconfig, as_user, as_groups, request_timeout: _ } = &self.connection;
        let file = kubeconfig.as_ref().map(|path| path.display().to_string());
        let mut flags = vec![("-n", self.namespace.as_deref()), ("--context", context.as_deref())];
        flags.extend([("--kubeconfig", file.as_deref()), ("--as", as_user.as_deref())]);
        flags.extend(as_groups.iter().map(|group| ("--as-group", Some(group.as_str()))));
        let all = flags.into_iter().filter_map(|(flag, value)| Some(format!(" {flag} {}", quoted(value?))));
        all.collect()
    }

    /// Returns the first flag that is set, for a command that reads no cluster.
    pub(super) fn given(&self) -> Option<&'static str> {
        self.namespace.as_ref().map(|_| "--namespace").or_else(|| self.connection.given())
    }

    /// Loads the configuration. Sends nothing yet, unless the settings name forks of KubeVirt: then it asks the API server
    /// which of them the cluster serves.
    pub(super) async fn connect(&self, settings: &Settings) -> anyhow::Result<Cluster> {
        let config = self.connection.config(Preferred::Kubeconfig).await?;
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let groups = ServedGroups::new(settings.api.forks());
        let client = groups.client(config).context("the kubeconfig cannot be used")?;
        groups.discover(&client).await.map_err(|error| explain(&error))?;
        Ok(Cluster { client, groups, namespace, request_timeout: self.connection.request_timeout() })
    }
}

/// Returns the message of the API server, or the reason for which it cannot be reached.
pub(super) fn explain(error: &kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status) => anyhow!("the API server answered: {}", status.message),
        error => anyhow!("the API server cannot be reached: {}", root_cause(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_context_is_named_with_the_closest_one_or_with_all() {
        let names = ["staging".to_owned(), "production".to_owned()];
        for (chosen, is_flag, names, expected) in [
            (Some("stagin"), true, &names[..], "the kubeconfig has no such context; did you mean \"staging\"?"),
            (Some("other"), true, &names, "the kubeconfig has no such context; it has: staging, production"),
            (
                Some("produktion"),
                false,
                &names,
                "it has no context \"produktion\", which it names as the current one; did you mean \"production\"?",
            ),
            (None, false, &names, "it names no current context; it has: staging, production"),
            (None, false, &[], "it names no current context; it has no context at all"),
        ] {
            assert_eq!(missing_context(chosen, is_flag, names), expected);
        }
        let many: Vec<String> = (0..11).map(|number| format!("cluster-{number}")).collect();
        assert!(missing_context(None, false, &many).ends_with("cluster-8, cluster-9, …"));
    }

    #[tokio::test]
    async fn flags_set_the_impersonated_user_and_the_time_for_a_response() {
        let folder = std::env::temp_dir().join(format!("nicplug-kubeconfig-{}", std::process::id()));
        let config = "{apiVersion: v1, kind: Config, current-context: a, contexts: [{name: a, context: {cluster: a, \
            user: a}}], clusters: [{name: a, cluster: {server: 'http://127.0.0.1:1'}}], \
            users: [{name: a, user: {as: jane, as-groups: [staff], as-uid: '7'}}]}";
        std::fs::write(&folder, config).unwrap();
        let args = ConnectionArgs { kubeconfig: Some(folder.clone()), ..ConnectionArgs::default() };
        let config = args.config(Preferred::Kubeconfig).await.unwrap();
        assert_eq!(config.auth_info.impersonate.as_deref(), Some("jane"));
        assert_eq!((config.read_timeout, args.request_timeout()), (None, None));
        let args = ConnectionArgs {
            as_user: Some("bob".to_owned()),
            request_timeout: Some(HumanDuration(Duration::from_secs(7))),
            ..args
        };
        let config = args.config(Preferred::Kubeconfig).await.unwrap();
        let auth = &config.auth_info;
        assert_eq!(auth.impersonate.as_deref(), Some("bob"));
        assert_eq!((&auth.impersonate_groups, &auth.impersonate_uid), (&None, &None));
        assert_eq!(config.read_timeout, Some(Duration::from_secs(7)));
        let unlimited = ConnectionArgs { request_timeout: Some(HumanDuration(Duration::ZERO)), ..args };
        assert_eq!(unlimited.request_timeout(), Some(UNLIMITED));
        std::fs::remove_file(folder).unwrap();
    }
}
