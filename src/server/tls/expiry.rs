//! Reports the state of the serving certificate: in `/readyz`, and in the log when it changes.

use std::time::SystemTime;

use super::CertResolver;
use crate::{
    certificates::validity::{ValidityPhase, date},
    server::readiness::Check,
};

/// The last reported state of the serving certificate.
pub(super) struct ExpiryMonitor {
    certificates: CertResolver,
    check: Check,
    /// Why a newer certificate was rejected.
    error: Option<String>,
    stage: ValidityPhase,
}

impl ExpiryMonitor {
    pub(super) fn new(certificates: CertResolver, check: Check) -> Self {
        Self { certificates, check, error: None, stage: ValidityPhase::Fresh }
    }

    /// Notes that the certificate was replaced.
    pub(super) fn note_replaced(&mut self) {
        self.error = None;
        if let Some(validity) = self.certificates.validity() {
            tracing::info!(until = date(validity.not_after), "the certificate was replaced");
        }
    }

    /// Notes that no newer certificate is rejected (any more).
    pub(super) fn clear_error(&mut self) {
        if self.error.take().is_some() {
            tracing::info!("the serving certificate is the current one again");
        }
    }

    /// Notes that a newer certificate is rejected. An error that lasts is logged and counted once.
    pub(super) fn note_rejected(&mut self, error: String) {
        if self.error.as_ref() != Some(&error) {
            if self.certificates.validity().is_some() {
                self.certificates.add_load_failure();
                tracing::warn!("the last good certificate stays: {error}");
            } else {
                tracing::info!("no certificate yet: {error}");
            }
            self.error = Some(error);
        }
    }

    /// Sets the check, and logs a change since the last call.
    pub(super) fn report(&mut self, now: SystemTime) {
        let Some(validity) = self.certificates.validity() else {
            self.check.fail(self.error.clone().unwrap_or_else(|| "no certificate yet".to_owned()));
            return;
        };
        let stage = validity.phase(now);
        let advice = match stage {
            ValidityPhase::NotYetValid => ", so it is not valid yet: wait, or correct the clock of this machine",
            ValidityPhase::Expired => ", so it has expired: renew it",
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
        let error = self.error.as_ref().map(|error| format!("; a newer certificate was rejected: {error}"));
        let report = format!("{validity}{advice}{}", error.unwrap_or_default());
        match stage {
            ValidityPhase::NotYetValid | ValidityPhase::Expired => self.check.fail(report),
            ValidityPhase::Fresh | ValidityPhase::RenewalDue | ValidityPhase::RenewalOverdue => {
                self.check.pass_with(report);
            }
        }
    }
}
