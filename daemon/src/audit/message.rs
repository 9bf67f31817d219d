//! An event as a DICOM audit message (PS3.15 section A.5.1), the XML that every audit repository reads.
//!
//! Each kind of event takes the message of PS3.15 section A.5.3 that fits it:
//!
//! | event       | message                        | section    |
//! |-------------|--------------------------------|------------|
//! | start, stop | 110100 Application Activity    | A.5.3.1    |
//! | login, logout | 110114 User Authentication   | A.5.3.12   |
//! | view of the list | 110112 Query, of our own page: in the format of the protocol used | A.5.3.10 |
//! | view        | 110103 DICOM Instances Accessed, read | A.5.3.6 |
//! | acknowledge | 110111 Procedure Record, update: it is the study's handling that changes, no instance | A.5.3.15 |
//! | results sent again | 110113 Security Alert, 110132 Use of Restricted Function: an engineer's, on a destination | A.5.3.11 |
//! | change of a user | 110113 Security Alert, 110137 User Security Attributes Changed | A.5.3.11 |
use super::{Action, Event, Outcome, Subject};
use base64ct::{Base64, Encoding};
use chrono::{DateTime, SecondsFormat};
use std::fmt::Write;

/// The private coding scheme of this box, as in its results.
const PRIVATE_SCHEME: &str = "99TRIAGED";

/// Who says so: this box.
#[derive(Debug, Clone)]
pub struct Source {
    /// Our AE title.
    pub ae_title: String,
    /// The machine's name.
    pub host: String,
    /// Our process.
    pub process_id: u32,
}

/// The message, in XML 1.0 and UTF-8, on one line.
pub fn message(event: &Event, source: &Source) -> String {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?><AuditMessage>");
    identification(&mut xml, event);
    match &event.action {
        Action::Start | Action::Stop => process(&mut xml, source, Some(("110150", "Application"))),
        Action::ViewList => {
            person(&mut xml, event, source, Some(("110153", "Source Role ID")));
            process(&mut xml, source, Some(("110152", "Destination Role ID")));
        }
        _ => {
            person(&mut xml, event, source, None);
            process(&mut xml, source, None);
        }
    }
    // PS3.15 table A.5.2-1, AuditSourceTypeCode 4: application server process.
    let _ = write!(
        xml,
        "<AuditSourceIdentification AuditSourceID=\"{}\"><AuditSourceTypeCode csd-code=\"4\"/>\
         </AuditSourceIdentification>",
        escaped(&source.ae_title)
    );
    match &event.action {
        Action::View(subject) | Action::Acknowledge(subject) => study_and_patient(&mut xml, subject),
        Action::ChangeUser { name } => {
            security(&mut xml, name, ("11", "RFC-3881", "User Identifier"), &event.text);
        }
        Action::Resend { destination } => {
            security(&mut xml, destination, ("110182", "DCM", "Node ID"), &event.text);
        }
        Action::ViewList => list(&mut xml),
        Action::Start | Action::Stop | Action::Login | Action::Logout => {}
    }
    xml + "</AuditMessage>"
}

/// What happened, when, and how it went.
fn identification(xml: &mut String, event: &Event) {
    // PS3.16 CID 400 and CID 401.
    let (action, id, kind) = match &event.action {
        Action::Start => ("E", ("110100", "Application Activity"), Some(("110120", "Application Start"))),
        Action::Stop => ("E", ("110100", "Application Activity"), Some(("110121", "Application Stop"))),
        Action::Login => ("E", ("110114", "User Authentication"), Some(("110122", "Login"))),
        Action::Logout => ("E", ("110114", "User Authentication"), Some(("110123", "Logout"))),
        // PS3.15 section A.5.3.10: what was asked of a list of patients.
        Action::ViewList => ("E", ("110112", "Query"), None),
        Action::View(_) => ("R", ("110103", "DICOM Instances Accessed"), None),
        Action::Acknowledge(_) => ("U", ("110111", "Procedure Record"), None),
        Action::Resend { .. } => {
            ("E", ("110113", "Security Alert"), Some(("110132", "Use of Restricted Function")))
        }
        Action::ChangeUser { .. } => {
            ("E", ("110113", "Security Alert"), Some(("110137", "User Security Attributes Changed")))
        }
    };
    let outcome = match event.outcome {
        Outcome::Success => 0,
        Outcome::Minor => 4,
        Outcome::Serious => 8,
    };
    let at = DateTime::from_timestamp_millis(event.at_ms).unwrap_or_default();
    let at = at.to_rfc3339_opts(SecondsFormat::Millis, true);
    let _ = write!(
        xml,
        "<EventIdentification EventActionCode=\"{action}\" EventDateTime=\"{at}\" EventOutcomeIndicator=\"{outcome}\">"
    );
    code(xml, "EventID", id.0, "DCM", id.1);
    if let Some((value, meaning)) = kind {
        code(xml, "EventTypeCode", value, "DCM", meaning);
    }
    if matches!(event.action, Action::Acknowledge(_)) {
        code(xml, "EventTypeCode", "acknowledge", PRIVATE_SCHEME, "Alert acknowledged");
    }
    if !event.text.is_empty() {
        let _ = write!(xml, "<EventOutcomeDescription>{}</EventOutcomeDescription>", escaped(&event.text));
    }
    xml.push_str("</EventIdentification>");
}

