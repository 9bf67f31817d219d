//! Presentation contexts and user information of the association. Owns the choice of a transfer syntax; never touches
//! the socket.

use dicom_ul::pdu::{
    Pdu, PresentationContextProposed, PresentationContextResult, PresentationContextResultReason,
    RequestorRoles, UserVariableItem, read_pdu,
};

use crate::error::AssociationError;
use crate::uids;
use crate::wire::{ASSOCIATE_BYTES_MAX, PDU_HEADER_BYTES};

/// PS3.7 section A.2.1: the one DICOM application context.
pub const APPLICATION_CONTEXT: &str = "1.2.840.10008.3.1.1.1";
/// PS3.8 section 9.3.1: version 1 is bit 0.
pub(crate) const PROTOCOL_VERSION: u16 = 1;

/// PS3.5 table 6.2-1: an LO is at most 64 characters.
const TEXT_LENGTH_MAX: usize = 64;

/// Abstract syntaxes with the transfer syntaxes for each, most preferred first.
pub type ContextTable<'a> = &'a [(&'a str, &'a [&'a str])];

/// The longest P-DATA-TF that we take by default, in bytes, in both roles.
pub const MAX_PDU_LENGTH_BYTES: u32 = 128 * 1024;

/// Our Implementation Class UID; PS3.5 section B.2: derived from a UUID, drawn once for this implementation.
pub const IMPLEMENTATION_CLASS_UID: &str = "2.25.302444526110858691514879724493734709067";

/// Our Implementation Version Name.
pub const IMPLEMENTATION_VERSION_NAME: &str = "TRIAGED_0_1";

/// Who we say that we are (PS3.7 section D.3.3.2).
#[derive(Debug, Clone)]
pub struct Implementation {
    /// Implementation Class UID.
    pub class_uid: String,
    /// Implementation Version Name, 1 to 16 characters.
    pub version_name: String,
}

impl Default for Implementation {
    fn default() -> Self {
        Self {
            class_uid: IMPLEMENTATION_CLASS_UID.to_owned(),
            version_name: IMPLEMENTATION_VERSION_NAME.to_owned(),
        }
    }
}

/// A presentation context that both sides agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NegotiatedContext {
    /// Odd, 1 to 255.
    pub id: u8,
    /// SOP class UID.
    pub abstract_syntax: String,
    /// Transfer syntax UID of every data set on it.
    pub transfer_syntax: String,
}

/// The roles of the association's requestor for a SOP class (PS3.7 section D.3.3.4). Without one it is user (SCU) and
/// the acceptor is provider (SCP).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleSelection {
    /// SOP class UID.
    pub sop_class_uid: String,
    /// The requestor may be user.
    pub scu: bool,
    /// The requestor may be provider.
    pub scp: bool,
}

/// The roles among the user information, as they came.
pub(crate) fn roles(user_variables: &[UserVariableItem]) -> impl Iterator<Item = RoleSelection> {
    user_variables.iter().filter_map(|variable| match variable {
        UserVariableItem::ScuScpRoleSelectionSubItem(uid, RequestorRoles { scu, scp }) => {
            Some(RoleSelection { sop_class_uid: trim_uid(uid).to_owned(), scu: *scu, scp: *scp })
        }
        _ => None,
    })
}

/// What the acceptor answers: an item for each class of `grant_scp` that was accepted in a context. The others get
/// none, which leaves them with the default roles (PS3.7 section D.3.3.4.2).
pub(crate) fn grant_roles(
    proposed: &[UserVariableItem],
    accepted: &[NegotiatedContext],
    grant_scp: &[String],
) -> Vec<RoleSelection> {
    let usable = |uid: &String| grant_scp.contains(uid) && accepted.iter().any(|c| c.abstract_syntax == *uid);
    let mut granted: Vec<RoleSelection> = Vec::new();
    for role in roles(proposed).filter(|role| usable(&role.sop_class_uid)) {
        if granted.iter().all(|other| other.sop_class_uid != role.sop_class_uid) {
            granted.push(role);
        }
    }
    granted
}

/// What the requestor may do after all: never more than it proposed (PS3.7 section D.3.3.4.2).
pub(crate) fn accepted_roles(proposed: &[RoleSelection], answer: &[UserVariableItem]) -> Vec<RoleSelection> {
    let answers: Vec<_> = roles(answer).collect();
    let accepted = |ours: &RoleSelection| {
        let theirs = answers.iter().find(|role| role.sop_class_uid == ours.sop_class_uid)?;
        let (scu, scp) = (ours.scu && theirs.scu, ours.scp && theirs.scp);
        Some(RoleSelection { sop_class_uid: ours.sop_class_uid.clone(), scu, scp })
    };
    proposed.iter().filter_map(accepted).collect()
}

/// Removes the padding that peers leave around UIDs (PS3.5 section 9.1 pads with NUL, some with spaces).
pub(crate) fn trim_uid(text: &str) -> &str {
    text.trim_matches(['\0', ' '])
}

/// What an LO of the default repertoire may hold (PS3.5 table 6.2-1), which is also what a log line may: at most 64
/// printable ASCII characters, no backslash; anything else becomes a question mark.
pub(crate) fn printable(text: &str) -> String {
    let printable = |c: char| if (' '..='~').contains(&c) && c != '\\' { c } else { '?' };
    text.chars().map(printable).take(TEXT_LENGTH_MAX).collect()
}

/// Decodes an association PDU, whose header was taken off, by `dicom-ul`.
pub(crate) fn parse_associate(pdu_type: u8, body: &[u8]) -> Result<Pdu, AssociationError> {
    let mut pdu = Vec::with_capacity(PDU_HEADER_BYTES + body.len());
    pdu.extend_from_slice(&[pdu_type, 0]);
    pdu.extend_from_slice(&(body.len() as u32).to_be_bytes()); // bounded by the wire
    pdu.extend_from_slice(body);
    match read_pdu(pdu.as_slice(), ASSOCIATE_BYTES_MAX as u32 * 2, true) {
        Ok(Some(pdu)) => Ok(pdu),
        Ok(None) => Err(AssociationError::protocol("association PDU ends inside an item")),
        Err(e) => Err(AssociationError::protocol(format!("association PDU: {e}"))),
    }
}

/// Chooses, for each proposed context, by the order of `table`: the results for the A-ASSOCIATE-AC and those accepted.
pub(crate) fn choose(
    proposed: &[PresentationContextProposed],
    table: ContextTable<'_>,
) -> Result<(Vec<PresentationContextResult>, Vec<NegotiatedContext>), AssociationError> {
    let mut results = Vec::with_capacity(proposed.len());
    let mut accepted: Vec<NegotiatedContext> = Vec::new();
    let mut seen = [false; 256];
    for context in proposed {
        // PS3.8 section 9.3.2.2: odd identifiers, each once; hence at most 128 contexts.
        if context.id.is_multiple_of(2) || std::mem::replace(&mut seen[usize::from(context.id)], true) {
            let what = format!("presentation context id {} is even or repeated", context.id);
            return Err(AssociationError::protocol(what));
        }
        let abstract_syntax = trim_uid(&context.abstract_syntax);
        let offered = || context.transfer_syntaxes.iter().map(|uid| trim_uid(uid));
        let (reason, transfer_syntax) = match table.iter().find(|(known, _)| *known == abstract_syntax) {
            None => (PresentationContextResultReason::AbstractSyntaxNotSupported, None),
            Some((_, ours)) => match ours.iter().find(|uid| offered().any(|theirs| theirs == **uid)) {
                None => (PresentationContextResultReason::TransferSyntaxesNotSupported, None),
                Some(uid) => (PresentationContextResultReason::Acceptance, Some(*uid)),
            },
        };
        if let Some(uid) = transfer_syntax {
            accepted.push(NegotiatedContext {
                id: context.id,
                abstract_syntax: abstract_syntax.to_owned(),
                transfer_syntax: uid.to_owned(),
            });
        }
        // PS3.8 section 9.3.3.2: not significant unless accepted, but some peers want one there.
        let transfer_syntax = transfer_syntax.unwrap_or(uids::IMPLICIT_VR_LITTLE_ENDIAN).to_owned();
        results.push(PresentationContextResult { id: context.id, reason, transfer_syntax });
    }
    Ok((results, accepted))
}

/// The contexts to propose: one for each row of `table`, with identifiers 1, 3, 5, …
pub(crate) fn propose(table: ContextTable<'_>) -> Result<Vec<PresentationContextProposed>, AssociationError> {
    let proposed: Vec<_> = (1..=255u8)
        .step_by(2)
        .zip(table)
        .map(|(id, (abstract_syntax, transfer_syntaxes))| PresentationContextProposed {
            id,
            abstract_syntax: (*abstract_syntax).to_owned(),
            transfer_syntaxes: transfer_syntaxes.iter().map(|uid| (*uid).to_owned()).collect(),
        })
        .collect();
    if proposed.is_empty() || proposed.len() < table.len() {
        let what = format!("{} presentation contexts to propose, 1 to 128 are possible", table.len());
        return Err(AssociationError::protocol(what));
    }
    Ok(proposed)
}

/// The contexts that the peer accepted of those that we proposed.
pub(crate) fn accepted(
    proposed: &[PresentationContextProposed],
    results: &[PresentationContextResult],
) -> Vec<NegotiatedContext> {
    let accepted = results.iter().filter(|r| r.reason == PresentationContextResultReason::Acceptance);
    accepted
        .filter_map(|result| {
            let context = proposed.iter().find(|context| context.id == result.id)?;
            let transfer_syntax = trim_uid(&result.transfer_syntax);
            // A transfer syntax that we did not offer is as good as a refusal: we could not encode for it.
            context.transfer_syntaxes.iter().find(|uid| *uid == transfer_syntax)?;
            Some(NegotiatedContext {
                id: result.id,
                abstract_syntax: context.abstract_syntax.clone(),
                transfer_syntax: transfer_syntax.to_owned(),
            })
        })
        .collect()
}

/// The user information that we send (PS3.7 section D.3.3).
pub(crate) fn user_information(
    max_pdu_length: u32,
    implementation: &Implementation,
    roles: &[RoleSelection],
) -> Vec<UserVariableItem> {
    let mut items = vec![
        UserVariableItem::MaxLength(max_pdu_length),
        UserVariableItem::ImplementationClassUID(implementation.class_uid.clone()),
    ];
    items.extend(roles.iter().map(|RoleSelection { sop_class_uid, scu, scp }| {
        UserVariableItem::ScuScpRoleSelectionSubItem(
            sop_class_uid.clone(),
            RequestorRoles { scu: *scu, scp: *scp },
        )
    }));
    // PS3.7 annex D numbers the sub-items, and some parsers want them in that order: 52H, 54H, 55H.
    items.push(UserVariableItem::ImplementationVersionName(implementation.version_name.clone()));
    items
}

/// The maximum length of a P-DATA-TF that the peer takes; 0 is no limit (PS3.8 section D.1).
pub(crate) fn max_pdu_length(user_variables: &[UserVariableItem]) -> u32 {
    user_variables
        .iter()
        .find_map(|v| if let UserVariableItem::MaxLength(n) = v { Some(*n) } else { None })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::pdu_type;

    const TABLE: ContextTable<'static> = &[("1.1", &["ts.a", "ts.b", "ts.c"]), ("1.2", &["ts.a"])];

    fn proposal(id: u8, abstract_syntax: &str, offered: &[&str]) -> PresentationContextProposed {
        PresentationContextProposed {
            id,
            abstract_syntax: abstract_syntax.to_owned(),
            transfer_syntaxes: offered.iter().map(|uid| (*uid).to_owned()).collect(),
        }
    }

    #[test]
    fn our_order_decides() {
        use PresentationContextResultReason as Reason;
        let cases: [(&str, &[&str], Reason, Option<&str>); 6] = [
            ("1.1", &["ts.c", "ts.b"], Reason::Acceptance, Some("ts.b")),
            ("1.1\0", &["ts.c\0", "ts.a\0"], Reason::Acceptance, Some("ts.a")),
            ("1.2", &["ts.b"], Reason::TransferSyntaxesNotSupported, None),
            ("1.2", &[], Reason::TransferSyntaxesNotSupported, None),
            ("9.9", &["ts.a"], Reason::AbstractSyntaxNotSupported, None),
            ("", &["ts.a"], Reason::AbstractSyntaxNotSupported, None),
        ];
        for (abstract_syntax, offered, reason, transfer_syntax) in cases {
            let (results, accepted) =
                choose(&[proposal(3, abstract_syntax, offered)], TABLE).expect("valid ids");
            assert_eq!(results[0].reason, reason, "{abstract_syntax} {offered:?}");
            assert_eq!(accepted.first().map(|c| c.transfer_syntax.as_str()), transfer_syntax);
        }
    }

    #[test]
    fn identifiers_are_odd_and_unique() {
        assert!(choose(&[proposal(2, "1.1", &["ts.a"])], TABLE).is_err());
        assert!(choose(&[proposal(1, "1.1", &["ts.a"]), proposal(1, "1.2", &["ts.a"])], TABLE).is_err());
    }

    #[test]
    fn proposals_are_bounded_and_answers_checked() {
        assert!(propose(&[]).is_err());
        assert!(propose(&[("1", &["a"][..]); 129]).is_err());
        let proposed = propose(&[("1", &["a"][..]); 128]).expect("128 fit");
        assert_eq!(proposed[127].id, 255);
        let answer = |id, transfer_syntax: &str| PresentationContextResult {
            id,
            reason: PresentationContextResultReason::Acceptance,
            transfer_syntax: transfer_syntax.to_owned(),
        };
        assert_eq!(
            accepted(&proposed, &[answer(1, "a"), answer(3, "never offered"), answer(2, "a")]).len(),
            1
        );
    }

    #[test]
    fn roles_are_answered_for_what_is_granted() {
        let role = |uid: &str, scu, scp| RoleSelection { sop_class_uid: uid.to_owned(), scu, scp };
        let implementation = Implementation::default();
        let items = |roles: &[RoleSelection]| user_information(0, &implementation, roles);
        let context = |uid: &str| NegotiatedContext {
            id: 1,
            abstract_syntax: uid.to_owned(),
            transfer_syntax: "ts.a".to_owned(),
        };
        let accepted = [context("1.1"), context("1.2")];
        let grant = ["1.1".to_owned(), "1.3".to_owned()];
        // Granted; not on the list; on the list, but no context of it; proposed twice.
        let proposed = [
            role("1.1", false, true),
            role("1.2", true, true),
            role("1.3", true, true),
            role("1.1", true, true),
        ];
        let granted = grant_roles(&items(&proposed), &accepted, &grant);
        assert_eq!(granted, [role("1.1", false, true)]);
        assert!(grant_roles(&items(&[]), &accepted, &grant).is_empty());

        // An answer that gives more than was asked for, or speaks of something else, is cut down.
        let answer = items(&[role("1.1", true, true), role("1.2\0", true, false), role("9", true, true)]);
        let got = accepted_roles(&[role("1.1", false, true), role("1.2", true, true)], &answer);
        assert_eq!(got, [role("1.1", false, true), role("1.2", true, false)]);
    }

    #[test]
    fn text_for_peers_and_logs() {
        assert_eq!(printable("disk full: /a\\b\n"), "disk full: /a?b?");
        assert_eq!(printable(&"x".repeat(100)).len(), 64);
        assert_eq!(printable(&"ä".repeat(100)), "?".repeat(64));
    }

    #[test]
    fn garbage_is_no_association() {
        let mut state = 7u32;
        for length in 0..2_000usize {
            let body: Vec<u8> = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    // Small values make plausible item types and lengths.
                    if state >> 31 == 0 {
                        (state >> 24) as u8 & 0x7
                    } else {
                        [0x10, 0x20, 0x30, 0x40, 0x50][state as usize % 5]
                    }
                })
                .collect();
            let _ = parse_associate(pdu_type::ASSOCIATE_RQ, &body);
            let _ = parse_associate(pdu_type::ASSOCIATE_AC, &body);
        }
    }
}
