//! Events for which nobody waits: handed in at once, and sent one after the other in the background.

use k8s_openapi::api::core::v1::ObjectReference;
use tokio::sync::mpsc;

use super::{Events, Tale};

/// How many may wait: an API server that is slow or away makes nobody else slow, and takes no more memory than this.
const ROOM: usize = 256;

/// An event to be sent.
#[derive(Clone, Debug)]
pub struct Letter {
    /// What is told.
    pub tale: Tale,
    /// On which object.
    pub object: ObjectReference,
    /// In which words.
    pub note: String,
}

/// Where letters are handed in. Clones hand in to the same sender, who ends with the last of them.
#[derive(Clone)]
pub struct Outbox {
    letters: mpsc::Sender<Letter>,
}

impl Outbox {
    /// Begins to send; needs a runtime.
    #[must_use]
    pub fn open(events: Events) -> Self {
        let (letters, mut handed_in) = mpsc::channel::<Letter>(ROOM);
        tokio::spawn(async move {
            while let Some(Letter { tale, object, note }) = handed_in.recv().await {
                events.tell(tale, &object, None, &note).await;
            }
        });
        Self { letters }
    }

    /// Hands a letter in, and does not wait: where too many wait already it is dropped.
    pub fn hand_in(&self, letter: Letter) {
        if self.letters.try_send(letter).is_err() {
            tracing::debug!("an event was dropped: too many wait to be sent");
        }
    }
}
