//! Which connection makes place for a new one at the limit of connections.
//!
//! Otherwise a client could lock all others out: by connections without a request for two minutes, by unfinished
//! handshakes for ten seconds.

use std::{collections::HashMap, hash::Hash, net::IpAddr, time::Duration};

use tokio::time::Instant;

use super::timeouts::Phase;

/// The share of the places that connections in their handshake may have: one of so many.
const HANDSHAKES: usize = 4;

/// The share of the places that the connections of one address may have while others need them: one of so many. All
/// API servers may have one address, that of a node.
const ONE_ADDRESS: usize = 2;

/// The time for a header after which the connection of an address with too many may be aborted.
const SLOW_HEADER: Duration = Duration::from_secs(1);

/// A connection and its place.
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
    /// At once: it has no request.
    Abort,
    /// After a request that is just arriving.
    Close,
}

/// Returns the connection to remove at a limit: the oldest handshake of the address with most of them if there are too
/// many, else a connection of the address with more than its share, else the one that is idle longest. `None` if all
/// have requests.
pub(super) fn to_remove<I: Copy + Eq + Hash>(all: &[Place<I>], limit: usize, now: Instant) -> Option<(I, Removal)> {
    let oldest = |is_candidate: &dyn Fn(&Place<I>) -> bool| {
        let candidates = all.iter().filter(|place| is_candidate(place));
        candidates.filter_map(|place| Some((place.waits_since?, place.id))).min_by_key(|(since, _)| *since)
    };
    let handshakes = || all.iter().filter(|place| place.phase == Phase::Handshake);
    if handshakes().count() > (limit / HANDSHAKES).max(1) {
        let (address, _) = most_frequent(handshakes())?;
        let is_candidate = |place: &Place<I>| place.phase == Phase::Handshake && place.address == address;
        return oldest(&is_candidate).map(|(_, id)| (id, Removal::Abort));
    }
    if let Some((address, count)) = most_frequent(all.iter())
        && count > limit / ONE_ADDRESS
    {
        let is_of = |place: &Place<I>, phase| place.address == address && place.phase == phase;
        if let Some((_, id)) = oldest(&|place| is_of(place, Phase::Idle)) {
            return Some((id, Removal::Close));
        }
        let slowest = oldest(&|place| is_of(place, Phase::Header));
        if let Some((since, id)) = slowest
            && now.saturating_duration_since(since) > SLOW_HEADER
        {
            return Some((id, Removal::Abort));
        }
    }
    oldest(&|place| place.phase == Phase::Idle).map(|(_, id)| (id, Removal::Close))
}

/// Returns the address with the most connections, and their number.
fn most_frequent<'p, I: 'p>(places: impl Iterator<Item = &'p Place<I>>) -> Option<(IpAddr, usize)> {
    let mut counts = HashMap::<IpAddr, usize>::new();
    for place in places {
        *counts.entry(place.address).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(_, count)| *count)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the index of the connection to remove of some: each has the last byte of its address, its phase and the
    /// seconds for which it waits.
    fn removed(limit: usize, connections: &[(u8, Phase, u64)]) -> Option<(usize, Removal)> {
        let now = Instant::now() + Duration::from_hours(1);
        let place = |(id, &(address, phase, seconds)): (usize, &(u8, Phase, u64))| Place {
            id,
            address: [10, 0, 0, address].into(),
            phase,
            waits_since: Some(now - Duration::from_secs(seconds)).filter(|_| phase != Phase::Request),
        };
        let all: Vec<_> = connections.iter().enumerate().map(place).collect();
        to_remove(&all, limit, now)
    }

    #[test]
    fn the_connection_that_needs_its_place_least_is_removed() {
        use Phase::{Handshake, Header, Idle, Request};
        let (close, abort) = (|index| Some((index, Removal::Close)), |index| Some((index, Removal::Abort)));
        for (connections, expected) in [
            (&[(1, Idle, 5), (2, Idle, 9), (3, Request, 0), (4, Header, 20)][..], close(1)),
            // No more than its share are in the handshake.
            (&[(1, Handshake, 9), (2, Idle, 1), (3, Request, 0), (4, Request, 0)], close(1)),
            (&[(1, Handshake, 1), (2, Handshake, 9), (1, Handshake, 2), (3, Idle, 30)], abort(2)),
            // An address with more than half of the places.
            (&[(1, Idle, 1), (1, Idle, 2), (1, Request, 0), (2, Idle, 30)], close(1)),
            (&[(1, Header, 9), (1, Header, 2), (1, Request, 0), (2, Idle, 30)], abort(0)),
            (&[(1, Header, 1), (1, Header, 0), (1, Request, 0), (2, Idle, 30)], close(3)),
            (&[(1, Request, 0), (1, Request, 0), (2, Request, 0), (3, Header, 9)], None),
        ] {
            assert_eq!(removed(4, connections), expected, "{connections:?}");
        }
    }
}
