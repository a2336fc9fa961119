//! The bounds of connections and requests, with their defaults and the reasons.

use std::time::Duration;

/// Bounds of connections and requests.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a request's body. The API server stores no object above some 1.5 MiB by default and 3 MiB at most; a
    /// review holds the old and the new one.
    pub body: usize,
    /// Requests whose body is being read or judged; a further one gets 503.
    pub in_flight: usize,
    /// Open connections; a further one waits in the queue of the kernel.
    pub connections: usize,
    /// Longest time for the body to arrive and be answered. `?timeout=` of a request can only shorten it.
    pub request: Duration,
    /// Longest time for a TLS handshake.
    pub handshake: Duration,
    /// Longest time from the first byte of a request to the end of its header.
    pub header: Duration,
    /// How long a connection may stay open without a request, the first one included.
    pub idle: Duration,
    /// How old a connection may become: the answer that is due then closes it. Each is given a part of this, from a half
    /// on and drawn at random, so that what was opened together does not come back together.
    ///
    /// The API server keeps the connections that it has for as long as it needs as many, and they all may lead to one
    /// replica: to the one that was there first (kubernetes issue 127335). Whoever has to open new ones is spread anew.
    pub connection_age: Duration,
    /// How many requests a connection may bring; as with its age, each is given a part of this.
    pub connection_requests: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 8 << 20,
            in_flight: 256,
            connections: 1000,
            // The API server waits thirty seconds at most (timeoutSeconds of a webhook configuration).
            request: Duration::from_secs(30),
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(10),
            // More than the ninety seconds after which the API server (client-go) closes an idle connection itself:
            // a connection that the server closes can lose the request that is just being sent on it.
            idle: Duration::from_mins(2),
            // A handshake costs as much as a few dozen requests: both bounds keep that below a hundredth.
            connection_age: Duration::from_mins(5),
            connection_requests: 10_000,
        }
    }
}

/// How a server ends. Both times count from the signal.
#[derive(Clone, Debug)]
pub struct Drain {
    /// How long connections are still accepted.
    pub grace: Duration,
    /// When whatever is left is cut off.
    pub deadline: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        // Below the thirty seconds after which the kubelet kills (terminationGracePeriodSeconds).
        Self { grace: Duration::from_secs(15), deadline: Duration::from_secs(25) }
    }
}

/// Says what is wrong with the numbers, if anything, by the names of the flags.
pub(super) fn check(limits: &Limits, drain: &Drain) -> Result<(), LimitError> {
    let counts = [
        ("max-body", limits.body),
        ("max-in-flight", limits.in_flight),
        ("max-connections", limits.connections),
        ("max-connection-requests", limits.connection_requests),
    ];
    if let Some((flag, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
        return Err(LimitError::Zero(flag));
    }
    let durations = [
        ("request-timeout", limits.request),
        ("handshake-timeout", limits.handshake),
        ("header-timeout", limits.header),
        ("idle-timeout", limits.idle),
        ("max-connection-age", limits.connection_age),
    ];
    if let Some((flag, _)) = durations.into_iter().find(|(_, duration)| duration.is_zero()) {
        return Err(LimitError::Zero(flag));
    }
    let all = durations.into_iter().chain([("drain-grace", drain.grace), ("drain-deadline", drain.deadline)]);
    if let Some((flag, duration)) = all.into_iter().find(|(_, duration)| *duration > LONGEST) {
        return Err(LimitError::Endless { flag, duration });
    }
    if drain.deadline < drain.grace {
        return Err(LimitError::Deadline(drain.clone()));
    }
    Ok(())
}

/// Nobody means more, and sums of durations stay far from the end of the clock.
const LONGEST: Duration = Duration::from_hours(24);

/// Numbers that make no server.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// The drain deadline comes before the grace period is over.
    #[error(
        "--drain-deadline {:?} is shorter than --drain-grace {:?}: both count from the signal, so make it longer",
        .0.deadline, .0.grace
    )]
    Deadline(Drain),
    /// A duration of more than a day.
    #[error("--{flag} {duration:?} is more than a day: give a shorter time")]
    Endless {
        /// The name of the flag.
        flag: &'static str,
        /// What it says.
        duration: Duration,
    },
    /// A bound of zero.
    #[error("--{0} is zero, with which nobody could be served: give it a value, or leave it out")]
    Zero(&'static str),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(change: impl FnOnce(&mut Limits, &mut Drain)) -> String {
        let (mut limits, mut drain) = Default::default();
        change(&mut limits, &mut drain);
        check(&limits, &drain).map_or_else(|error| error.to_string(), |()| "fine".to_owned())
    }

    #[test]
    fn numbers_that_would_refuse_everybody_are_refused() {
        assert_eq!(verdict(|_, _| {}), "fine");
        assert!(verdict(|limits, _| limits.in_flight = 0).contains("--max-in-flight is zero"));
        assert!(verdict(|limits, _| limits.idle = Duration::ZERO).contains("--idle-timeout is zero"));
        assert!(verdict(|limits, _| limits.request = Duration::MAX).contains("--request-timeout"));
    }

    #[test]
    fn the_deadline_of_a_shutdown_cannot_come_before_the_end_of_its_grace_period() {
        assert!(verdict(|_, drain| drain.deadline = Duration::from_secs(14)).contains("--drain-grace 15s"));
        assert_eq!(verdict(|_, drain| drain.deadline = drain.grace), "fine");
        assert_eq!(verdict(|_, drain| *drain = Drain { grace: Duration::ZERO, deadline: Duration::ZERO }), "fine");
    }
}
