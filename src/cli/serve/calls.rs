//! The part of `serve` that lets the API server call it: its flags and its start.

use std::sync::Arc;

use anyhow::Context;
use clap::Args;

use super::{own_namespace, source::SourceArgs};
use crate::controllers::webhook_activation::{ObjectNames, WebhookActivation};

/// By what the API server is let call.
#[derive(Args, Debug)]
pub(super) struct CallArgs {
    /// RoleBinding that the match condition of the webhooks asks for, in the namespace of the pod: the first replica that
    /// is ready writes its account into it, and from then on the webhooks are called. Without it that is not nicplug's
    /// business.
    #[arg(long, value_name = "NAME", env = "NICPLUG_CALL_BINDING", requires = "call_service", help_heading = "Calls")]
    call_binding: Option<String>,
    /// With --call-binding: the Service that the webhooks are called by; it has to lead to a replica first.
    #[arg(long, value_name = "NAME", env = "NICPLUG_CALL_SERVICE", requires = "call_binding", help_heading = "Calls")]
    call_service: Option<String>,
}

impl CallArgs {
    /// What is to be kept in the cluster, if anything: also where facts come from files, since the webhooks wait.
    pub(super) async fn calls(&self, cluster: &SourceArgs) -> anyhow::Result<Option<Arc<WebhookActivation>>> {
        let Some((binding, service)) = self.call_binding.clone().zip(self.call_service.clone()) else {
            return Ok(None);
        };
        let client = cluster.client().await.context("--call-binding needs a cluster")?;
        let places = ObjectNames { namespace: own_namespace(&client), binding, service };
        Ok(Some(Arc::new(WebhookActivation::new(client, places))))
    }
}
