//! Which connection makes place for a new one at the limit of connections.
//!
//! Otherwise a client could lock all others out: by connections without a request for two minutes, by unfinished
//! handshakes for ten seconds.
//!
//! The choice depends only on the connections that are open now, and is made again until none is too many. A choice
//! that is made for a new connection before it arrives can be wrong when it arrives, and is then never made up for.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use tokio::time::Instant;

use super::timeouts::Phase;

/// The connections that may be open beyond the limit, while those that make place for them end.
const SPARE: usize = 16;

/// The share of the places that are for connections in their handshake: one of so many.
const HANDSHAKES: usize = 4;

/// The share of the places that the connections of one address may have while others need them: one of so many. All
/// API servers may have one address, that of a node.
const ONE_ADDRESS: usize = 2;

/// The time for which a connection must be idle before it makes place: a client that has completed its handshake sends
/// its request within this time, unless it is slow.
const IDLE: Duration = Duration::from_millis(100);

/// The time for a header after which its connection makes place. An API server sends it at once.
const SLOW_HEADER: Duration = Duration::from_secs(1);

/// The numbers of connections that may be open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    limit: usize,
}

/// An open connection.
#[derive(Clone, Debug)]
pub(super) struct Place<I> {
    pub(super) id: I,
    pub(super) address: IpAddr,
    pub(super) phase: Phase,
    /// Since when it waits for its client; `None` if it does not.
    pub(super) waits_since: Option<Instant>,
}

/// How a connection is removed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Removal {
    /// At once: it has no complete request.
    Abort,
    /// After a request that is just arriving.
    Close,
}

impl Places {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit }
    }

    /// Returns the most connections that are ever open. A further one waits in the kernel's queue.
    pub(crate) fn most(self) -> usize {
        self.limit.saturating_add(SPARE)
    }

    /// Returns the limit with which no more than so many connections are ever open; at least 1.
    pub(crate) fn limit_of_most(most: usize) -> usize {
        most.saturating_sub(SPARE).max(1)
    }

    /// Returns the places of connections in their handshake.
    fn handshakes(self) -> usize {
        (self.limit / HANDSHAKES).max(1)
    }

    /// Returns the places of connections after their handshake.
    fn established(self) -> usize {
        self.limit.saturating_sub(self.limit / HANDSHAKES)
    }

    /// Whether none of so many connections is too many.
    pub(crate) fn suffice(self, count: usize) -> bool {
        count <= self.limit
    }

    /// Returns a connection to remove if there are too many, and it is one that waits for its client:
    ///
    /// - of too many handshakes the oldest of the address that has most of them;
    /// - of too many other connections the longest idle one, else the one with the slowest header; if an address has
    ///   more than its share, one of that address first.
    pub(super) fn to_remove<I: Copy>(self, all: &[Place<I>], now: Instant) -> Option<(I, Removal)> {
        let (handshakes, established): (Vec<_>, Vec<_>) =
            all.iter().filter(|place| place.phase != Phase::Closing).partition(|place| place.phase == Phase::Handshake);
        // Below the limit all places are for all.
        if self.suffice(handshakes.len() + established.len()) {
            return None;
        }
        if handshakes.len() > self.handshakes() {
            let counts = of_addresses(&handshakes);
            let most = counts.values().max().copied()?;
            let candidates = handshakes.iter().filter(|place| counts.get(&place.address) == Some(&most));
            return longest(candidates, Duration::ZERO, now).map(|id| (id, Removal::Abort));
        }
        if established.len() <= self.established() {
            return None;
        }
        let counts = of_addresses(&established);
        let share = self.limit / ONE_ADDRESS;
        let is_above_share = |place: &Place<I>| counts.get(&place.address).is_some_and(|count| *count > share);
        // While such an address has idle ones, those of others stay, even if its own are not idle for long enough yet.
        let is_decided = established.iter().any(|place| place.phase == Phase::Idle && is_above_share(place));
        let passes: &[bool] = if is_decided { &[true] } else { &[true, false] };
        passes.iter().find_map(|&only_above_share| {
            let of_phase = |phase| {
                let candidates = established.iter().filter(move |place| place.phase == phase);
                candidates.filter(move |place| !only_above_share || is_above_share(place))
            };
            let idle = longest(of_phase(Phase::Idle), IDLE, now).map(|id| (id, Removal::Close));
            idle.or_else(|| longest(of_phase(Phase::Header), SLOW_HEADER, now).map(|id| (id, Removal::Abort)))
        })
    }
}

