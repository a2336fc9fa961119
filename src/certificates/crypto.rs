//! The implementation of TLS, which a feature chooses when the program is compiled: ring (`ring`, the default), or the
//! FIPS module of AWS-LC (`fips`). docs/security.md describes the second one.

use rustls::crypto::CryptoProvider;

#[cfg(not(any(feature = "fips", feature = "ring")))]
compile_error!("nicplug needs cryptography: enable the feature `ring` (the default) or `fips`");

/// Returns the cryptography of TLS connections.
#[must_use]
pub fn provider() -> CryptoProvider {
    #[cfg(feature = "fips")]
    let provider = rustls::crypto::default_fips_provider();
    #[cfg(not(feature = "fips"))]
    let provider = rustls::crypto::ring::default_provider();
    provider
}

/// Makes [`provider`] the one of connections that name none, such as those of kube's client. Without this call rustls
/// takes the one that is compiled in, and panics if there are two.
pub fn install() {
    // An error means that one is installed already.
    let _ = provider().install_default();
}

/// Returns the name of the implementation. It has "FIPS" only if the module itself reports that it runs in FIPS mode.
#[must_use]
pub fn name() -> &'static str {
    match (cfg!(feature = "fips"), provider().fips()) {
        (false, _) => "ring",
        (true, true) => "AWS-LC in FIPS mode",
        (true, false) => "AWS-LC, not in FIPS mode",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cryptography_is_the_one_of_the_feature() {
        let is_fips = cfg!(feature = "fips");
        assert_eq!(provider().fips(), is_fips);
        assert_eq!(name(), if is_fips { "AWS-LC in FIPS mode" } else { "ring" });
    }
}
