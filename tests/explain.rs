//! `nicplug explain` with a real API server: the stored field of the object that a pasted message names.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::process::Command;

use support::{
    api_server::{
        self,
        crds::Kind,
        requests::{self, Run},
    },
    builders::{VM, vm},
};
use tokio::task::spawn_blocking;

#[tokio::test]
async fn the_stored_field_of_the_object_is_shown_if_it_can_be_read() {
    let Some(api) = api_server::shared().await else { return };
    let namespace = api.namespace("explain").await;
    requests::create(&api.admin(), Kind::Vm, &namespace, &vm().build(), Run::Real).await.granted();
    let field = "spec.template.spec.domain.devices.interfaces[0].name";
    let message = format!("The VirtualMachine \"{VM}\" is invalid: {field}: used twice [NP002]");
    for (namespace, part) in [
        (namespace.as_str(), "\nStored: \"default\"\n"),
        ("no-such-namespace", "was not read: it does not exist in namespace \"no-such-namespace\""),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nicplug"));
        command.args(["explain", "--namespace", namespace, "--kubeconfig"]).arg(api.kubeconfig()).arg(&message);
        let output = spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains(part), "{text}");
    }
}
