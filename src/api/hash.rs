//! SHA-256, by the implementation of cryptography that a feature of the crate chooses.

#[cfg(feature = "fips")]
use aws_lc_rs::digest;
#[cfg(not(feature = "fips"))]
use ring::digest;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_the_standard() {
        // FIPS 180-2, B.1.
        let hex: String = sha256(b"abc").iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
