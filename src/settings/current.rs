//! The settings in force.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::Settings;

/// The settings in force, which may be replaced at any time. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct CurrentSettings(Arc<ArcSwap<Settings>>);

impl CurrentSettings {
    /// The settings of now. Whoever holds them keeps them, whatever comes after. It takes no lock and no memory: every
    /// request does it.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<Settings>> {
        self.0.load()
    }

    /// From now on whoever loads gets these.
    pub fn replace(&self, settings: Settings) {
        self.0.store(Arc::new(settings));
    }
}

impl From<Settings> for CurrentSettings {
    fn from(settings: Settings) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(settings)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Enforcement;

    #[test]
    fn what_was_loaded_stays_and_every_clone_sees_what_comes_after() {
        let current = CurrentSettings::from(Settings::default());
        let (clone, before) = (current.clone(), current.load());
        current.replace(Settings::default().with_rule("NP103", Enforcement::Warn));
        assert_eq!(before.enforcement("NP103"), None);
        assert_eq!(clone.load().enforcement("NP103"), Some(Enforcement::Warn));
    }
}
