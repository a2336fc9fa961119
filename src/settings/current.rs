//! The current settings.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::Settings;

/// The current settings, which may be replaced at any time. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct CurrentSettings(Arc<ArcSwap<Settings>>);

impl CurrentSettings {
    /// Returns the current settings. A later [`Self::replace`] does not change them. Every request calls this, so it
    /// takes no lock and allocates nothing.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<Settings>> {
        self.0.load()
    }

    /// Replaces the settings for every later [`Self::load`].
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
    fn loaded_settings_stay_and_every_clone_loads_the_replaced_ones() {
        let current = CurrentSettings::from(Settings::default());
        let (clone, before) = (current.clone(), current.load());
        current.replace(Settings::default().with_rule("NP103", Enforcement::Warn));
        assert_eq!(before.enforcement("NP103", "demo"), None);
        assert_eq!(clone.load().enforcement("NP103", "demo"), Some(Enforcement::Warn));
    }
}
