//! The negotiation of the accepting role (PS3.8 sections 7.1 and 9.3.2 to 9.3.4). Owns the protocol's own reasons to
//! refuse; whom we serve is the caller's policy.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dicom_ul::pdu::{
    AssociationAC, AssociationRQ, Pdu, PresentationContextResult, UserVariableItem, write_pdu,
};

use rustls::ServerConfig;

use super::{AcceptedAssociation, AcceptorConfig, DataSet};
use crate::ae::AeTitle;
use crate::channel::{Channel, Timeouts};
use crate::error::{AssociationError, Rejection};
use crate::negotiation::{
    self, APPLICATION_CONTEXT, ContextTable, NegotiatedContext, PROTOCOL_VERSION, printable,
};
use crate::transport;
use crate::wire::{ASSOCIATE_BYTES_MAX, Patience, Wire, pdu_type};

/// Who asks for an association.
#[derive(Debug, Clone)]
pub struct AssociationRequest {
    /// The peer's address.
    pub peer: SocketAddr,
    /// Calling AE title.
    pub calling: AeTitle,
    /// Called AE title.
    pub called: AeTitle,
    /// Implementation Class UID, made printable.
    pub implementation_class_uid: Option<String>,
    /// Implementation Version Name, made printable.
    pub implementation_version_name: Option<String>,
}

/// Negotiates an association on a fresh connection.
///
/// `policy` decides on the AE titles and on our load, after the protocol itself was checked; `contexts` lists what we
/// support, each with its transfer syntaxes in **our** order of preference. On every error the peer was told, where it
/// could be, and the connection is closed.
pub fn accept(
    stream: TcpStream,
    config: &AcceptorConfig,
    contexts: ContextTable<'_>,
    policy: impl FnOnce(&AssociationRequest) -> Result<(), Rejection>,
) -> Result<AcceptedAssociation, AssociationError> {
    let end_by = Instant::now() + config.artim_timeout;
    establish(Wire::new(stream, config.write_timeout)?, end_by, config, contexts, policy)
}

/// Like [`accept`], with TLS on the connection: `tls` says with which certificate we answer and whose we ask for.
///
/// The handshake is part of ARTIM's time. A peer whose certificate is not trusted never gets to ask for an
/// association: it is sent TLS's own alert, and this is [`AssociationError::Tls`].
pub fn accept_tls(
    stream: TcpStream,
    tls: &Arc<ServerConfig>,
    config: &AcceptorConfig,
    contexts: ContextTable<'_>,
    policy: impl FnOnce(&AssociationRequest) -> Result<(), Rejection>,
) -> Result<AcceptedAssociation, AssociationError> {
    let end_by = Instant::now() + config.artim_timeout;
    let mut wire = Wire::new(stream, config.write_timeout)?;
    wire.start_tls(transport::tls_server(tls)?, config.artim_timeout)?;
    establish(wire, end_by, config, contexts, policy)
}

fn establish(
    mut wire: Wire,
    end_by: Instant,
    config: &AcceptorConfig,
    contexts: ContextTable<'_>,
    policy: impl FnOnce(&AssociationRequest) -> Result<(), Rejection>,
) -> Result<AcceptedAssociation, AssociationError> {
    let negotiated = negotiate(&mut wire, end_by, config, contexts, policy);
    let (request, contexts, peer_max) = match negotiated {
        Ok(negotiated) => negotiated,
        Err(error) => {
            // PS3.8 table 9-10, AA-2: on ARTIM's expiry the connection is closed without an abort.
            if !matches!(error, AssociationError::Timeout { .. }) {
                wire.abort_for(&error);
            }
            return Err(error);
        }
    };
    let timeouts = Timeouts { pdu: config.pdu_timeout, message: config.message_timeout };
    let channel = Channel::new(wire, timeouts, config.max_pdu_length, peer_max);
    let idle_timeout = config.idle_timeout;
    Ok(AcceptedAssociation {
        request,
        contexts,
        channel,
        idle_timeout,
        data_set: DataSet::None,
        released: false,
    })
}

type Negotiated = (AssociationRequest, Vec<NegotiatedContext>, u32);

