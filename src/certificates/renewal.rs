//! Decides the next step for certificates that nicplug creates itself. The decision depends only on what is stored,
//! what is published and the time, so a leader may be killed at any step, and the next leader continues from there.
//!
//! No handshake may fail because of a renewal, so clients have to trust a CA before it is needed:
//!
//! 1. a new CA is *stored* beside the older ones;
//! 2. it is *published*: added to the `caBundle` of every webhook, which keeps its other certificates while they are valid;
//! 3. the change *propagates* to the API servers, which takes a while;
//! 4. the CA signs the next server certificate, which is stored;
//! 5. each replica serves that certificate as soon as every webhook trusts it ([`may_serve`]);
//! 6. an expired CA is removed.
//!
//! A CA and a server certificate are renewed independently, each after two thirds of its lifetime. A new CA signs
//! nothing until the server certificate is due.

use std::time::{Duration, SystemTime};

use super::{
    CertificateAndKey, CertificateError, Host,
    chain::{Certificate, pem},
    validity::{Validity, ValidityPhase},
};

/// The most CAs that a `caBundle` may hold. Usually it holds one, and two for some months per year.
const MAX_TRUSTED: usize = 16;

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// The certificates to create.
#[derive(Clone, Debug)]
pub struct CertificatePlan {
    hosts: Vec<Host>,
    ca_lifetime: Duration,
    server_lifetime: Duration,
}

impl CertificatePlan {
    /// Returns a plan with certificates for these hosts: a CA for a year, and a server certificate for ninety days.
    #[must_use]
    pub fn new(hosts: Vec<Host>) -> Self {
        Self { hosts, ca_lifetime: 365 * DAY, server_lifetime: 90 * DAY }
    }

    /// Returns the plan with other lifetimes, of at least an hour. Certificates begin five minutes early, so two thirds
    /// of a much shorter lifetime would be over at once.
    #[must_use]
    pub fn with_lifetimes(self, ca: Duration, server: Duration) -> Self {
        Self { ca_lifetime: ca.max(HOUR), server_lifetime: server.max(HOUR), ..self }
    }
}

/// The content of the Secret, in PEM; an empty text if missing. Has no `Debug`, so that the keys do not get into a log.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct StoredCertificates {
    /// The CA that signs, and the older ones after it.
    pub cas: String,
    /// The key of the CA that signs.
    pub ca_key: String,
    /// The server certificate.
    pub server: String,
    /// The key of the server certificate.
    pub server_key: String,
}

impl StoredCertificates {
    /// Returns the CA that signs, if its key is stored too.
    fn ca(&self) -> Option<Certificate> {
        let first = Certificate::all(self.cas.as_bytes()).into_iter().next()?;
        first.has_key(&self.ca_key).then_some(first)
    }

    /// Returns the server certificate, if its key is stored too.
    fn server(&self) -> Option<Certificate> {
        let first = Certificate::all(self.server.as_bytes()).into_iter().next()?;
        first.has_key(&self.server_key).then_some(first)
    }

    /// Returns the CAs that have not expired.
    fn unexpired(&self, now: SystemTime) -> Vec<Certificate> {
        unexpired(Certificate::all(self.cas.as_bytes()), now)
    }
}

/// The CAs that one webhook trusts: its `caBundle`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CaBundle(Vec<Certificate>);

impl CaBundle {
    /// Reads a `caBundle`.
    #[must_use]
    pub fn of(bundle: &[u8]) -> Self {
        Self(Certificate::all(bundle))
    }

    /// Returns the required `caBundle` in PEM; `None` if the bundle already is as required.
    ///
    /// The result holds the stored CAs and then the other CAs of the bundle that have not expired, because a replica
    /// may still serve a certificate of such a CA. It has at most sixteen, the stored ones first, so that a Secret that
    /// is lost repeatedly does not fill the object.
    #[must_use]
    pub fn merged(&self, stored: &StoredCertificates, now: SystemTime) -> Option<String> {
        let mut wanted = stored.unexpired(now);
        for own in unexpired(self.0.clone(), now) {
            if !wanted.contains(&own) {
                wanted.push(own);
            }
        }
        wanted.truncate(MAX_TRUSTED);
        let is_same = wanted.len() == self.0.len() && wanted.iter().all(|ca| self.0.contains(ca));
        (!is_same).then(|| pem(&wanted))
    }

