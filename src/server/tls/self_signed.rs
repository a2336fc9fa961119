//! The pair that nicplug makes itself: shown as soon as the cluster's keeper offers it.

use std::{
    pin::pin,
    time::{Duration, SystemTime},
};

use futures_util::{Stream, StreamExt};
use tokio::sync::watch;

use super::{CertResolver, Pair, expiry::ExpiryMonitor};
use crate::{controllers::certificates::ServingCert, server::health::Check};

/// How often to look at the clock: whether a certificate is late is no matter of seconds.
pub const INTERVAL: Duration = Duration::from_secs(30);

/// Shows what is offered, now and later, and tells `check` how things stand then and with every tick; until there are no
/// offers or no ticks any more.
pub async fn show(
    shown: CertResolver,
    mut offers: watch::Receiver<ServingCert>,
    check: Check,
    clock: impl Fn() -> SystemTime,
    ticks: impl Stream<Item = ()>,
) {
    let mut ticks = pin!(ticks);
    let mut expiry = ExpiryMonitor::new(shown.clone(), check);
    let mut last = None;
    loop {
        let ServingCert { pair, error: fault, ca_not_after: authority_end } = offers.borrow_and_update().clone();
        shown.tell_authority(authority_end);
        if let Some(pair) = pair.filter(|pair| last.as_ref() != Some(&pair.certificate)) {
            match Pair::from_pem(pair.certificate.as_bytes(), pair.key.as_bytes()) {
                Ok(new) => {
                    shown.show(new);
                    expiry.replaced();
                    last = Some(pair.certificate.clone());
                }
                // The keeper has looked at it: never in practice.
                Err(error) => expiry.refuse(error.to_string()),
            }
        }
        match fault {
            Some(fault) => expiry.refuse(fault),
            None => expiry.clear(),
        }
        expiry.tell(clock());
        let is_going_on = tokio::select! {
            changed = offers.changed() => changed.is_ok(),
            tick = ticks.next() => tick.is_some(),
        };
        if !is_going_on {
            return;
        }
    }
}
