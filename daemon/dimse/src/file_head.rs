//! The head of a DICOM file (PS3.10 section 7.1): preamble, prefix, file meta information. Owns its encoding; never
//! sees the data set, whose bytes follow as they were received.

use std::io::{self, Write};

use crate::negotiation::Implementation;

/// What the file meta information of a received instance says. All values as in the C-STORE and its context.
#[derive(Debug, Clone, Copy)]
pub struct FileHead<'a> {
    /// Media Storage SOP Class UID: the Affected SOP Class UID.
    pub sop_class_uid: &'a str,
    /// Media Storage SOP Instance UID: the Affected SOP Instance UID.
    pub sop_instance_uid: &'a str,
    /// Transfer Syntax UID of the data set that follows.
    pub transfer_syntax: &'a str,
    /// Sending Application Entity Title (0002,0017): who sent it over the network.
    pub sending_ae_title: Option<&'a str>,
    /// Receiving Application Entity Title (0002,0018): whom it was sent to.
    pub receiving_ae_title: Option<&'a str>,
    /// Who writes the file.
    pub implementation: &'a Implementation,
}

/// Writes 128 zero bytes, `DICM` and group 0002 in explicit VR little endian, in one call of the sink. Returns the
/// number of bytes. Errors are the sink's, or `InvalidInput` for a value that a short length field can't hold.
pub fn write_file_head(sink: &mut dyn Write, head: &FileHead<'_>) -> io::Result<u64> {
    let mut group = Vec::with_capacity(512);
    // (0002,0001) File Meta Information Version is the one OB, with a reserved field and a 32-bit length.
    group.extend_from_slice(&[2, 0, 1, 0, b'O', b'B', 0, 0, 2, 0, 0, 0, 0, 1]);
    put(&mut group, 0x0002, b"UI", head.sop_class_uid)?;
    put(&mut group, 0x0003, b"UI", head.sop_instance_uid)?;
    put(&mut group, 0x0010, b"UI", head.transfer_syntax)?;
    put(&mut group, 0x0012, b"UI", &head.implementation.class_uid)?;
    put(&mut group, 0x0013, b"SH", &head.implementation.version_name)?;
    for (element, title) in [(0x0017, head.sending_ae_title), (0x0018, head.receiving_ae_title)] {
        if let Some(title) = title {
            put(&mut group, element, b"AE", title)?;
        }
    }
    let mut bytes = vec![0; 128];
    bytes.extend_from_slice(b"DICM");
    bytes.extend_from_slice(&[2, 0, 0, 0, b'U', b'L', 4, 0]);
    bytes.extend_from_slice(&(group.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&group);
    sink.write_all(&bytes)?;
    Ok(bytes.len() as u64)
}

/// One element of group 0002 with a 16-bit length, padded to even (PS3.5 sections 6.2 and 7.1.2).
fn put(group: &mut Vec<u8>, element: u16, vr: &[u8; 2], text: &str) -> io::Result<()> {
    let padded = text.len().next_multiple_of(2);
    let length = u16::try_from(padded).map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("(0002,{element:04X}) has {} bytes", text.len()))
    })?;
    group.extend_from_slice(&[2, 0]);
    group.extend_from_slice(&element.to_le_bytes());
    group.extend_from_slice(vr);
    group.extend_from_slice(&length.to_le_bytes());
    group.extend_from_slice(text.as_bytes());
    if padded > text.len() {
        group.push(if vr == b"UI" { 0 } else { b' ' });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout() {
        let implementation = Implementation::default();
        let head = FileHead {
            sop_class_uid: "1.2.3",
            sop_instance_uid: "1.2.34",
            transfer_syntax: "1.2.840.10008.1.2.1",
            sending_ae_title: Some("CT1"),
            receiving_ae_title: None,
            implementation: &implementation,
        };
        let mut bytes = Vec::new();
        let length = write_file_head(&mut bytes, &head).expect("a Vec takes all");
        assert_eq!(length, bytes.len() as u64);
        assert_eq!(&bytes[128..132], b"DICM");
        assert_eq!(bytes[132..140], [2, 0, 0, 0, b'U', b'L', 4, 0]);
        let group = u32::from_le_bytes(bytes[140..144].try_into().expect("4 bytes")) as usize;
        assert_eq!(group, bytes.len() - 144);
        assert_eq!(bytes[158..172], [2, 0, 2, 0, b'U', b'I', 6, 0, b'1', b'.', b'2', b'.', b'3', 0]);
        assert!(bytes.ends_with(&[2, 0, 0x17, 0, b'A', b'E', 4, 0, b'C', b'T', b'1', b' ']));
    }

    #[test]
    fn too_long_for_the_length_field() {
        let implementation = Implementation::default();
        let long = "1".repeat(70_000);
        let head = FileHead {
            sop_class_uid: &long,
            sop_instance_uid: "1",
            transfer_syntax: "1",
            sending_ae_title: None,
            receiving_ae_title: None,
            implementation: &implementation,
        };
        assert!(write_file_head(&mut Vec::new(), &head).is_err());
    }
}
