//! The part of `serve` that mirrors NICs into templates: its flags, its start and its end.

use std::{convert::Infallible, sync::Arc};

use anyhow::ensure;
use clap::{Args, ValueEnum};
use kube::Client;
use tokio::{sync::oneshot, task::JoinHandle};

use super::{Span, identity, own_namespace};
use crate::{
    cluster::persist_queue::PersistQueue,
    controllers::{
        leader_election::{LeaderElector, Timings},
        persist::{PersistStatus, Reconciler},
    },
};

/// Whether and how NICs are mirrored.
#[derive(Args, Debug)]
pub(super) struct PersistArgs {
    /// Whether NICs of running guests that nicplug.io/persist names are mirrored into the templates of their VMs. Of
    /// several replicas one does it, which the lease elects.
    #[arg(long, value_name = "SWITCH", env = "NICPLUG_PERSIST", default_value = "on", help_heading = "Persist")]
    persist: Switch,
    /// Namespace of the lease; POD_NAMESPACE unless given, and else that of the service account or of the kubeconfig.
    #[arg(long, value_name = "NAMESPACE", env = "NICPLUG_LEASE_NAMESPACE", help_heading = "Persist")]
    lease_namespace: Option<String>,
    /// Name of the lease.
    #[arg(long, value_name = "NAME", env = "NICPLUG_LEASE_NAME", default_value = "nicplug-persist")]
    #[arg(help_heading = "Persist")]
    lease_name: String,
    /// How long the other replicas wait for a leader that says nothing any more, in whole seconds.
    #[arg(long, value_name = "TIME", env = "NICPLUG_LEASE_DURATION", default_value_t = Span(Timings::default().lease))]
    #[arg(help_heading = "Persist")]
    lease_duration: Span,
    /// How long a leader goes on that cannot renew the lease; less than --lease-duration.
    #[arg(long, value_name = "TIME", env = "NICPLUG_LEASE_DEADLINE", default_value_t = Span(Timings::default().renew))]
    #[arg(help_heading = "Persist")]
    lease_deadline: Span,
    /// How often the lease is looked at and renewed; less than half of --lease-deadline.
    #[arg(long, value_name = "TIME", env = "NICPLUG_LEASE_RETRY", default_value_t = Span(Timings::default().retry))]
    #[arg(help_heading = "Persist")]
    lease_retry: Span,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Switch {
    /// One replica does it.
    On,
    /// Nobody does it; annotations stay.
    Off,
}

/// The mirroring, under way.
pub(super) struct Persisting {
    status: PersistStatus,
    stop: Option<oneshot::Sender<Infallible>>,
    task: JoinHandle<()>,
}

impl PersistArgs {
    /// Begins to stand for election, and to mirror what is pending while leading; `None` where that is switched off.
    pub(super) fn start(&self, client: &Client, pending: PersistQueue) -> anyhow::Result<Option<Persisting>> {
        if self.persist == Switch::Off {
            return Ok(None);
        }
        let timings = self.timings()?;
        let identity = identity();
        let given = self.lease_namespace.clone().filter(|namespace| !namespace.is_empty());
        let namespace = given.unwrap_or_else(|| own_namespace(client));
        let elector = LeaderElector::new(client.clone(), &namespace, &self.lease_name, &identity, timings);
        let reconciler = Arc::new(Reconciler::new(client.clone(), pending.clone(), &identity));
        let status =
            PersistStatus { queue: pending, stats: reconciler.stats().clone(), is_leader: elector.is_leader() };
        let (stop, stopped) = oneshot::channel();
        tracing::info!(namespace, lease = self.lease_name, identity, "standing for election to mirror NICs");
        let work = move || {
            let reconciler = Arc::clone(&reconciler);
            async move { reconciler.run().await }
        };
        let task = tokio::spawn(elector.run(work, async {
            // Nothing is ever sent: the end is that nobody could.
            let _ = stopped.await;
        }));
        Ok(Some(Persisting { status, stop: Some(stop), task }))
    }

    fn timings(&self) -> anyhow::Result<Timings> {
        let timings = Timings { lease: self.lease_duration.0, renew: self.lease_deadline.0, retry: self.lease_retry.0 };
        ensure!(
            timings.lease.as_secs() > 0 && timings.lease.subsec_nanos() == 0,
            "--lease-duration: write a whole number of seconds, such as 15s"
        );
        ensure!(
            timings.renew < timings.lease,
            "--lease-deadline: make it shorter than --lease-duration, or two replicas may lead at once"
        );
        ensure!(
            !timings.retry.is_zero() && timings.retry * 2 < timings.renew,
            "--lease-retry: make it less than half of --lease-deadline, or one lost answer ends a leader's time"
        );
        Ok(timings)
    }
}

impl Persisting {
    /// How it stands, for whoever watches.
    pub(super) fn status(&self) -> &PersistStatus {
        &self.status
    }

    /// Asks for the end: the work stops, and the lease is given back.
    pub(super) fn end(&mut self) {
        self.stop = None;
    }

    /// Waits for the end, asking for it if nobody has.
    pub(super) async fn ended(mut self) {
        self.end();
        // It has ended in one way or another.
        let _ = self.task.await;
        let stats = &self.status.stats;
        let (persisted, failed, retried) = (stats.persisted(), stats.reported_failures(), stats.retried());
        tracing::info!(persisted, failed, retried, "stopped mirroring");
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        persist: PersistArgs,
    }

    fn timings(flags: &[&str]) -> Result<Timings, String> {
        let line = Line::try_parse_from(["nicplug"].iter().chain(flags)).unwrap();
        line.persist.timings().map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_those_of_an_election() {
        assert_eq!(timings(&[]), Ok(Timings::default()));
    }

    #[test]
    fn timings_that_make_no_election_are_refused_with_their_flag() {
        for (flags, flag) in [
            (&["--lease-duration", "1500ms"][..], "--lease-duration"),
            (&["--lease-duration", "0s"], "--lease-duration"),
            (&["--lease-deadline", "15s"], "--lease-deadline"),
            (&["--lease-retry", "5s"], "--lease-retry"),
            (&["--lease-retry", "0s"], "--lease-retry"),
        ] {
            assert!(timings(flags).unwrap_err().starts_with(flag), "{flags:?}");
        }
    }
}
