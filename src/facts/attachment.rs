//! How a NIC can be attached to a running pod, read from the DaemonSets of Multus and its dynamic-networks controller.
//!
//! Neither name nor labels nor image alone identify a DaemonSet: thick and thin Multus have the same name and labels,
//! and custom builds have other images. So the command decides first, then the labels, then the image.

use super::{Fact, nad::NamespaceIsolation};
use crate::api::cluster::{Container, DaemonSet};

/// The two components that attaching a NIC in place requires.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Attachment {
    /// Whether a NIC can be attached to a running pod.
    pub in_place: InPlace,
    /// Whether Multus runs as a daemon with an API, and not only as a binary on each node.
    pub has_thick_multus: bool,
    /// Where Multus is ready, thick or thin; absent if no DaemonSet is Multus, unknown if no DaemonSet is known at all.
    pub multus: Fact<ReadyNodes>,
}

/// On how many nodes the pods of a component are ready.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ReadyNodes {
    /// The number of nodes on which it is ready.
    pub ready: u32,
    /// The number of nodes on which it should be ready.
    pub desired: u32,
}

/// Whether a NIC can be attached to a running pod.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum InPlace {
    /// Yes: the dynamic-networks controller is ready on every node.
    Yes,
    /// Only on nodes where the controller is ready.
    SomeNodes {
        /// The number of nodes on which it is ready.
        ready: u32,
        /// The number of nodes on which it should be ready.
        desired: u32,
    },
    /// No: there is no controller, or it is not ready on any node.
    No,
}

/// A DaemonSet that takes part in attaching NICs.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AttachmentDaemon {
    /// Whether it is the dynamic-networks controller.
    pub is_controller: bool,
    /// Whether it is thick Multus.
    pub is_thick_multus: bool,
    /// Whether it is thin Multus.
    pub is_thin_multus: bool,
    /// The namespace isolation that flags of Multus turn on.
    pub isolation: Option<NamespaceIsolation>,
    /// The number of nodes on which it is ready.
    pub ready: u32,
    /// The number of nodes on which it should be ready.
    pub desired: u32,
}

impl Attachment {
    /// Combines all DaemonSets of a cluster. The readiness probe of the controller calls Multus' socket, so a ready
    /// controller implies a thick Multus.
    #[must_use]
    pub fn of<'d>(daemons: impl Iterator<Item = &'d AttachmentDaemon>) -> Self {
        let (mut ready, mut desired, mut has_thick_multus) = (0_u32, 0_u32, false);
        let mut multus = Fact::Absent;
        for daemon in daemons {
            has_thick_multus |= daemon.is_thick_multus;
            if daemon.is_thick_multus || daemon.is_thin_multus {
                let before = multus.known().copied().unwrap_or(ReadyNodes::default());
                multus = Fact::Known(ReadyNodes {
                    ready: before.ready.saturating_add(daemon.ready),
                    desired: before.desired.saturating_add(daemon.desired),
                });
            }
            if daemon.is_controller {
                ready = ready.saturating_add(daemon.ready);
                desired = desired.saturating_add(daemon.desired);
            }
        }
        let in_place = match ready {
            0 => InPlace::No,
            ready if ready < desired => InPlace::SomeNodes { ready, desired },
            _ => InPlace::Yes,
        };
        // A ready controller needs a Multus, which then runs in a DaemonSet that nicplug does not recognize.
        let multus = if multus == Fact::Absent && ready > 0 { Fact::Unknown } else { multus };
        Self { in_place, has_thick_multus: has_thick_multus || ready > 0, multus }
    }
}

impl AttachmentDaemon {
    /// Reads a DaemonSet; `None` if it takes no part in attaching NICs.
    #[must_use]
    pub fn of(daemon_set: &DaemonSet) -> Option<Self> {
        let containers = daemon_set.spec.template.spec.containers.iter();
        let role_of = |container| by_command(container).or_else(|| by_labels(daemon_set, container));
        let roles: Vec<(&Container, Role)> =
            containers.filter_map(|container| Some((container, role_of(container)?))).collect();
        let has = |role| roles.iter().any(|(_, other)| *other == role);
        let multus = roles.iter().filter(|(_, role)| *role != Role::Controller);
        let daemon = Self {
            is_controller: has(Role::Controller),
            is_thick_multus: has(Role::ThickMultus),
            is_thin_multus: has(Role::ThinMultus),
            isolation: multus.filter_map(|(container, _)| isolation_by_flags(container)).next(),
            ready: daemon_set.status.number_ready,
            desired: daemon_set.status.desired_number_scheduled,
        };
        (!roles.is_empty()).then_some(daemon)
    }
}

