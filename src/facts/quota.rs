//! Facts about ResourceQuotas: whether a second pod of a guest has room beside the first during a migration.

use super::Vmi;
use crate::{
    api::cluster,
    pci::{bytes_of_quantity, thousandths_of_quantity},
};

/// A ResourceQuota, reduced to what is left for pods.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Quota {
    /// Its name.
    pub name: Box<str>,
    /// Each limited resource and the amount that is left of it.
    left: Box<[(Limited, u64)]>,
}

/// A resource that a quota limits and every pod of a guest takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Limited {
    /// `memory`, `requests.memory` or `limits.memory`: in bytes.
    Memory(&'static str),
    /// `cpu`, `requests.cpu` or `limits.cpu`: in thousandths.
    Cpus(&'static str),
    /// `pods` or `count/pods`.
    Pods,
}

impl Quota {
    /// Reads a ResourceQuota; `None` if it limits some pods only, or no resource that every pod of a guest takes.
    #[must_use]
    pub fn of(quota: &cluster::ResourceQuota) -> Option<Self> {
        if !quota.spec.scopes.is_empty() || quota.spec.scope_selector.is_some() {
            return None;
        }
        let left = |(key, hard): (&String, &cluster::Amount)| {
            let limited = Limited::of(key)?;
            let read = if matches!(limited, Limited::Cpus(_)) { thousandths_of_quantity } else { bytes_of_quantity };
            let used = quota.status.used.get(key).map_or_else(|| "0".to_owned(), cluster::Amount::as_text);
            Some((limited, read(&hard.as_text())?.saturating_sub(read(&used)?)))
        };
        let left: Box<[_]> = quota.status.hard.iter().filter_map(left).collect();
        (!left.is_empty()).then(|| Self { name: quota.metadata.name.as_str().into(), left })
    }

    /// Returns what a second pod of a guest needs and the quota has not, as in "1Gi of the 8Gi requests.memory". The
    /// need is that of the guest alone, less than that of its pod; of CPUs only that of a guest with dedicated ones,
    /// because KubeVirt requests less than one CPU for each other vCPU.
    #[must_use]
    pub fn shortage(&self, vmi: &Vmi) -> Option<String> {
        self.left.iter().find_map(|&(limited, left)| match limited {
            Limited::Memory(key) if left < vmi.memory => {
                Some(format!("{} of the {} {key}", amount(left), amount(vmi.memory)))
            }
            Limited::Cpus(key) if left < u64::from(vmi.dedicated_cpus) * 1000 => {
                Some(format!("{} of the {} {key}", cpus(left), vmi.dedicated_cpus))
            }
            Limited::Pods if left == 0 => Some("no room for another pod".to_owned()),
            Limited::Memory(_) | Limited::Cpus(_) | Limited::Pods => None,
        })
    }
}

impl Limited {
    fn of(key: &str) -> Option<Self> {
        Some(match key {
            "memory" => Self::Memory("memory"),
            "requests.memory" => Self::Memory("requests.memory"),
            "limits.memory" => Self::Memory("limits.memory"),
            "cpu" => Self::Cpus("cpu"),
            "requests.cpu" => Self::Cpus("requests.cpu"),
            "limits.cpu" => Self::Cpus("limits.cpu"),
            "pods" | "count/pods" => Self::Pods,
            _ => return None,
        })
    }
}

/// Returns a number of CPUs, given in thousandths, as a quantity.
fn cpus(thousandths: u64) -> String {
    if thousandths.is_multiple_of(1000) { (thousandths / 1000).to_string() } else { format!("{thousandths}m") }
}

/// Returns a number of bytes as a quantity, in the largest unit that shows it exactly; a large one at least in Mi,
/// rounded down.
fn amount(bytes: u64) -> String {
    const UNITS: [(u32, &str); 5] = [(50, "Pi"), (40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")];
    let exact = UNITS.iter().find(|(power, _)| bytes > 0 && bytes.trailing_zeros() >= *power);
    match exact {
        Some((power, unit)) if *power >= 20 || bytes < 1 << 20 => format!("{}{unit}", bytes >> power),
        _ if bytes >= 1 << 20 => format!("{}Mi", bytes >> 20),
        _ => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn quota(spec: &Value, hard: &Value, used: &Value) -> Option<Quota> {
        let object = json!({"metadata": {"name": "team"}, "spec": spec, "status": {"hard": hard, "used": used}});
        Quota::of(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn cpus_count_for_a_guest_with_dedicated_ones_only() {
        for (hard, used, dedicated_cpus, shortage) in [
            ("requests.cpu", "6500m", 4, Some("3500m of the 4 requests.cpu")),
            ("limits.cpu", "8", 4, Some("2 of the 4 limits.cpu")),
            ("cpu", "6", 4, None),
            ("cpu", "9500m", 0, None),
        ] {
            let vmi = Vmi { dedicated_cpus, ..Vmi::default() };
            let quota = quota(&json!({}), &json!({hard: "10"}), &json!({hard: used})).unwrap();
            assert_eq!(quota.shortage(&vmi).as_deref(), shortage, "{hard}");
        }
    }

    #[test]
    fn what_a_second_pod_lacks_is_named_with_figures() {
        let vmi = Vmi { memory: 8 << 30, ..Vmi::default() };
        for (hard, used, shortage) in [
            (
                json!({"requests.memory": "10Gi"}),
                json!({"requests.memory": "9Gi"}),
                Some("1Gi of the 8Gi requests.memory"),
            ),
            (
                json!({"limits.memory": "10Gi"}),
                json!({"limits.memory": "9216500Ki"}),
                Some("1239Mi of the 8Gi limits.memory"),
            ),
            (json!({"memory": "16Gi"}), json!({"memory": "8Gi"}), None),
            (json!({"memory": "4Gi"}), json!({"memory": "8Gi"}), Some("0 of the 8Gi memory")),
            (json!({"pods": 4}), json!({"pods": 4}), Some("no room for another pod")),
            (json!({"count/pods": "4"}), json!({"count/pods": "3"}), None),
            (json!({"memory": "4Gi"}), Value::Null, Some("4Gi of the 8Gi memory")),
        ] {
            let quota = quota(&json!({}), &hard, &used).unwrap();
            assert_eq!(quota.shortage(&vmi).as_deref(), shortage, "{hard}");
        }
    }

    #[test]
    fn a_quota_of_some_pods_or_of_other_resources_is_not_judged() {
        let (none, unused) = (json!({"pods": "0"}), json!({}));
        assert!(quota(&json!({}), &none, &unused).is_some());
        assert_eq!(quota(&json!({"scopes": ["BestEffort"]}), &none, &unused), None);
        assert_eq!(quota(&json!({"scopeSelector": {"matchExpressions": []}}), &none, &unused), None);
        assert_eq!(quota(&json!({}), &json!({"services": "0"}), &unused), None);
    }
}