    fn trusts(&self, server: &Certificate) -> bool {
        self.0.iter().any(|ca| server.is_signed_by(ca))
    }
}

fn unexpired(mut cas: Vec<Certificate>, now: SystemTime) -> Vec<Certificate> {
    cas.retain(|ca| ca.validity().phase(now) != ValidityPhase::Expired);
    cas
}

/// The next step of the leader.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Create a CA and store it ([`with_new_ca`]), for this reason.
    CreateCa(&'static str),
    /// Put the stored CAs into every `caBundle` ([`CaBundle::merged`]).
    Publish,
    /// Create a server certificate and store it ([`with_new_server_certificate`]), for this reason.
    CreateServerCertificate(&'static str),
    /// Remove the expired CAs from the Secret ([`without_expired_cas`]).
    Prune,
    /// Do nothing until this time or the next change.
    Wait(SystemTime),
}

/// The time since when every webhook has trusted the CA that signs, as far as this leader has observed.
#[derive(Clone, Debug, Default)]
pub struct CaPropagation(Option<(Certificate, SystemTime)>);

impl CaPropagation {
    /// The time within which every API server receives a change of the webhooks. They watch the objects and receive it
    /// at once, unless they have to restart the watch.
    pub const TIME: Duration = Duration::from_mins(1);

    /// Records the current trust, and returns the time at which the CA has propagated; `None` if it is not published.
    fn see(&mut self, ca: &Certificate, trust: &[CaBundle], now: SystemTime) -> Option<SystemTime> {
        if !trust.iter().all(|trust| trust.0.contains(ca)) {
            self.0 = None;
            return None;
        }
        // After the clock was set back, the time starts again.
        let since = match &self.0 {
            Some((seen, since)) if seen == ca && *since <= now => *since,
            _ => now,
        };
        self.0 = Some((ca.clone(), since));
        Some(since + Self::TIME)
    }
}

/// Decides what the leader has to do next.
///
/// `trust` holds the bundle of each webhook in the existing configurations. `is_serving` tells whether handshakes
/// succeed with the certificate that is served now. If they do, or would with the stored one, a new CA can propagate
/// first.
pub fn next_step(
    plan: &CertificatePlan,
    stored: &StoredCertificates,
    trust: &[CaBundle],
    propagation: &mut CaPropagation,
    is_serving: bool,
    now: SystemTime,
) -> Step {
    let Some(ca) = stored.ca() else { return Step::CreateCa("there is none") };
    if let Some(reason) = renewal_reason(ca.validity(), now) {
        return Step::CreateCa(reason);
    }
    let propagated_at = propagation.see(&ca, trust, now);
    let server = stored.server();
    let is_serving = is_serving || server.as_ref().is_some_and(|server| handshake_succeeds(server, trust, now));
    if trust.iter().any(|trust| trust.merged(stored, now).is_some()) {
        return Step::Publish;
    }
    let Some(server) = server else { return sign("there is none", propagated_at, is_serving, now) };
    if let Some(reason) = renewal_reason(server.validity(), now) {
        return sign(reason, propagated_at, is_serving, now);
    }
    let unexpired = stored.unexpired(now);
    if !unexpired.iter().any(|ca| server.is_signed_by(ca)) {
        return sign("no known CA signed it", propagated_at, is_serving, now);
    }
    if !plan.hosts.iter().all(|host| server.is_valid_for(host)) {
        return sign("it is not valid for all names", propagated_at, is_serving, now);
    }
    if unexpired.len() < Certificate::all(stored.cas.as_bytes()).len() {
        return Step::Prune;
    }
    let renewals = [ca.validity().after(2, 3), server.validity().after(2, 3)];
    let ends = unexpired.iter().map(|ca| ca.validity().not_after + Duration::from_secs(1));
    Step::Wait(ends.chain(renewals).min().unwrap_or(now))
}

/// Returns the reason to replace a certificate, if there is one.
fn renewal_reason(validity: Validity, now: SystemTime) -> Option<&'static str> {
    match validity.phase(now) {
        ValidityPhase::Fresh => None,
        ValidityPhase::RenewalDue | ValidityPhase::RenewalOverdue => Some("two thirds of its lifetime are over"),
        ValidityPhase::NotYetValid => Some("it was created by a clock that is far ahead"),
        ValidityPhase::Expired => Some("it has expired"),
    }
}

