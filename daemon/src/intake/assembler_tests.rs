//! Completion, with an invented clock.
use super::*;
use crate::instance::testing::{SMALL, slice, write};
use study::series::ImageKind;

const SHORT: Duration = Duration::from_secs(3);
const LONG: Duration = Duration::from_secs(15);
const QUIET: QuietTimes = QuietTimes { short: SHORT, long: LONG };
const A: AssociationId = AssociationId(1);
const B: AssociationId = AssociationId(2);

fn range() -> InputRange {
    InputRange {
        kvp: [80.0, 140.0],
        slice_spacing_mm: [0.5, 10.0],
        pixel_spacing_mm: [0.3, 1.5],
        min_slices: 8,
        preferred_kernels: vec!["B40f".into()],
        preferred_slice_thickness_mm: [1.0, 3.0],
    }
}

/// `n` slices, 2 mm apart.
fn series(n: usize) -> Vec<Instance> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("slice.dcm");
    write(slice(SMALL, "1.2.3.4"), "1.2.840.10008.1.2.1", &path);
    let first = Instance::read(&path).unwrap();
    (0..n)
        .map(|i| {
            let mut instance = first.clone();
            instance.header.instance = SopInstanceUid::new(&format!("1.2.3.4.{i}")).unwrap();
            instance.header.geometry.position_mm[2] -= 2.0 * i as f64;
            instance
        })
        .collect()
}

/// An assembly, its clock and its start.
struct Scene {
    assembly: Assembly,
    start: Instant,
    now: Instant,
}

impl Scene {
    fn new() -> Self {
        let start = Instant::now();
        Self { assembly: Assembly::new(start), start, now: start }
    }

    fn arrive(&mut self, slices: &[Instance], association: Option<AssociationId>) {
        for slice in slices {
            self.assembly.arrived(Arc::new(slice.clone()), association, self.now);
        }
    }

    fn end(&mut self, association: AssociationId, released: bool) {
        self.assembly.ended(association, released, self.now);
    }

    fn wait(&mut self, seconds: f64) {
        self.now += Duration::from_secs_f64(seconds);
    }

    fn completed(&mut self) -> Result<Completed, Duration> {
        self.assembly.completed(self.now, QUIET, &range()).map_err(|due| due - self.start)
    }
}

#[test]
fn a_whole_series_is_complete_a_short_quiet_time_after_the_release() {
    let mut scene = Scene::new();
    scene.arrive(&series(10), Some(A));
    scene.wait(1.0);
    scene.end(A, true);
    assert_eq!(scene.completed(), Err(SHORT + Duration::from_secs(1)));
    scene.wait(2.9);
    assert!(scene.completed().is_err());
    scene.wait(0.1);
    assert_eq!(scene.completed(), Ok(Completed::ContiguousAndQuiet));
}

