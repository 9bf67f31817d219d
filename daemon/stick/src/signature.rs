//! Signatures: minisign's, by Ed25519 over BLAKE2b.
use minisign_verify::{PublicKey, Signature};

/// Why a signature does not count.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// The box's own key.
    #[error("the public key can't be read ({0}): the box's image is damaged")]
    Key(minisign_verify::Error),
    /// The signature's file.
    #[error("the signature of {what} can't be read ({source}): write the stick again")]
    Form {
        /// What was signed.
        what: String,
        /// minisign's word.
        source: minisign_verify::Error,
    },
    /// Another key, or other bytes.
    #[error(
        "{what} is not signed by this box's key ({source}): it was changed or damaged, or made for other boxes; make the stick with the keys of this site"
    )]
    Wrong {
        /// What was signed.
        what: String,
        /// minisign's word.
        source: minisign_verify::Error,
    },
}

/// Whether the text of a public key's file (`update.pub`, `site.pub`) is one.
///
/// # Errors
/// [`SignatureError::Key`].
pub fn public_key(text: &str) -> Result<(), SignatureError> {
    decode(text).map(drop)
}

/// Verifies that `bytes` were signed: `key` is the text of the public key's file, `signature` that of the `.minisig` file; `what` names
/// them in the error. Signatures of minisign's first, not prehashed form don't count.
///
/// # Errors
/// [`SignatureError`]: anything but a good signature by this key.
pub fn verify(key: &str, bytes: &[u8], signature: &str, what: &str) -> Result<(), SignatureError> {
    let key = decode(key)?;
    let signature = Signature::decode(signature)
        .map_err(|source| SignatureError::Form { what: what.to_owned(), source })?;
    key.verify(bytes, &signature, false)
        .map_err(|source| SignatureError::Wrong { what: what.to_owned(), source })
}

fn decode(text: &str) -> Result<PublicKey, SignatureError> {
    PublicKey::decode(text.trim()).map_err(SignatureError::Key)
}
