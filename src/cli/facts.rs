//! `--facts` and `--settings`, which several commands share.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, anyhow};
use clap::Args;

use super::arguments::program;
use crate::{
    admission::Reviewer,
    cluster::{files, store::Store},
    facts::{FactSource, NoFacts},
    kubevirt::NEWEST_KNOWN,
    rules,
    server::reload::settings::{self, FileError, SettingsReloader},
    settings::{Settings, SettingsError},
};

/// The flags from which a command builds its reviewer.
#[derive(Args, Debug, Default)]
pub(super) struct ReviewerArgs {
    /// Objects of the cluster in YAML or JSON, a file or a folder: KubeVirt, NetworkAttachmentDefinitions,
    /// VirtualMachines, VirtualMachineInstances, VirtualMachineInstanceMigrations, ControllerRevisions, DaemonSets,
    /// Nodes, ResourceQuotas, Namespaces, MutatingWebhookConfigurations, the ConfigMap multus-daemon-config. Without
    /// them rules that need facts warn instead of denying.
    #[arg(long, value_name = "FILE_OR_DIR", env = "NICPLUG_FACTS")]
    pub(super) facts: Option<PathBuf>,

    #[command(flatten)]
    settings: SettingsArgs,
}

impl ReviewerArgs {
    /// Reads facts and settings and builds the reviewer.
    pub(super) fn reviewer(&self) -> anyhow::Result<Reviewer> {
        let settings = self.settings.read()?;
        let facts: Arc<dyn FactSource> = match &self.facts {
            Some(path) => load(path, &settings)?,
            None => Arc::new(NoFacts),
        };
        Ok(Reviewer::new(facts, settings))
    }
}

/// The flag of the settings.
#[derive(Args, Debug, Default)]
pub(super) struct SettingsArgs {
    /// Settings in YAML, such as the enforcement of rules: `rules: {NP103: warn}` (deny, warn or off).
    #[arg(long, value_name = "FILE", env = "NICPLUG_SETTINGS")]
    settings: Option<PathBuf>,
}

impl SettingsArgs {
    /// Reads the settings; without a file these are the defaults.
    pub(super) fn read(&self) -> anyhow::Result<Settings> {
        match &self.settings {
            Some(path) => settings::read(path, &rules::ids()).map_err(|error| explain(&error)),
            None => Ok(Settings::default()),
        }
    }

    /// Reads the settings of a file that may change; `None` without a file.
    pub(super) fn reloader(&self) -> anyhow::Result<Option<SettingsReloader>> {
        let reloader = self.settings.as_deref().map(|path| SettingsReloader::open(path, &rules::ids())).transpose();
        reloader.map_err(|error| explain(&error))
    }
}

/// Returns the error about a settings file, with the command that lists the rules if one does not exist.
fn explain(error: &FileError) -> anyhow::Error {
    let is_unknown_rule = matches!(error, FileError::Invalid { why: SettingsError::UnknownRule { .. }, .. });
    let hint = if is_unknown_rule { format!("; `{} rules` lists the ids", program()) } else { String::new() };
    anyhow!("--settings: {error}{hint}")
}

/// Reads facts from files.
pub(super) fn load(path: &Path, settings: &Settings) -> anyhow::Result<Arc<Store>> {
    let store = files::load(path, &settings.api).context("--facts")?;
    let version = store.kubevirt().known().and_then(|kubevirt| kubevirt.version);
    if let Some(version) = version.filter(|version| version.is_newer_than_known()) {
        tracing::warn!(
            %version,
            newest_known = %NEWEST_KNOWN,
            "KubeVirt is newer than nicplug knows: treated as the newest known version"
        );
    }
    Ok(Arc::new(store))
}