/// The role of a container.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Role {
    Controller,
    ThickMultus,
    ThinMultus,
}

/// Returns the role by the programs in command and arguments, also inside a script.
fn by_command(container: &Container) -> Option<Role> {
    words(container).map(last_element).find_map(|program| match program {
        "multus-daemon" => Some(Role::ThickMultus),
        "thin_entrypoint" => Some(Role::ThinMultus),
        program if program.ends_with("dynamic-networks-controller") => Some(Role::Controller),
        _ => None,
    })
}

/// Returns the namespace isolation that the flags of Multus turn on, also inside a script
/// (`cmd/thin_entrypoint/main.go`, and `images/entrypoint.sh` of Multus 3).
fn isolation_by_flags(container: &Container) -> Option<NamespaceIsolation> {
    let (mut is_isolated, mut global) = (false, "");
    let mut words = words(container);
    while let Some(word) = words.next() {
        match word {
            "--namespace-isolation" | "--namespace-isolation=true" => is_isolated = true,
            "--global-namespaces" => global = words.next().unwrap_or_default(),
            _ => global = word.strip_prefix("--global-namespaces=").unwrap_or(global),
        }
    }
    is_isolated.then(|| NamespaceIsolation::new(global))
}

/// Returns the words of command and arguments, also inside a script.
fn words(container: &Container) -> impl Iterator<Item = &str> {
    container.command.iter().chain(&container.args).flat_map(|text| text.split(ends_a_path))
}

fn ends_a_path(letter: char) -> bool {
    letter.is_whitespace() || ['"', '\'', ';', '&', '|', '(', ')', '`'].contains(&letter)
}

