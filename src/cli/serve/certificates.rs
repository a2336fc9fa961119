//! Where `nicplug serve` has its certificate from: files that somebody else renews, or the cluster, where nicplug makes it.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use clap::Args;
use tokio::{sync::oneshot, task::JoinHandle};

use super::{Span, identity, source::SourceArgs};
use crate::{
    certificates::{Host, renewal::CertificatePlan},
    controllers::{
        certificates::{Keeper, ObjectNames},
        leader_election::{LeaderElector, Timings},
    },
    server::{
        health::Check,
        reload::{self, every},
        tls::{
            CertResolver,
            files::{self, Files},
            self_signed,
        },
    },
};

/// Where the namespace of a pod stands in it.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
/// How often a leader looks whether something is to be renewed, besides whenever something changes.
const LEADER_INTERVAL: Duration = Duration::from_secs(10);

/// The flags of the certificate that is shown.
#[derive(Args, Debug)]
pub(crate) struct CertificateArgs {
    /// Who makes the certificate: somebody else, as files; or nicplug itself, in a Secret of the cluster that all replicas
    /// share, with its authority in the caBundle of the webhook configurations.
    #[arg(long, value_name = "files|self", env = "NICPLUG_CERT_SOURCE", default_value_t, help_heading = "Certificate")]
    cert_source: CertSource,
    /// With files: the certificate chain of the server, PEM; its own certificate first.
    #[arg(long, value_name = "FILE", env = "NICPLUG_TLS_CERT", help_heading = "Certificate")]
    #[arg(required_unless_present_any = ["cert_secret"])]
    tls_cert: Option<PathBuf>,
    /// With files: the key of the server, PEM.
    #[arg(long, value_name = "FILE", env = "NICPLUG_TLS_KEY", help_heading = "Certificate")]
    #[arg(required_unless_present_any = ["cert_secret"])]
    tls_key: Option<PathBuf>,
    /// With files: how often to look whether they hold a new pair. One that cannot be used is refused, and the last good
    /// one stays.
    #[arg(long, value_name = "TIME", env = "NICPLUG_TLS_POLL", default_value_t = Span(reload::INTERVAL))]
    #[arg(help_heading = "Certificate")]
    tls_poll: Span,
    /// A name that clients call the server by, such as nicplug.nicplug.svc; may be repeated. A certificate is made for
    /// all of them, and one that is not for all of them is refused.
    #[arg(long, value_name = "NAME", env = "NICPLUG_CERT_DNS_NAME", value_delimiter = ',')]
    #[arg(help_heading = "Certificate")]
    cert_dns_name: Vec<Host>,
    /// With self: the Secret to keep it in. The Lease by which one replica leads has this name too.
    #[arg(long, value_name = "NAME", env = "NICPLUG_CERT_SECRET", help_heading = "Certificate")]
    cert_secret: Option<String>,
    /// With self: the namespace of the Secret [default: POD_NAMESPACE, or that of the pod].
    #[arg(long, value_name = "NAMESPACE", env = "NICPLUG_CERT_NAMESPACE", help_heading = "Certificate")]
    cert_namespace: Option<String>,
    /// With self: the name of the validating and of the mutating webhook configuration.
    #[arg(long, value_name = "NAME", env = "NICPLUG_WEBHOOK_CONFIG", help_heading = "Certificate")]
    webhook_config: Option<String>,
}

/// Who makes the certificate.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum CertSource {
    /// Somebody else.
    #[default]
    Files,
    /// nicplug.
    Own,
}

impl FromStr for CertSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "files" => Ok(Self::Files),
            "self" => Ok(Self::Own),
            _ => Err("write files or self".to_owned()),
        }
    }
}

impl fmt::Display for CertSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Files => "files",
            Self::Own => "self",
        })
    }
}

/// A source that is ready to be kept.
pub(crate) enum Source {
    /// Files, of which the first pair is read.
    Files { keeper: files::Keeper, poll: Duration },
    /// The cluster.
    Own { places: ObjectNames, plan: CertificatePlan, shown: CertResolver },
}

impl CertificateArgs {
    /// Reads the pair of the files, or looks whether all is there to make one.
    pub(crate) fn source(&self) -> anyhow::Result<Source> {
        match self.cert_source {
            CertSource::Files => {
                let certificate = self.tls_cert.clone().context("--cert-source files needs --tls-cert")?;
                let key = self.tls_key.clone().context("--cert-source files needs --tls-key")?;
                let keeper = files::Keeper::open(Files { certificate, key, hosts: self.cert_dns_name.clone() });
                let keeper = keeper.context("--tls-cert and --tls-key")?;
                Ok(Source::Files { keeper, poll: self.tls_poll.0 })
            }
            CertSource::Own => {
                anyhow::ensure!(!self.cert_dns_name.is_empty(), "--cert-source self needs --cert-dns-name");
                let places = ObjectNames {
                    namespace: self.namespace(Path::new(NAMESPACE_FILE))?,
                    secret: self.cert_secret.clone().context("--cert-source self needs --cert-secret")?,
                    webhooks: self.webhook_config.clone().context("--cert-source self needs --webhook-config")?,
                };
                Ok(Source::Own {
                    places,
                    plan: CertificatePlan::new(self.cert_dns_name.clone()),
                    shown: CertResolver::default(),
                })
            }
        }
    }

