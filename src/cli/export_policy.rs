//! `nicplug export-policy`: the rules that CEL can express, as admission policies.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::ensure;
use clap::{Args, ValueEnum};

use super::facts::SettingsArgs;
use crate::{
    admission::policies::{self, EXPRESSED, KubernetesVersion, Mutating, NOT_EXPRESSED, Options},
    rules::RULES,
};

/// The first version whose stable API has ValidatingAdmissionPolicies.
const STABLE_SINCE: KubernetesVersion = KubernetesVersion::new(1, 30);

/// Print rules as admission policies that the API server evaluates itself, without a webhook.
///
/// Writes a ValidatingAdmissionPolicy and its binding for each rule that CEL can express, and for Kubernetes 1.36 or
/// newer the default binding as MutatingAdmissionPolicy. Comments list what they do not cover, and the rules that need
/// more than the request: those need the webhook.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  nicplug export-policy | kubectl apply -f -\n  nicplug export-policy \
    --kubernetes-version 1.37 --settings settings.yaml > policies.yaml\n\nTo remove them:\n  kubectl delete \
    validatingadmissionpolicies,validatingadmissionpolicybindings -l app.kubernetes.io/component=policy")]
pub(super) struct ExportPolicyArgs {
    #[command(flatten)]
    settings: SettingsArgs,

    /// The oldest Kubernetes that the policies are for, 1.30 or newer.
    #[arg(long, value_name = "VERSION", default_value_t = STABLE_SINCE)]
    kubernetes_version: KubernetesVersion,

    /// Whether to export the default binding (`bridge: {}`) as MutatingAdmissionPolicy.
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = When::Auto)]
    mutating: When,

    /// A namespace that the policies do not cover; can be repeated.
    #[arg(long = "exclude-namespace", value_name = "NAME", default_value = "kube-system")]
    excluded_namespaces: Vec<String>,

    /// Cover only namespaces with the label `nicplug.io/review=enabled`.
    #[arg(long)]
    opt_in: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum When {
    /// If the version of Kubernetes has the stable API: since 1.36.
    Auto,
    /// Also as alpha (1.32) or beta (1.34), which the cluster must enable.
    Always,
    /// Never.
    Never,
}

impl ExportPolicyArgs {
    /// Prints the policies, and a summary on standard error.
    pub(super) fn run(self, output: &mut impl Write) -> anyhow::Result<ExitCode> {
        ensure!(
            self.kubernetes_version >= STABLE_SINCE,
            "Kubernetes {} has no stable ValidatingAdmissionPolicy; {STABLE_SINCE} and newer have",
            self.kubernetes_version
        );
        let mutating = match self.mutating {
            When::Auto => Mutating::Auto,
            When::Always => Mutating::Always,
            When::Never => Mutating::Never,
        };
        let export = policies::export(&Options {
            settings: self.settings.read()?,
            kubernetes: self.kubernetes_version,
            mutating,
            excluded_namespaces: self.excluded_namespaces,
            opt_in: self.opt_in,
        });
        output.write_all(export.yaml.as_bytes())?;
        let off = EXPRESSED.len() - export.rules;
        let off = if off == 0 { String::new() } else { format!(", {off} set to off") };
        let binding = if export.has_default_binding { "with" } else { "without" };
        // The policies are complete, even if standard error is closed.
        let _ = writeln!(
            io::stderr(),
            "exported {} of {} rules, {binding} the default binding; {} need the webhook{off}: the comments say why",
            export.rules,
            RULES.len(),
            NOT_EXPRESSED.len()
        );
        Ok(ExitCode::SUCCESS)
    }
}
