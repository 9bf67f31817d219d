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
