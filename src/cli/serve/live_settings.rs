//! The part of `serve` that takes up changes of its settings: its flags, and whom it tells.

use clap::Args;
use k8s_openapi::api::core::v1::ObjectReference;

use super::{Span, environment};
use crate::{
    cli::facts::SettingsArgs,
    k8s::events::{EventQueue, EventReason, PendingEvent, pod},
    server::{
        Server,
        reload::{
            self, every,
            settings::{Keeper, News},
        },
    },
    settings::CurrentSettings,
};

/// Settings that may change.
#[derive(Args, Debug)]
pub(super) struct LiveSettingsArgs {
    #[command(flatten)]
    settings: SettingsArgs,

    /// How often to look whether the file of --settings has changed. Settings that cannot be used are refused, and those
    /// of before stay.
    #[arg(long, value_name = "TIME", env = "NICPLUG_SETTINGS_POLL", default_value_t = Span(reload::INTERVAL))]
    settings_poll: Span,
}

/// Settings that were read, and are to be kept.
pub(super) struct LiveSettings {
    /// `None` where there is no file, and nothing can change.
    keeper: Option<Keeper>,
    poll: Span,
}

impl LiveSettingsArgs {
    /// Reads the settings.
    pub(super) fn open(&self) -> anyhow::Result<LiveSettings> {
        Ok(LiveSettings { keeper: self.settings.keeper()?, poll: self.settings_poll })
    }
}

impl LiveSettings {
    /// What a reviewer is to be given.
    pub(super) fn current(&self) -> CurrentSettings {
        self.keeper.as_ref().map(Keeper::current).unwrap_or_default()
    }

    /// Takes up changes in the background; the server tells of them, and in a cluster events on the own pod do.
    pub(super) fn keep(self, server: &mut Server, queue: Option<EventQueue>) {
        let Some(keeper) = self.keeper else { return };
        server.count_settings(keeper.tally());
        let check = server.readiness().add("settings", "not looked at yet");
        let teller = queue.zip(own_pod());
        tokio::spawn(keeper.keep(check, every(self.poll.0), move |news| {
            if let Some((queue, pod)) = &teller {
                queue.hand_in(letter(news, pod.clone()));
            }
        }));
    }
}

fn letter(news: News, object: ObjectReference) -> PendingEvent {
    let (tale, note) = match news {
        News::Refused(why) => (EventReason::SettingsRefused, format!("the settings of before stay in force: {why}")),
        News::Taken => (EventReason::SettingsTaken, "the settings of the file are in force".to_owned()),
    };
    PendingEvent { tale, object, related: None, note }
}

/// The pod that this is, as the chart says; `None` outside of one.
fn own_pod() -> Option<ObjectReference> {
    Some(pod(&environment("POD_NAMESPACE")?, &environment("POD_NAME")?, environment("POD_UID").as_deref()))
}
