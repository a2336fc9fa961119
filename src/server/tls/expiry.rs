//! How things stand with the certificate that is shown: `/readyz` tells it, and the log tells when it changes.

use std::time::SystemTime;

use super::CertResolver;
use crate::{
    certificates::validity::{ValidityPhase, date},
    server::health::Check,
};

/// What was told last, and to whom.
pub(super) struct ExpiryMonitor {
    shown: CertResolver,
    check: Check,
    /// Why something newer than what is shown is not.
    fault: Option<String>,
    stage: ValidityPhase,
}

impl ExpiryMonitor {
    pub(super) fn new(shown: CertResolver, check: Check) -> Self {
        Self { shown, check, fault: None, stage: ValidityPhase::Fresh }
    }

    /// Another pair is shown.
    pub(super) fn replaced(&mut self) {
        self.fault = None;
        if let Some(validity) = self.shown.validity() {
            tracing::info!(until = date(validity.not_after), "the certificate is replaced");
        }
    }

    /// What is shown is what should be.
    pub(super) fn clear(&mut self) {
        if self.fault.take().is_some() {
            tracing::info!("the certificate that is shown is what should be shown again");
        }
    }

    /// Something else should be shown, and cannot be.
    pub(super) fn refuse(&mut self, fault: String) {
        if self.fault.as_ref() != Some(&fault) {
            if self.shown.validity().is_some() {
                self.shown.add_fault();
                tracing::warn!("the last good certificate stays: {fault}");
            } else {
                tracing::info!("no certificate yet: {fault}");
            }
            self.fault = Some(fault);
        }
    }

    /// Tells how things stand now.
    pub(super) fn tell(&mut self, now: SystemTime) {
        let Some(validity) = self.shown.validity() else {
            self.check.fail(self.fault.clone().unwrap_or_else(|| "there is none yet".to_owned()));
            return;
        };
        let stage = validity.phase(now);
        let advice = match stage {
            ValidityPhase::NotYetValid => ", which is still to come: wait, or set the clock of this machine",
            ValidityPhase::Expired => ", which is over: renew it",
            ValidityPhase::RenewalOverdue => ", and should have been renewed by now",
            ValidityPhase::Fresh | ValidityPhase::RenewalDue => "",
        };
        if stage != self.stage {
            match stage {
                ValidityPhase::Fresh | ValidityPhase::RenewalDue => {}
                ValidityPhase::NotYetValid | ValidityPhase::RenewalOverdue => {
                    tracing::warn!("the certificate is {validity}{advice}");
                }
                ValidityPhase::Expired => tracing::error!("the certificate is {validity}{advice}"),
            }
            self.stage = stage;
        }
        let fault = self.fault.as_ref().map(|fault| format!("; what came after it is refused: {fault}"));
        let report = format!("{validity}{advice}{}", fault.unwrap_or_default());
        match stage {
            ValidityPhase::NotYetValid | ValidityPhase::Expired => self.check.fail(report),
            ValidityPhase::Fresh | ValidityPhase::RenewalDue | ValidityPhase::RenewalOverdue => {
                self.check.pass_with(report);
            }
        }
    }
}
