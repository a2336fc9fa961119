//! The live migration that a NIC may need: who may start it, and starting it.

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
    cli::kubeconfig::{Cluster, explain},
    k8s::kind::Kind,
};

/// The role that has the right since KubeVirt 1.5 took it from administrators of namespaces.
const ROLE: &str = "kubevirt.io:migrate";

/// Whether the user may start a migration; `None` when the API server does not tell.
pub(super) async fn may_start(cluster: &Cluster) -> Option<bool> {
    let attributes = ResourceAttributes {
        namespace: Some(cluster.namespace.clone()),
        verb: Some("create".to_owned()),
        group: Some(Kind::Migration.group().to_owned()),
        resource: Some(Kind::Migration.plural().to_owned()),
        ..ResourceAttributes::default()
    };
    let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
    let review = SelfSubjectAccessReview { spec, ..Default::default() };
    let reviews: Api<SelfSubjectAccessReview> = Api::all(cluster.client.clone());
    let answer = reviews.create(&PostParams::default(), &review).await.ok()?;
    answer.status.map(|status| status.allowed)
}

/// Who may, and how the user comes to it.
pub(super) async fn who_may(cluster: &Cluster) -> String {
    let namespace = &cluster.namespace;
    let (binding, subject) = match user(cluster).await {
        Some(name) => of_user(&name),
        None => ("migrate".to_owned(), "--user=NAME".to_owned()),
    };
    format!(
        "Since KubeVirt 1.5 administrators of a namespace may not start migrations; the\n\
         ClusterRole {ROLE} has that right. An administrator of the cluster grants it:\n  \
         kubectl create rolebinding {binding} --namespace={namespace} \\\n    \
         --clusterrole={ROLE} {subject}"
    )
}

/// A name for the binding, and the flag of `kubectl create rolebinding`.
fn of_user(name: &str) -> (String, String) {
    if let Some(account) = name.strip_prefix("system:serviceaccount:") {
        let binding = account.rsplit(':').next().unwrap_or(account);
        return (format!("migrate-{binding}"), format!("--serviceaccount={account}"));
    }
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.' | '@' | ':');
    let quote = if name.chars().all(is_plain) { "" } else { "'" };
    ("migrate".to_owned(), format!("--user={quote}{name}{quote}"))
}

/// What the API server calls the user; it tells since Kubernetes 1.28.
async fn user(cluster: &Cluster) -> Option<String> {
    let reviews: Api<SelfSubjectReview> = Api::all(cluster.client.clone());
    let answer = reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await.ok()?;
    answer.status?.user_info?.username
}

/// The migration of a guest, to be created.
pub(super) fn manifest(namespace: &str, vm: &str) -> Value {
    json!({"apiVersion": "kubevirt.io/v1", "kind": Kind::Migration.kind(),
        "metadata": {"generateName": "nicplug-", "namespace": namespace}, "spec": {"vmiName": vm}})
}

/// The command that creates it.
pub(super) fn manifest_in_yaml(namespace: &str, vm: &str) -> anyhow::Result<String> {
    let yaml = serde_saphyr::to_string(&manifest(namespace, vm))?;
    Ok(format!("kubectl create -f - <<EOF\n{}\nEOF", yaml.trim_end()))
}

/// Starts the migration; the name of it.
pub(super) async fn start(cluster: &Cluster, vm: &str) -> anyhow::Result<String> {
    let migration: DynamicObject = serde_json::from_value(manifest(&cluster.namespace, vm))?;
    let migrations: Api<DynamicObject> = api(cluster, Kind::Migration);
    match migrations.create(&PostParams::default(), &migration).await {
        Ok(migration) => Ok(migration.metadata.name.unwrap_or_default()),
        Err(error) => Err(explain(&error).context("the migration cannot be started")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_names_its_subject_as_kubectl_takes_it() {
        for (name, binding, subject) in [
            ("jane", "migrate", "--user=jane"),
            ("Jane Doe", "migrate", "--user='Jane Doe'"),
            ("system:serviceaccount:demo:bot", "migrate-bot", "--serviceaccount=demo:bot"),
        ] {
            assert_eq!(of_user(name), (binding.to_owned(), subject.to_owned()));
        }
    }

    #[test]
    fn the_manifest_can_be_copied() {
        let yaml = manifest_in_yaml("demo", "vm").unwrap();
        assert!(yaml.contains("\nspec:\n  vmiName: vm\nEOF"), "{yaml}");
        assert!(yaml.lines().all(|line| line.chars().count() <= 80), "{yaml}");
    }
}
