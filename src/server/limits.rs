//! Limits of connections and requests, with their defaults and the reasons.

use std::time::Duration;

/// Limits of connections and requests.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The size of a body, in bytes. The API server stores objects of up to about 1.5 MiB by default and 3 MiB at most,
    /// and a review holds the old and the new object.
    pub body: usize,
    /// The size of all bodies together that are read or evaluated at once, in bytes; a further one gets 503.
    pub bodies: usize,
    /// Time in which 256 KiB of a body must arrive, unless the body is complete before; a slower one is cut.
    pub body_window: Duration,
    /// Requests whose body is complete and that are evaluated; a further one gets 503.
    pub in_flight: usize,
    /// Open connections, at the limit a quarter of them in their handshake. A further one closes the one that is idle
    /// longest, or has the slowest request, or waits in the kernel's queue. Fewer if the process may not open so many
    /// files.
    pub connections: usize,
    /// Time from the header of a request to its answer. `?timeout=` of a request can only shorten it.
    pub request: Duration,
    /// Time for a TLS handshake.
    pub handshake: Duration,
    /// Time from the first byte of a request to the end of its header.
    pub header: Duration,
    /// Time from the first byte of a request after which a connection with an incomplete one is closed for a new
    /// connection, at the limit of connections. An API server sends a request at once.
    pub arrival: Duration,
    /// Time without a request after which a connection is closed; also the time before its first request.
    pub idle: Duration,
    /// Age at which a connection is closed with its next answer. Each connection gets a random part of it, at least a
    /// half, so that connections that were opened together are not closed together.
    ///
    /// The API server keeps its connections for as long as it needs as many, and all of them can lead to the replica
    /// that started first (kubernetes issue 127335). New connections are distributed over all replicas.
    pub connection_age: Duration,
    /// Requests after which a connection is closed; each connection gets a random part of it, as with the age.
    pub connection_requests: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 8 << 20,
            bodies: 64 << 20,
            // The kernel of a client that loses a packet sends it again within three seconds, four times.
            body_window: Duration::from_secs(5),
            in_flight: 256,
            connections: 1000,
            // The API server waits for at most thirty seconds (timeoutSeconds of a webhook configuration).
            request: Duration::from_secs(30),
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(10),
            arrival: Duration::from_secs(1),
            // The API server (client-go) closes an idle connection after ninety seconds. If the webhook closed it
            // first, a request that the API server is just sending could be lost.
            idle: Duration::from_mins(2),
            // A handshake costs as much as a few dozen requests: both limits keep that below 1 % of the load.
            connection_age: Duration::from_mins(5),
            connection_requests: 10_000,
        }
    }
}

/// The shutdown of a server. Both times count from the signal.
#[derive(Clone, Debug)]
pub struct Drain {
    /// Time in which new connections are still accepted.
    pub grace: Duration,
    /// Time after which open connections are aborted.
    pub deadline: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        // Shorter than the thirty seconds after which the kubelet kills the process (terminationGracePeriodSeconds).
        Self { grace: Duration::from_secs(15), deadline: Duration::from_secs(25) }
    }
}

/// Checks the limits. An error names the flag.
pub(super) fn check(limits: &Limits, drain: &Drain) -> Result<(), LimitError> {
    let counts = [
        ("max-body", limits.body),
        ("max-bodies", limits.bodies),
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
    if limits.bodies < limits.body {
        return Err(LimitError::Bodies { body: limits.body, bodies: limits.bodies });
    }
    if drain.deadline < drain.grace {
        return Err(LimitError::Deadline(drain.clone()));
    }
    Ok(())
}

/// The longest duration of a limit. A longer one is a mistake, and sums of durations cannot overflow.
const LONGEST: Duration = Duration::from_hours(24);

/// A limit with which a server cannot work.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// A single body may be larger than all bodies together.
    #[error("--max-bodies {bodies} is smaller than --max-body {body}, both in bytes: set a larger value")]
    Bodies {
        /// The limit of one body.
        body: usize,
        /// The limit of all bodies together.
        bodies: usize,
    },
    /// The drain deadline is before the end of the grace period.
    #[error(
        "--drain-deadline {:?} is shorter than --drain-grace {:?}: both count from the signal; set a longer deadline",
        .0.deadline, .0.grace
    )]
    Deadline(Drain),
    /// A duration is longer than a day.
    #[error("--{flag} {duration:?} is longer than a day: set a shorter time")]
    Endless {
        /// The name of the flag.
        flag: &'static str,
        /// Its value.
        duration: Duration,
    },
    /// A limit is zero.
    #[error("--{0} is zero, so no request could be served: set a positive value, or omit the flag")]
    Zero(&'static str),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(change: impl FnOnce(&mut Limits, &mut Drain)) -> String {
        let (mut limits, mut drain) = Default::default();
        change(&mut limits, &mut drain);
        check(&limits, &drain).map_or_else(|error| error.to_string(), |()| "valid".to_owned())
    }

    #[test]
    fn limits_with_which_a_server_cannot_work_are_rejected() {
        assert_eq!(result(|_, _| {}), "valid");
        assert!(result(|limits, _| limits.in_flight = 0).contains("--max-in-flight is zero"));
        assert!(result(|limits, _| limits.idle = Duration::ZERO).contains("--idle-timeout is zero"));
        assert!(result(|limits, _| limits.request = Duration::MAX).contains("--request-timeout"));
        assert!(result(|limits, _| limits.bodies = limits.body - 1).contains("--max-bodies"));
    }

    #[test]
    fn the_deadline_of_a_shutdown_cannot_come_before_the_end_of_its_grace_period() {
        assert!(result(|_, drain| drain.deadline = Duration::from_secs(14)).contains("--drain-grace 15s"));
        assert_eq!(result(|_, drain| drain.deadline = drain.grace), "valid");
        assert_eq!(result(|_, drain| *drain = Drain { grace: Duration::ZERO, deadline: Duration::ZERO }), "valid");
    }
}
