//! Files that somebody else renews, by way of a volume.
//!
//! They are read again and again, and never watched: the kubelet swaps a link to their folder, and whoever watches a
//! file in it hears that the file is gone and of none that came instead. What is read is compared byte by byte with what
//! was taken up before, so that a look at files that stay as they are costs their reading and nothing else.

pub mod settings;

use std::{pin::pin, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use tokio::time::{MissedTickBehavior, interval};

/// How often to look by default: much more often than the kubelet renews a volume (once in 60 to 90 seconds), and a
/// small file costs nothing.
pub const INTERVAL: Duration = Duration::from_secs(10);

/// What the files held when they were last taken up.
pub(super) struct Taken<C>(pub(super) C);

impl<C: PartialEq> Taken<C> {
    /// What the files hold, and what that makes, if it is not what was taken up.
    pub(super) fn news<T, E>(
        &self,
        read: impl Fn() -> Result<C, E>,
        make: impl Fn(&C) -> Result<T, E>,
    ) -> Result<Option<(C, T)>, E> {
        let contents = read()?;
        if contents == self.0 {
            return Ok(None);
        }
        match make(&contents) {
            Ok(value) => Ok(Some((contents, value))),
            Err(error) => {
                // They may have been written just now, or swapped between two of them: that is no fault, and over by now.
                let again = read()?;
                if again == contents {
                    return Err(error);
                }
                make(&again).map(|value| Some((again, value)))
            }
        }
    }
}

/// RecheckCounts at once and with every tick, until there are none any more.
pub(super) async fn keep_looking(ticks: impl Stream<Item = ()>, mut look: impl FnMut()) {
    let mut ticks = pin!(ticks);
    loop {
        // Not worth a thread of its own: a volume with a Secret or a ConfigMap is memory.
        look();
        if ticks.next().await.is_none() {
            return;
        }
    }
}

/// Ticks, the first one after a period. Those that nobody waited for are left out.
pub fn every(period: Duration) -> impl Stream<Item = ()> {
    // An interval of no length is none.
    let mut interval = interval(period.max(Duration::from_millis(1)));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick of an interval would come at once.
    interval.reset();
    stream::unfold(interval, async |mut interval| {
        interval.tick().await;
        Some(((), interval))
    })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// What is made of these contents, one read after the other.
    fn news(taken: &str, reads: &[&str]) -> Result<Option<(String, u32)>, String> {
        let reads = RefCell::new(reads.iter());
        Taken(taken.to_owned()).news(
            || Ok(reads.borrow_mut().next().unwrap().to_string()),
            |text| text.parse().map_err(|_| format!("{text:?} is no number")),
        )
    }

    #[test]
    fn only_what_is_new_is_made_anew() {
        assert_eq!(news("1", &["1"]), Ok(None));
        assert_eq!(news("1", &["2"]), Ok(Some(("2".to_owned(), 2))));
        // It is not read as what it would make.
        assert_eq!(news("one", &["one"]), Ok(None));
    }

    #[test]
    fn what_is_written_while_it_is_read_is_no_fault() {
        assert_eq!(news("1", &["2x", "22"]), Ok(Some(("22".to_owned(), 22))));
        assert_eq!(news("1", &["x", "x"]), Err("\"x\" is no number".to_owned()));
        assert_eq!(news("1", &["x", "y"]), Err("\"y\" is no number".to_owned()));
    }

    #[tokio::test]
    async fn it_looks_at_once_and_once_a_tick() {
        let mut looks = 0;
        keep_looking(stream::iter([(), (), ()]), || looks += 1).await;
        assert_eq!(looks, 4);
    }
}
