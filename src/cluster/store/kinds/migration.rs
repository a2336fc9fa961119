//! VirtualMachineInstanceMigrations: the guest of each one that is not over.

use std::sync::Arc;

use super::{own_key, plain::Plain};
use crate::{
    api::{FieldError, read_object, vm::Migration},
    k8s::Key,
};

pub(super) static KIND: Plain<Arc<str>> =
    Plain { read, listing: |store| &store.migrations, listing_mut: |store| &mut store.migrations };

fn read(text: &str) -> Result<(Key, Option<Arc<str>>), FieldError> {
    let migration: Migration = read_object(text)?;
    let guest = (!migration.is_over()).then(|| migration.spec.vmi_name.as_str().into());
    Ok((own_key(&migration.metadata), guest))
}
