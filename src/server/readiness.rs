//! The checks behind `/readyz`: each part of the program adds its own and sets its result.

use std::{
    borrow::Cow,
    fmt::Write,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The checks that must pass before a Service sends requests to this replica. Clones share their checks.
#[derive(Clone, Default)]
pub struct Readiness(Arc<Mutex<Vec<NamedCheck>>>);

/// The result of a check.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Health {
    /// The check passes.
    Good,
    /// The check passes, and the report shows this note.
    Fair(Cow<'static, str>),
    /// The check fails for this reason, so the replica gets no requests.
    Bad(Cow<'static, str>),
}

struct NamedCheck {
    name: Cow<'static, str>,
    result: CheckResult,
}

/// How the result of a check is known.
enum CheckResult {
    /// A [`Check`] sets it.
    Stored(Health),
    /// It is computed for each report.
    Computed(Box<dyn Fn() -> Health + Send>),
}

impl NamedCheck {
    fn health(&self) -> Health {
        match &self.result {
            CheckResult::Stored(health) => health.clone(),
            CheckResult::Computed(compute) => compute(),
        }
    }
}

impl Readiness {
    /// Adds a check that fails with `reason` until it is set. Names are unique: `webhook`, `certificate`, …
    pub fn add(&self, name: impl Into<Cow<'static, str>>, reason: impl Into<Cow<'static, str>>) -> Check {
        let mut checks = self.lock();
        checks.push(NamedCheck { name: name.into(), result: CheckResult::Stored(Health::Bad(reason.into())) });
        Check { index: checks.len() - 1, readiness: self.clone() }
    }

    /// Adds a check that is computed for each report. `compute` must not use this `Readiness`, which is locked
    /// meanwhile.
    pub fn add_computed(&self, name: impl Into<Cow<'static, str>>, compute: impl Fn() -> Health + Send + 'static) {
        self.lock().push(NamedCheck { name: name.into(), result: CheckResult::Computed(Box::new(compute)) });
    }

    /// Whether all checks pass.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.lock().iter().all(|check| !matches!(check.health(), Health::Bad(_)))
    }

    /// Returns one line per check and one for the whole, in the format of Kubernetes' own components.
    #[must_use]
    pub fn report(&self) -> String {
        let mut report = String::new();
        let mut is_ready = true;
        for check in self.lock().iter() {
            let name = &check.name;
            // Writing to a string cannot fail.
            let _ = match check.health() {
                Health::Good => writeln!(report, "[+]{name} ok"),
                Health::Fair(note) => writeln!(report, "[+]{name} ok: {note}"),
                Health::Bad(reason) => {
                    is_ready = false;
                    writeln!(report, "[-]{name} failed: {reason}")
                }
            };
        }
        report.push_str(if is_ready { "ready\n" } else { "not ready\n" });
        report
    }

    fn lock(&self) -> MutexGuard<'_, Vec<NamedCheck>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sets the result of one check of a [`Readiness`].
#[derive(Clone)]
pub struct Check {
    index: usize,
    readiness: Readiness,
}

impl Check {
    /// Sets the check to passing.
    pub fn pass(&self) {
        self.set(Health::Good);
    }

    /// Sets the check to passing, with a note in the report.
    pub fn pass_with(&self, note: impl Into<Cow<'static, str>>) {
        self.set(Health::Fair(note.into()));
    }

    /// Sets the check to failing.
    pub fn fail(&self, reason: impl Into<Cow<'static, str>>) {
        self.set(Health::Bad(reason.into()));
    }

    fn set(&self, health: Health) {
        if let Some(check) = self.readiness.lock().get_mut(self.index) {
            check.result = CheckResult::Stored(health);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_replica_is_ready_when_every_check_passes() {
        let readiness = Readiness::default();
        assert!(readiness.is_ready());
        let (webhook, facts) = (readiness.add("webhook", "starting"), readiness.add("facts", "not read yet"));
        webhook.pass();
        assert!(!readiness.is_ready());
        assert_eq!(readiness.report(), "[+]webhook ok\n[-]facts failed: not read yet\nnot ready\n");
        facts.pass_with("1 kind is old");
        assert!(readiness.is_ready());
        webhook.fail("shutting down");
        assert_eq!(readiness.report(), "[-]webhook failed: shutting down\n[+]facts ok: 1 kind is old\nnot ready\n");
    }

    #[test]
    fn a_note_does_not_make_the_replica_unready() {
        let readiness = Readiness::default();
        readiness.add_computed("facts/Node", || Health::Fair("stale for 3s: connection refused".into()));
        readiness.add("webhook", "starting").pass_with("only the handshake was tried");
        assert!(readiness.is_ready());
        assert_eq!(
            readiness.report(),
            "[+]facts/Node ok: stale for 3s: connection refused\n[+]webhook ok: only the handshake was tried\nready\n"
        );
    }
}
