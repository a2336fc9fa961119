//! DaemonSets: those of Multus and of its dynamic-networks controller. Of any other one only the name is kept, since
//! without any DaemonSet a missing Multus proves nothing.

use super::plain::Plain;
use crate::{
    api::{FieldError, cluster::DaemonSet, read_object},
    facts::attachment::AttachmentDaemon,
    k8s::Key,
};

pub(super) static KIND: Plain<Option<AttachmentDaemon>> =
    Plain { read, listing: |store| &store.daemons, listing_mut: |store| &mut store.daemons };

#[allow(clippy::option_option, reason = "the outer option says whether the object is kept")]
fn read(text: &str) -> Result<(Key, Option<Option<AttachmentDaemon>>), FieldError> {
    let set: DaemonSet = read_object(text)?;
    let daemon = AttachmentDaemon::of(&set);
    Ok(((set.metadata.namespace, set.metadata.name), Some(daemon)))
}
