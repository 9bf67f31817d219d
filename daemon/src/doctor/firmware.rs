//! The firmware: whether it starts signed kernels only.
use super::Seen;
use std::io::ErrorKind;
use std::path::Path;

/// UEFI's variables as Linux shows them.
pub const EFI_VARIABLES: &str = "/sys/firmware/efi/efivars";
/// UEFI 2.10 section 3.3: 1 while the firmware takes signed programs only. Four bytes of attributes come before it.
const SECURE_BOOT: &str = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// Secure Boot is on, where there is UEFI.
pub fn secure_boot(variables: &Path) -> Seen {
    if std::fs::read_dir(variables).map_or(true, |mut entries| entries.next().is_none()) {
        return Ok("no UEFI variables here: nothing to look at".to_owned());
    }
    let off = "whoever reaches the box can start another system on it; enrol the keys and turn it on in the firmware's setup; on x86-64 this locks the data partition: flash the box afterwards";
    match std::fs::read(variables.join(SECURE_BOOT)) {
        Ok(bytes) if bytes.get(4) == Some(&1) => Ok("Secure Boot is on".to_owned()),
        Ok(_) => Err(format!("Secure Boot is off: {off}")),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(format!("no Secure Boot in this firmware: {off}"))
        }
        Err(error) => Err(format!("{SECURE_BOOT}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_without_secure_boot_is_warned_of_where_there_is_uefi() {
        let dir = tempfile::tempdir().unwrap();
        let variables = dir.path().join("efivars");
        assert!(secure_boot(&variables).unwrap().contains("no UEFI"));
        std::fs::create_dir(&variables).unwrap();
        assert!(secure_boot(&variables).unwrap().contains("no UEFI"), "not mounted");
        std::fs::write(
            variables.join("BootCurrent-8be4df61-93ca-11d2-aa0d-00e098032b8c"),
            [6, 0, 0, 0, 1, 0],
        )
        .unwrap();
        assert!(secure_boot(&variables).unwrap_err().contains("no Secure Boot in this firmware"));
        for (bytes, is_on) in
            [(&[6, 0, 0, 0, 1][..], true), (&[6, 0, 0, 0, 0], false), (&[1, 0, 0, 0], false), (&[], false)]
        {
            std::fs::write(variables.join(SECURE_BOOT), bytes).unwrap();
            match secure_boot(&variables) {
                Ok(said) => assert!(is_on && said == "Secure Boot is on", "{bytes:?}"),
                Err(said) => {
                    assert!(!is_on && said.starts_with("Secure Boot is off"), "{bytes:?}");
                    // PCR 7 is what the data partition was sealed to.
                    assert!(said.ends_with("locks the data partition: flash the box afterwards"), "{said}");
                }
            }
        }
    }
}
