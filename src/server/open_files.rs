//! The limit of open files of the process (`ulimit -n`): each connection needs a file descriptor.
//!
//! Without a descriptor no connection can be accepted, not even that of a probe, and the kubelet restarts the pod. So
//! connections leave enough descriptors to the rest of the process, and the health listener has one in reserve.

use std::{fs, io};

use super::connection::places::Places;

/// The descriptors for everything that is opened later, beside the connections of the webhook: those of the health
/// listener, those to the API server, and files that are read again.
const OTHERS: usize = 96;

/// The descriptors that are open at the start where the system does not list them.
const OPEN_AT_START: usize = 64;

/// The errors of Unix for a limit of open files, of the process and of the system: EMFILE and ENFILE.
const EXHAUSTED: [i32; 2] = [24, 23];

/// Whether there was no file descriptor for the operation.
pub(super) fn is_exhausted(error: &io::Error) -> bool {
    cfg!(unix) && error.raw_os_error().is_some_and(|code| EXHAUSTED.contains(&code))
}

/// Returns the limit of connections: `wanted`, or fewer if the process may not open so many files, which it logs. It is
/// called when all threads have started.
pub(super) fn hold_to_limit(wanted: usize) -> usize {
    // Linux only. On another system the limit is not known.
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let Some(files) = limit_of_files(&limits) else { return wanted };
    let open = fs::read_dir("/proc/self/fd").map_or(OPEN_AT_START, Iterator::count);
    let held = held(wanted, files, open);
    if held < wanted {
        tracing::warn!(
            max_connections = held,
            wanted,
            open_files = files,
            "--max-connections is reduced, because the process may not open so many files: raise the limit of open \
             files (ulimit -n, LimitNOFILE of the container runtime) or set a smaller --max-connections"
        );
    }
    held
}

/// Returns the limit of connections for a limit of open files, of which some are open already.
fn held(wanted: usize, files: usize, open: usize) -> usize {
    let left = files.saturating_sub(open);
    // With very few descriptors connections get half of them.
    let most = left.saturating_sub(OTHERS).max(left / 2);
    wanted.min(Places::limit_of_most(most))
}

/// Returns the soft limit of open files of `/proc/self/limits`; `None` if there is none.
fn limit_of_files(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             127411               127411               processes \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(limit_of_files(limits), Some(1024));
        assert_eq!(limit_of_files(&limits.replace("1024 ", "unlimited")), None);
        assert_eq!(limit_of_files(""), None);
    }

    #[test]
    fn connections_leave_descriptors_for_everything_else() {
        for (wanted, files, open, expected) in [
            (1000, 1_048_576, 30, 1000),
            (1000, 1024, 30, 882),
            (100, 1024, 30, 100),
            (1000, 128, 28, 34),
            (1000, 40, 28, 1),
            (1000, 20, 28, 1),
        ] {
            assert_eq!(held(wanted, files, open), expected, "{files} files, {open} open");
        }
    }

    #[test]
    fn only_a_limit_of_open_files_counts_as_exhausted() {
        assert!(is_exhausted(&io::Error::from_raw_os_error(24)));
        assert!(!is_exhausted(&io::Error::from_raw_os_error(103)));
        assert!(!is_exhausted(&io::ErrorKind::ConnectionReset.into()));
    }
}