/// Returns the step that signs, or one that waits for the CA to propagate while handshakes succeed anyway.
fn sign(reason: &'static str, propagated_at: Option<SystemTime>, is_serving: bool, now: SystemTime) -> Step {
    match propagated_at {
        Some(propagated_at) if is_serving && propagated_at > now => Step::Wait(propagated_at),
        _ => Step::CreateServerCertificate(reason),
    }
}

/// Returns the content of the Secret with a new CA that signs from now on.
///
/// # Errors
/// The CA could not be created.
pub fn with_new_ca(
    plan: &CertificatePlan,
    stored: &StoredCertificates,
    now: SystemTime,
) -> Result<StoredCertificates, CertificateError> {
    let ca = CertificateAndKey::ca(now, now + plan.ca_lifetime)?;
    Ok(StoredCertificates { cas: ca.certificate + &pem(&stored.unexpired(now)), ca_key: ca.key, ..stored.clone() })
}

/// Returns the content of the Secret with a new server certificate.
///
/// # Errors
/// The certificate could not be created.
pub fn with_new_server_certificate(
    plan: &CertificatePlan,
    stored: &StoredCertificates,
    now: SystemTime,
) -> Result<StoredCertificates, CertificateError> {
    let end = now + plan.server_lifetime;
    // Clients check the dates of the CA too.
    let end = stored.ca().map_or(end, |ca| end.min(ca.validity().not_after));
    let server = CertificateAndKey::server(&plan.hosts, now, end, &stored.ca_key)?;
    Ok(StoredCertificates { server: server.certificate, server_key: server.key, ..without_expired_cas(stored, now) })
}

/// Returns the content of the Secret without expired CAs.
#[must_use]
pub fn without_expired_cas(stored: &StoredCertificates, now: SystemTime) -> StoredCertificates {
    StoredCertificates { cas: pem(&stored.unexpired(now)), ..stored.clone() }
}

/// Whether handshakes succeed with this certificate: it is valid, and every webhook trusts it.
#[must_use]
pub fn handshake_succeeds(server: &Certificate, trust: &[CaBundle], now: SystemTime) -> bool {
    let is_valid = !matches!(server.validity().phase(now), ValidityPhase::NotYetValid | ValidityPhase::Expired);
    is_valid && trust.iter().all(|trust| trust.trusts(server))
}

