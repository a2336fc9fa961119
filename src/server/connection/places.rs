//! Which connection makes place for a new one at the limit of connections.
//!
//! Otherwise a client could lock all others out: by connections without a request for two minutes, by unfinished
//! handshakes for ten seconds, by unfinished bodies for five.
//!
//! The choice depends only on the connections that are open now, and is made again until none is too many. A choice
//! that is made for a new connection before it arrives can be wrong when it arrives, and is then never made up for.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use tokio::time::Instant;

use crate::server::limits::Limits;

/// The connections that may be open beyond the limit, while those that make place for them end.
const SPARE: usize = 16;

/// The share of the places that are for connections in their handshake: one of so many.
const HANDSHAKES: usize = 4;

/// The share of the places that the connections of one address may have while others need them: one of so many. All
/// API servers may have one address, that of a node.
const ONE_ADDRESS: usize = 2;

/// The time for which a connection must wait for the first byte of a handshake or of a request before it makes place. A
/// client sends that at once, unless it is slow. A busy API server may open a hundred connections before it sends the
/// first message of each.
const SILENCE: Duration = Duration::from_millis(250);

/// The numbers of connections that may be open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    limit: usize,
    /// The time for the rest of a handshake or of a request, after which its connection makes place.
    arrival: Duration,
}

/// What an open connection is used for, and since when it waits for its client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Use {
    /// A TLS handshake that the server has not begun.
    Accepted,
    /// A TLS handshake without its first message.
    Hello { since: Instant },
    /// A TLS handshake that is incomplete.
    Handshake { since: Instant },
    /// Nothing, between two requests. Before its first request a connection counts as waiting only after a while.
    None { since: Instant },
    /// A request whose header or body is incomplete.
    PartOfRequest { since: Instant },
    /// A complete request, until the client has its answer.
    Request,
}

/// An open connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<I> {
    pub(super) id: I,
    pub(super) address: IpAddr,
    pub(super) used_for: Use,
}

/// How a connection is removed. It never loses a complete request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Removal {
    /// It is closed as soon as it has no request.
    Close,
    /// The same for an idle one, but a request that has begun since must be complete within [`Limits::arrival`].
    CloseIdle,
    /// The same, but a handshake or a request that is still incomplete is aborted.
    Abort,
}

impl Places {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { limit: limits.connections, arrival: limits.arrival }
    }

    /// Returns the same for only one connection.
    pub(crate) fn only_one(self) -> Self {
        Self { limit: 1, ..self }
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
    /// - of too many handshakes the oldest without its first message, else the slowest, of the address that has most;
    /// - of too many other connections the longest idle one, else the one with the slowest request; if an address has
    ///   more than its share, one of that address first.
    pub(super) fn to_remove<I: Copy>(self, all: &[Place<I>], now: Instant) -> Option<(I, Removal)> {
        // Below the limit all places are for all.
        if self.suffice(all.len()) {
            return None;
        }
        let (handshakes, established): (Vec<_>, Vec<_>) = all.iter().copied().partition(Place::is_handshake);
        if handshakes.len() > self.handshakes() {
            let counts = of_addresses(&handshakes);
            let most = counts.values().max();
            let of_most: Vec<_> =
                handshakes.iter().copied().filter(|place| counts.get(&place.address) == most).collect();
            let silent = longest(&of_most, Place::hello_since, SILENCE, now);
            let slow = || longest(&of_most, Place::handshake_since, self.arrival, now);
            return silent.or_else(slow).map(|id| (id, Removal::Abort));
        }
        if established.len() <= self.established() {
            return None;
        }
        let counts = of_addresses(&established);
        let share = self.limit / ONE_ADDRESS;
        let of_large: Vec<_> =
            established.iter().copied().filter(|place| counts.get(&place.address) > Some(&share)).collect();
        // While such an address has idle ones, those of others stay, even if its own are not idle for long enough yet.
        let is_decided = of_large.iter().any(|place| place.idle_since().is_some());
        match self.to_remove_of(&of_large, now) {
            None if !is_decided => self.to_remove_of(&established, now),
            decided => decided,
        }
    }

    /// Returns the connection of some established ones that is idle longest, else the one with the slowest request.
    fn to_remove_of<I: Copy>(self, places: &[Place<I>], now: Instant) -> Option<(I, Removal)> {
        let idle = longest(places, Place::idle_since, SILENCE, now).map(|id| (id, Removal::CloseIdle));
        idle.or_else(|| longest(places, Place::request_since, self.arrival, now).map(|id| (id, Removal::Abort)))
    }
}

/// Returns the number of connections of each address.
fn of_addresses<I>(places: &[Place<I>]) -> HashMap<IpAddr, usize> {
    let mut counts = HashMap::new();
    for place in places {
        *counts.entry(place.address).or_default() += 1;
    }
    counts
}

/// Returns the connection that waits longest, of those for which `since` returns a time, if that is long enough ago.
fn longest<I: Copy>(
    places: &[Place<I>],
    since: fn(&Place<I>) -> Option<Instant>,
    at_least: Duration,
    now: Instant,
) -> Option<I> {
    let waiting = places.iter().filter_map(|place| Some((since(place)?, place.id)));
    let (since, id) = waiting.min_by_key(|(since, _)| *since)?;
    (now.saturating_duration_since(since) >= at_least).then_some(id)
}

