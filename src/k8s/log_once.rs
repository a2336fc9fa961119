//! A trouble that lasts is told once, and again when it comes back.

/// The trouble that was told last, if it lasts.
#[derive(Debug, Default)]
pub(crate) struct LogOnce(Option<String>);

impl LogOnce {
    /// Notes how it is now; the trouble, if nobody was told of it.
    pub(crate) fn changed(&mut self, trouble: Option<String>) -> Option<&str> {
        if self.0 == trouble {
            return None;
        }
        self.0 = trouble;
        self.0.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_is_told_once_and_what_comes_back_again() {
        let mut log_once = LogOnce::default();
        let mut changed = |trouble: Option<&str>| log_once.changed(trouble.map(str::to_owned)).map(str::to_owned);
        assert_eq!(changed(None), None);
        assert_eq!(changed(Some("away")).as_deref(), Some("away"));
        assert_eq!(changed(Some("away")), None);
        assert_eq!(changed(Some("forbidden")).as_deref(), Some("forbidden"));
        assert_eq!(changed(None), None);
        assert_eq!(changed(Some("forbidden")).as_deref(), Some("forbidden"));
    }
}
