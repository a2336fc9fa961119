//! Sends the change, and tells a conflict from a refusal.

use std::{fmt::Write, slice};

use anyhow::{Context, anyhow};
use hyper::{Method, Request, header::CONTENT_TYPE};
use json_patch::Patch;
use kube::{
    Api, Error, Resource,
    api::DynamicObject,
    core::{Status, response::StatusCause},
};
use serde_json::Value;

use super::{api, resource};
use crate::{
    cli::kubeconfig::{Cluster, explain},
    hotplug::edit::still_fits,
    k8s::kind::Kind,
};

/// Who writes, in `metadata.managedFields`.
const MANAGER: &str = "nicplug";

/// What became of it.
pub(super) enum Stored {
    /// The VM was changed meanwhile: a patch that was made for it no longer fits.
    Conflict,
    /// The VM as it is now; of a dry run, as it would be.
    Done(Value),
    /// The API server, or a webhook, said no.
    Refused(String),
}

/// Sends a JSON patch of a VM.
pub(super) async fn store(cluster: &Cluster, vm: &str, patch: &Patch, dry_run: bool) -> anyhow::Result<Stored> {
    let folder = DynamicObject::url_path(&resource(Kind::Vm), Some(&cluster.namespace));
    let dry_run = if dry_run { "&dryRun=All" } else { "" };
    let request = Request::builder()
        .method(Method::PATCH)
        .uri(format!("{folder}/{vm}?fieldManager={MANAGER}{dry_run}"))
        .header(CONTENT_TYPE, "application/json-patch+json")
        .body(serde_json::to_vec(patch)?)
        .context("the request cannot be made")?;
    match cluster.client.request::<Value>(request).await {
        Ok(vm) => Ok(Stored::Done(vm)),
        Err(Error::Api(status)) if is_conflict(cluster, vm, patch, &status).await? => Ok(Stored::Conflict),
        Err(Error::Api(status)) => Ok(Stored::Refused(words_of(vm, &status))),
        Err(error) => Err(explain(&error).context(format!("whether {vm:?} was changed is not known"))),
    }
}

/// Whether somebody else was faster. The API server says of a test that fails that the request is invalid, as a webhook
/// does of a change: so the VM decides.
async fn is_conflict(cluster: &Cluster, vm: &str, patch: &Patch, status: &Status) -> anyhow::Result<bool> {
    if status.is_conflict() || status.is_not_found() {
        return Ok(true);
    }
    if !status.is_invalid() {
        return Ok(false);
    }
    let vms: Api<DynamicObject> = api(cluster, Kind::Vm);
    let now = vms.get_opt(vm).await.map_err(|error| explain(&error))?;
    let now = now.map(serde_json::to_value).transpose().map_err(|error| anyhow!(error))?;
    Ok(now.is_none_or(|now| !still_fits(patch, &now)))
}

/// A refusal as kubectl prints it.
fn words_of(vm: &str, status: &Status) -> String {
    let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
    let line = |cause: &StatusCause| match cause.field.as_str() {
        "" => cause.message.clone(),
        field => format!("{field}: {}", cause.message),
    };
    let mut words = format!("The VirtualMachine {vm:?} is invalid:");
    match causes {
        causes @ [_, ..] if status.reason == "Invalid" => {
            for cause in causes {
                let mark = if slice::from_ref(cause) == causes { " " } else { "\n* " };
                // Writing to a string cannot fail.
                let _ = write!(words, "{mark}{}", line(cause));
            }
            words
        }
        _ => format!("Error from server ({}): {}", status.reason, status.message),
    }
}