fn negotiate(
    wire: &mut Wire,
    end_by: Instant,
    config: &AcceptorConfig,
    contexts: ContextTable<'_>,
    policy: impl FnOnce(&AssociationRequest) -> Result<(), Rejection>,
) -> Result<Negotiated, AssociationError> {
    let rq = read_request(wire, end_by, config.artim_timeout)?;
    let (request, results, accepted) = match judge(wire.peer(), &rq, contexts, policy) {
        Ok(verdict) => verdict?,
        Err(rejection) => {
            let Rejection { result, source, reason } = rejection;
            wire.write_short(
                pdu_type::ASSOCIATE_RJ,
                [0, result, source, reason],
                "rejecting the association",
            )?;
            wire.close();
            let (calling, called) = (rq.calling_ae_title, rq.called_ae_title);
            return Err(AssociationError::Refused { calling, called, rejection });
        }
    };
    let peer_max = negotiation::max_pdu_length(&rq.user_variables);
    let roles = negotiation::grant_roles(&rq.user_variables, &accepted, &config.grant_scp);
    let ac = Pdu::AssociationAC(AssociationAC {
        protocol_version: PROTOCOL_VERSION,
        // PS3.8 section 9.3.3: the titles are sent back as they came.
        calling_ae_title: rq.calling_ae_title,
        called_ae_title: rq.called_ae_title,
        application_context_name: APPLICATION_CONTEXT.to_owned(),
        presentation_contexts: results,
        user_variables: negotiation::user_information(config.max_pdu_length, &config.implementation, &roles),
    });
    let mut bytes = Vec::new();
    write_pdu(&mut bytes, &ac).map_err(|e| AssociationError::protocol(format!("A-ASSOCIATE-AC: {e}")))?;
    wire.write(&bytes, "accepting the association")?;
    Ok((request, accepted, peer_max))
}

fn read_request(
    wire: &mut Wire,
    end_by: Instant,
    artim_timeout: Duration,
) -> Result<AssociationRQ, AssociationError> {
    let patience = Patience {
        start_by: end_by,
        pdu_timeout: artim_timeout,
        end_by,
        during: "waiting for an association request",
    };
    match wire.read_pdu(patience, ASSOCIATE_BYTES_MAX)? {
        pdu_type::ASSOCIATE_RQ => {}
        pdu_type::ABORT => return Err(wire.aborted()),
        other => {
            return Err(AssociationError::protocol(format!(
                "PDU of type {other:#04X} before an association"
            )));
        }
    }
    match negotiation::parse_associate(pdu_type::ASSOCIATE_RQ, wire.body())? {
        Pdu::AssociationRQ(rq) => Ok(rq),
        _ => Err(AssociationError::protocol("not an A-ASSOCIATE-RQ")),
    }
}

type Verdict = (AssociationRequest, Vec<PresentationContextResult>, Vec<NegotiatedContext>);

/// The checks of PS3.8 section 9.3.4, in the order of table 9-21: the protocol first, then the policy.
fn judge(
    peer: SocketAddr,
    rq: &AssociationRQ,
    contexts: ContextTable<'_>,
    policy: impl FnOnce(&AssociationRequest) -> Result<(), Rejection>,
) -> Result<Result<Verdict, AssociationError>, Rejection> {
    // PS3.8 section 9.3.2: only bit 0 is tested.
    if rq.protocol_version & PROTOCOL_VERSION == 0 {
        return Err(Rejection::PROTOCOL_VERSION_NOT_SUPPORTED);
    }
    if negotiation::trim_uid(&rq.application_context_name) != APPLICATION_CONTEXT {
        return Err(Rejection::APPLICATION_CONTEXT_NOT_SUPPORTED);
    }
    // A title that is none can't be on anybody's list.
    let calling = AeTitle::new(&rq.calling_ae_title).map_err(|_| Rejection::CALLING_AE_NOT_RECOGNIZED)?;
    let called = AeTitle::new(&rq.called_ae_title).map_err(|_| Rejection::CALLED_AE_NOT_RECOGNIZED)?;
    let implementation_class_uid = rq.user_variables.iter().find_map(|v| match v {
        UserVariableItem::ImplementationClassUID(uid) => Some(printable(negotiation::trim_uid(uid))),
        _ => None,
    });
    let implementation_version_name = rq.user_variables.iter().find_map(|v| match v {
        UserVariableItem::ImplementationVersionName(name) => Some(printable(name)),
        _ => None,
    });
    let request =
        AssociationRequest { peer, calling, called, implementation_class_uid, implementation_version_name };
    policy(&request)?;
    Ok(negotiation::choose(&rq.presentation_contexts, contexts)
        .map(|(results, accepted)| (request, results, accepted)))
}