/// Returns the number of connections of each address.
fn of_addresses<I>(places: &[&Place<I>]) -> HashMap<IpAddr, usize> {
    let mut counts = HashMap::new();
    for place in places {
        *counts.entry(place.address).or_default() += 1;
    }
    counts
}

/// Returns the connection that waits longest, if it has waited for some time.
fn longest<'p, I: Copy + 'p>(
    candidates: impl Iterator<Item = &'p &'p Place<I>>,
    at_least: Duration,
    now: Instant,
) -> Option<I> {
    let waiting = candidates.filter_map(|place| Some((place.waits_since?, place.id)));
    let (since, id) = waiting.min_by_key(|(since, _)| *since)?;
    (now.saturating_duration_since(since) >= at_least).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the indexes of the connections that are removed, the first one first, of some: each has the last byte of
    /// its address, its phase and the seconds for which it waits.
    fn removed(limit: usize, connections: &[(u8, Phase, u64)]) -> Vec<(usize, Removal)> {
        let now = Instant::now() + Duration::from_hours(1);
        let place = |(id, &(address, phase, seconds)): (usize, &(u8, Phase, u64))| Place {
            id,
            address: [10, 0, 0, address].into(),
            phase,
            waits_since: Some(now - Duration::from_secs(seconds)).filter(|_| phase != Phase::Request),
        };
        let mut all: Vec<_> = connections.iter().enumerate().map(place).collect();
        let mut removed = Vec::new();
        while let Some((id, removal)) = Places::new(limit).to_remove(&all, now) {
            all.retain(|place| place.id != id);
            removed.push((id, removal));
        }
        removed
    }

    #[test]
    fn connections_that_need_their_places_least_are_removed() {
        use Phase::{Closing, Handshake, Header, Idle, Request};
        use Removal::{Abort, Close};
        // At a limit of 4 one place is for a handshake.
        for (connections, expected) in [
            (&[(1, Idle, 5), (2, Idle, 9), (3, Handshake, 8), (4, Handshake, 20)][..], &[][..]),
            (&[(1, Idle, 5), (2, Idle, 9), (3, Request, 0), (4, Header, 20), (5, Request, 0)], &[(1, Close)]),
            (
                &[(1, Idle, 5), (2, Idle, 9), (3, Idle, 7), (4, Idle, 1), (5, Idle, 2), (6, Idle, 3)],
                &[(1, Close), (2, Close)],
            ),
            (&[(1, Request, 0), (2, Request, 0), (5, Request, 0), (3, Header, 9), (4, Header, 0)], &[(3, Abort)]),
            // All have requests, or have just completed their handshake.
            (&[(1, Request, 0), (2, Request, 0), (3, Request, 0), (4, Idle, 0), (5, Header, 0)], &[]),
            (&[(1, Idle, 5), (2, Idle, 9), (3, Request, 0), (4, Request, 0), (5, Closing, 1)], &[]),
            // A handshake has a place.
            (&[(1, Handshake, 9), (2, Idle, 1), (3, Request, 0), (4, Request, 0), (5, Request, 0)], &[(1, Close)]),
            (&[(1, Handshake, 1), (2, Handshake, 9), (1, Handshake, 2), (3, Idle, 30), (4, Request, 0)], &[(2, Abort)]),
            (&[(1, Handshake, 0), (2, Handshake, 0), (3, Idle, 30), (4, Idle, 30), (5, Request, 0)], &[(0, Abort)]),
            // An address with more than half of the places.
            (&[(1, Idle, 1), (1, Idle, 2), (1, Request, 0), (2, Idle, 30), (3, Request, 0)], &[(1, Close)]),
            (&[(1, Header, 9), (1, Header, 2), (1, Request, 0), (2, Idle, 30), (3, Request, 0)], &[(0, Abort)]),
            (&[(1, Request, 0), (1, Request, 0), (1, Header, 0), (2, Idle, 30), (3, Request, 0)], &[(3, Close)]),
        ] {
            assert_eq!(removed(4, connections), expected, "{connections:?}");
        }
    }

    #[test]
    fn a_limit_of_one_leaves_a_place_for_a_handshake_and_one_for_requests() {
        let places = Places::new(1);
        assert_eq!((places.handshakes(), places.established()), (1, 1));
        let places = Places::new(1000);
        assert_eq!((places.handshakes(), places.established()), (250, 750));
        assert_eq!(Places::new(Places::limit_of_most(500)).most(), 500);
    }
}