/// The person who did it.
fn person(xml: &mut String, event: &Event, source: &Source, role: Option<(&str, &str)>) {
    let user = event.who.user.as_deref().unwrap_or("anonymous");
    // NetworkAccessPointTypeCode 2: an IP address; 1: a machine's name.
    let (point, kind) = match event.who.peer {
        Some(peer) => (peer.to_string(), 2),
        None => (source.host.clone(), 1),
    };
    let _ = write!(
        xml,
        "<ActiveParticipant UserID=\"{}\" UserIsRequestor=\"true\" NetworkAccessPointID=\"{}\" \
         NetworkAccessPointTypeCode=\"{kind}\">",
        escaped(user),
        escaped(&point)
    );
    if let Some((value, meaning)) = role {
        code(xml, "RoleIDCode", value, "DCM", meaning);
    }
    xml.push_str("</ActiveParticipant>");
}

/// Ourselves.
fn process(xml: &mut String, source: &Source, role: Option<(&str, &str)>) {
    let _ = write!(
        xml,
        "<ActiveParticipant UserID=\"{}\" AlternativeUserID=\"AETITLES={}\" UserIsRequestor=\"false\" \
         NetworkAccessPointID=\"{}\" NetworkAccessPointTypeCode=\"1\">",
        source.process_id,
        escaped(&source.ae_title),
        escaped(&source.host)
    );
    if let Some((value, meaning)) = role {
        code(xml, "RoleIDCode", value, "DCM", meaning);
    }
    xml.push_str("</ActiveParticipant>");
}

fn study_and_patient(xml: &mut String, subject: &Subject) {
    // PS3.15 table A.5.2-1, ParticipantObjectTypeCode 2 and role 3: system object, report.
    let _ = write!(
        xml,
        "<ParticipantObjectIdentification ParticipantObjectID=\"{}\" ParticipantObjectTypeCode=\"2\" \
         ParticipantObjectTypeCodeRole=\"3\">",
        escaped(&subject.study_uid)
    );
    code(xml, "ParticipantObjectIDTypeCode", "110180", "DCM", "Study Instance UID");
    xml.push_str("<ParticipantObjectName>CT study</ParticipantObjectName></ParticipantObjectIdentification>");
    // 1 and 1: person, patient. The schema wants a name; the ID is enough to find the patient by.
    let _ = write!(
        xml,
        "<ParticipantObjectIdentification ParticipantObjectID=\"{}\" ParticipantObjectTypeCode=\"1\" \
         ParticipantObjectTypeCodeRole=\"1\">",
        escaped(subject.patient_id.as_deref().unwrap_or("none"))
    );
    code(xml, "ParticipantObjectIDTypeCode", "2", "RFC-3881", "Patient Number");
    xml.push_str("<ParticipantObjectName>withheld</ParticipantObjectName></ParticipantObjectIdentification>");
}

/// The list of studies: the page itself, which is asked for by HTTP.
fn list(xml: &mut String) {
    // 2 and 3: system object, report.
    xml.push_str(
        "<ParticipantObjectIdentification ParticipantObjectID=\"/\" ParticipantObjectTypeCode=\"2\" \
         ParticipantObjectTypeCodeRole=\"3\">",
    );
    code(xml, "ParticipantObjectIDTypeCode", "12", "RFC-3881", "URI");
    let query = Base64::encode_string(b"GET /");
    let _ = write!(
        xml,
        "<ParticipantObjectQuery>{query}</ParticipantObjectQuery></ParticipantObjectIdentification>"
    );
}

/// Whose account was changed, or to whom results go, and how.
fn security(xml: &mut String, name: &str, kind: (&str, &str, &str), text: &str) {
    // 2 and 13: system object, security resource.
    let _ = write!(
        xml,
        "<ParticipantObjectIdentification ParticipantObjectID=\"{0}\" ParticipantObjectTypeCode=\"2\" \
         ParticipantObjectTypeCodeRole=\"13\">",
        escaped(name)
    );
    code(xml, "ParticipantObjectIDTypeCode", kind.0, kind.1, kind.2);
    let _ = write!(
        xml,
        "<ParticipantObjectName>{}</ParticipantObjectName>\
         <ParticipantObjectDetail type=\"Alert Description\" value=\"{}\"/></ParticipantObjectIdentification>",
        escaped(name),
        Base64::encode_string(text.as_bytes())
    );
}

/// A coded value: CodedValueType of the schema.
fn code(xml: &mut String, element: &str, value: &str, scheme: &str, meaning: &str) {
    let _ = write!(
        xml,
        "<{element} csd-code=\"{value}\" codeSystemName=\"{scheme}\" originalText=\"{meaning}\"/>"
    );
}

/// Text for an attribute or an element. XML 1.0 section 2.2 has no control characters, not even escaped; white space in an
/// attribute is read as spaces anyway (section 3.3.3).
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\t' | '\n' | '\r' => out.push(' '),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {
                out.push(char::REPLACEMENT_CHARACTER);
            }
            c => out.push(c),
        }
    }
    out
}
