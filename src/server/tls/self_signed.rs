//! Uses the certificate that nicplug itself creates and keeps in a Secret.

use std::{
    pin::pin,
    time::{Duration, SystemTime},
};

use futures_util::{Stream, StreamExt};
use tokio::sync::watch;

use super::{CertKeyPair, CertResolver, expiry::ExpiryMonitor};
use crate::{controllers::certificates::ServingCert, server::readiness::Check};

/// The time between two checks of the certificate's dates. Its renewal is not a matter of seconds.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// Uses each certificate of `offers`, and sets `check` with every offer and every tick, until the offers or the ticks
/// end.
pub async fn run(
    certificates: CertResolver,
    mut offers: watch::Receiver<ServingCert>,
    check: Check,
    clock: impl Fn() -> SystemTime,
    ticks: impl Stream<Item = ()>,
) {
    let mut ticks = pin!(ticks);
    let mut expiry = ExpiryMonitor::new(certificates.clone(), check);
    let mut last = None;
    loop {
        let ServingCert { pair, error, ca_not_after } = offers.borrow_and_update().clone();
        certificates.set_ca_expiry(ca_not_after);
        if let Some(pair) = pair.filter(|pair| last.as_ref() != Some(&pair.certificate)) {
            match CertKeyPair::from_pem(pair.certificate.as_bytes(), pair.key.as_bytes()) {
                Ok(new) => {
                    certificates.set(new);
                    expiry.note_replaced();
                    last = Some(pair.certificate.clone());
                }
                // The controller has checked the pair, so this does not happen in practice.
                Err(error) => expiry.note_rejected(error.to_string()),
            }
        }
        match error {
            Some(error) => expiry.note_rejected(error),
            None => expiry.clear_error(),
        }
        expiry.report(clock());
        let has_more = tokio::select! {
            changed = offers.changed() => changed.is_ok(),
            tick = ticks.next() => tick.is_some(),
        };
        if !has_more {
            return;
        }
    }
}
