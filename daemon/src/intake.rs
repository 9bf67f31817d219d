//! The intake: associations, and what they store.
//!
//! Owns the listener and a thread for each association; an instance is acknowledged only after the spool has synced
//! it and the database knows that its study is to be evaluated. What scanners tell beside it ([`services`]) is
//! acknowledged when the database has it. It never decides when a study is complete (the
//! assembler does) and never waits for the networks.
pub mod assembler;
mod filing;
mod services;
pub mod sop_classes;
pub mod spool;

use crate::config::{self, Config, Destination};
use crate::database::{Database, DatabaseError, Reception, StudyKey};
use crate::instance::Instance;
use crate::limits;
use crate::pulse::Beat;
use assembler::AssociationId;
use dimse::acceptor::{
    AcceptedAssociation, AcceptorConfig, AssociationRequest, DataSetEnd, Message, StoreRequest, accept,
    accept_tls,
};
use dimse::rustls::ServerConfig;
use dimse::{AssociationError, FileHead, Rejection, Status, write_file_head};
use filing::StoreError;
use log::{info, warn};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use spool::{Spool, SpoolError};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use study::{SopInstanceUid, StudyUid};

/// How long a listener waits for a connection before it shows that it is there.
const ACCEPT_TURN_MS: u16 = 1000;

/// What the intake tells the assembler.
pub enum Event {
    /// An instance was stored.
    Arrived {
        /// On which association; `None` when it was recovered from the spool.
        association: Option<AssociationId>,
        /// Its study.
        key: StudyKey,
        /// The instance.
        instance: Arc<Instance>,
    },
    /// An instance was sent that is there already.
    Repeated {
        /// On which association.
        association: AssociationId,
        /// Its study.
        study: StudyUid,
    },
    /// A study was made due, and then nothing came of its instance.
    Unchanged {
        /// The study.
        key: StudyKey,
        /// Its UID.
        study: StudyUid,
    },
    /// The scanner told of a procedure step of a study; it is in the database.
    StepChanged {
        /// The study.
        study: StudyUid,
    },
    /// A scanner asked for storage commitment.
    CommitmentRequested {
        /// Of these.
        instances: BTreeSet<SopInstanceUid>,
        /// Dropped when it was taken: the association waits for it, so that no more lists wait than there are
        /// associations.
        taken: Sender<()>,
    },
    /// An association ended.
    Ended {
        /// Which.
        association: AssociationId,
        /// Whether it was released, not aborted or lost.
        released: bool,
    },
}

/// A study that is `receiving` in the database.
#[derive(Clone, Copy)]
struct Receiving {
    key: StudyKey,
    instances: usize,
    /// Instances that are being filed, or were and the assembler has not taken them yet.
    in_flight: usize,
}

/// Counts something open until it is dropped, by a panic too.
struct Open(Arc<AtomicUsize>);

