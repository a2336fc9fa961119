//! The part of `serve` that activates the webhooks: its flags and its start.

use std::sync::Arc;

use anyhow::Context;
use clap::Args;

use super::{replica::own_namespace, source::SourceArgs};
use crate::controllers::webhook_activation::{ObjectNames, WebhookActivation};

/// The objects by which the webhooks are activated.
#[derive(Args, Debug)]
pub(super) struct ActivationArgs {
    /// RoleBinding in the namespace of the pod that the match conditions of the webhooks check. The first ready replica
    /// adds its service account to it; from then on the API server calls the webhooks. Without this flag nicplug does
    /// not manage webhook activation.
    #[arg(long, value_name = "NAME", env = "NICPLUG_ACTIVATION_BINDING", requires = "activation_service")]
    #[arg(help_heading = "Webhook activation")]
    activation_binding: Option<String>,
    /// Service by which the API server calls the webhooks; needed with --activation-binding. nicplug activates the
    /// webhooks only when this Service has a ready endpoint.
    #[arg(long, value_name = "NAME", env = "NICPLUG_ACTIVATION_SERVICE", requires = "activation_binding")]
    #[arg(help_heading = "Webhook activation")]
    activation_service: Option<String>,
}

impl ActivationArgs {
    /// Returns the activation, if the flags ask for it; also if facts come from files, because the webhooks are
    /// inactive until then.
    pub(super) async fn activation(&self, cluster: &SourceArgs) -> anyhow::Result<Option<Arc<WebhookActivation>>> {
        let Some((binding, service)) = self.activation_binding.clone().zip(self.activation_service.clone()) else {
            return Ok(None);
        };
        let client = cluster.client().await.context("--activation-binding needs a cluster")?;
        let names = ObjectNames { namespace: own_namespace(&client), binding, service };
        Ok(Some(Arc::new(WebhookActivation::new(client, names))))
    }
}
