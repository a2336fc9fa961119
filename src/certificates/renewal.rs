//! What to do next about certificates that nicplug makes itself: decided from what is stored, what is published and the
//! time, and from nothing that was done before. Whoever leads may be killed at any step; the next one goes on from there.
//!
//! No handshake may fail over a renewal, so an authority is trusted before it is needed:
//!
//! 1. a new authority is *stored* beside those before it;
//! 2. it is *published*: added to the `caBundle` of every webhook, which keeps what is still valid in it;
//! 3. the API servers hear of that: a while later it is *settled*;
//! 4. the next server certificate is signed by it and stored;
//! 5. each replica shows that certificate as soon as it sees that every webhook trusts it ([`may_serve`]);
//! 6. an authority that has expired is dropped.
//!
//! An authority and a server certificate are renewed when two thirds of their own life are over, each by itself: a new
//! authority signs nothing until the server certificate is due.

use std::time::{Duration, SystemTime};

use super::{
    CertificateAndKey, CertificateError, Host,
    chain::{Certificate, pem},
    validity::{Validity, ValidityPhase},
};

/// How many authorities a `caBundle` may hold; mostly it holds one, and two for some months a year.
const MAX_TRUSTED: usize = 16;

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// What is to be made.
#[derive(Clone, Debug)]
pub struct CertificatePlan {
    hosts: Vec<Host>,
    ca_lifetime: Duration,
    server_lifetime: Duration,
}

impl CertificatePlan {
    /// Certificates for these hosts; an authority lives for a year, a server certificate for ninety days.
    #[must_use]
    pub fn new(hosts: Vec<Host>) -> Self {
        Self { hosts, ca_lifetime: 365 * DAY, server_lifetime: 90 * DAY }
    }

    /// The same with other lives, of an hour at least: dates begin five minutes early, and of a life that is not much
    /// longer than that, two thirds would be over at once.
    #[must_use]
    pub fn with_lifetimes(self, ca: Duration, server: Duration) -> Self {
        Self { ca_lifetime: ca.max(HOUR), server_lifetime: server.max(HOUR), ..self }
    }
}

/// What the Secret holds, in PEM; empty where there is nothing. Not to be printed.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct StoredCertificates {
    /// The authority that signs, and after it those before it.
    pub cas: String,
    /// The key of the authority that signs.
    pub ca_key: String,
    /// The certificate of the server.
    pub server: String,
    /// Its key.
    pub server_key: String,
}

impl StoredCertificates {
    /// The authority that signs, if its key is there too.
    fn ca(&self) -> Option<Certificate> {
        let first = Certificate::all(self.cas.as_bytes()).into_iter().next()?;
        first.has_key(&self.ca_key).then_some(first)
    }

    /// The server's certificate, if its key is there too.
    fn server(&self) -> Option<Certificate> {
        let first = Certificate::all(self.server.as_bytes()).into_iter().next()?;
        first.has_key(&self.server_key).then_some(first)
    }

    /// Those that have not expired.
    fn unexpired(&self, now: SystemTime) -> Vec<Certificate> {
        unexpired(Certificate::all(self.cas.as_bytes()), now)
    }
}

/// The authorities that one webhook trusts: its `caBundle`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CaBundle(Vec<Certificate>);

impl CaBundle {
    /// Reads a `caBundle`.
    #[must_use]
    pub fn of(bundle: &[u8]) -> Self {
        Self(Certificate::all(bundle))
    }

