//! A DICOM peer that misbehaves, in this process.
use dimse::acceptor::{AcceptedAssociation, AcceptorConfig, Message, NAnswer, accept};
use dimse::{Status, uids};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

pub const SECONDARY_CAPTURE: &str = "1.2.840.10008.5.1.4.1.1.7";
pub const UPS_PUSH: &str = "1.2.840.10008.5.1.4.34.6.1";

/// What a peer does on one connection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Does {
    /// What it should.
    Good,
    /// As [`Does::Good`], in Implicit VR only.
    Implicit,
    /// Accepts the association and no presentation context.
    NoContext,
    /// Answers this status to every result.
    Says(Status),
    /// Takes the first result, then writes what is no PDU.
    Garbage,
    /// Takes the first result, and closes the connection without a response.
    Drops,
    /// Takes the first result, and aborts.
    Aborts,
    /// Takes the first result, and says nothing more.
    Hangs,
    /// Aborts at this result, takes the others.
    Poisoned(&'static str),
    /// Closes the connection before the association.
    Closes,
}

/// What a peer was given: UID and data set, whether it answered or not.
pub type Given = (String, Vec<u8>);

/// A peer that does one thing after the other, a connection each, and then the last one again and again.
pub fn peer(does: &[Does]) -> (String, mpsc::Receiver<Given>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (given, received) = mpsc::channel();
    let does = does.to_vec();
    std::thread::spawn(move || {
        for n in 0.. {
            let Ok((stream, _)) = listener.accept() else { return };
            // Its association's end is ours to judge.
            let _ = serve(stream, does[n.min(does.len() - 1)], &given);
        }
    });
    (address, received)
}

fn serve(stream: TcpStream, does: Does, given: &mpsc::Sender<Given>) -> Result<(), dimse::AssociationError> {
    const EXPLICIT: &[&str] = &[uids::EXPLICIT_VR_LITTLE_ENDIAN, uids::IMPLICIT_VR_LITTLE_ENDIAN];
    const IMPLICIT: &[&str] = &[uids::IMPLICIT_VR_LITTLE_ENDIAN];
    if does == Does::Closes {
        return Ok(());
    }
    let mut raw = stream.try_clone().unwrap();
    let syntaxes = if does == Does::Implicit { IMPLICIT } else { EXPLICIT };
    let mut contexts = vec![
        (SECONDARY_CAPTURE, syntaxes),
        (UPS_PUSH, syntaxes),
        (uids::STORAGE_COMMITMENT_PUSH_MODEL, syntaxes),
    ];
    if does == Does::NoContext {
        contexts = vec![(uids::VERIFICATION, syntaxes)];
    }
    let mut association = accept(stream, &AcceptorConfig::default(), &contexts, |_| Ok(()))?;
    while let Some(message) = association.next()? {
        let mut bytes = Vec::new();
        let uid = match &message {
            Message::Store(store) => store.sop_instance_uid.clone(),
            Message::Normalized(request) => request.sop_instance_uid.clone().unwrap(),
            Message::Echo(_) => continue,
        };
        let poison = matches!(does, Does::Poisoned(poison) if poison == uid);
        let _ = association.read_data_set(&mut bytes, 1 << 20)?;
        given.send((uid, bytes)).unwrap();
        match does {
            Does::Says(status) => respond(&mut association, &message, status)?,
            Does::Garbage => {
                raw.write_all(&[0x5a; 64]).unwrap();
                return Ok(());
            }
            Does::Drops => return Ok(()),
            Does::Aborts => {
                association.abort();
                return Ok(());
            }
            Does::Hangs => {
                std::thread::sleep(Duration::from_millis(400));
                return Ok(());
            }
            _ if poison => {
                association.abort();
                return Ok(());
            }
            _ => respond(&mut association, &message, Status::SUCCESS)?,
        }
    }
    Ok(())
}

fn respond(
    association: &mut AcceptedAssociation,
    message: &Message,
    status: Status,
) -> Result<(), dimse::AssociationError> {
    match message {
        Message::Echo(echo) => association.respond_echo(echo, status),
        Message::Store(store) => association.respond_store(store, status, None),
        Message::Normalized(request) => association.respond_normalized(request, status, NAnswer::default()),
    }
}
