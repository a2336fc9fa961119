//! What a rule found.

use std::borrow::Cow;

use super::Rule;
use crate::facts::FactKind;

/// What a rule found at one field of the object.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The rule that found it.
    pub rule: &'static Rule,
    /// The path of the field, as in `spec.networks[0].name`; empty if the finding is not about a field.
    pub field: String,
    /// Whether it is a fault, advice, or something that was not checked.
    pub kind: FindingKind,
    /// What is wrong, with the value in quotes: lower case, no full stop.
    pub what: String,
    /// How to fix it.
    pub fix: Cow<'static, str>,
    /// What the next restart of the VM does, if the finding is a fault of a rule of scope hotplug.
    pub at_restart: AtRestart,
    /// The kind of the unknown fact, if that is why something was not checked.
    pub missing: Option<FactKind>,
}

impl Finding {
    /// Returns the finding as advice, which never denies.
    pub(crate) fn into_advice(self) -> Self {
        let kind = match self.kind {
            FindingKind::Certain(_) | FindingKind::Fault(_) => FindingKind::Advice,
            kind => kind,
        };
        Self { kind, ..self }
    }

    /// Returns the finding with its own fix instead of that of the rule.
    pub(crate) fn with_fix(self, fix: String) -> Self {
        Self { fix: Cow::Owned(fix), ..self }
    }

    /// Returns the finding with another effect of the next restart.
    pub(crate) fn at_restart(self, at_restart: AtRestart) -> Self {
        Self { at_restart, ..self }
    }
}

/// What the next restart of a VM does with a change in which a rule of scope hotplug found a fault.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AtRestart {
    /// It applies the change, which waits until then.
    Applied,
    /// Nothing: KubeVirt applies the change to the running guest at once.
    AppliedAtOnce,
    /// It fails: the pod cannot be created with the NIC, so the guest does not start.
    Fails,
}

/// What a finding means for the request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FindingKind {
    /// A fault: denied or warned about, as the rule is enforced.
    Fault(CauseType),
    /// A fault without any doubt: denied unless settings name the rule, even if the rule only warns by default.
    Certain(CauseType),
    /// Allowed, with a warning.
    Advice,
    /// Not checked, with a warning.
    Unchecked,
    /// Not checked because the rule itself failed: a warning, or denied if the settings say so.
    InternalError,
}

impl FindingKind {
    /// Returns the cause type of a fault; `None` for a finding that never denies.
    #[must_use]
    pub fn cause(self) -> Option<CauseType> {
        match self {
            Self::Fault(cause) | Self::Certain(cause) => Some(cause),
            Self::InternalError => Some(CauseType::Invalid),
            Self::Advice | Self::Unchecked => None,
        }
    }
}

/// Kubernetes' cause types (`k8s.io/apimachinery/pkg/apis/meta/v1`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CauseType {
    /// A value that must be unique is not.
    Duplicate,
    /// The value is wrong.
    Invalid,
    /// The value names something that does not exist.
    NotFound,
    /// The value is not one of the supported values.
    NotSupported,
    /// The value is missing.
    Required,
}

impl CauseType {
    /// Returns the name in `details.causes[].reason`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotFound => "FieldValueNotFound",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Required => "FieldValueRequired",
        }
    }
}
