//! A panic in one rule costs the verdict of that rule only.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
};

thread_local! {
    static IS_ISOLATED: Cell<bool> = const { Cell::new(false) };
}

/// Runs the check of a rule; `None` if it panics. The panic hook has run then.
///
/// A check only reads its case and returns new values, so a panic leaves nothing half changed.
pub(crate) fn isolated<T>(check: impl FnOnce() -> T) -> Option<T> {
    IS_ISOLATED.set(true);
    let result = catch_unwind(AssertUnwindSafe(check));
    IS_ISOLATED.set(false);
    result.ok()
}

/// Whether this thread runs the check of a rule. A panic hook that ends the process must not do so then.
#[must_use]
pub fn is_isolated() -> bool {
    IS_ISOLATED.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_only_its_own_check() {
        assert_eq!(isolated(is_isolated), Some(true));
        assert_eq!(isolated(|| -> () { panic!("a panic of this test") }), None);
        assert!(!is_isolated());
    }
}
