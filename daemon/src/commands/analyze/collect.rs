//! From files to studies: headers are read by several threads, repeated instances are counted once.
use crate::instance::{Instance, InstanceError, Problem};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use study::{SopInstanceUid, StudyUid};

/// Files that are named in warnings; of more, only the number is told.
const WARNINGS_MAX: usize = 20;

/// What the files hold.
#[derive(Default)]
pub struct Collection {
    /// Instances by study, each study's in the order of their paths.
    pub studies: BTreeMap<StudyUid, Vec<Arc<Instance>>>,
    /// A line for each of the first files that could not be used.
    pub warnings: Vec<String>,
    /// Further files that could not be used.
    pub more_warnings: usize,
    /// Files that are no DICOM images: texts, PDF, a DICOMDIR.
    pub not_dicom: usize,
    /// Files with the bytes of another one.
    pub repeated: usize,
}

/// Reads every file's header on `threads` threads; `progress` is called once a file, from any of them.
pub fn collect(paths: &[PathBuf], threads: usize, progress: &(dyn Fn() + Sync)) -> Collection {
    let next = AtomicUsize::new(0);
    let read = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some((index, path)) = take(&next, paths) {
                    let result = Instance::read(path);
                    read.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
                    progress();
                }
            });
        }
    });
    let mut read = read.into_inner().unwrap_or_else(PoisonError::into_inner);
    // The order of the paths, so that the same folders give the same answer.
    read.sort_by_key(|(index, _)| *index);
    let mut collection = Collection::default();
    let mut known = HashMap::new();
    for (_, result) in read {
        match result {
            Ok(instance) => collection.add(instance, &mut known),
            Err(InstanceError { problem: Problem::NotDicom { .. } | Problem::Directory, .. }) => {
                collection.not_dicom += 1;
            }
            Err(error) => collection.warn(error.to_string()),
        }
    }
    collection
}

fn take<'a>(next: &AtomicUsize, paths: &'a [PathBuf]) -> Option<(usize, &'a PathBuf)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    paths.get(index).map(|path| (index, path))
}

impl Collection {
    fn warn(&mut self, warning: String) {
        if self.warnings.len() < WARNINGS_MAX {
            self.warnings.push(warning);
        } else {
            self.more_warnings += 1;
        }
    }

    /// PS3.5 section 9: a SOP Instance UID names one instance. Of several with the same one, the first path counts.
    fn add(&mut self, instance: Instance, known: &mut HashMap<(StudyUid, SopInstanceUid), PathBuf>) {
        let key = (instance.header.study.clone(), instance.header.instance.clone());
        if let Some(first) = known.get(&key) {
            if same_content(first, &instance.path) {
                self.repeated += 1;
            } else {
                self.warn(format!(
                    "{}: left out, it has the SOP Instance UID of {} but another content",
                    instance.path.display(),
                    first.display()
                ));
            }
            return;
        }
        known.insert(key, instance.path.clone());
        self.studies.entry(instance.header.study.clone()).or_default().push(Arc::new(instance));
    }
}

/// Whether two files hold the same bytes. A file that has vanished differs.
fn same_content(a: &Path, b: &Path) -> bool {
    let length = |path| std::fs::metadata(path).map(|m| m.len()).ok();
    length(a).is_some()
        && length(a) == length(b)
        && matches!((std::fs::read(a), std::fs::read(b)), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::super::files;
    use super::*;
    use crate::instance::testing::{SMALL, slice, write};
    use dicom_core::{DataElement, PrimitiveValue, VR};
    use dicom_dictionary_std::tags;

    #[test]
    fn a_messy_folder() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("sub")).unwrap();
        let syntax = "1.2.840.10008.1.2.1";
        write(slice(SMALL, "1.1"), syntax, &at("a"));
        write(slice(SMALL, "1.2"), syntax, &at("sub/b.dcm"));
        std::fs::copy(at("a"), at("sub/copy of a")).unwrap();
        // Another content under a UID that was seen.
        let mut other = slice(SMALL, "1.1");
        other.put(DataElement::new(tags::KVP, VR::DS, PrimitiveValue::from("100")));
        write(other, syntax, &at("sub/other"));
        // Another study, and a file that is cut after its identifiers, and one that is cut before them.
        let mut second = slice(SMALL, "1.1");
        second.put(DataElement::new(tags::STUDY_INSTANCE_UID, VR::UI, PrimitiveValue::from("9.9")));
        write(second, syntax, &at("second"));
        let bytes = std::fs::read(at("sub/b.dcm")).unwrap();
        write(slice(SMALL, "1.3"), syntax, &at("cut"));
        let whole = std::fs::read(at("cut")).unwrap();
        std::fs::write(at("cut"), &whole[..whole.len() - 100]).unwrap();
        std::fs::write(at("stub"), &bytes[..400]).unwrap();
        std::fs::write(at("report.pdf"), b"%PDF-1.7").unwrap();
        std::fs::write(at("notes.txt"), b"not an image").unwrap();
        std::fs::write(at("empty"), b"").unwrap();

        let paths = files::under(&[dir.path().to_owned()]).unwrap();
        let progress = AtomicUsize::new(0);
        let found = collect(&paths, 3, &|| {
            progress.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(progress.into_inner(), 10);
        let instances: Vec<(&str, Vec<&str>)> = found
            .studies
            .iter()
            .map(|(study, list)| (study.as_str(), list.iter().map(|i| i.header.instance.as_str()).collect()))
            .collect();
        assert_eq!(instances, [("1.2.3", vec!["1.1", "1.3", "1.2"]), ("9.9", vec!["1.1"])]);
        assert_eq!((found.not_dicom, found.repeated, found.more_warnings), (3, 1, 0));
        assert_eq!(found.warnings.len(), 2, "{:?}", found.warnings);
        assert!(found.warnings[1].contains("other") && found.warnings[1].contains("another content"));
        assert!(found.warnings[0].contains("stub: broken DICOM"), "{:?}", found.warnings);
        let first = &found.studies.values().next().unwrap()[0];
        assert_eq!((first.path.as_path(), first.header.kvp), (at("a").as_path(), Some(120.0)));
    }

    #[test]
    fn warnings_are_bounded() {
        let mut collection = Collection::default();
        (0..100).for_each(|i| collection.warn(i.to_string()));
        assert_eq!((collection.warnings.len(), collection.more_warnings), (WARNINGS_MAX, 100 - WARNINGS_MAX));
    }
}
