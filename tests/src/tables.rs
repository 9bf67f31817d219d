//! Tables of the daemon's configuration, to be put one after the other: peers on loopback. Keys may follow a table.

/// A console or an archive, whose AE title is its name.
pub fn dicom(name: &str, port: u16, results: &[&str]) -> String {
    format!("{}results = {results:?}\n", destination("dicom", name, port, true))
}

/// A radiology information system.
pub fn hl7(name: &str, port: u16) -> String {
    destination("hl7", name, port, false)
}

/// A worklist manager, whose AE title is its name.
pub fn ups(name: &str, port: u16) -> String {
    destination("ups", name, port, true)
}

fn destination(protocol: &str, name: &str, port: u16, titled: bool) -> String {
    let title = if titled { format!("ae_title = {name:?}\n") } else { String::new() };
    format!(
        "[[destination]]\nprotocol = {protocol:?}\nname = {name:?}\naddress = \"127.0.0.1:{port}\"\n{title}"
    )
}

/// A scanner that is called back.
pub fn scanner(title: &str, port: u16) -> String {
    format!("[[scanner]]\nae_title = {title:?}\naddress = \"127.0.0.1:{port}\"\n")
}

/// The modality worklist.
pub fn worklist(title: &str, port: u16) -> String {
    format!("[worklist]\nae_title = {title:?}\naddress = \"127.0.0.1:{port}\"\n")
}