#[test]
fn what_is_not_certain_waits_for_the_long_quiet_time() {
    /// A case: its name, the slices, and what becomes of their association.
    type Case = (&'static str, Vec<Instance>, fn(&mut Scene));
    let whole = series(10);
    let mut gap = whole.clone();
    gap.remove(4);
    let few = series(7);
    let mut scout = series(1);
    scout[0].header.kind = ImageKind::LocalizerOrDerived;
    let cases: [Case; 6] = [
        ("still open", whole.clone(), |_| {}),
        ("aborted", whole.clone(), |scene| scene.end(A, false)),
        ("a second one open", whole, |scene| {
            scene.arrive(&series(1), Some(B));
            scene.end(A, true);
        }),
        ("a gap", gap, |scene| scene.end(A, true)),
        ("few slices", few, |scene| scene.end(A, true)),
        ("a scout alone", scout, |scene| scene.end(A, true)),
    ];
    for (name, slices, happens) in cases {
        let mut scene = Scene::new();
        scene.arrive(&slices, Some(A));
        happens(&mut scene);
        assert_eq!(scene.completed(), Err(LONG), "{name}");
        scene.wait(14.9);
        assert!(scene.completed().is_err(), "{name}");
        scene.wait(0.1);
        assert_eq!(scene.completed(), Ok(Completed::LongQuiet), "{name}");
    }
}

#[test]
fn the_announced_count_completes_at_once() {
    let mut slices = series(10);
    slices.iter_mut().for_each(|s| s.announced_count = Some(10));
    let mut scene = Scene::new();
    scene.arrive(&slices[..9], Some(A));
    assert!(scene.completed().is_err());
    scene.arrive(&slices[9..], Some(A));
    assert_eq!(scene.completed(), Ok(Completed::AnnouncedCount), "the association need not end");
}

#[test]
fn an_announced_count_does_not_hide_a_gap_or_another_series() {
    let mut slices = series(11);
    slices.remove(5);
    slices.iter_mut().for_each(|s| s.announced_count = Some(10));
    let mut scene = Scene::new();
    scene.arrive(&slices, Some(A));
    assert!(scene.completed().is_err(), "ten slices came, with a gap: an eleventh may follow");

    let mut slices = series(20);
    slices.iter_mut().for_each(|s| s.announced_count = Some(10));
    for slice in &mut slices[10..] {
        slice.header.series = SeriesUid::new("1.2.3.9").unwrap();
    }
    let mut scene = Scene::new();
    scene.arrive(&slices[..19], Some(A));
    assert!(scene.completed().is_err(), "the second series lacks one");
    scene.arrive(&slices[19..], Some(A));
    assert_eq!(scene.completed(), Ok(Completed::AnnouncedCount));
}

#[test]
fn each_slice_begins_the_quiet_time_anew() {
    let slices = series(12);
    let mut scene = Scene::new();
    for slice in slices.chunks(1) {
        scene.wait(10.0);
        scene.arrive(slice, Some(A));
        assert!(scene.completed().is_err());
    }
    scene.end(A, true);
    scene.wait(3.0);
    assert_eq!(scene.completed(), Ok(Completed::ContiguousAndQuiet));
    assert_eq!(scene.assembly.instances().len(), 12);
}

#[test]
fn a_sender_that_comes_back_after_an_abort_is_trusted_again() {
    let slices = series(12);
    let mut scene = Scene::new();
    scene.arrive(&slices[..9], Some(A));
    scene.end(A, false);
    scene.wait(5.0);
    scene.arrive(&slices[9..], Some(B));
    scene.end(B, true);
    assert_eq!(scene.completed(), Err(Duration::from_secs(5) + SHORT));
}

#[test]
fn slices_that_are_sent_again_keep_an_aborted_study_waiting_for_the_rest() {
    let slices = series(12);
    let mut scene = Scene::new();
    scene.arrive(&slices[..9], Some(A));
    scene.end(A, false);
    for _ in 0..9 {
        scene.wait(10.0);
        scene.assembly.repeated(B, scene.now);
        assert!(scene.completed().is_err());
    }
    assert_eq!(scene.completed(), Err(Duration::from_secs(90) + LONG), "the association is open");
    scene.arrive(&slices[9..], Some(B));
    scene.end(B, true);
    assert_eq!(scene.completed(), Err(Duration::from_secs(90) + SHORT));
}

#[test]
fn the_end_of_a_strangers_association_is_no_event() {
    let mut scene = Scene::new();
    scene.arrive(&series(10), Some(A));
    scene.end(A, true);
    scene.wait(2.0);
    scene.end(B, false);
    assert_eq!(scene.completed(), Err(SHORT));
}

#[test]
fn the_same_instance_counts_once_and_recovered_ones_have_no_association() {
    let slices = series(10);
    let mut scene = Scene::new();
    scene.arrive(&slices, None);
    scene.arrive(&slices[..4], None);
    assert_eq!(scene.assembly.instances().len(), 10);
    scene.wait(3.0);
    assert_eq!(scene.completed(), Ok(Completed::ContiguousAndQuiet));
}

#[test]
fn a_slice_that_closes_a_gap_makes_the_series_whole() {
    let slices = series(10);
    let mut scene = Scene::new();
    scene.arrive(&slices[..4], Some(A));
    scene.arrive(&slices[5..], Some(A));
    scene.end(A, true);
    assert_eq!(scene.completed(), Err(LONG));
    scene.arrive(&slices[4..5], Some(B));
    scene.end(B, true);
    assert_eq!(scene.completed(), Err(SHORT));
}

fn step(state: StepState, instances: &[Instance]) -> Step {
    Step { state, instances: instances.iter().map(|i| i.header.instance.clone()).collect() }
}

const COMPLETED: Result<Completed, Duration> = Ok(Completed::ProcedureStepCompleted);
const DISCONTINUED: Result<Completed, Duration> = Ok(Completed::ProcedureStepDiscontinued);

#[test]
fn a_step_that_lists_its_images_completes_the_study_with_the_last_of_them() {
    let slices = series(12);
    let done = [step(StepState::Completed, &slices)];
    // Told of before the first slice, between two, and after the last.
    let mut before = Scene::new();
    before.assembly = Assembly::new(before.now).with_steps(&done);
    before.arrive(&slices[..11], Some(A));
    assert!(before.completed().is_err());
    before.arrive(&slices[11..], Some(B));
    assert_eq!(before.completed(), COMPLETED, "two associations are open, and it does not matter");

    let mut between = Scene::new();
    between.arrive(&slices[..4], Some(A));
    between.assembly.steps_changed(&[step(StepState::InProgress, &slices)]);
    between.arrive(&slices[4..], Some(A));
    assert!(between.completed().is_err(), "in progress");
    between.assembly.steps_changed(&done);
    assert_eq!(between.completed(), COMPLETED);
}

#[test]
fn a_slice_that_the_steps_do_not_list_is_waited_for_with_its_series() {
    let slices = series(20);
    let mut scene = Scene::new();
    scene.assembly = Assembly::new(scene.now).with_steps(&[step(StepState::Completed, &slices[..12])]);
    scene.arrive(&slices, Some(A));
    assert!(scene.completed().is_err());
    scene.end(A, true);
    assert_eq!(scene.completed(), Err(SHORT));
    // What is no slice, a dose report say, need not be listed.
    let mut report = slices[19].clone();
    report.header.kind = ImageKind::Other;
    let mut scene = Scene::new();
    scene.arrive(&[&slices[..12], &[report]].concat(), Some(A));
    scene.assembly.steps_changed(&[step(StepState::Completed, &slices[..12])]);
    assert_eq!(scene.completed(), COMPLETED);
}

#[test]
fn scouts_alone_do_not_complete_a_study() {
    let mut scout = series(1);
    scout[0].header.kind = ImageKind::LocalizerOrDerived;
    let mut scene = Scene::new();
    scene.arrive(&scout, Some(A));
    scene.assembly.steps_changed(&[step(StepState::Completed, &scout)]);
    scene.end(A, true);
    assert_eq!(scene.completed(), Err(LONG));
}

#[test]
fn a_study_waits_for_all_of_its_steps() {
    let slices = series(24);
    let mut scene = Scene::new();
    scene.arrive(&slices[..12], Some(A));
    let first = step(StepState::Completed, &slices[..12]);
    scene.assembly.steps_changed(&[first.clone(), step(StepState::InProgress, &[])]);
    assert!(scene.completed().is_err());
    scene.arrive(&slices[12..], Some(A));
    scene.assembly.steps_changed(&[first, step(StepState::Discontinued, &slices[12..])]);
    assert_eq!(scene.completed(), COMPLETED, "one was completed");
}

#[test]
fn a_step_without_a_list_does_not_say_that_everything_came() {
    let slices = series(12);
    let done = [step(StepState::Completed, &[])];
    let mut scene = Scene::new();
    scene.arrive(&slices, Some(A));
    scene.assembly.steps_changed(&done);
    assert_eq!(scene.completed(), Err(LONG), "the association is open");
    scene.end(A, true);
    assert_eq!(scene.completed(), Err(SHORT), "contiguous and quiet, as without the step");
    scene.wait(3.0);
    assert_eq!(scene.completed(), Ok(Completed::ContiguousAndQuiet));

    // The association breaks with nine of twelve sent: the sender gets the long time to come back.
    let mut broken = Scene::new();
    broken.arrive(&slices[..9], Some(A));
    broken.assembly.steps_changed(&done);
    broken.end(A, false);
    assert_eq!(broken.completed(), Err(LONG));
    broken.wait(14.0);
    broken.arrive(&slices[9..], Some(B));
    broken.end(B, true);
    assert_eq!(broken.completed(), Err(Duration::from_secs(14) + SHORT));

    // An association for each image: the end of the step comes between two.
    let mut each = Scene::new();
    for (i, slice) in slices.chunks(1).enumerate() {
        let association = AssociationId(i as u64);
        each.arrive(slice, Some(association));
        each.end(association, true);
        if i == 9 {
            each.assembly.steps_changed(&done);
        }
        assert!(each.completed().is_err(), "after {i}");
        each.wait(1.0);
    }
    assert_eq!(each.completed(), Err(Duration::from_secs(11) + SHORT));
}

#[test]
fn what_was_discontinued_need_not_be_whole() {
    let slices = series(5);
    let given_up = [step(StepState::Discontinued, &[])];
    let mut scene = Scene::new();
    scene.arrive(&slices, Some(A));
    scene.assembly.steps_changed(&given_up);
    assert_eq!(scene.completed(), Err(LONG), "the association is open");
    scene.end(A, true);
    assert_eq!(scene.completed(), Err(SHORT), "one for the next image may be on its way");
    scene.wait(3.0);
    assert_eq!(scene.completed(), DISCONTINUED, "five slices: the gate will say that they are too few");

    let mut aborted = Scene::new();
    aborted.arrive(&slices, Some(A));
    aborted.assembly.steps_changed(&given_up);
    aborted.end(A, false);
    assert_eq!(aborted.completed(), Err(LONG), "it may come back with the rest");

    // Images that come on another association are none that it spoke of.
    let mut later = Scene::new();
    later.arrive(&slices[..3], Some(A));
    later.end(A, true);
    later.assembly.steps_changed(&given_up);
    assert_eq!(later.completed(), Err(SHORT));
    later.arrive(&slices[3..], Some(B));
    later.end(B, true);
    assert_eq!(later.completed(), Err(LONG));

    let mut listed = Scene::new();
    listed.arrive(&slices, Some(A));
    listed.assembly.steps_changed(&[step(StepState::Discontinued, &slices)]);
    assert_eq!(listed.completed(), DISCONTINUED, "at once: it says that this is all");
    let mut missing = Scene::new();
    missing.arrive(&slices[..4], Some(A));
    missing.end(A, true);
    missing.assembly.steps_changed(&[step(StepState::Discontinued, &slices)]);
    assert_eq!(missing.completed(), Err(LONG), "one is on its way");
}

#[test]
fn a_commitment_request_for_all_that_is_here_completes_the_study() {
    let slices = series(12);
    let uids = |list: &[Instance]| list.iter().map(|i| i.header.instance.clone()).collect::<BTreeSet<_>>();
    let mut scene = Scene::new();
    scene.arrive(&slices[..11], Some(A));
    scene.assembly.commitment_requested(&uids(&slices));
    assert!(scene.completed().is_err(), "one is on its way");
    scene.arrive(&slices[11..], Some(A));
    assert_eq!(scene.completed(), Ok(Completed::StorageCommitment));

    let cases: [(&[Instance], &[Instance], &str); 4] = [
        (&slices, &slices[..11], "a slice is here that it does not ask about"),
        (&slices[..9], &slices[..10], "a slice that it asks about is not here"),
        (&slices[..4], &slices[..4], "no whole series, and the association is open"),
        (&slices[..1], &slices[..1], "a request for each image"),
    ];
    for (here, asked, why) in cases {
        let mut scene = Scene::new();
        scene.arrive(here, Some(A));
        scene.assembly.commitment_requested(&uids(asked));
        assert!(scene.completed().is_err(), "{why}");
    }
    let mut few = Scene::new();
    few.arrive(&slices[..1], Some(A));
    few.end(A, true);
    few.assembly.commitment_requested(&uids(&slices[..1]));
    assert!(few.completed().is_err(), "an association and a request for each image");
    few.arrive(&slices[1..4], Some(B));
    few.end(B, false);
    few.assembly.commitment_requested(&uids(&slices[..4]));
    assert_eq!(few.completed(), Ok(Completed::StorageCommitment), "the gate will say that they are too few");
    // Another study's request.
    let mut scene = Scene::new();
    scene.arrive(&slices, Some(A));
    scene.assembly.commitment_requested(&uids(&slices));
    let stranger = BTreeSet::from([SopInstanceUid::new("9.9").unwrap()]);
    scene.assembly.commitment_requested(&stranger);
    assert_eq!(scene.completed(), Ok(Completed::StorageCommitment));
}
