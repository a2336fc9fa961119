//! Namespaces whose annotation changes the enforcement of rules.

use std::sync::Arc;

use super::plain::Plain;
use crate::{
    api::{
        FieldError,
        cluster::{Namespace, NamespaceMetadata},
        metadata::PREFIX,
        read_object,
    },
    facts::nad::edits,
    k8s::Key,
    settings::overrides::{ANNOTATION, Overrides, OverridesError, ParsedOverrides},
};

pub(super) static KIND: Plain<Arc<ParsedOverrides>> =
    Plain { read, listing: |store| &store.overrides, listing_mut: |store| &mut store.overrides };

fn read(text: &str) -> Result<(Key, Option<Arc<ParsedOverrides>>), FieldError> {
    let Namespace { metadata: NamespaceMetadata { name, annotations } } = read_object(text)?;
    let overrides = match annotations.rules.as_deref() {
        Some(rules) => overrides(rules),
        None => annotations.others.iter().find(|key| is_misspelled(key)).map(|key| Arc::new(misspelled(key))),
    };
    Ok(((String::new(), name), overrides))
}

/// Whether a key of an annotation is a typo of [`ANNOTATION`].
fn is_misspelled(key: &str) -> bool {
    const MOST_TYPOS: usize = 2;
    key.starts_with(PREFIX) && edits(&key.to_ascii_lowercase(), ANNOTATION) <= MOST_TYPOS
}

fn misspelled(key: &str) -> ParsedOverrides {
    Err(OverridesError::Misspelled(key.into()))
}

/// Returns the enforcement that an annotation asks for, if any.
fn overrides(annotation: &str) -> Option<Arc<ParsedOverrides>> {
    let annotated = Overrides::parse(annotation);
    let asks = annotated.as_ref().map_or(true, |overrides| !overrides.is_empty());
    asks.then(|| Arc::new(annotated))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_of_the_key_is_an_error_that_names_it() {
        let of = |annotations: &str| {
            let text = format!(r#"{{"metadata": {{"name": "n", "annotations": {{{annotations}}}}}}}"#);
            read(&text).unwrap().1.map(|overrides| overrides.as_ref().as_ref().map(drop).map_err(ToString::to_string))
        };
        let typo = |key: &str| Some(Err(format!("its key is written {key:?}")));
        for key in ["nicplug.io/rule", "nicplug.io/Rules", "nicplug.io/ruels"] {
            assert_eq!(of(&format!(r#""{key}": "NP103=warn""#)), typo(key), "{key}");
        }
        assert_eq!(of(r#""nicplug.io/rule": "x", "nicplug.io/rules": "NP103=warn""#), Some(Ok(())));
        assert_eq!(of(r#""example.com/rule": "x", "nicplug.io/team": "x", "nicplug.io": "x""#), None);
        assert_eq!(of(""), None);
    }
}
