//! The live migration that a NIC may need: the permission to start it, and its start.

use k8s_openapi::api::{
    authentication::v1::SelfSubjectReview,
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
};
use kube::{
    Api,
    api::{DynamicObject, PostParams},
};
use serde_json::{Value, json};

use super::api;
use crate::{
    cli::{
        arguments::quoted,
        kubeconfig::{Cluster, explain},
    },
    k8s::{kind::Kind, served_groups::ServedGroups},
};

/// The ClusterRole with the permission, which administrators of a namespace lack since KubeVirt 1.5.
const ROLE: &str = "kubevirt.io:migrate";

/// Whether the user has permission to start a migration; `None` if the API server does not answer.
pub(super) async fn may_start(cluster: &Cluster) -> Option<bool> {
    let attributes = ResourceAttributes {
        namespace: Some(cluster.namespace.clone()),
        verb: Some("create".to_owned()),
        group: Some(cluster.groups.of(Kind::Migration.group()).to_owned()),
        resource: Some(Kind::Migration.plural().to_owned()),
        ..ResourceAttributes::default()
    };
    let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
    let review = SelfSubjectAccessReview { spec, ..Default::default() };
    let reviews: Api<SelfSubjectAccessReview> = Api::all(cluster.client.clone());
    let answer = reviews.create(&PostParams::default(), &review).await.ok()?;
    answer.status.map(|status| status.allowed)
}

/// Returns the command by which a cluster administrator grants the permission to the user.
pub(super) async fn how_to_grant(cluster: &Cluster) -> String {
    let namespace = &cluster.namespace;
    let (binding, subject) = match username(cluster).await {
        Some(name) => binding_of(&name),
        None => ("migrate".to_owned(), "--user=NAME".to_owned()),
    };
    format!(
        "Since KubeVirt 1.5 administrators of a namespace have no permission to start\n\
         migrations. A cluster administrator can grant it:\n  \
         kubectl create rolebinding {binding} --namespace={namespace} \\\n    \
         --clusterrole={ROLE} {subject}"
    )
}

/// Returns a name for the binding, and the flag of `kubectl create rolebinding` that names the user.
fn binding_of(name: &str) -> (String, String) {
    if let Some(account) = name.strip_prefix("system:serviceaccount:") {
        let binding = account.rsplit(':').next().unwrap_or(account);
        return (format!("migrate-{binding}"), format!("--serviceaccount={account}"));
    }
    ("migrate".to_owned(), format!("--user={}", quoted(name)))
}

/// Returns the user's name from the API server; needs Kubernetes 1.28.
async fn username(cluster: &Cluster) -> Option<String> {
    let reviews: Api<SelfSubjectReview> = Api::all(cluster.client.clone());
    let answer = reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await.ok()?;
    answer.status?.user_info?.username
}

/// Returns the manifest of a migration.
fn manifest(groups: &ServedGroups, namespace: &str, vm: &str) -> Value {
    json!({"apiVersion": format!("{}/{}", groups.of(Kind::Migration.group()), Kind::Migration.version()), "kind": Kind::Migration.kind(),
        "metadata": {"generateName": "nicplug-", "namespace": namespace}, "spec": {"vmiName": vm}})
}

/// Returns the command that creates the migration.
pub(in crate::cli) fn create_command(groups: &ServedGroups, namespace: &str, vm: &str) -> anyhow::Result<String> {
    let yaml = serde_saphyr::to_string(&manifest(groups, namespace, vm))?;
    Ok(format!("kubectl create -f - <<EOF\n{}\nEOF", yaml.trim_end()))
}

/// Creates the migration, and returns its name.
pub(super) async fn start(cluster: &Cluster, vm: &str) -> anyhow::Result<String> {
    let migration: DynamicObject = serde_json::from_value(manifest(&cluster.groups, &cluster.namespace, vm))?;
    let migrations: Api<DynamicObject> = api(cluster, Kind::Migration);
    match migrations.create(&PostParams::default(), &migration).await {
        Ok(migration) => Ok(migration.metadata.name.unwrap_or_default()),
        Err(error) => Err(explain(&error).context("cannot create the migration")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_names_its_subject_by_the_flag_of_kubectl() {
        for (name, binding, subject) in [
            ("jane", "migrate", "--user=jane"),
            ("Jane Doe", "migrate", "--user='Jane Doe'"),
            ("o'neill", "migrate", r"--user='o'\''neill'"),
            ("system:serviceaccount:demo:bot", "migrate-bot", "--serviceaccount=demo:bot"),
        ] {
            assert_eq!(binding_of(name), (binding.to_owned(), subject.to_owned()));
        }
    }

    #[test]
    fn the_command_can_be_copied_from_eighty_columns() {
        let command = create_command(&ServedGroups::default(), "demo", "vm").unwrap();
        assert!(command.contains("\nspec:\n  vmiName: vm\nEOF"), "{command}");
        assert!(command.lines().all(|line| line.chars().count() <= 80), "{command}");
    }
}
