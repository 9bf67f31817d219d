//! The daemon's own ear, and those whom it sends to: C-ECHO, or a connection where HL7 is spoken.
use super::Seen;
use crate::config::{Config, Destination};
use crate::tls::Identity;
use dimse::requestor::{Requestor, RequestorConfig};
use dimse::{AeTitle, AssociationError, Status, TlsClient, uids};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

/// How long each step with a peer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the daemon is called, which may be busy starting, and how long between.
const CALLS: usize = 3;
const BETWEEN_CALLS: Duration = Duration::from_secs(1);
/// Who calls where everybody may.
const DOCTOR: &str = "DOCTOR";

/// The daemon answers where it listens.
pub fn ourselves(config: &Config) -> Seen {
    let dicom = &config.dicom;
    let caller = dicom.callers.iter().find(|caller| *caller != "*").map_or(DOCTOR, String::as_str);
    let mut last = String::new();
    for turn in 0..CALLS {
        if turn > 0 {
            std::thread::sleep(BETWEEN_CALLS);
        }
        let seen = match (dicom.listen, dicom.listen_tls) {
            (Some(at), _) => {
                let at = reachable(at);
                // After a restart all scanners may call at once: one that turns us away because it is full is there.
                call(&at.to_string(), caller, &dicom.ae_title, None).map(|answer| match answer {
                    Ok(()) => format!("{} answers at {at}", dicom.ae_title),
                    Err(rejection) => format!("{} at {at} listens: {rejection}", dicom.ae_title),
                })
            }
            (None, Some(at)) => {
                // Whether our own certificate may call us is the site's to say: that somebody listens must do.
                let at = reachable(at);
                let connected = TcpStream::connect_timeout(&at, PATIENCE);
                connected
                    .map(|_| format!("connected to {at}, which speaks TLS"))
                    .map_err(|error| format!("{at}: {error}"))
            }
            (None, None) => return Err("the daemon listens nowhere".into()),
        };
        match seen {
            Ok(seen) => return Ok(seen),
            Err(why) => last = why,
        }
    }
    Err(format!("{last}; is triaged.service running?"))
}

/// An address that is called, for one that is listened on.
fn reachable(at: SocketAddr) -> SocketAddr {
    let ip = match at.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, at.port())
}

/// All destinations and the worklist, at once.
pub fn others(config: &Config) -> Vec<(String, Seen)> {
    let identity = config.tls.as_ref().map(Identity::load).transpose();
    let (identity, no_identity) = match identity {
        Ok(identity) => (identity, None),
        Err(error) => (None, Some(format!("{error:#}"))),
    };
    let tls = |wanted: bool| -> Result<Option<TlsClient>, String> {
        match (wanted, &identity, &no_identity) {
            (false, ..) => Ok(None),
            (true, Some(identity), _) => {
                Ok(Some(TlsClient { config: Arc::clone(&identity.client), server_name: None }))
            }
            (true, None, Some(why)) => Err(why.clone()),
            (true, None, None) => Err("TLS is wanted, and there is no [tls]".into()),
        }
    };
    let ours = config.dicom.ae_title.as_str();
    let dicom = |address: &str, title: &str, wanted: bool| {
        echo(address, ours, title, tls(wanted)?).map(|()| format!("{title} answers at {address}"))
    };
    std::thread::scope(|scope| {
        let mut asked = Vec::new();
        for destination in &config.destinations {
            let look = move || match destination {
                Destination::Dicom(d) => dicom(&d.address, &d.ae_title, d.tls),
                Destination::Ups(d) => dicom(&d.address, &d.ae_title, d.tls),
                Destination::Hl7(d) => {
                    connect(&d.address).map(|()| format!("{} takes connections", d.address))
                }
            };
            asked.push((destination.name().to_owned(), scope.spawn(look)));
        }
        if let Some(worklist) = &config.worklist {
            let look = move || dicom(&worklist.address, &worklist.ae_title, worklist.tls);
            asked.push(("worklist".to_owned(), scope.spawn(look)));
        }
        let heard = |(name, thread): (String, std::thread::ScopedJoinHandle<'_, Seen>)| {
            (name, thread.join().unwrap_or_else(|_| Err("a fault of this program".into())))
        };
        asked.into_iter().map(heard).collect()
    })
}

/// C-ECHO.
fn echo(address: &str, calling: &str, called: &str, tls: Option<TlsClient>) -> Result<(), String> {
    call(address, calling, called, tls)?.map_err(|error| format!("{called} at {address}: {error}"))
}

/// The same, of whether there is somebody: the inner error is an answer, too.
fn call(
    address: &str,
    calling: &str,
    called: &str,
    tls: Option<TlsClient>,
) -> Result<Result<(), AssociationError>, String> {
    let title = |text: &str| text.parse::<AeTitle>().map_err(|error| format!("AE title {text:?}: {error}"));
    let config = RequestorConfig {
        connect_timeout: PATIENCE,
        association_timeout: PATIENCE,
        response_timeout: PATIENCE,
        write_timeout: PATIENCE,
        tls,
        ..RequestorConfig::default()
    };
    let contexts: [(&str, &[&str]); 1] = [(uids::VERIFICATION, &[uids::IMPLICIT_VR_LITTLE_ENDIAN])];
    let answer = |error: AssociationError| format!("{called} at {address}: {error}");
    let mut peer = match Requestor::connect(address, &title(calling)?, &title(called)?, &contexts, &config) {
        Err(error @ AssociationError::Rejected(_)) => return Ok(Err(error)),
        connected => connected.map_err(answer)?,
    };
    let status = peer.echo().map_err(answer)?;
    // It has answered; how it says goodbye does not matter.
    let _ = peer.release();
    if status == Status::SUCCESS {
        Ok(Ok(()))
    } else {
        Err(format!("{called} at {address} answers C-ECHO with {status:?}"))
    }
}

fn connect(address: &str) -> Result<(), String> {
    let addresses = address.to_socket_addrs().map_err(|error| format!("{address}: {error}"))?;
    let mut last = format!("{address} has no address");
    for at in addresses {
        match TcpStream::connect_timeout(&at, PATIENCE) {
            Ok(_) => return Ok(()),
            Err(error) => last = format!("{at}: {error}"),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listens_everywhere_is_called_on_loopback() {
        for (listens, called) in
            [("0.0.0.0:104", "127.0.0.1:104"), ("[::]:104", "[::1]:104"), ("10.0.0.9:104", "10.0.0.9:104")]
        {
            assert_eq!(reachable(listens.parse().unwrap()), called.parse().unwrap());
        }
    }
}
