//! Sends the change, and distinguishes a conflict from a denial.

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

/// The name of the writer in `metadata.managedFields`.
const FIELD_MANAGER: &str = "nicplug";

/// The result of a write.
pub(super) enum WriteResult {
    /// Another client has changed the VM, so the patch no longer fits.
    Conflict,
    /// The API server stored this VM; in a dry run it would store it.
    Stored(Value),
    /// The API server or a webhook denied the change, with this message.
    Denied(String),
}

/// Sends a JSON patch of a VM to the API server.
pub(super) async fn write(cluster: &Cluster, vm: &str, patch: &Patch, dry_run: bool) -> anyhow::Result<WriteResult> {
    let collection = DynamicObject::url_path(&resource(Kind::Vm), Some(&cluster.namespace));
    let dry_run = if dry_run { "&dryRun=All" } else { "" };
    let request = Request::builder()
        .method(Method::PATCH)
        .uri(format!("{collection}/{vm}?fieldManager={FIELD_MANAGER}{dry_run}"))
        .header(CONTENT_TYPE, "application/json-patch+json")
        .body(serde_json::to_vec(patch)?)
        .context("cannot build the request")?;
    match cluster.client.request::<Value>(request).await {
        Ok(vm) => Ok(WriteResult::Stored(vm)),
        Err(Error::Api(status)) if is_conflict(cluster, vm, patch, &status).await? => Ok(WriteResult::Conflict),
        Err(Error::Api(status)) => Ok(WriteResult::Denied(denial_message(vm, &status))),
        Err(error) => Err(explain(&error).context(format!("it is unknown whether {vm:?} was changed"))),
    }
}

/// Whether another client has changed the VM since it was read. The API server answers `Invalid` for a failed test of
/// the patch as well as for a denial by a webhook, so the current VM decides.
async fn is_conflict(cluster: &Cluster, vm: &str, patch: &Patch, status: &Status) -> anyhow::Result<bool> {
    if status.is_conflict() || status.is_not_found() {
        return Ok(true);
    }
    if !status.is_invalid() {
        return Ok(false);
    }
    let vms: Api<DynamicObject> = api(cluster, Kind::Vm);
    let current = vms.get_opt(vm).await.map_err(|error| explain(&error))?;
    let current = current.map(serde_json::to_value).transpose().map_err(|error| anyhow!(error))?;
    Ok(current.is_none_or(|current| !still_fits(patch, &current)))
}

/// Returns a denial as kubectl prints it.
fn denial_message(vm: &str, status: &Status) -> String {
    let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
    let line = |cause: &StatusCause| match cause.field.as_str() {
        "" => cause.message.clone(),
        field => format!("{field}: {}", cause.message),
    };
    let mut text = format!("The VirtualMachine {vm:?} is invalid:");
    match causes {
        causes @ [_, ..] if status.reason == "Invalid" => {
            for cause in causes {
                let mark = if slice::from_ref(cause) == causes { " " } else { "\n* " };
                // Writing to a string cannot fail.
                let _ = write!(text, "{mark}{}", line(cause));
            }
            text
        }
        _ => format!("Error from server ({}): {}", status.reason, status.message),
    }
}