impl Open {
    /// `None` if there are `max` already.
    fn new(count: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let open = Self(Arc::clone(count));
        (count.fetch_add(1, Ordering::SeqCst) < max).then_some(open)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Shared by the associations.
pub struct Intake {
    config: Config,
    spool: Arc<Spool>,
    database: Arc<Database>,
    events: SyncSender<Event>,
    /// Connections, and those among them that the policy let in as associations.
    connections: Arc<AtomicUsize>,
    associations: Arc<AtomicUsize>,
    /// Instances that the assembler holds, and that wait for the evaluator or are evaluated.
    assembled: AtomicUsize,
    evaluating: AtomicUsize,
    next_association: AtomicU64,
    stopping: AtomicBool,
    /// Studies that are `receiving` in the database: their state need not be written again.
    receiving: Mutex<HashMap<StudyUid, Receiving>>,
    /// Who is to look at the database at once: for a scanner's commitment request, by its AE title; for an archive's
    /// answer, by the name of the destination.
    reporters: Mutex<HashMap<String, Sender<()>>>,
    deliverers: Mutex<HashMap<String, Sender<()>>>,
}

impl Intake {
    /// An intake that stores into `spool` and tells `events`.
    pub fn new(
        config: Config,
        spool: Arc<Spool>,
        database: Arc<Database>,
        events: SyncSender<Event>,
    ) -> Arc<Self> {
        Arc::new(Self {
            config,
            spool,
            database,
            events,
            connections: Arc::default(),
            associations: Arc::default(),
            assembled: AtomicUsize::new(0),
            evaluating: AtomicUsize::new(0),
            next_association: AtomicU64::new(1),
            stopping: AtomicBool::new(false),
            receiving: Mutex::default(),
            reporters: Mutex::default(),
            deliverers: Mutex::default(),
        })
    }

    /// Accepts connections, with TLS where `tls` is given, until [`Intake::stop`]. Beats at least every second.
    pub fn listen(
        self: &Arc<Self>,
        listener: &TcpListener,
        tls: Option<&Arc<ServerConfig>>,
        beat: &Beat,
    ) -> io::Result<()> {
        // A connection that goes away between the poll and the accept must not hold the thread. What is accepted blocks, as Linux has it.
        listener.set_nonblocking(true)?;
        loop {
            beat.beat();
            let mut wanted = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
            match poll(&mut wanted, ACCEPT_TURN_MS) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            let accepted = listener.accept();
            if self.stopping.load(Ordering::SeqCst) {
                break;
            }
            match accepted.map(|(stream, _)| stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(stream) => {
                    // Bounds the threads, whatever connects; associations over the configured number are refused
                    // in the protocol's words by the policy below.
                    let max = 2 * limits::ASSOCIATIONS_MAX;
                    let Some(open) = Open::new(&self.connections, max) else {
                        warn!("connection closed without an answer: {max} are open, the most there may be");
                        continue;
                    };
                    let (intake, tls) = (Arc::clone(self), tls.map(Arc::clone));
                    let spawned = std::thread::Builder::new().name("association".into()).spawn(move || {
                        intake.serve(stream, tls.as_ref());
                        drop(open);
                    });
                    if let Err(error) = spawned {
                        warn!("connection closed without an answer: no thread for it: {error}");
                    }
                }
                // Out of file descriptors, say: it passes.
                Err(error) => {
                    warn!("accept: {error}");
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
        Ok(())
    }

    /// `wake` hears when a storage commitment request of this scanner waits, and is closed by [`Intake::stop`].
    pub fn wake_reporter(&self, ae_title: &str, wake: Sender<()>) {
        lock(&self.reporters).insert(ae_title.to_owned(), wake);
    }

    /// `wake` hears when this destination answered about the results that it was sent, and is closed by [`Intake::stop`].
    pub fn wake_deliverer(&self, destination: &str, wake: Sender<()>) {
        lock(&self.deliverers).insert(destination.to_owned(), wake);
    }

    /// Ends [`Intake::listen`]; `addresses` are where it listens.
    pub fn stop(&self, addresses: &[SocketAddr]) {
        self.stopping.store(true, Ordering::SeqCst);
        lock(&self.reporters).clear();
        lock(&self.deliverers).clear();
        // Wakes `accept`; whether it answers does not matter.
        for address in addresses {
            drop(TcpStream::connect_timeout(address, Duration::from_secs(1)));
        }
    }

    /// Whether [`Intake::stop`] was called.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// The assembler holds so many instances.
    pub fn assembled(&self, instances: usize) {
        self.assembled.store(instances, Ordering::SeqCst);
    }

    /// So many instances wait for the evaluator from now on.
    pub fn evaluation_waits(&self, instances: usize) {
        self.evaluating.fetch_add(instances, Ordering::SeqCst);
    }

    /// So many instances were evaluated and let go.
    pub fn evaluated(&self, instances: usize) {
        self.evaluating.fetch_sub(instances, Ordering::SeqCst);
    }

    /// Whether no study waits for the evaluator or is evaluated.
    pub fn is_idle(&self) -> bool {
        self.evaluating.load(Ordering::SeqCst) == 0
    }

    /// Whether one more instance may be held.
    fn room(&self) -> Result<(), StoreError> {
        let held = self.assembled.load(Ordering::SeqCst) + self.evaluating.load(Ordering::SeqCst);
        if held < limits::INSTANCES_HELD_MAX { Ok(()) } else { Err(StoreError::TooManyHeld { held }) }
    }

    /// The assembler has taken an instance of the study.
    pub fn taken(&self, study: &StudyUid) {
        if let Some(receiving) = self.receiving().get_mut(study) {
            receiving.in_flight = receiving.in_flight.saturating_sub(1);
        }
    }

    /// A study was made due for an instance that was not filed, and the assembler has nothing of it: it is no longer
    /// due, unless another instance is on its way.
    pub fn nothing_came(&self, study: &StudyUid, key: StudyKey) -> Result<(), DatabaseError> {
        let mut receiving = self.receiving();
        if receiving.get(study).is_some_and(|r| r.key == key && r.in_flight == 0) {
            self.database.nothing_came(key)?;
            receiving.remove(study);
            self.spool.received(key);
        }
        Ok(())
    }

    /// Marks a study as being evaluated, so that its next instance counts as a late one. `None`, and nothing is
    /// marked, while an instance is still on its way to the assembler.
    pub fn evaluation_begins(
        &self,
        study: &StudyUid,
        key: StudyKey,
    ) -> Result<Option<Reception>, DatabaseError> {
        let mut receiving = self.receiving();
        if receiving.get(study).is_some_and(|r| r.in_flight > 0) {
            return Ok(None);
        }
        let reception = self.database.evaluate(key)?;
        receiving.remove(study);
        self.spool.received(key);
        Ok(Some(reception))
    }

    fn receiving(&self) -> MutexGuard<'_, HashMap<StudyUid, Receiving>> {
        lock(&self.receiving)
    }

    fn serve(&self, stream: TcpStream, tls: Option<&Arc<ServerConfig>>) {
        let id = AssociationId(self.next_association.fetch_add(1, Ordering::Relaxed));
        let acceptor = AcceptorConfig {
            artim_timeout: config::seconds(self.config.dicom.association_request_timeout_s),
            idle_timeout: config::seconds(self.config.dicom.idle_timeout_s),
            grant_scp: sop_classes::peer_may_provide(),
            ..AcceptorConfig::default()
        };
        let contexts = sop_classes::contexts();
        let peer = stream.peer_addr().map_or_else(|_| "unknown".into(), |a| a.to_string());
        // Silent connections don't count: anybody could keep the scanner out with them.
        let mut admitted = None;
        let mut policy = |request: &AssociationRequest| {
            admitted = Some(self.policy(request.calling.as_str(), request.called.as_str())?);
            Ok(())
        };
        let accepted = match tls {
            Some(tls) => accept_tls(stream, tls, &acceptor, &contexts, &mut policy),
            None => accept(stream, &acceptor, &contexts, &mut policy),
        };
        let mut association = match accepted {
            Ok(association) => association,
            Err(error) => return warn!("association {} from {peer} not established: {error}", id.0),
        };
        info!("association {} from {} at {peer}", id.0, association.request().calling);
        let mut stored = 0;
        let end = self.messages(&mut association, id, &mut stored);
        match &end {
            Ok(()) => info!("association {} released, {stored} instances", id.0),
            Err(error) => warn!("association {} from {peer} ended after {stored} instances: {error}", id.0),
        }
        // An assembler that has stopped needs no news: the spool has everything for the next start.
        let _ = self.events.send(Event::Ended { association: id, released: end.is_ok() });
        drop(admitted);
    }

    fn policy(&self, calling: &str, called: &str) -> Result<Open, Rejection> {
        if !self.config.called().any(|title| title == called) {
            return Err(Rejection::CALLED_AE_NOT_RECOGNIZED);
        }
        // Who keeps our results for good calls back to say so (PS3.4 annex J).
        let archive = |d: &Destination| matches!(d, Destination::Dicom(d) if d.storage_commitment && d.ae_title == calling);
        if !self.is_caller(calling) && !self.config.destinations.iter().any(archive) {
            return Err(Rejection::CALLING_AE_NOT_RECOGNIZED);
        }
        Open::new(&self.associations, self.config.dicom.associations_max)
            .ok_or(Rejection::TEMPORARY_CONGESTION)
    }

    /// Whether an AE title is a sender's. An archive that is none was let in to tell what it keeps, and for nothing else.
    fn is_caller(&self, calling: &str) -> bool {
        self.config.dicom.callers.iter().any(|caller| caller == "*" || caller == calling)
    }

    fn messages(
        &self,
        association: &mut AcceptedAssociation,
        id: AssociationId,
        stored: &mut usize,
    ) -> Result<(), AssociationError> {
        while let Some(message) = association.next()? {
            match message {
                Message::Echo(echo) => association.respond_echo(&echo, Status::SUCCESS)?,
                Message::Store(store) => {
                    let result = if self.is_caller(association.request().calling.as_str()) {
                        self.receive(association, &store, id)?
                    } else {
                        association.read_data_set(&mut io::sink(), 0)?;
                        Err(StoreError::NotAuthorized)
                    };
                    let (status, comment) = match &result {
                        Ok(()) => (Status::SUCCESS, None),
                        Err(error) => {
                            warn!(
                                "association {}: instance {} refused: {error}",
                                id.0, store.sop_instance_uid
                            );
                            let (status, comment) = error.status();
                            (status, Some(comment))
                        }
                    };
                    *stored += usize::from(result.is_ok());
                    association.respond_store(&store, status, comment)?;
                }
                Message::Normalized(request) => self.normalized(association, &request)?,
            }
        }
        Ok(())
    }

    /// Streams one data set to the spool. The outer error ends the association, the inner one is answered.
    fn receive(
        &self,
        association: &mut AcceptedAssociation,
        store: &StoreRequest,
        id: AssociationId,
    ) -> Result<Result<(), StoreError>, AssociationError> {
        let mut part = match self.room().and_then(|()| Ok(self.spool.begin()?)) {
            Ok(part) => part,
            Err(error) => {
                association.read_data_set(&mut io::sink(), 0)?;
                return Ok(Err(error));
            }
        };
        let implementation = dimse::Implementation::default();
        let (calling, called) = (association.request().calling.clone(), association.request().called.clone());
        let head = FileHead {
            sop_class_uid: &store.sop_class_uid,
            sop_instance_uid: &store.sop_instance_uid,
            transfer_syntax: &store.context.transfer_syntax,
            sending_ae_title: Some(calling.as_str()),
            receiving_ae_title: Some(called.as_str()),
            implementation: &implementation,
        };
        let io_error = |part: &spool::Part, source| SpoolError::Io { path: part.path().to_owned(), source };
        if let Err(source) = write_file_head(&mut part, &head) {
            association.read_data_set(&mut io::sink(), 0)?;
            return Ok(Err(io_error(&part, source).into()));
        }
        part.head_is_written();
        match association.read_data_set(&mut part, limits::INSTANCE_BYTES_MAX)? {
            DataSetEnd::Complete { .. } => Ok(self.keep(part, &store.sop_instance_uid, id)),
            DataSetEnd::OverLimit { limit_bytes } => Ok(Err(SpoolError::Io {
                path: part.path().to_owned(),
                source: io::Error::other(format!("the instance is larger than {limit_bytes} bytes")),
            }
            .into())),
            DataSetEnd::SinkFailed { error } => Ok(Err(io_error(&part, error).into())),
        }
    }
}

/// Each change of these maps is one step: a panic elsewhere leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}
