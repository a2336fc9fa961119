//! The implementation of cryptography, which a feature chooses when the program is compiled: ring (`ring`, the default),
//! or the FIPS module of AWS-LC (`fips`). docs/security.md describes the second one.

#[cfg(feature = "fips")]
use aws_lc_rs::digest;
#[cfg(not(feature = "fips"))]
use ring::digest;
use rustls::crypto::CryptoProvider;

#[cfg(not(any(feature = "fips", feature = "ring")))]
compile_error!("nicplug needs cryptography: enable the feature `ring` (the default) or `fips`");

/// Returns the SHA-256 of some bytes.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let hash = digest::digest(&digest::SHA256, bytes);
    let mut array = [0; 32];
    // Both have 32 bytes.
    for (to, from) in array.iter_mut().zip(hash.as_ref()) {
        *to = *from;
    }
    array
}

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
    fn the_hash_is_that_of_the_standard() {
        // FIPS 180-2, B.1.
        let hex: String = sha256(b"abc").iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn the_cryptography_is_the_one_of_the_feature() {
        let is_fips = cfg!(feature = "fips");
        assert_eq!(provider().fips(), is_fips);
        assert_eq!(name(), if is_fips { "AWS-LC in FIPS mode" } else { "ring" });
    }
}
