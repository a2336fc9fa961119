//! Logging of an error that lasts: once when it begins, and again when it comes back.

/// The error that was logged last, while it lasts.
#[derive(Debug, Default)]
pub(crate) struct LogOnce(Option<String>);

impl LogOnce {
    /// Notes the present error, or that there is none; returns the error if it must be logged.
    pub(crate) fn changed(&mut self, error: Option<String>) -> Option<&str> {
        if self.0 == error {
            return None;
        }
        self.0 = error;
        self.0.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_lasts_is_logged_once_and_again_when_it_comes_back() {
        let mut log_once = LogOnce::default();
        let mut changed = |error: Option<&str>| log_once.changed(error.map(str::to_owned)).map(str::to_owned);
        assert_eq!(changed(None), None);
        assert_eq!(changed(Some("unavailable")).as_deref(), Some("unavailable"));
        assert_eq!(changed(Some("unavailable")), None);
        assert_eq!(changed(Some("forbidden")).as_deref(), Some("forbidden"));
        assert_eq!(changed(None), None);
        assert_eq!(changed(Some("forbidden")).as_deref(), Some("forbidden"));
    }
}