    /// The `caBundle` that it should be, in PEM; `None` where it is that already.
    ///
    /// What is stored, then whatever else is in it and has not expired: for as long as somebody may show a certificate of
    /// an authority, that authority is to be trusted. Of those at most sixteen, the newest of ours first: a Secret that is
    /// lost again and again must not fill the object up.
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

/// What a leader has to do next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Make a new authority and store it: [`with_new_ca`]. Why.
    CreateCa(&'static str),
    /// Put the stored authorities into every `caBundle`: [`CaBundle::merged`].
    Publish,
    /// Make a new server certificate and store it: [`with_new_server_certificate`]. Why.
    CreateServerCertificate(&'static str),
    /// Store without the authorities that have expired: [`without_expired_cas`].
    Prune,
    /// Nothing, until something changes or it is this late.
    Wait(SystemTime),
}

/// Since when every webhook trusts the authority that signs, as far as this leader has seen.
#[derive(Clone, Debug, Default)]
pub struct CaPropagation(Option<(Certificate, SystemTime)>);

impl CaPropagation {
    /// How long it may take until the last API server has heard of a change of the webhooks. They watch them, and hear of
    /// it at once unless they have to begin the watch anew.
    pub const TIME: Duration = Duration::from_mins(1);

    /// Notes what is trusted now, and says when the authority is settled; `None` when it is not published.
    fn see(&mut self, ca: &Certificate, trust: &[CaBundle], now: SystemTime) -> Option<SystemTime> {
        if !trust.iter().all(|trust| trust.0.contains(ca)) {
            self.0 = None;
            return None;
        }
        // A clock that was set back begins anew.
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
/// `trust` is what each webhook of the configurations that exist trusts. `is_serving` says whether handshakes succeed
/// with what is shown now, whatever is stored: then there is time, as there is when they would with what is stored.
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
    let settled = propagation.see(&ca, trust, now);
    let server = stored.server();
    let is_serving = is_serving || server.as_ref().is_some_and(|server| handshake_succeeds(server, trust, now));
    if trust.iter().any(|trust| trust.merged(stored, now).is_some()) {
        return Step::Publish;
    }
    let Some(server) = server else { return sign("there is none", settled, is_serving, now) };
    if let Some(reason) = renewal_reason(server.validity(), now) {
        return sign(reason, settled, is_serving, now);
    }
    let unexpired = stored.unexpired(now);
    if !unexpired.iter().any(|ca| server.is_signed_by(ca)) {
        return sign("no known CA signed it", settled, is_serving, now);
    }
    if !plan.hosts.iter().all(|host| server.is_for(host)) {
        return sign("it is not for all names", settled, is_serving, now);
    }
    if unexpired.len() < Certificate::all(stored.cas.as_bytes()).len() {
        return Step::Prune;
    }
    let renewals = [ca.validity().after(2, 3), server.validity().after(2, 3)];
    let ends = unexpired.iter().map(|ca| ca.validity().not_after + Duration::from_secs(1));
    Step::Wait(ends.chain(renewals).min().unwrap_or(now))
}

/// Why a certificate is to be replaced, if it is.
fn renewal_reason(validity: Validity, now: SystemTime) -> Option<&'static str> {
    match validity.phase(now) {
        ValidityPhase::Fresh => None,
        ValidityPhase::RenewalDue | ValidityPhase::RenewalOverdue => Some("two thirds of its life are over"),
        ValidityPhase::NotYetValid => Some("it was made by a clock that is far ahead of ours"),
        ValidityPhase::Expired => Some("it has expired"),
    }
}

/// Signs, unless the authority has to settle first and there is time for it.
fn sign(reason: &'static str, settled: Option<SystemTime>, is_serving: bool, now: SystemTime) -> Step {
    match settled {
        Some(settled) if is_serving && settled > now => Step::Wait(settled),
        _ => Step::CreateServerCertificate(reason),
    }
}

/// What is stored, with a new authority that will sign from now on.
///
/// # Errors
/// It could not be made.
pub fn with_new_ca(
    plan: &CertificatePlan,
    stored: &StoredCertificates,
    now: SystemTime,
) -> Result<StoredCertificates, CertificateError> {
    let ca = CertificateAndKey::ca(now, now + plan.ca_lifetime)?;
    Ok(StoredCertificates { cas: ca.certificate + &pem(&stored.unexpired(now)), ca_key: ca.key, ..stored.clone() })
}

/// What is stored, with a new server certificate.
///
/// # Errors
/// It could not be made.
pub fn with_new_server_certificate(
    plan: &CertificatePlan,
    stored: &StoredCertificates,
    now: SystemTime,
) -> Result<StoredCertificates, CertificateError> {
    let end = now + plan.server_lifetime;
    // Whoever checks a certificate checks the dates of its authority too.
    let end = stored.ca().map_or(end, |ca| end.min(ca.validity().not_after));
    let server = CertificateAndKey::server(&plan.hosts, now, end, &stored.ca_key)?;
    Ok(StoredCertificates { server: server.certificate, server_key: server.key, ..without_expired_cas(stored, now) })
}

/// What is stored, without the authorities that have expired.
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

/// Whether a replica may show what is stored: it is a pair for all hosts, and every webhook of the configurations that
/// exist trusts it. Otherwise it goes on with what it shows. `is_serving` says whether handshakes succeed with that.
///
/// # Errors
/// Why not, in words.
pub fn may_serve(
    plan: &CertificatePlan,
    stored: &StoredCertificates,
    trust: &[CaBundle],
    is_serving: bool,
    now: SystemTime,
) -> Result<(), &'static str> {
    let Some(server) = stored.server() else { return Err("the Secret holds no certificate with its key yet") };
    if !plan.hosts.iter().all(|host| server.is_for(host)) {
        return Err("the certificate in the Secret is not for all names (--cert-dns-name)");
    }
    if !trust.iter().all(|trust| trust.trusts(&server)) {
        return Err("the webhook configurations do not trust the certificate in the Secret yet (caBundle)");
    }
    // An old Secret may have been put back. Where nothing else is to be shown, an expired one tells clients what is wrong.
    if is_serving && !handshake_succeeds(&server, trust, now) {
        return Err("the certificate in the Secret is not valid now");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A leader and its cluster, in which all that is written is there at once.
    struct World {
        plan: CertificatePlan,
        stored: StoredCertificates,
        trust: Vec<CaBundle>,
        propagation: CaPropagation,
        is_serving: bool,
        now: SystemTime,
    }

    impl World {
        /// Two webhooks that trust nobody, and nothing stored.
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

        /// One in which all is done.
        fn settled() -> Self {
            let mut world = Self::new();
            world.until_rest();
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
                    self.stored = with_new_server_certificate(&self.plan, &self.stored, self.now).unwrap()
                }
                Step::Prune => self.stored = without_expired_cas(&self.stored, self.now),
                Step::Wait(_) => {}
            }
        }

        /// All steps up to the first rest.
        fn until_rest(&mut self) -> Vec<Step> {
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
    fn a_first_start_stores_publishes_and_then_signs() {
        let mut world = World::new();
        let steps = world.until_rest();
        let is_in_order =
            matches!(steps[..], [Step::CreateCa(_), Step::Publish, Step::CreateServerCertificate(_), Step::Wait(_)]);
        assert!(is_in_order, "{steps:?}");
        assert_eq!(world.may_serve(), Ok(()));
        assert_eq!(world.server().validity().not_before, world.now - Duration::from_mins(5));
    }

    #[test]
    fn whatever_is_missing_or_does_not_fit_is_made_and_nothing_else() {
        type Damage = fn(&mut World);
        let stranger = || {
            let mut world = World::new();
            world.until_rest();
            world.stored
        };
        let cases: [(&str, Damage, Step); 10] = [
            ("all is well", |_| {}, Step::Wait(World::settled().server().validity().after(2, 3))),
            ("no CA", |w| w.stored.cas.clear(), Step::CreateCa("there is none")),
            ("no key of it", |w| w.stored.ca_key.clear(), Step::CreateCa("there is none")),
            ("another's key", |w| w.stored.ca_key = w.stored.server_key.clone(), Step::CreateCa("there is none")),
            ("one webhook trusts nobody", |w| w.trust[1] = CaBundle::default(), Step::Publish),
            ("no server", |w| w.stored.server.clear(), Step::CreateServerCertificate("there is none")),
            ("half a server", |w| w.stored.server.truncate(200), Step::CreateServerCertificate("there is none")),
            (
                "another name",
                |w| w.plan.hosts.push("other".parse().unwrap()),
                Step::CreateServerCertificate("it is not for all names"),
            ),
            (
                "an early server",
                |w| w.stored = with_new_server_certificate(&w.plan, &w.stored, w.now + DAY).unwrap(),
                Step::CreateServerCertificate("it was made by a clock that is far ahead of ours"),
            ),
            ("no webhooks at all", |w| w.trust.clear(), Step::Wait(World::settled().server().validity().after(2, 3))),
        ];
        for (name, damage, expected) in cases {
            let mut world = World::settled();
            damage(&mut world);
            // The dates of two worlds are the same, for their clocks are.
            assert_eq!(world.step(), expected, "{name}");
        }
        let mut world = World::settled();
        (world.stored.server, world.stored.server_key) = (stranger().server, stranger().server_key);
        assert_eq!(world.step(), Step::CreateServerCertificate("there is none"), "a key of another");
        let stranger = stranger();
        (world.stored.server, world.stored.server_key) = (stranger.server, stranger.server_key);
        assert_eq!(world.step(), Step::CreateServerCertificate("no known CA signed it"));
    }

    #[test]
    fn server_and_authority_are_renewed_at_two_thirds_of_their_own_lives() {
        let mut world = World::settled();
        let (ca, server) = (world.cas().remove(0), world.server());
        let Step::Wait(until) = world.step() else { panic!("{:?}", world.step()) };
        assert_eq!(until, server.validity().after(2, 3));
        world.now = until - SECOND;
        assert_eq!(world.step(), Step::Wait(until));
        world.now = until;
        assert!(matches!(world.until_rest()[..], [Step::CreateServerCertificate(_), Step::Wait(_)]));
        assert_eq!(world.cas(), std::slice::from_ref(&ca), "the CA stays");

        world.now = ca.validity().after(2, 3);
        world.stored = with_new_server_certificate(&world.plan, &world.stored, world.now - DAY).unwrap();
        let before = world.server();
        let steps = world.until_rest();
        assert!(matches!(steps[..], [Step::CreateCa(_), Step::Publish, Step::Wait(_)]), "{steps:?}");
        assert_eq!(world.server(), before, "what is shown stays until it is renewal_reason itself");
        assert_eq!(world.cas().len(), 2);
        assert_eq!(world.trust[0].0.len(), 2);
    }

    #[test]
    fn a_new_authority_signs_only_when_it_has_settled_unless_nothing_is_served() {
        let mut world = World::settled();
        world.stored = StoredCertificates::default();
        let steps = world.until_rest();
        let settled = world.now + CaPropagation::TIME;
        assert!(matches!(steps[..], [Step::CreateCa(_), Step::Publish, Step::Wait(at)] if at == settled), "{steps:?}");
        world.now = settled - SECOND;
        assert_eq!(world.step(), Step::Wait(settled));
        // Somebody takes the bundle out: the time begins anew.
        world.trust[0] = CaBundle::default();
        assert!(
            matches!(world.until_rest()[..], [Step::Publish, Step::Wait(at)] if at == settled - SECOND + CaPropagation::TIME)
        );
        world.is_serving = false;
        assert_eq!(world.step(), Step::CreateServerCertificate("there is none"));
    }

    #[test]
    fn an_authority_that_has_expired_is_dropped_from_the_secret_and_from_the_webhooks() {
        let mut world = World::settled();
        let first = world.cas().remove(0);
        world.now = first.validity().after(2, 3);
        world.until_rest();
        world.now += CaPropagation::TIME;
        world.until_rest();
        assert_eq!(world.trust[0].0.len(), 2);
        assert!(world.server().is_signed_by(&world.cas()[0]), "the server was renewal_reason too");

        let Step::Wait(until) = world.step() else { panic!("{:?}", world.step()) };
        assert!(until <= first.validity().not_after + SECOND);
        world.now = first.validity().not_after + SECOND;
        let steps = world.until_rest();
        assert!(steps.contains(&Step::Publish), "{steps:?}");
        assert!(!world.cas().contains(&first));
        assert!(world.trust.iter().all(|trust| !trust.0.contains(&first) && trust.trusts(&world.server())));
    }

    #[test]
    fn what_others_trust_is_kept_for_as_long_as_it_is_valid() {
        let mut world = World::settled();
        let theirs =
            Certificate::all(CertificateAndKey::ca(world.now, world.now + 30 * DAY).unwrap().certificate.as_bytes());
        world.trust[0].0.extend(theirs.clone());
        assert!(matches!(world.step(), Step::Wait(_)), "there is nothing to do about it");
        world.stored = with_new_ca(&world.plan, &world.stored, world.now).unwrap();
        world.until_rest();
        assert!(world.trust[0].0.contains(&theirs[0]) && !world.trust[1].0.contains(&theirs[0]));
        world.now += 31 * DAY;
        world.until_rest();
        assert!(!world.trust[0].0.contains(&theirs[0]));
    }

    #[test]
    fn a_secret_that_is_lost_again_and_again_does_not_fill_the_bundle_up() {
        let mut world = World::settled();
        for _ in 0..20 {
            world.stored = StoredCertificates::default();
            world.until_rest();
            world.now += CaPropagation::TIME;
            world.until_rest();
        }
        assert_eq!(world.trust[0].0.len(), MAX_TRUSTED);
        assert_eq!(world.may_serve(), Ok(()));
    }

    #[test]
    fn a_leader_that_has_only_just_started_lets_an_authority_settle_too() {
        let mut world = World::settled();
        world.stored = with_new_ca(&world.plan, &world.stored, world.now).unwrap();
        world.now = world.server().validity().after(2, 3);
        (world.propagation, world.is_serving) = (CaPropagation::default(), false);
        let steps = world.until_rest();
        assert!(matches!(steps[..], [Step::Publish, Step::Wait(_)]), "{steps:?}");
        assert_eq!(steps[1], Step::Wait(world.now + CaPropagation::TIME));
    }

    #[test]
    fn a_replica_shows_nothing_that_a_webhook_does_not_trust() {
        let mut world = World::settled();
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

    /// Looked at once a day for a year, whatever the lives are.
    #[test]
    fn there_is_never_a_moment_without_a_certificate_that_is_trusted_and_no_renewal_without_end() {
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
            assert!(u64::from(made) <= most && u64::from(steps) <= 20 * most + 10_000, "{made} made in {steps} steps");
        }
    }
}