/// Checks whether a replica may serve the stored certificate: it has its key, is valid for all hosts, and every webhook
/// in the existing configurations trusts it. Otherwise the replica keeps its certificate. `is_serving` tells whether
/// handshakes succeed with that one.
///
/// # Errors
/// The reason why not.
pub fn may_serve(
    plan: &CertificatePlan,
    stored: &StoredCertificates,
    trust: &[CaBundle],
    is_serving: bool,
    now: SystemTime,
) -> Result<(), &'static str> {
    let Some(server) = stored.server() else { return Err("the Secret holds no certificate with its key yet") };
    if !plan.hosts.iter().all(|host| server.is_valid_for(host)) {
        return Err("the certificate in the Secret is not valid for all names (--cert-dns-name)");
    }
    if !trust.iter().all(|trust| trust.trusts(&server)) {
        return Err("the webhook configurations do not trust the certificate in the Secret yet (caBundle)");
    }
    // An old Secret may have been restored. Without an alternative, serving an expired certificate shows clients the
    // reason.
    if is_serving && !handshake_succeeds(&server, trust, now) {
        return Err("the certificate in the Secret is not valid now");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A leader and its cluster, in which every write is visible at once.
    struct World {
        plan: CertificatePlan,
        stored: StoredCertificates,
        trust: Vec<CaBundle>,
        propagation: CaPropagation,
        is_serving: bool,
        now: SystemTime,
    }

    impl World {
        /// Two webhooks with empty bundles, and an empty Secret.
        fn new() -> Self {
            Self {
                plan: CertificatePlan::new(vec!["nicplug.nicplug.svc".parse().unwrap()]),
                stored: StoredCertificates::default(),
                trust: vec![CaBundle::default(); 2],
                propagation: CaPropagation::default(),
                is_serving: false,
                now: SystemTime::UNIX_EPOCH + 20_000 * DAY,
            }
        }

        /// A world after all steps are done.
        fn complete() -> Self {
            let mut world = Self::new();
            world.until_waiting();
            world.is_serving = true;
            world.now += CaPropagation::TIME;
            world
        }

        fn step(&mut self) -> Step {
            next_step(&self.plan, &self.stored, &self.trust, &mut self.propagation, self.is_serving, self.now)
        }

        fn make(&mut self, step: Step) {
            match step {
                Step::CreateCa(_) => self.stored = with_new_ca(&self.plan, &self.stored, self.now).unwrap(),
                Step::Publish => {
                    for trust in &mut self.trust {
                        if let Some(bundle) = trust.merged(&self.stored, self.now) {
                            *trust = CaBundle::of(bundle.as_bytes());
                        }
                    }
                }
                Step::CreateServerCertificate(_) => {
                    self.stored = with_new_server_certificate(&self.plan, &self.stored, self.now).unwrap();
                }
                Step::Prune => self.stored = without_expired_cas(&self.stored, self.now),
                Step::Wait(_) => {}
            }
        }

        /// Returns all steps up to the first one that waits.
        fn until_waiting(&mut self) -> Vec<Step> {
            let mut steps = Vec::new();
            loop {
                let step = self.step();
                self.make(step);
                steps.push(step);
                assert!(steps.len() < 10, "{steps:?}");
                if matches!(step, Step::Wait(_)) {
                    return steps;
                }
            }
        }

        fn may_serve(&self) -> Result<(), &'static str> {
            may_serve(&self.plan, &self.stored, &self.trust, self.is_serving, self.now)
        }

        fn cas(&self) -> Vec<Certificate> {
            Certificate::all(self.stored.cas.as_bytes())
        }

        fn server(&self) -> Certificate {
            self.stored.server().unwrap()
        }
    }

    #[test]
    fn the_first_start_stores_publishes_and_then_signs() {
        let mut world = World::new();
        let steps = world.until_waiting();
        let is_in_order =
            matches!(steps[..], [Step::CreateCa(_), Step::Publish, Step::CreateServerCertificate(_), Step::Wait(_)]);
        assert!(is_in_order, "{steps:?}");
        assert_eq!(world.may_serve(), Ok(()));
        assert_eq!(world.server().validity().not_before, world.now - Duration::from_mins(5));
    }

    #[test]
    fn only_a_missing_or_unsuitable_certificate_is_created() {
        type Damage = fn(&mut World);
        let stranger = || {
            let mut world = World::new();
            world.until_waiting();
            world.stored
        };
        let cases: [(&str, Damage, Step); 10] = [
            ("all is well", |_| {}, Step::Wait(World::complete().server().validity().after(2, 3))),
            ("no CA", |w| w.stored.cas.clear(), Step::CreateCa("there is none")),
            ("no key of it", |w| w.stored.ca_key.clear(), Step::CreateCa("there is none")),
            ("another's key", |w| w.stored.ca_key = w.stored.server_key.clone(), Step::CreateCa("there is none")),
            ("one webhook without a bundle", |w| w.trust[1] = CaBundle::default(), Step::Publish),
            ("no server", |w| w.stored.server.clear(), Step::CreateServerCertificate("there is none")),
            ("half a server", |w| w.stored.server.truncate(200), Step::CreateServerCertificate("there is none")),
            (
                "another name",
                |w| w.plan.hosts.push("other".parse().unwrap()),
                Step::CreateServerCertificate("it is not valid for all names"),
            ),
            (
                "an early server",
                |w| w.stored = with_new_server_certificate(&w.plan, &w.stored, w.now + DAY).unwrap(),
                Step::CreateServerCertificate("it was created by a clock that is far ahead"),
            ),
            ("no webhooks at all", |w| w.trust.clear(), Step::Wait(World::complete().server().validity().after(2, 3))),
        ];
        for (name, damage, expected) in cases {
            let mut world = World::complete();
            damage(&mut world);
            // Two worlds have the same dates because they have the same clock.
            assert_eq!(world.step(), expected, "{name}");
        }
        let mut world = World::complete();
        (world.stored.server, world.stored.server_key) = (stranger().server, stranger().server_key);
        assert_eq!(world.step(), Step::CreateServerCertificate("there is none"), "a key of another");
        let stranger = stranger();
        (world.stored.server, world.stored.server_key) = (stranger.server, stranger.server_key);
        assert_eq!(world.step(), Step::CreateServerCertificate("no known CA signed it"));
    }

    #[test]
    fn server_and_ca_are_renewed_at_two_thirds_of_their_own_lifetimes() {
        let mut world = World::complete();
        let (ca, server) = (world.cas().remove(0), world.server());
        let Step::Wait(until) = world.step() else { panic!("{:?}", world.step()) };
        assert_eq!(until, server.validity().after(2, 3));
        world.now = until - SECOND;
        assert_eq!(world.step(), Step::Wait(until));
        world.now = until;
        assert!(matches!(world.until_waiting()[..], [Step::CreateServerCertificate(_), Step::Wait(_)]));
        assert_eq!(world.cas(), std::slice::from_ref(&ca), "the CA stays");

        world.now = ca.validity().after(2, 3);
        world.stored = with_new_server_certificate(&world.plan, &world.stored, world.now - DAY).unwrap();
        let before = world.server();
        let steps = world.until_waiting();
        assert!(matches!(steps[..], [Step::CreateCa(_), Step::Publish, Step::Wait(_)]), "{steps:?}");
        assert_eq!(world.server(), before, "the served certificate stays until it is due itself");
        assert_eq!(world.cas().len(), 2);
        assert_eq!(world.trust[0].0.len(), 2);
    }

    #[test]
    fn a_new_ca_signs_only_after_it_has_propagated_unless_nothing_is_served() {
        let mut world = World::complete();
        world.stored = StoredCertificates::default();
        let steps = world.until_waiting();
        let propagated_at = world.now + CaPropagation::TIME;
        assert!(
            matches!(steps[..], [Step::CreateCa(_), Step::Publish, Step::Wait(at)] if at == propagated_at),
            "{steps:?}"
        );
        world.now = propagated_at - SECOND;
        assert_eq!(world.step(), Step::Wait(propagated_at));
        // After the bundle is removed, the time starts again.
        world.trust[0] = CaBundle::default();
        assert!(
            matches!(world.until_waiting()[..], [Step::Publish, Step::Wait(at)] if at == propagated_at - SECOND + CaPropagation::TIME)
        );
        world.is_serving = false;
        assert_eq!(world.step(), Step::CreateServerCertificate("there is none"));
    }

    #[test]
    fn an_expired_ca_is_removed_from_the_secret_and_from_the_webhooks() {
        let mut world = World::complete();
        let first = world.cas().remove(0);
        world.now = first.validity().after(2, 3);
        world.until_waiting();
        world.now += CaPropagation::TIME;
        world.until_waiting();
        assert_eq!(world.trust[0].0.len(), 2);
        assert!(world.server().is_signed_by(&world.cas()[0]), "the server was renewal_reason too");

        let Step::Wait(until) = world.step() else { panic!("{:?}", world.step()) };
        assert!(until <= first.validity().not_after + SECOND);
        world.now = first.validity().not_after + SECOND;
        let steps = world.until_waiting();
        assert!(steps.contains(&Step::Publish), "{steps:?}");
        assert!(!world.cas().contains(&first));
        assert!(world.trust.iter().all(|trust| !trust.0.contains(&first) && trust.trusts(&world.server())));
    }

    #[test]
    fn an_unknown_ca_stays_in_the_bundle_while_it_is_valid() {
        let mut world = World::complete();
        let theirs =
            Certificate::all(CertificateAndKey::ca(world.now, world.now + 30 * DAY).unwrap().certificate.as_bytes());
        world.trust[0].0.extend(theirs.clone());
        assert!(matches!(world.step(), Step::Wait(_)), "there is nothing to do about it");
        world.stored = with_new_ca(&world.plan, &world.stored, world.now).unwrap();
        world.until_waiting();
        assert!(world.trust[0].0.contains(&theirs[0]) && !world.trust[1].0.contains(&theirs[0]));
        world.now += 31 * DAY;
        world.until_waiting();
        assert!(!world.trust[0].0.contains(&theirs[0]));
    }

    #[test]
    fn a_repeatedly_lost_secret_does_not_fill_the_bundle() {
        let mut world = World::complete();
        for _ in 0..20 {
            world.stored = StoredCertificates::default();
            world.until_waiting();
            world.now += CaPropagation::TIME;
            world.until_waiting();
        }
        assert_eq!(world.trust[0].0.len(), MAX_TRUSTED);
        assert_eq!(world.may_serve(), Ok(()));
    }

    #[test]
    fn a_new_leader_also_waits_for_a_ca_to_propagate() {
        let mut world = World::complete();
        world.stored = with_new_ca(&world.plan, &world.stored, world.now).unwrap();
        world.now = world.server().validity().after(2, 3);
        (world.propagation, world.is_serving) = (CaPropagation::default(), false);
        let steps = world.until_waiting();
        assert!(matches!(steps[..], [Step::Publish, Step::Wait(_)]), "{steps:?}");
        assert_eq!(steps[1], Step::Wait(world.now + CaPropagation::TIME));
    }

    #[test]
    fn a_replica_serves_no_certificate_that_a_webhook_does_not_trust() {
        let mut world = World::complete();
        assert_eq!(world.may_serve(), Ok(()));
        world.trust[1] = CaBundle::default();
        assert!(world.may_serve().unwrap_err().contains("do not trust"));
        world.trust[1] = world.trust[0].clone();
        world.plan.hosts.push("other".parse().unwrap());
        assert!(world.may_serve().unwrap_err().contains("names"));
        world.plan.hosts.pop();
        world.now += 91 * DAY;
        assert!(world.may_serve().unwrap_err().contains("not valid now"));
        world.is_serving = false;
        assert_eq!(world.may_serve(), Ok(()), "there is nothing better");
        world.stored.server_key = world.stored.ca_key.clone();
        assert!(world.may_serve().unwrap_err().contains("no certificate with its key"));
    }

    /// Simulates a year, one step per day at least, with several lifetimes.
    #[test]
    fn there_is_always_a_trusted_certificate_and_no_endless_renewal() {
        for (ca, server) in [(365 * DAY, 90 * DAY), (30 * DAY, 29 * DAY), (3 * DAY, 9 * DAY)] {
            let mut world = World::new();
            world.plan = world.plan.with_lifetimes(ca, server);
            let (mut made, mut steps) = (0_u32, 0_u32);
            let start = world.now;
            while world.now < start + 365 * DAY {
                let rest = loop {
                    let step = world.step();
                    world.make(step);
                    steps += 1;
                    made += u32::from(matches!(step, Step::CreateServerCertificate(_)));
                    if let Step::Wait(until) = step {
                        break until;
                    }
                };
                world.is_serving = true;
                assert_eq!(world.may_serve(), Ok(()));
                assert!(matches!(
                    world.server().validity().phase(world.now),
                    ValidityPhase::Fresh | ValidityPhase::RenewalDue
                ));
                assert!(rest > world.now && world.cas().len() <= 3);
                // The leader looks again no later than this.
                world.now = rest.min(world.now + DAY);
            }
            let life = server.min(ca);
            let most = 2 * (365 * DAY).as_secs() / (life / 3).as_secs();
            assert!(
                u64::from(made) <= most && u64::from(steps) <= 20 * most + 10_000,
                "{made} created in {steps} steps"
            );
        }
    }
}
