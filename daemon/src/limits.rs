//! Every bound of the daemon, each with the sum it comes from. Configuration may lower some, never raise them.

use std::time::Duration;

/// Slices that a series may have. 1,000 slices of 512² are 550 MB at the usual 38 cm: 1,000 × (190² × 2 planes × 4
/// bytes on the 2 mm grid + 512² label bytes); 1.4 GB where the pixels are 1.5 mm (384² on the grid). The longest chest protocol seen (0.3 mm over 30 cm) has as many.
pub const SLICES_PER_SERIES_MAX: usize = 1_000;

/// Instances that a study may have: five reconstructions of the longest series.
pub const INSTANCES_PER_STUDY_MAX: usize = 5_000;

/// Bytes of one instance: an enhanced CT of 1,000 slices of 512² in 16 bits is 524 MB and would be refused anyway; a
/// single 4096² slice is 32 MiB.
pub const INSTANCE_BYTES_MAX: u64 = 64 << 20;

/// Slices that wait for their preparation or are prepared before their study is complete, over all studies: two of the
/// longest series. Beyond it they are prepared when their study is complete.
pub const PREPARED_SLICES_MAX: usize = 2_000;

/// Bytes of prepared slices, over all studies, from which no further one is begun: 2,000 of a usual field of view
/// (190² × 2 planes × 4 bytes = 0.3 MB each).
pub const PREPARED_BYTES_MAX: usize = 600 << 20;

/// Associations at a time, unless the configuration says fewer: each costs a thread, two PDU buffers of 128 KiB and,
/// until it is on the disk, the instance that it receives: 0.5 MB of a usual slice, [`INSTANCE_BYTES_MAX`] at the most.
/// Twice as many connections may be open.
pub const ASSOCIATIONS_MAX: usize = 64;

/// Threads that the configuration may ask for: more than any board has cores, fewer than a service may have.
pub const THREADS_MAX: usize = 256;

/// Bytes of the configuration file.
pub const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// Events between the associations and the assembler: one for each instance of a study, twice over; 20 MB with the
/// headers of usual instances. Beyond it the associations wait.
pub const EVENTS_MAX: usize = 2 * INSTANCES_PER_STUDY_MAX;

/// The longest pause between two attempts at a delivery: a peer that comes back is noticed within it. The pauses are
/// spread by a quarter, so that none ends later than one and a half times this.
pub const DELIVERY_PAUSE_MAX_MS: i64 = 300_000;

/// Instances that are held in memory until their study is evaluated, over all studies; beyond it senders are told to
/// come back. An instance is its header, with the 15 attributes that the results repeat: 2 KiB as scanners write it, and
/// 64 KiB if each attribute is as long as is read. So 40 MB, and 1.3 GB from a sender that does its worst; what is on
/// its way ([`EVENTS_MAX`]) and one reopened study come on top, three quarters as much.
pub const INSTANCES_HELD_MAX: usize = 20_000;

/// Axial slices that are sent as pictures for one study: each is 0.8 MB.
pub const SLICES_SENT_MAX: usize = 24;

/// Instances that a storage commitment request or a procedure step may name: two of the largest studies.
pub const REFERENCES_MAX: usize = 2 * INSTANCES_PER_STUDY_MAX;

/// Bytes of a service's data set (procedure steps, storage commitment): [`REFERENCES_MAX`] items of two UIDs of 64
/// characters with their headers are 1.6 MB; twice that, for the elements beside them.
pub const SERVICE_DATA_SET_BYTES_MAX: u64 = 4 << 20;

/// Series, scheduled steps and the like in a procedure step.
pub const STEP_ITEMS_MAX: usize = 200;

/// Procedure steps that a study may have: a scanner makes one, or a few where an examination is interrupted. All of
/// them together list [`REFERENCES_MAX`] instances at the most: 1 MB while the study is received.
pub const STEPS_PER_STUDY_MAX: u32 = 32;

/// UIDs that scanners list (in procedure steps and storage commitment requests) and that are held while studies are
/// received, over all of them; beyond it what scanners tell of a further study does not count. Five of the longest
/// lists, 10 MB.
pub const LISTED_HELD_MAX: usize = 5 * REFERENCES_MAX;

/// Procedure steps that are remembered, the latest ones: a scanner performs some 30 to 100 a day.
pub const PROCEDURE_STEPS_MAX: u32 = 10_000;

/// Storage commitment requests whose report waits, over all scanners; more are refused as a lack of resources. A
/// scanner makes one or a few a study.
pub const COMMITMENTS_MAX: u32 = 2_000;

/// Attempts at a storage commitment report: at one every [`DELIVERY_PAUSE_MAX_MS`] they last a day.
pub const COMMITMENT_ATTEMPTS_MAX: u32 = 300;

/// How long a study waits for its evaluation before it counts as the most urgent: some twenty evaluations on a slow
/// machine.
pub const QUEUE_WAIT_MAX: Duration = Duration::from_secs(600);

/// Studies whose priority is asked for at a time; beyond it a study counts as routine.
pub const WORKLIST_QUESTIONS_MAX: usize = 1_000;

/// Matches that are taken from the worklist, and their bytes: a patient has a few scheduled steps, of some 2 KiB each.
pub const WORKLIST_MATCHES_MAX: usize = 64;
/// See [`WORKLIST_MATCHES_MAX`].
pub const WORKLIST_BYTES_MAX: usize = 1 << 20;

/// Deliveries that an association takes, at most: their rows are held in memory, 1 KiB each; the data sets come one at a
/// time. A peer that was down for a day has thousands waiting: they go over several associations.
pub const BATCH_MAX: usize = 256;

/// Bytes of results that are kept for one destination: beyond it the oldest pictures, slices and segmentations for it are
/// dropped, so that one that is dead for months does not fill the disk on which studies are received. A study's results
/// are some 3 MB packed: 40 days of 100 studies.
pub const KEPT_FOR_ONE_MAX: i64 = 12 << 30;

/// How long a storage commitment is waited for before it is asked for again. Archives commit when the instances are
/// on their second medium: minutes, seldom an hour.
pub const COMMITMENT_WAIT_MS: i64 = 3_600_000;
