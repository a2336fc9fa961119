//! Reloads files that another program renews, usually in a volume of the pod.
//!
//! The files are read periodically and not watched: the kubelet replaces a link to their folder, so a watch of a file
//! reports its deletion and no new file. The contents are compared byte by byte with those that were loaded before, so
//! that unchanged files cost a read and nothing else.

pub mod settings;

use std::{pin::pin, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use tokio::time::{MissedTickBehavior, interval};

/// The default time between two reads: much shorter than the time in which the kubelet renews a volume (60 to 90
/// seconds), and the read of a small file is cheap.
pub const INTERVAL: Duration = Duration::from_secs(10);

/// The contents of the files that are in use.
pub(super) struct Loaded<C>(pub(super) C);

impl<C: PartialEq> Loaded<C> {
    /// Returns the new contents and the value that `parse` makes of them; `None` if the contents are the same.
    pub(super) fn changed<T, E>(
        &self,
        read: impl Fn() -> Result<C, E>,
        parse: impl Fn(&C) -> Result<T, E>,
    ) -> Result<Option<(C, T)>, E> {
        let contents = read()?;
        if contents == self.0 {
            return Ok(None);
        }
        match parse(&contents) {
            Ok(value) => Ok(Some((contents, value))),
            Err(error) => {
                // Another program may be writing the files, or have replaced only one of them so far, so they are read
                // once more before this is an error.
                let again = read()?;
                if again == contents {
                    return Err(error);
                }
                parse(&again).map(|value| Some((again, value)))
            }
        }
    }
}

/// Calls `check` at once and with every tick, until the ticks end.
pub(super) async fn poll(ticks: impl Stream<Item = ()>, mut check: impl FnMut()) {
    let mut ticks = pin!(ticks);
    loop {
        // It blocks the thread only shortly: a volume with a Secret or a ConfigMap is in memory.
        check();
        if ticks.next().await.is_none() {
            return;
        }
    }
}

/// Returns ticks with this period, the first one after one period. Missed ticks are skipped.
pub fn every(period: Duration) -> impl Stream<Item = ()> {
    // tokio panics for a period of zero.
    let mut interval = interval(period.max(Duration::from_millis(1)));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Without this the first tick comes at once.
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

    /// The result for these loaded contents and these reads, one after the other.
    fn changed(loaded: &str, reads: &[&str]) -> Result<Option<(String, u32)>, String> {
        let reads = RefCell::new(reads.iter());
        Loaded(loaded.to_owned()).changed(
            || Ok(reads.borrow_mut().next().unwrap().to_string()),
            |text| text.parse().map_err(|_| format!("{text:?} is not a number")),
        )
    }

    #[test]
    fn only_changed_contents_are_parsed() {
        assert_eq!(changed("1", &["1"]), Ok(None));
        assert_eq!(changed("1", &["2"]), Ok(Some(("2".to_owned(), 2))));
        // Unchanged contents are not parsed.
        assert_eq!(changed("one", &["one"]), Ok(None));
    }

    #[test]
    fn contents_that_change_between_two_reads_are_not_an_error() {
        assert_eq!(changed("1", &["2x", "22"]), Ok(Some(("22".to_owned(), 22))));
        assert_eq!(changed("1", &["x", "x"]), Err("\"x\" is not a number".to_owned()));
        assert_eq!(changed("1", &["x", "y"]), Err("\"y\" is not a number".to_owned()));
    }

    #[tokio::test]
    async fn it_checks_at_once_and_with_every_tick() {
        let mut checks = 0;
        poll(stream::iter([(), (), ()]), || checks += 1).await;
        assert_eq!(checks, 4);
    }
}
