//! Signatures made by crate `minisign`, as `cargo xtask image stick` makes them, and verified as the box does.
use minisign::KeyPair;
use std::io::Cursor;
use stick::{SignatureError, public_key, verify};

fn key() -> KeyPair {
    KeyPair::generate_unencrypted_keypair().expect("a random key")
}

fn public(key: &KeyPair) -> String {
    key.pk.to_box().expect("a public key").to_string()
}

fn sign(key: &KeyPair, bytes: &[u8]) -> String {
    minisign::sign(Some(&key.pk), &key.sk, Cursor::new(bytes), Some("triaged"), None)
        .expect("signed")
        .to_string()
}

#[test]
fn a_signature_counts_for_these_bytes_and_this_key_alone() {
    let (ours, other) = (key(), key());
    let text = b"version = \"1.2.0\"\n";
    let signature = sign(&ours, text);
    assert!(public_key(&public(&ours)).is_ok());
    verify(&public(&ours), text, &signature, "manifest.toml").unwrap();
    for (key, bytes, what) in [
        (&other, &text[..], "another key"),
        (&ours, &b"version = \"1.2.1\"\n"[..], "other bytes"),
        (&ours, &text[..text.len() - 1], "a byte less"),
        (&ours, &b""[..], "no bytes"),
    ] {
        let error = verify(&public(key), bytes, &signature, "manifest.toml").unwrap_err();
        assert!(matches!(error, SignatureError::Wrong { .. }), "{what}: {error}");
        assert!(error.to_string().starts_with("manifest.toml is not signed by this box's key"), "{error}");
    }
}

#[test]
fn every_changed_byte_of_a_signature_is_noticed() {
    let ours = key();
    let signature = sign(&ours, b"bytes");
    let public = public(&ours);
    // The untrusted comment is not signed: that is what it is called for. Line ends may be any.
    let from = signature.find('\n').unwrap() + 1;
    for at in from..signature.len() {
        let mut changed = signature.clone().into_bytes();
        if changed[at].is_ascii_whitespace() || changed[at] == b'=' {
            continue;
        }
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let Ok(changed) = String::from_utf8(changed) else { continue };
        assert!(verify(&public, b"bytes", &changed, "x").is_err(), "byte {at} of {signature}");
    }
    for cut in [0, 1, from, from + 10, signature.len() / 2] {
        let error = verify(&public, b"bytes", &signature[..cut], "x").unwrap_err();
        assert!(matches!(error, SignatureError::Form { .. }), "{cut}: {error}");
    }
}

#[test]
fn a_damaged_key_of_the_box_is_said_to_be_one() {
    let error = verify("untrusted comment: x\nRWQ", b"", "", "x").unwrap_err().to_string();
    assert!(error.contains("the box's image is damaged"), "{error}");
    assert!(public_key("").is_err());
}

/// The site's owner needs no program of ours: `minisign -S -s site.key -m triaged/site/site.toml`, by Debian's minisign 0.11.
#[test]
fn what_debians_minisign_signs_counts() {
    let public = "untrusted comment: minisign public key DF1B2ADF5B100A31\n\
        RWQxChBb3yob31sYIwOfkpfOidcKVhuiDFnn90254QwMzudZC6Cc5xNg\n";
    let signature = "untrusted comment: signature from minisign secret key\n\
        RUQxChBb3yob35FD32Bbk2VYxa0Ehv6w8Fexb/q3vMzIFACKevl3zQgS/pUxf03u6CWuycwJtEcbLsMwQHOWugcsaz79HRO+Bgc=\n\
        trusted comment: a test\n\
        QY8GuMGMOIRHlZpd0SkS6GKtDWHA4u5WBBVQolJboqR5UEOHEbYPnsB/+PCNxREHHOp4pQmpwxvxfLDiV/HiBg==\n";
    verify(public, b"[site]\nname = \"s\"\nserial = 1\n", signature, "site.toml").unwrap();
}