fn last_element(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Returns the role by labels, or else by the image of a container without a command. The tag of the image tells thick
/// from thin Multus, because both have the same labels.
fn by_labels(daemon_set: &DaemonSet, container: &Container) -> Option<Role> {
    const KEYS: [&str; 5] = ["app", "name", "app.kubernetes.io/name", "k8s-app", "app.kubernetes.io/component"];
    let (image, tag) = split_image(&container.image);
    let own = &daemon_set.metadata.labels;
    let pods = &daemon_set.spec.template.metadata.labels;
    let labels = KEYS.iter().flat_map(|key| own.get(*key).into_iter().chain(pods.get(*key)));
    let name = labels.map(String::as_str).find(|name| is_controller(name) || is_multus(name));
    let name = name.or_else(|| container.command.is_empty().then_some(image))?;
    if is_controller(name) {
        return Some(Role::Controller);
    }
    let is_thick = tag.split('-').chain(image.split('-')).any(|part| part == "thick");
    is_multus(name).then_some(if is_thick { Role::ThickMultus } else { Role::ThinMultus })
}

fn is_controller(name: &str) -> bool {
    name.ends_with("dynamic-networks-controller")
}

/// Whether a label or an image name is Multus itself, and not another component with a similar name.
fn is_multus(name: &str) -> bool {
    const NAMES: [&str; 5] = ["multus", "multus-cni", "multus-thick", "kube-multus", "kube-multus-ds"];
    NAMES.iter().any(|known| {
        let before = name.strip_suffix(known);
        before.is_some_and(|before| before.is_empty() || before.ends_with('-'))
    })
}

/// Returns the last path element of an image and its tag, without the digest.
fn split_image(image: &str) -> (&str, &str) {
    let image = image.split_once('@').map_or(image, |(image, _)| image);
    last_element(image).split_once(':').unwrap_or((last_element(image), ""))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn daemon(labels: &Value, container: &Value) -> Option<AttachmentDaemon> {
        let object = json!({"metadata": {"labels": labels},
            "spec": {"template": {"spec": {"containers": [container]}}},
            "status": {"numberReady": 1, "desiredNumberScheduled": 2}});
        AttachmentDaemon::of(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn the_command_decides_before_labels_and_image() {
        let multus = || json!({"app": "multus", "name": "multus"});
        let thick = daemon(&multus(), &json!({"command": ["/usr/src/multus-cni/bin/multus-daemon"], "image": "x"}));
        assert!(thick.unwrap().is_thick_multus);
        let thin = daemon(&multus(), &json!({"command": ["/thin_entrypoint"], "image": "multus-cni:v4-thick"}));
        let thin = thin.unwrap();
        assert!(thin.is_thin_multus && !thin.is_thick_multus);
        let script = json!({"command": ["/bin/bash", "-ec", "--"], "args": ["A=\"\"; exec /bin/multus-daemon $A\n"]});
        assert!(daemon(&json!({"app": "own-build"}), &script).unwrap().is_thick_multus);
        let controller =
            json!({"command": ["/dynamic-networks-controller"], "image": "registry.example:5000/own/dnc:1"});
        assert!(daemon(&json!({}), &controller).unwrap().is_controller);
    }

    #[test]
    fn labels_and_then_the_image_decide_without_a_known_command() {
        let image = |image: &str| json!({"image": image});
        for (labels, container, expected) in [
            (json!({"app": "multus"}), image("x/multus-cni:snapshot-thick"), Some((false, true))),
            (json!({"app": "multus"}), image("x/multus-cni:snapshot"), Some((false, false))),
            (json!({"app": "dynamic-networks-controller"}), image("x/y"), Some((true, false))),
            (json!({}), image("x/hardened-multus-dynamic-networks-controller:v1"), Some((true, false))),
            (json!({}), image("registry.example:5000/x/hardened-multus-thick@sha256:00"), Some((false, true))),
            (json!({"app": "whereabouts"}), image("x/whereabouts:latest-thick"), None),
        ] {
            let found = daemon(&labels, &container);
            let found = found.map(|daemon| (daemon.is_controller, daemon.is_thick_multus));
            assert_eq!(found, expected, "{labels} {container}");
        }
    }

    #[test]
    fn components_with_a_similar_name_are_ignored() {
        for name in [
            "multus-additional-cni-plugins",
            "network-metrics-daemon",
            "multus-admission-controller",
            "multus-whereabouts",
        ] {
            let container = json!({"command": ["/bin/bash", "-ec", "--"], "args": ["sleep 2147483647"],
                "image": "example.com/multus:thick"});
            assert_eq!(daemon(&json!({"app": name}), &container), None, "{name}");
        }
        let config = json!({"args": ["-config=/etc/dynamic-networks-controller/config.json"], "image": "x/y"});
        assert_eq!(daemon(&json!({}), &config), None);
    }

    #[test]
    fn readiness_decides_about_attaching_in_place() {
        let controller =
            |ready, desired| AttachmentDaemon { is_controller: true, ready, desired, ..AttachmentDaemon::default() };
        for (ready, desired, expected) in [
            (3, 3, InPlace::Yes),
            (2, 3, InPlace::SomeNodes { ready: 2, desired: 3 }),
            (0, 3, InPlace::No),
            (0, 0, InPlace::No),
        ] {
            assert_eq!(Attachment::of([controller(ready, desired)].iter()).in_place, expected, "{ready} of {desired}");
        }
        assert_eq!(Attachment::of([].iter()).in_place, InPlace::No);
    }

    #[test]
    fn a_ready_controller_implies_a_thick_multus() {
        let controller = AttachmentDaemon { is_controller: true, ready: 1, desired: 1, ..AttachmentDaemon::default() };
        let attachment = Attachment::of([controller].iter());
        assert!(attachment.has_thick_multus);
        assert_eq!(attachment.multus, Fact::Unknown);
    }

    #[test]
    fn multus_is_counted_over_all_its_daemon_sets() {
        let multus = |is_thick_multus, ready| AttachmentDaemon {
            is_thick_multus,
            is_thin_multus: !is_thick_multus,
            ready,
            desired: 3,
            ..AttachmentDaemon::default()
        };
        for (daemons, expected) in [
            (&[][..], Fact::Absent),
            (&[multus(false, 0)], Fact::Known(ReadyNodes { ready: 0, desired: 3 })),
            (&[multus(false, 2), multus(true, 3)], Fact::Known(ReadyNodes { ready: 5, desired: 6 })),
        ] {
            assert_eq!(Attachment::of(daemons.iter()).multus, expected, "{daemons:?}");
        }
    }

    #[test]
    fn flags_turn_on_the_isolation_of_namespaces() {
        let isolation = |container: &Value| daemon(&json!({"app": "multus"}), container).unwrap().isolation;
        let thin = |args: &[&str]| json!({"command": ["/thin_entrypoint"], "args": args});
        for (container, expected) in [
            (thin(&[]), None),
            (thin(&["--namespace-isolation=false", "--global-namespaces=infra"]), None),
            (thin(&["--namespace-isolation"]), Some("")),
            (thin(&["--namespace-isolation=true", "--global-namespaces=infra,shared"]), Some("infra,shared")),
            (thin(&["--global-namespaces", "infra", "--namespace-isolation"]), Some("infra")),
            (
                json!({"command": ["/bin/sh", "-c"], "args": ["exec /entrypoint.sh --namespace-isolation=true;"]}),
                Some(""),
            ),
        ] {
            assert_eq!(isolation(&container), expected.map(NamespaceIsolation::new), "{container}");
        }
    }
}
