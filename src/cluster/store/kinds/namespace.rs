//! Namespaces whose annotation changes the enforcement of rules.

use std::sync::Arc;

use super::plain::Plain;
use crate::{
    api::{
        FieldError,
        cluster::{Namespace, NamespaceMetadata},
        read_object,
    },
    k8s::Key,
    settings::overrides::{Overrides, ParsedOverrides},
};

pub(super) static KIND: Plain<Arc<ParsedOverrides>> =
    Plain { read, listing: |store| &store.overrides, listing_mut: |store| &mut store.overrides };

fn read(text: &str) -> Result<(Key, Option<Arc<ParsedOverrides>>), FieldError> {
    let Namespace { metadata: NamespaceMetadata { name, annotations } } = read_object(text)?;
    Ok(((String::new(), name), annotations.rules.as_deref().and_then(overrides)))
}

/// Returns the enforcement that an annotation asks for, if any.
fn overrides(annotation: &str) -> Option<Arc<ParsedOverrides>> {
    let annotated = Overrides::parse(annotation);
    let asks = annotated.as_ref().map_or(true, |overrides| !overrides.is_empty());
    asks.then(|| Arc::new(annotated))
}
