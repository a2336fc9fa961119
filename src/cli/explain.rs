//! `nicplug explain`: a pasted message, with the reason of its rules and the way to the fix.

mod message;

use std::{
    io::{self, IsTerminal, Read, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;

use self::message::{Fault, Message, Object};
use super::{
    arguments::program, block_on, facts::SettingsArgs, kubeconfig::ClusterArgs, progress::Progress, status::Printout,
    terminal::Colour,
};
use crate::{
    cluster::manifests::segments,
    k8s::{
        api_error::ApiError,
        kind::Kind,
        request::{ApiClient, ObjectPath, is_valid_name},
    },
    rules::Scope,
};

/// How long the API server may take: without the object the explanation only lacks a line.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The longest message that is read from standard input, in bytes.
const LONGEST: u64 = 1 << 20;

/// Explain a denial or a warning of nicplug that you paste.
///
/// Finds the rules, the fields and the object in the message, prints for each rule why it exists and what to do, and
/// shows the field of the stored object, if a cluster is reachable. The exit status is 2 if the message names no rule.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  nicplug explain 'The VirtualMachine \"vm-fedora\" is invalid: spec…: … [NP103]'
  kubectl apply -f vm.yaml 2>&1 | nicplug explain")]
pub(super) struct ExplainArgs {
    /// The message, as kubectl or a console shows it [default: standard input].
    #[arg(value_name = "MESSAGE")]
    message: Vec<String>,

    /// Do not read the object from the cluster.
    #[arg(long)]
    offline: bool,

    #[command(flatten)]
    settings: SettingsArgs,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// What the cluster says about the object of a message.
enum Stored {
    /// Nothing was asked.
    NotAsked,
    Found(Box<Value>),
    /// Why the object is not shown.
    NotRead(String),
}

impl ExplainArgs {
    /// Prints the explanation.
    pub(super) fn run(self, output: &mut impl Write) -> anyhow::Result<ExitCode> {
        if let Some(flag) = self.cluster.given().filter(|_| self.offline) {
            bail!("{flag} selects a cluster, and --offline reads none: leave one of them out");
        }
        let message = Message::parse(&self.text()?);
        if message.faults.is_empty() {
            bail!(
                "the message names no rule of nicplug, such as [NP103]; paste the whole message, or see docs/denied.md \
                 for messages of other programs"
            );
        }
        let stored = match &message.object {
            Some(object) if !self.offline => self.read(object)?,
            _ => Stored::NotAsked,
        };
        let text = explain(&message, &stored, Printout::for_stdout());
        output.write_all(text.as_bytes())?;
        Ok(ExitCode::SUCCESS)
    }

    fn text(&self) -> anyhow::Result<String> {
        if !self.message.is_empty() && self.message != ["-"] {
            return Ok(self.message.join(" "));
        }
        let input = io::stdin();
        if self.message.is_empty() && input.is_terminal() {
            bail!("no message: pass it in quotes, or pipe it into {} explain", program());
        }
        let mut bytes = Vec::new();
        input.lock().take(LONGEST).read_to_end(&mut bytes).context("standard input cannot be read")?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn read(&self, object: &Object) -> anyhow::Result<Stored> {
        let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.kind() == object.kind) else {
            return Ok(Stored::NotAsked);
        };
        if !is_valid_name(&object.name) {
            return Ok(Stored::NotAsked);
        }
        let settings = self.settings.read()?;
        block_on(async {
            let _progress = Progress::start("Reading the object");
            let cluster = match self.cluster.connect(&settings).await {
                Ok(cluster) => cluster,
                Err(error) => return Ok(Stored::NotRead(error.to_string())),
            };
            let path = ObjectPath::one(kind, &cluster.namespace, &object.name);
            let limit = cluster.timeout(TIMEOUT);
            Ok(match ApiClient::new(cluster.client, limit).get(&path).await {
                Ok(text) => match serde_json::from_str(&text) {
                    Ok(value) => Stored::Found(Box::new(value)),
                    Err(error) => Stored::NotRead(error.to_string()),
                },
                Err(ApiError::NotFound(_)) => Stored::NotRead(format!(
                    "it does not exist in namespace {:?}; pass -n for another namespace",
                    cluster.namespace
                )),
                Err(error) => Stored::NotRead(error.to_string()),
            })
        })
    }
}

/// Returns the explanation of each fault.
fn explain(message: &Message, stored: &Stored, mut page: Printout) -> String {
    for (number, fault) in message.faults.iter().enumerate() {
        if number > 0 {
            page.verbatim("", "\n");
        }
        add_fault(&mut page, message, fault, stored);
    }
    if let (Stored::NotRead(why), Some(Object { kind, name })) = (stored, &message.object) {
        page.verbatim("", "\n");
        page.paragraph(None, "", "  ", &format!("{kind} {name:?} was not read: {why}"));
    }
    page.into_text()
}

fn add_fault(page: &mut Printout, message: &Message, fault: &Fault, stored: &Stored) {
    let Fault { rule, field, what } = fault;
    page.paragraph(Some(Colour::Bold), "", "  ", &format!("{} {}: {}", rule.id, rule.name, rule.summary()));
    let mut line = |label: &str, text: &str| {
        if !text.is_empty() {
            page.paragraph(None, &format!("{label:8}"), "        ", text);
        }
    };
    if let Some(Object { kind, name }) = &message.object {
        line("Object:", &format!("{kind} {name}"));
    }
    line("Field:", field);
    line("Says:", what);
    if let Stored::Found(object) = stored
        && !field.is_empty()
    {
        line("Stored:", &stored_value(object, field));
    }
    line("Why:", &rule.why().replace('`', ""));
    line("Fix:", rule.fix);
    match &message.object {
        Some(Object { kind: "VirtualMachine", name }) if rule.scope == Scope::Hotplug => {
            line("Or:", "let the change wait for the next restart:");
            page.verbatim("        ", &format!("kubectl annotate vm {name} nicplug.io/apply=on-restart"));
        }
        _ => {}
    }
    page.paragraph(None, "Then:   ", "        ", "check the corrected manifest without storing it:");
    page.verbatim("        ", "kubectl apply --dry-run=server -f FILE");
}

/// Returns what the stored object has in a field. A denied change is not stored.
fn stored_value<'o>(object: &'o Value, field: &str) -> String {
    let step = |value: &'o Value, segment: &str| match value {
        Value::Array(entries) => entries.get(segment.parse::<usize>().ok()?),
        _ => value.get(segment),
    };
    match segments(field).into_iter().try_fold(object, step) {
        Some(value) => value.to_string(),
        None => "the object does not have this field; a denied change is not stored".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DENIAL: &str = "The VirtualMachine \"vm-fedora\" is invalid: \
        spec.template.spec.domain.devices.interfaces[1].model: \"blue\" cannot be hotplugged with model \"e1000e\": only \
        virtio can; set model: virtio, or omit model [NP103]";

    #[test]
    fn a_denial_is_explained_with_the_reason_of_the_rule_and_the_way_to_the_fix() {
        let stored = Stored::Found(Box::new(json!({"spec": {}})));
        for width in [80, 120] {
            let text = explain(&Message::parse(DENIAL), &stored, Printout::of(Some(width)));
            assert!(text.lines().all(|line| line.chars().count() <= width), "{text}");
        }
        let text = explain(&Message::parse(DENIAL), &stored, Printout::of(None));
        assert_eq!(
            text,
            "NP103 hotplug-model: A bridge NIC is plugged into a running VM with a model other than virtio.\n\
             Object: VirtualMachine vm-fedora\n\
             Field:  spec.template.spec.domain.devices.interfaces[1].model\n\
             Says:   \"blue\" cannot be hotplugged with model \"e1000e\": only virtio can; set model: virtio, or omit model\n\
             Stored: the object does not have this field; a denied change is not stored\n\
             Why:    KubeVirt supports hotplug of virtio NICs only. It nevertheless copies a NIC of another model to the \
             running guest, and asks the hypervisor to hotplug a device that does not support it.\n\
             Fix:    set model: virtio, or omit model\n\
             Or:     let the change wait for the next restart:\n        \
             kubectl annotate vm vm-fedora nicplug.io/apply=on-restart\n\
             Then:   check the corrected manifest without storing it:\n        \
             kubectl apply --dry-run=server -f FILE\n"
        );
    }

    #[test]
    fn an_object_that_was_not_read_is_named() {
        let stored = Stored::NotRead("no permission".to_owned());
        let text = explain(&Message::parse(DENIAL), &stored, Printout::of(None));
        assert!(text.ends_with("\n\nVirtualMachine \"vm-fedora\" was not read: no permission\n"), "{text}");
        let warning = explain(&Message::parse("\"a\" waits [NP112]"), &Stored::NotAsked, Printout::of(None));
        assert!(warning.starts_with("NP112 ") && !warning.contains("Or:"), "{warning}");
    }

    #[test]
    fn the_stored_value_of_a_field_is_found() {
        let object = json!({"metadata": {"annotations": {"nicplug.io/persist": "yes"}},
            "spec": {"networks": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(stored_value(&object, "spec.networks[1].name"), "\"b\"");
        assert_eq!(stored_value(&object, "metadata.annotations[nicplug.io/persist]"), "\"yes\"");
        assert!(stored_value(&object, "spec.networks[2].name").starts_with("the object does not have"));
    }
}