    fn namespace(&self, file: &Path) -> anyhow::Result<String> {
        let given = self.cert_namespace.clone().or_else(|| std::env::var("POD_NAMESPACE").ok());
        let given = given.or_else(|| fs::read_to_string(file).ok().map(|text| text.trim().to_owned()));
        given.context("--cert-source self needs a namespace outside of a pod: give --cert-namespace or POD_NAMESPACE")
    }
}

impl Source {
    /// What a server is to be given.
    pub(crate) fn shown(&self) -> CertResolver {
        match self {
            Self::Files { keeper, .. } => keeper.shown(),
            Self::Own { shown, .. } => shown.clone(),
        }
    }

    /// Keeps it in the background; `check` hears how things stand.
    pub(crate) async fn keep(self, check: Check, cluster: &SourceArgs) -> anyhow::Result<Keeping> {
        match self {
            Self::Files { keeper, poll } => {
                tokio::spawn(keeper.keep(check, SystemTime::now, every(poll)));
                Ok(Keeping { leading: None })
            }
            Self::Own { places, plan, shown } => {
                let client = cluster.client().await.context("--cert-source self needs a cluster")?;
                let elector = LeaderElector::new(
                    client.clone(),
                    &places.namespace,
                    &places.secret,
                    &identity(),
                    Timings::default(),
                );
                let keeper = Arc::new(Keeper::new(client, places, plan, SystemTime::now));
                tokio::spawn(self_signed::show(
                    shown,
                    keeper.offers(),
                    check,
                    SystemTime::now,
                    every(self_signed::INTERVAL),
                ));
                let watching = Arc::clone(&keeper);
                tokio::spawn(async move { watching.watch().await });
                let (stop, stopped) = oneshot::channel::<()>();
                let work = move || {
                    let keeper = Arc::clone(&keeper);
                    async move { keeper.lead(every(LEADER_INTERVAL)).await }
                };
                let leading = tokio::spawn(elector.run(work, async {
                    // The end of the sender is a sign too.
                    let _ = stopped.await;
                }));
                Ok(Keeping { leading: Some((Some(stop), leading)) })
            }
        }
    }
}

/// What goes on in the background.
pub(crate) struct Keeping {
    /// Ends the work of a leader, and that work.
    leading: Option<(Option<oneshot::Sender<()>>, JoinHandle<()>)>,
}

impl Keeping {
    /// Asks for the end: the work of a leader stops, and the Lease is given back, so that the next one need not wait.
    pub(crate) fn end(&mut self) {
        if let Some((stop, _)) = &mut self.leading {
            *stop = None;
        }
    }

    /// Waits for the end, asking for it if nobody has.
    pub(crate) async fn ended(mut self) {
        self.end();
        if let Some((_, leading)) = self.leading {
            // It fails only if it has panicked, which was told then.
            let _ = leading.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        certificates: CertificateArgs,
    }

    /// What is wrong with these flags; empty if nothing is.
    fn verdict(flags: &[&str]) -> String {
        let line = match Line::try_parse_from(["nicplug"].iter().chain(flags)) {
            Ok(line) => line,
            Err(error) => return error.to_string(),
        };
        line.certificates.source().err().map(|error| format!("{error:#}")).unwrap_or_default()
    }

    #[test]
    fn a_missing_certificate_is_named_with_its_flag() {
        let error = verdict(&["--tls-cert", "missing.crt", "--tls-key", "missing.key"]);
        assert!(error.contains("--tls-cert") && error.contains("missing.crt"), "{error}");
    }

    #[test]
    fn each_source_names_the_flags_that_it_needs() {
        for flags in [vec![], vec!["--cert-source", "files"], vec!["--tls-cert", "a"]] {
            assert!(verdict(&flags).contains("--tls-key"), "{flags:?}");
        }
        let mut flags = vec!["--cert-source", "self", "--cert-secret", "certificates", "--cert-namespace", "n"];
        assert!(verdict(&flags).contains("--cert-dns-name"));
        flags.extend(["--cert-dns-name", "nicplug.nicplug.svc"]);
        assert!(verdict(&flags).contains("--webhook-config"));
        flags.extend(["--webhook-config", "nicplug"]);
        assert_eq!(verdict(&flags), "");
        assert!(verdict(&["--cert-source", "other"]).contains("files or self"));
    }
}
