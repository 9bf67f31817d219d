//! The markers that JPEG and JPEG-LS streams share.

/// T.81 section B.1.1: markers and their segments.
pub(super) struct Markers<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Markers<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// What follows the segment read last.
    pub fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// The next marker's code.
    pub fn next(&mut self) -> Result<u8, String> {
        let ends = "the JPEG stream ends before its image";
        if *self.bytes.get(self.at).ok_or(ends)? != 0xFF {
            return Err("no JPEG marker where one is due".to_owned());
        }
        // Any number of fill bytes may precede the code.
        while self.bytes.get(self.at) == Some(&0xFF) {
            self.at += 1;
        }
        let code = *self.bytes.get(self.at).ok_or(ends)?;
        self.at += 1;
        Ok(code)
    }

    /// The segment's parameters, without its length.
    pub fn segment(&mut self) -> Result<&'a [u8], String> {
        let rest = self.rest();
        let length = rest.first_chunk().map_or(0, |b| usize::from(u16::from_be_bytes(*b)));
        let segment = rest.get(2..length).ok_or("a JPEG segment is cut off")?;
        self.at += length;
        Ok(segment)
    }
}
