//! What the spool keeps and what it drops.
use super::*;

fn receive(spool: &Spool, head: &[u8], data_set: &[u8]) -> PathBuf {
    let mut part = spool.begin().unwrap();
    part.write_all(&[0; PREAMBLE]).unwrap();
    part.write_all(head).unwrap();
    part.head_is_written();
    part.write_all(data_set).unwrap();
    part.seal().unwrap()
}

#[test]
fn an_instance_is_filed_once() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), 0).unwrap();
    let key = StudyKey(7);
    let Filed::New(path) = spool.file(&receive(&spool, b"from CT1", b"pixels"), key, "1.2").unwrap() else {
        panic!("it is new")
    };
    assert!(fs::read(&path).unwrap().ends_with(b"pixels"));
    assert_eq!(
        spool.file(&receive(&spool, b"from the PACS", b"pixels"), key, "1.2").unwrap(),
        Filed::Duplicate
    );
    let replaced = spool.file(&receive(&spool, b"from CT1", b"other!"), key, "1.2").unwrap();
    assert!(matches!(&replaced, Filed::Replaced(p) if *p != path && p.exists()), "{replaced:?}");
    assert_eq!(spool.instances(key).unwrap().len(), 1);
    spool.file(&receive(&spool, b"from CT1", b"pixels"), key, "../../1.3").unwrap();
    assert_eq!(spool.instances(key).unwrap().len(), 2);
    let delete = |claimed: bool| spool.delete(key, || Ok::<bool, SpoolError>(claimed)).unwrap();
    assert!(!delete(false));
    assert_eq!(spool.instances(key).unwrap().len(), 2);
    assert!(delete(true));
    assert!(spool.instances(key).unwrap().is_empty());
}

#[test]
fn a_restart_keeps_what_was_sealed_and_drops_what_was_not() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), 0).unwrap();
    let sealed = receive(&spool, b"head", b"acknowledged");
    let torn = receive(&spool, b"head", b"torn by the power failure");
    OpenOptions::new().write(true).open(&torn).unwrap().set_len(150).unwrap();
    let mut part = spool.begin().unwrap();
    part.write_all(&[0; 300]).unwrap();
    std::mem::forget(part);
    let again = Spool::open(dir.path(), 0).unwrap();
    assert_eq!(again.recover().unwrap(), std::slice::from_ref(&sealed));
    assert!(matches!(again.file(&sealed, StudyKey(1), "1.2").unwrap(), Filed::New(_)));
    assert!(again.recover().unwrap().is_empty());
    // New slots don't take the number of a filed instance.
    assert_ne!(number(&receive(&again, b"", b"")), number(&sealed));
}

#[test]
fn an_aborted_part_leaves_an_empty_slot() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), 0).unwrap();
    let mut part = spool.begin().unwrap();
    part.write_all(&[1; 5000]).unwrap();
    let path = part.path().to_owned();
    drop(part);
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    assert_eq!(spool.begin().unwrap().path(), path);
}

#[test]
fn a_full_disk_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), u64::MAX).unwrap();
    assert!(matches!(spool.begin(), Err(SpoolError::Full { .. })));
}

#[test]
fn the_newer_content_counts_whatever_slots_were_used() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), 0).unwrap();
    let key = StudyKey(7);
    let first = receive(&spool, b"", b"older");
    let second = receive(&spool, b"", b"newer");
    let Filed::New(older) = spool.file(&first, key, "1.2").unwrap() else { panic!("it is new") };
    let kept = fs::read(&older).unwrap();
    let Filed::Replaced(newer) = spool.file(&second, key, "1.2").unwrap() else { panic!("it replaces") };
    // The power fails before the earlier content is removed.
    fs::write(&older, kept).unwrap();
    assert_eq!(Spool::open(dir.path(), 0).unwrap().instances(key).unwrap(), [newer]);
}

#[test]
fn instances_are_recovered_in_the_order_of_their_reception() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), 0).unwrap();
    let sealed: Vec<_> = (0..3u8).map(|i| receive(&spool, b"", &[i])).collect();
    for (path, seconds) in sealed.iter().zip([200, 300, 100]) {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }
    let order = [2, 0, 1].map(|i: usize| sealed[i].clone());
    assert_eq!(Spool::open(dir.path(), 0).unwrap().recover().unwrap(), order);
}

#[test]
fn an_unreadable_file_holds_up_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), 0).unwrap();
    let good = receive(&spool, b"", b"acknowledged");
    let key = StudyKey(7);
    let Filed::New(filed) = spool.file(&receive(&spool, b"", b"pixels"), key, "1.2").unwrap() else {
        panic!("it is new")
    };
    // Folders stand for what can't be read: opened, but an error at the first byte (for root, too).
    let bad = good.with_file_name("999999.part");
    fs::create_dir(&bad).unwrap();
    fs::write(bad.join("big enough"), [0; 500]).unwrap();
    fs::write(dir.path().join("studies/file"), b"no folder").unwrap();
    fs::remove_file(&filed).unwrap();
    fs::create_dir(&filed).unwrap();
    let again = Spool::open(dir.path(), 0).unwrap();
    assert_eq!(again.recover().unwrap(), [good]);
    assert!(bad.exists(), "left where it is");
    let new = again.file(&receive(&again, b"", b"pixels"), key, "1.2").unwrap();
    assert!(matches!(new, Filed::Replaced(_)), "{new:?}");
}

#[test]
fn what_is_filed_is_known_with_its_sop_class() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), 0).unwrap();
    let implementation = dimse::Implementation::default();
    let keep = |uid: &str, key: i64| {
        let mut part = spool.begin().unwrap();
        let head = dimse::FileHead {
            sop_class_uid: uids::CT_IMAGE_STORAGE,
            sop_instance_uid: uid,
            transfer_syntax: uids::EXPLICIT_VR_LITTLE_ENDIAN,
            sending_ae_title: Some("CT1"),
            receiving_ae_title: None,
            implementation: &implementation,
        };
        dimse::write_file_head(&mut part, &head).unwrap();
        part.head_is_written();
        part.write_all(b"pixels").unwrap();
        let Filed::New(path) = spool.file(&part.seal().unwrap(), StudyKey(key), uid).unwrap() else {
            panic!("{uid} is new")
        };
        path
    };
    keep("1.1", 1);
    keep("1.2", 2);
    let cut = keep("1.3", 2);
    OpenOptions::new().write(true).open(cut).unwrap().set_len(140).unwrap();
    let wanted = ["1.1", "1.2", "1.3", "1.4"];
    let filed = spool.filed(wanted.into_iter()).unwrap();
    let want = ["1.1", "1.2"].map(|uid| (uid, uids::CT_IMAGE_STORAGE.to_owned()));
    assert_eq!(filed, want.into());
    // The newest studies first, and no more once all are found: older ones need not even be readable.
    let newest = HashMap::from([("1.2", uids::CT_IMAGE_STORAGE.to_owned())]);
    keep("1.2", 3);
    let older = dir.path().join("studies/00000002");
    fs::remove_dir_all(&older).unwrap();
    fs::write(&older, b"no folder").unwrap();
    assert_eq!(spool.filed(["1.2"].into_iter()).unwrap(), newest);
    assert_eq!(spool.filed(["1.1", "1.2"].into_iter()).unwrap().len(), 2, "one of them is in the oldest");
}
