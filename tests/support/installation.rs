//! What `deploy/install.yaml` installs, and replicas that run as its Deployment runs them: with its flags, as its service
//! account.

use std::{fs, path::Path};

use hyper::http::Method;
use kube::Client;
use serde_json::{Value, json};

use super::{
    api_server::{
        ApiServer, endpoints,
        requests::{self, send},
        service::ClusterIp,
        webhooks::chart,
    },
    folder::Folder,
    replica::Replica,
    wait::eventually,
};

/// The namespace of the installation.
pub(crate) const NAMESPACE: &str = "nicplug-system";

/// The objects of `deploy/install.yaml` on an API server.
pub(crate) struct Installation {
    /// The address of the Service.
    pub(crate) service: ClusterIp,
    flags: Vec<String>,
    folder: Folder,
}

impl Installation {
    /// Applies all objects, as `kubectl apply --server-side` does.
    pub(crate) async fn apply(admin: &Client) -> Self {
        let (service, folder) = (ClusterIp::reserve(), Folder::new("installation"));
        let mut objects = chart(NAMESPACE);
        for object in &mut objects {
            service.write_into(object);
            let path = format!("{}?fieldManager=kubectl", requests::path_of(object));
            send(admin, Method::PATCH, &path, "application/apply-patch+yaml", object.to_string()).await.granted();
        }
        let flags = flags(&objects, &service, &folder);
        Self { service, flags, folder }
    }

    /// Returns the settings of the ConfigMap.
    pub(crate) fn settings(&self) -> String {
        fs::read_to_string(self.folder.path().join("settings.yaml")).unwrap()
    }

    /// Returns the flags of the Deployment, with the address of the Service and a file with the settings of the
    /// ConfigMap. Further flags replace those of the same name.
    pub(crate) fn flags<'f>(&'f self, further: &[&'f str]) -> Vec<&'f str> {
        let name = |flag: &&str| flag.split('=').next().unwrap().to_owned();
        let is_replaced = |flag: &&str| further.iter().any(|other| name(other) == name(flag));
        let kept = self.flags.iter().map(String::as_str).filter(|flag| !is_replaced(flag));
        kept.chain(further.iter().copied()).collect()
    }

    /// Writes a kubeconfig of nicplug's service account, with a token as the kubelet mounts one, and returns its path.
    pub(crate) async fn kubeconfig(&self, api: &ApiServer) -> String {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/nicplug/token");
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}).to_string();
        let token = send(&api.admin(), Method::POST, &path, "application/json", request).await.granted();
        let admin = kube::config::Kubeconfig::read_from(api.kubeconfig()).unwrap();
        let mut config = serde_json::to_value(admin).unwrap();
        config["users"][0]["user"] = json!({"token": token["status"]["token"]});
        self.folder.write("kubeconfig", &config.to_string())
    }

    /// Starts a replica on a free port, with the name of its pod and further flags. It may not be ready yet.
    pub(crate) async fn start_replica(&self, program: &Path, kubeconfig: &str, pod: &str, further: &[&str]) -> Replica {
        let environment = [("KUBECONFIG", kubeconfig), ("POD_NAMESPACE", NAMESPACE), ("POD_NAME", pod)];
        let flags = self.flags(&[&["--listen=127.0.0.1:0"], further].concat());
        Replica::start_program(program, &flags, &environment).await
    }

    /// Reports the pods as ready, and waits until a replica has seen that the API server calls the webhooks.
    pub(crate) async fn activate(&self, admin: &Client, replica: &Replica) {
        endpoints::publish(admin, NAMESPACE, "nicplug", true).await;
        eventually("the webhooks are active", async || {
            replica.page("/metrics").await.contains("\nnicplug_webhook_active 1\n").then_some(())
        })
        .await;
    }
}

fn flags(objects: &[Value], service: &ClusterIp, folder: &Folder) -> Vec<String> {
    let of_kind = |kind: &str| objects.iter().find(|object| object["kind"] == kind).unwrap();
    let settings = of_kind("ConfigMap")["data"]["settings.yaml"].as_str().unwrap();
    let settings = folder.write("settings.yaml", settings);
    let container = &of_kind("Deployment")["spec"]["template"]["spec"]["containers"][0];
    let given = container["args"].as_array().unwrap().iter().map(|flag| flag.as_str().unwrap());
    let flags = given.skip(1).filter_map(|flag| match flag.split_once('=').unwrap() {
        ("--listen", _) => Some(format!("--listen={}", service.address())),
        // The replica of the tests has its own.
        ("--health-listen", _) => None,
        ("--settings", _) => Some(format!("--settings={settings}")),
        _ => Some(flag.to_owned()),
    });
    flags.collect()
}
