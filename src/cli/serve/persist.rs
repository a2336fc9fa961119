//! The part of `serve` that only the leader among the replicas does: it persists NICs of running VMs in templates, and
//! reports NICs that running guests lack. Its flags and its start.

use std::{convert::Infallible, future, sync::Arc, time::SystemTime};

use anyhow::ensure;
use clap::{Args, ValueEnum};
use futures_util::future::join;
use kube::Client;
use tokio::sync::watch;

use super::{
    leader_task::LeaderTask,
    replica::{identity, own_namespace},
};
use crate::{
    cli::values::HumanDuration,
    cluster::{cache::Cache, persist_queue::PersistQueue},
    controllers::{
        leader_election::{LeaderElector, Timings},
        pending::{INTERVAL, PendingController, PendingCounts},
        persist::{PersistStatus, Reconciler},
    },
    server::reload::every,
    settings::CurrentSettings,
};

/// The flags of the persist controller and of its Lease.
#[derive(Args, Debug)]
pub(super) struct PersistArgs {
    /// on: write the NICs of running VMs that the annotation nicplug.io/persist names to the templates of the VMs. Of
    /// several replicas the holder of the Lease does it. off: leave the annotations as they are.
    #[arg(long, value_name = "on|off", env = "NICPLUG_PERSIST", default_value = "on", help_heading = "Persist")]
    #[arg(hide_possible_values = true)]
    persist: Switch,
    /// on: write an Event on the VM of a NIC that the running guest lacks after events.pendingAfterSeconds of the
    /// settings, and another one when the guest has it. Of several replicas the holder of the Lease does it. off: write
    /// no such Events.
    #[arg(long, value_name = "on|off", env = "NICPLUG_PENDING_EVENTS", default_value = "on", help_heading = "Persist")]
    #[arg(hide_possible_values = true)]
    pending_events: Switch,
    /// Namespace of the Lease [default: $POD_NAMESPACE, else that of the service account or kubeconfig].
    #[arg(long, value_name = "NAMESPACE", env = "NICPLUG_LEASE_NAMESPACE", help_heading = "Persist")]
    lease_namespace: Option<String>,
    /// Name of the Lease.
    #[arg(long, value_name = "NAME", env = "NICPLUG_LEASE_NAME", default_value = "nicplug-persist")]
    #[arg(help_heading = "Persist")]
    lease_name: String,
    /// How long other replicas wait for a leader that does not renew the Lease, in whole seconds.
    #[arg(long, value_name = "TIME", env = "NICPLUG_LEASE_DURATION")]
    #[arg(default_value_t = HumanDuration(Timings::default().lease), help_heading = "Persist")]
    lease_duration: HumanDuration,
    /// How long the leader continues if it cannot renew the Lease; must be shorter than --lease-duration.
    #[arg(long, value_name = "TIME", env = "NICPLUG_LEASE_DEADLINE")]
    #[arg(default_value_t = HumanDuration(Timings::default().renew), help_heading = "Persist")]
    lease_deadline: HumanDuration,
    /// How often each replica reads the Lease, and the leader renews it; must be less than half of --lease-deadline.
    #[arg(long, value_name = "TIME", env = "NICPLUG_LEASE_RETRY")]
    #[arg(default_value_t = HumanDuration(Timings::default().retry), help_heading = "Persist")]
    lease_retry: HumanDuration,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// The running controllers of the leader.
pub(super) struct Leader {
    /// Whether this replica leads, for the server's metrics.
    pub(super) leads: watch::Receiver<bool>,
    /// The state of persisting, for the server's metrics; `None` if it is switched off.
    pub(super) persist: Option<PersistStatus>,
    /// The numbers of pending NICs; `None` if their Events are switched off.
    pub(super) pending: Option<PendingCounts>,
    pub(super) task: LeaderTask,
}

impl PersistArgs {
    /// Joins the election, and runs the controllers while this replica leads; `None` if all are switched off.
    pub(super) fn start(
        &self,
        client: &Client,
        queue: PersistQueue,
        cache: &Arc<Cache>,
        settings: CurrentSettings,
    ) -> anyhow::Result<Option<Leader>> {
        if self.persist == Switch::Off && self.pending_events == Switch::Off {
            return Ok(None);
        }
        let timings = self.timings()?;
        let identity = identity();
        let given = self.lease_namespace.clone().filter(|namespace| !namespace.is_empty());
        let namespace = given.unwrap_or_else(|| own_namespace(client));
        let elector = LeaderElector::new(client.clone(), &namespace, &self.lease_name, &identity, timings);
        let is_leader = elector.is_leader();
        let reconciler =
            (self.persist == Switch::On).then(|| Arc::new(Reconciler::new(client.clone(), queue.clone(), &identity)));
        let persist = reconciler.as_ref().map(|reconciler| PersistStatus { queue, stats: reconciler.stats().clone() });
        let pending = (self.pending_events == Switch::On).then(|| {
            let (client, cache) = (client.clone(), Arc::clone(cache));
            Arc::new(PendingController::new(client, cache, settings, &identity, SystemTime::now))
        });
        let counts = pending.as_ref().map(|pending| pending.counts().clone());
        tracing::info!(namespace, lease = self.lease_name, identity, "joined the leader election");
        let work = move || lead(reconciler.clone(), pending.clone());
        let totals = persist.as_ref().map(|status| status.stats.clone());
        let log_totals = move || {
            let Some(totals) = totals else { return };
            let (persisted, failed, retried) = (totals.persisted(), totals.reported_failures(), totals.retried());
            tracing::info!(persisted, failed, retried, "stopped persisting NICs");
        };
        Ok(Some(Leader {
            leads: is_leader,
            persist,
            pending: counts,
            task: LeaderTask::start(elector, work, log_totals),
        }))
    }

    fn timings(&self) -> anyhow::Result<Timings> {
        let timings = Timings { lease: self.lease_duration.0, renew: self.lease_deadline.0, retry: self.lease_retry.0 };
        ensure!(
            timings.lease.as_secs() > 0 && timings.lease.subsec_nanos() == 0,
            "--lease-duration: write a whole number of seconds, such as 15s"
        );
        ensure!(
            timings.renew < timings.lease,
            "--lease-deadline: must be shorter than --lease-duration, or two replicas may lead at once"
        );
        ensure!(
            !timings.retry.is_zero() && timings.retry * 2 < timings.renew,
            "--lease-retry: must be less than half of --lease-deadline, or one failed renewal ends the leader's term"
        );
        Ok(timings)
    }
}

/// Runs the controllers of one term.
async fn lead(reconciler: Option<Arc<Reconciler>>, pending: Option<Arc<PendingController>>) -> Infallible {
    let persist = async {
        match &reconciler {
            Some(reconciler) => reconciler.run().await,
            None => future::pending().await,
        }
    };
    let report = async {
        match &pending {
            Some(pending) => pending.run(every(INTERVAL)).await,
            None => future::pending().await,
        }
    };
    join(persist, report).await.0
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
    fn the_flags_default_to_the_timings_of_the_election() {
        assert_eq!(timings(&[]), Ok(Timings::default()));
    }

    #[test]
    fn the_error_for_invalid_timings_names_the_flag() {
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
