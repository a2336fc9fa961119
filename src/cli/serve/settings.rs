//! The part of `serve` that reloads its settings: the flags, and who is informed of a change.

use clap::Args;
use k8s_openapi::api::core::v1::ObjectReference;

use super::replica::environment;
use crate::{
    cli::{facts::SettingsArgs, values::HumanDuration},
    k8s::events::{EventQueue, EventReason, PendingEvent, pod_reference},
    server::{
        Server,
        reload::{
            self, every,
            settings::{ReloadOutcome, SettingsReloader},
        },
    },
    settings::CurrentSettings,
};

/// The flags of settings that may change while the server runs.
#[derive(Args, Debug)]
pub(super) struct LiveSettingsArgs {
    #[command(flatten)]
    settings: SettingsArgs,

    /// How often to check the file of --settings for changes. Invalid settings are not used; the previous ones stay in
    /// force.
    #[arg(long, value_name = "TIME", env = "NICPLUG_SETTINGS_POLL", default_value_t = HumanDuration(reload::INTERVAL))]
    settings_poll: HumanDuration,
}

/// Settings that are read, and that nothing reloads yet.
pub(super) struct LiveSettings {
    /// `None` without a file: then nothing can change.
    reloader: Option<SettingsReloader>,
    poll: HumanDuration,
}

impl LiveSettingsArgs {
    /// Reads the settings.
    pub(super) fn open(&self) -> anyhow::Result<LiveSettings> {
        Ok(LiveSettings { reloader: self.settings.reloader()?, poll: self.settings_poll })
    }
}

impl LiveSettings {
    /// Returns the settings for a reviewer, which stay up to date.
    pub(super) fn current(&self) -> CurrentSettings {
        self.reloader.as_ref().map(SettingsReloader::current).unwrap_or_default()
    }

    /// Reloads the settings in the background; a change is reported by the server's metrics and readiness, and in a
    /// cluster by an Event on the own pod.
    pub(super) fn start(self, server: &mut Server, queue: Option<EventQueue>) {
        let Some(reloader) = self.reloader else { return };
        server.add_settings_counts(reloader.counts());
        let check = server.readiness().add("settings", "not read yet");
        let target = queue.zip(own_pod());
        tokio::spawn(reloader.run(check, every(self.poll.0), move |outcome| {
            if let Some((queue, pod)) = &target {
                queue.emit(event(outcome, pod.clone()));
            }
        }));
    }
}

fn event(outcome: ReloadOutcome, object: ObjectReference) -> PendingEvent {
    let (reason, note) = match outcome {
        ReloadOutcome::Refused(why) => {
            (EventReason::SettingsRefused, format!("the previous settings stay in force: {why}"))
        }
        ReloadOutcome::Taken => (EventReason::SettingsReloaded, "the settings of the file are in force".to_owned()),
    };
    PendingEvent { reason, object, related: None, note, name: None }
}

/// Returns a reference to the pod of this process, from the variables that the chart sets; `None` outside of a pod.
fn own_pod() -> Option<ObjectReference> {
    Some(pod_reference(&environment("POD_NAMESPACE")?, &environment("POD_NAME")?, environment("POD_UID").as_deref()))
}