impl<I> Place<I> {
    fn is_handshake(&self) -> bool {
        matches!(self.used_for, Use::Accepted | Use::Hello { .. } | Use::Handshake { .. })
    }

    fn hello_since(&self) -> Option<Instant> {
        if let Use::Hello { since } = self.used_for { Some(since) } else { None }
    }

    fn handshake_since(&self) -> Option<Instant> {
        if let Use::Handshake { since } = self.used_for { Some(since) } else { None }
    }

    fn idle_since(&self) -> Option<Instant> {
        if let Use::None { since } = self.used_for { Some(since) } else { None }
    }

    fn request_since(&self) -> Option<Instant> {
        if let Use::PartOfRequest { since } = self.used_for { Some(since) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(limit: usize) -> Places {
        Places::new(&Limits { connections: limit, ..Limits::default() })
    }

    /// What a connection is used for, and for how many seconds it waits.
    #[derive(Clone, Copy, Debug)]
    enum Seconds {
        Accepted,
        Hello(u64),
        Handshake(u64),
        Idle(u64),
        Part(u64),
        Request,
    }

    /// Returns the indexes of the connections that are removed, the first one first, of some: each has the last byte of
    /// its address, and what it is used for.
    fn removed(limit: usize, connections: &[(u8, Seconds)]) -> Vec<(usize, Removal)> {
        let now = Instant::now() + Duration::from_hours(1);
        let ago = |seconds| now - Duration::from_secs(seconds);
        let place = |(id, &(address, used)): (usize, &(u8, Seconds))| Place {
            id,
            address: [10, 0, 0, address].into(),
            used_for: match used {
                Seconds::Accepted => Use::Accepted,
                Seconds::Hello(seconds) => Use::Hello { since: ago(seconds) },
                Seconds::Handshake(seconds) => Use::Handshake { since: ago(seconds) },
                Seconds::Idle(seconds) => Use::None { since: ago(seconds) },
                Seconds::Part(seconds) => Use::PartOfRequest { since: ago(seconds) },
                Seconds::Request => Use::Request,
            },
        };
        let mut all: Vec<_> = connections.iter().enumerate().map(place).collect();
        let mut removed = Vec::new();
        while let Some((id, removal)) = places(limit).to_remove(&all, now) {
            all.retain(|place| place.id != id);
            removed.push((id, removal));
        }
        removed
    }

    #[test]
    fn connections_that_need_their_places_least_are_removed() {
        use Removal::{Abort, CloseIdle};
        use Seconds::{Accepted, Handshake, Hello, Idle, Part, Request};
        // At a limit of 4 one place is for a handshake.
        for (connections, expected) in [
            (&[(1, Idle(5)), (2, Idle(9)), (3, Handshake(8)), (4, Handshake(20))][..], &[][..]),
            (&[(1, Idle(5)), (2, Idle(9)), (3, Request), (4, Part(20)), (5, Request)], &[(1, CloseIdle)]),
            (
                &[(1, Idle(5)), (2, Idle(9)), (3, Idle(7)), (4, Idle(1)), (5, Idle(2)), (6, Idle(3))],
                &[(1, CloseIdle), (2, CloseIdle)],
            ),
            (&[(1, Request), (2, Request), (5, Request), (3, Part(9)), (4, Part(0))], &[(3, Abort)]),
            // All have requests, or have just completed their handshake.
            (&[(1, Request), (2, Request), (3, Request), (4, Idle(0)), (5, Part(0))], &[]),
            // A handshake has a place.
            (&[(1, Handshake(9)), (2, Idle(1)), (3, Request), (4, Request), (5, Request)], &[(1, CloseIdle)]),
            (&[(1, Handshake(1)), (2, Handshake(9)), (1, Handshake(2)), (3, Idle(30)), (4, Request)], &[(2, Abort)]),
            (&[(1, Handshake(9)), (1, Hello(2)), (2, Hello(3)), (3, Idle(30)), (4, Request)], &[(1, Abort)]),
            // The server itself may be late, and then ends no handshake that it could complete.
            (&[(1, Handshake(0)), (2, Handshake(0)), (3, Idle(30)), (4, Idle(30)), (5, Request)], &[]),
            (&[(1, Accepted), (2, Accepted), (3, Idle(30)), (4, Idle(30)), (5, Request)], &[]),
            // An address with more than half of the places.
            (&[(1, Idle(1)), (1, Idle(2)), (1, Request), (2, Idle(30)), (3, Request)], &[(1, CloseIdle)]),
            (&[(1, Part(9)), (1, Part(2)), (1, Request), (2, Idle(30)), (3, Request)], &[(0, Abort)]),
            (&[(1, Request), (1, Request), (1, Part(0)), (2, Idle(30)), (3, Request)], &[(3, CloseIdle)]),
            (&[(1, Request), (1, Request), (1, Idle(0)), (2, Idle(30)), (3, Request)], &[]),
        ] {
            assert_eq!(removed(4, connections), expected, "{connections:?}");
        }
    }

    #[test]
    fn a_limit_of_one_leaves_a_place_for_a_handshake_and_one_for_requests() {
        for (limit, expected) in [(1, (1, 1)), (2, (1, 2)), (4, (1, 3)), (1000, (250, 750))] {
            assert_eq!((places(limit).handshakes(), places(limit).established()), expected, "{limit}");
        }
        assert_eq!(places(Places::limit_of_most(500)).most(), 500);
    }
}
