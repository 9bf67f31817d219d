//! The binding against small libraries of each major version, built by g++ from classes declared as in NVIDIA's headers (`tests/tensorrt/`), on the
//! software CUDA device.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use engine::cuda::{self, Precision};
use engine::tensorrt::{self, Library, Network, Options, Recipe, Step, TensorRtError, build, provision};
use engine::zoo::Zoo;
use engine::{Backend, EngineError, Plane};
use kernels::device::Device;
use libloading::os::unix::Library as Handle;

const MEMORY_MAX: u64 = 256 << 20;
/// Major versions, what their `getInferLibVersion` says, and how they call themselves.
const MAJORS: [(u32, &str, &str); 4] = [
    (8, "8502", "TensorRT 8.5.2"),
    (8, "8601", "TensorRT 8.6.1"),
    (10, "100300", "TensorRT 10.3.0"),
    (11, "110400", "TensorRT 11.4.0"),
];

/// A folder with a fake TensorRT.
struct Fake {
    dir: tempfile::TempDir,
    path: PathBuf,
}

fn skip(why: &str) {
    assert!(std::env::var_os("TRIAGED_REQUIRE_PEERS").is_none(), "{why}");
    println!("{why}");
}

/// Compiles a library, each once; false where there is no compiler.
fn compile(source: &Path, defines: &[String], to: &Path) -> bool {
    static DONE: Mutex<BTreeMap<String, Vec<u8>>> = Mutex::new(BTreeMap::new());
    let key = format!("{} {}", source.display(), defines.join(" "));
    let mut done = DONE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(bytes) = done.get(&key) {
        fs::write(to, bytes).unwrap();
        return true;
    }
    let mut gxx = Command::new("g++");
    gxx.args(["-std=c++17", "-O1", "-shared", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]);
    let Ok(made) = gxx.args(defines).arg(source).arg("-o").arg(to).arg("-ldl").output() else {
        skip("skipped: no g++");
        return false;
    };
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    done.insert(key, fs::read(to).unwrap());
    true
}

fn fake_named(major: u32, version: &str, more: &[&str], name: &str) -> Option<Fake> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(format!("{name}.so.{major}"));
    let mut defines = vec![format!("-DMAJOR={major}"), format!("-DVERSION={version}")];
    defines.extend(more.iter().map(|define| format!("-D{define}")));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tensorrt/fake_nvinfer.cpp");
    compile(&source, &defines, &path).then(|| {
        symlink(&path, dir.path().join(format!("libnvonnxparser.so.{major}"))).unwrap();
        Fake { dir, path }
    })
}

fn fake(major: u32, version: &str) -> Option<Fake> {
    fake_named(major, version, &[], "libnvinfer")
}

impl Fake {
    fn library(&self) -> Arc<Library> {
        Library::find(Some(self.dir.path())).unwrap()
    }

    fn options(&self) -> Options {
        Options {
            library_dir: Some(self.dir.path().into()),
            plan_dir: self.dir.path().join("plans"),
            dla: None,
        }
    }

    /// What was called since the last look.
    fn log(&self) -> Vec<String> {
        // SAFETY: the library of the test, whose function has this type; it is loaded already.
        let text = unsafe {
            let handle = Handle::new(&self.path).unwrap();
            let log = handle.get::<unsafe extern "C" fn() -> *const c_char>("fake_log").unwrap();
            CStr::from_ptr(log()).to_str().unwrap().to_owned()
        };
        text.lines().map(str::to_owned).collect()
    }

    /// Bytes of device memory that an engine says its contexts need.
    fn memory(&self, bytes: i64) {
        // SAFETY: as above.
        unsafe {
            let handle = Handle::new(&self.path).unwrap();
            handle.get::<unsafe extern "C" fn(i64)>("fake_memory").unwrap()(bytes);
        }
    }

    /// Lets a step fail from now on; none if empty.
    fn fail(&self, step: &str) {
        let step = CString::new(step).unwrap();
        // SAFETY: as above.
        unsafe {
            let handle = Handle::new(&self.path).unwrap();
            handle.get::<unsafe extern "C" fn(*const c_char)>("fake_fail").unwrap()(step.as_ptr());
        }
    }
}

fn zoo() -> Zoo {
    Zoo::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tiny")).unwrap()
}

/// The software device; `None` where it can't be built.
fn device() -> Option<Device> {
    match kernels::shim::load() {
        Ok(_) => Some(Device::open(0, MEMORY_MAX).unwrap()),
        Err(why) => {
            skip(&why);
            None
        }
    }
}

#[test]
fn each_major_version_builds() {
    for (major, number, name) in MAJORS {
        let Some(fake) = fake(major, number) else { return };
        let library = fake.library();
        assert_eq!(library.version().to_string(), name);
        let [lungs, multitask] = Network::of_zoo(&zoo(), &library).unwrap();
        let recipe =
            Recipe { dla: Some(1), timings: Some(b"measured".to_vec()), profiles: 2, ..lungs.recipe() };
        let built = build(&library, &recipe).unwrap();
        let plan = String::from_utf8(built.plan).unwrap();
        assert_eq!(plan, format!("fake {major} lungs 2 1 1 1 1 8 1 192 192 8 1 384 384"));
        assert_eq!((built.layers, built.timings.as_deref()), (2, Some(&b"measured"[..])));
        let precise = ["precision of lungs 0", "type of lungs 0 0"];
        let flags: &[&str] = match major {
            8 => &["flag 0", "flag 10"],
            10 => &["flag 0", "flag 9"],
            _ => &[],
        };
        let mut expected: Vec<&str> = if major == 11 { Vec::new() } else { precise.to_vec() };
        expected.push("pool 0 268435456");
        expected.extend(flags);
        expected.extend(["device type 1", "DLA core 1", "flag 3", "cache of 8"]);
        let log = fake.log();
        let (calls, deleted): (Vec<_>, Vec<_>) = log.iter().partition(|line| !line.starts_with("delete "));
        assert_eq!(calls, expected, "{name}");
        // Everything, what it was made from last.
        for object in
            ["memory", "cache", "config", "parser", "network", "layer", "tensor", "profile", "builder"]
        {
            assert!(deleted.iter().any(|line| line.ends_with(object)), "{name} does not delete its {object}");
        }
        let at = |object: &str| deleted.iter().position(|line| line.ends_with(object)).unwrap();
        assert!(at("parser") < at("network") && at("network") < at("builder"), "{deleted:?}");
        assert_eq!(deleted.last().unwrap().as_str(), "delete builder");

        let built =
            build(&library, &Recipe { timings: Some(b"other".to_vec()), ..multitask.recipe() }).unwrap();
        assert_eq!((built.layers, built.timings.as_deref()), (3, Some(&b"measured"[..])));
        let log = fake.log();
        assert!(log.contains(&"cache of 5".to_owned()) && log.contains(&"cache of 0".to_owned()), "{log:?}");
        assert_eq!(log.contains(&"precision of lesions 0".to_owned()), major != 11);
        assert!(!log.iter().any(|line| line.contains("of features")), "{log:?}");
    }
}

#[test]
fn what_the_builder_says_is_the_error() {
    for (major, number, _) in MAJORS {
        let Some(fake) = fake(major, number) else { return };
        let library = fake.library();
        let [lungs, _] = Network::of_zoo(&zoo(), &library).unwrap();
        for (step, expected) in [
            ("builder", "createInferBuilder failed: the fake fails at builder"),
            ("config", "createBuilderConfig failed: the fake fails at config (code 7)"),
            ("parse", "lungs: node 17: the fake knows no such model"),
            ("build", "buildSerializedNetwork failed: the fake fails at build (code 7)"),
        ] {
            fake.fail(step);
            assert_eq!(build(&library, &lungs.recipe()).unwrap_err().to_string(), expected);
        }
        fake.fail("");
        let error = build(&library, &Recipe { dla: Some(2), ..lungs.recipe() }).unwrap_err();
        assert_eq!(error.to_string(), "DLA core 2 does not exist; this device has 2");
        let error = build(&library, &Recipe { onnx: b"rubbish", ..lungs.recipe() }).unwrap_err();
        assert!(matches!(error, TensorRtError::Parse { .. }), "{error}");
        build(&library, &lungs.recipe()).unwrap();
    }
}

/// Provisions; returns the steps, in words.
fn provisioned(fake: &Fake, device: &Device) -> Result<Vec<String>, TensorRtError> {
    let mut steps = Vec::new();
    let mut tell = |step: Step| {
        steps.push(match step {
            Step::Kept { network } => format!("{network} kept"),
            Step::Building { network, why, tool } => {
                let word = why.to_string().split(':').next().unwrap_or("").to_owned();
                let file = fake.dir.path().join("plans").display().to_string() + "/";
                let tool = if tool.is_some() { " with trtexec" } else { "" };
                format!("{network} building{tool}, {}", word.replace(&file, ""))
            }
            Step::Done { network, bytes, .. } => {
                assert!(bytes > 20);
                format!("{network} done")
            }
        });
    };
    provision(&zoo(), device, &fake.library(), &fake.options(), &mut tell)?;
    Ok(steps)
}

fn plane(rows: usize, columns: usize, seed: usize) -> Vec<f32> {
    (0..rows * columns).map(|i| ((i * 7919 + seed * 31) % 1000) as f32 / 1000.0).collect()
}

fn close(got: &[f32], slice: &[f32], scale: f32, shift: f32) {
    assert_eq!(got.len(), slice.len());
    for (got, x) in got.iter().zip(slice) {
        let expected = 1.0 / (1.0 + (-(scale * x + shift)).exp());
        assert!((got - expected).abs() < 1e-6, "{got} where {expected} is right");
    }
}

/// Runs both networks; returns the identification probability.
fn run(backend: &dyn Backend) -> Result<f32, EngineError> {
    let (rows, columns) = (23, 37);
    let slice = plane(rows, columns, 1);
    close(&backend.lungs(Plane::new(&slice, rows, columns, columns))?, &slice, 4.0, -2.0);
    // More than two batches.
    let crop: Vec<_> = (0..19).map(|seed| plane(rows, columns, seed)).collect();
    let planes: Vec<_> = crop.iter().map(|values| Plane::new(values, rows, columns, columns)).collect();
    let seen = Mutex::new(0);
    let probability = backend.multitask(&planes, &|index, lesions| {
        close(lesions, &crop[index], 8.0, -4.0);
        *seen.lock().unwrap() += 1;
    })?;
    assert_eq!(*seen.lock().unwrap(), crop.len());
    assert!((0.0..=1.0).contains(&probability));
    Ok(probability)
}

#[test]
fn each_major_version_runs_what_was_provisioned() {
    let Some(device) = device() else { return };
    let mut probabilities = Vec::new();
    for (major, number, name) in MAJORS {
        let Some(fake) = fake(major, number) else { return };
        let open = || tensorrt::open(&zoo(), &device, 3, &fake.options());
        let error = open().err().unwrap().to_string();
        assert!(error.contains("lungs.plan is not there; `triaged provision` builds it"), "{error}");
        let built = ["lungs building, lungs.plan is not there", "lungs done"];
        let built =
            [&built[..], &["multitask building, multitask.plan is not there", "multitask done"]].concat();
        assert_eq!(provisioned(&fake, &device).unwrap(), built);
        assert_eq!(provisioned(&fake, &device).unwrap(), ["lungs kept", "multitask kept"]);
        fake.log();

        let backend = open().unwrap();
        assert_eq!(backend.name(), "tensorrt");
        probabilities.push(run(&*backend).unwrap());
        let log = fake.log();
        assert!(
            log.contains(&"shape 1x1x23x37".to_owned()) && log.contains(&"shape 8x1x23x37".to_owned()),
            "{log:?}"
        );
        assert_eq!(
            log.iter().filter(|line| *line == "enqueue").count(),
            4,
            "{name}: one slice, and 19 by eights"
        );
        // Several callers at once; TensorRT 8 gives each lane a profile of its own.
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..3).for_each(|_| assert!(run(&*backend).unwrap() <= 1.0)));
            }
        });
        let profiles = fake.log().iter().filter(|line| line.starts_with("profile ")).count();
        assert_eq!(profiles, if major == 8 { 2 } else { 0 }, "both networks of the second lane");
        drop(backend);
        let log = fake.log();
        assert_eq!(log.last().unwrap(), "delete runtime");
        assert!(log.iter().filter(|line| *line == "delete engine").count() == 2, "{log:?}");
    }
    assert!(probabilities.iter().all(|p| *p == probabilities[0]), "{probabilities:?}");
}

#[test]
fn both_engines_count_their_memory_together_and_what_does_not_fit_makes_no_context() {
    let Some(_) = device() else { return };
    for (major, number, _) in MAJORS {
        let Some(fake) = fake(major, number) else { return };
        let device = Device::open(0, MEMORY_MAX).unwrap();
        provisioned(&fake, &device).unwrap();
        assert_eq!(device.memory_used(), 0, "nothing stays of provisioning");
        let open = || tensorrt::open(&zoo(), &device, 1, &fake.options());
        fake.log();
        fake.memory(MEMORY_MAX as i64 + 1);
        let error = open().err().unwrap().to_string();
        assert!(
            error.contains("device memory: ") && error.contains("raise the engine's memory limit"),
            "{error}"
        );
        let log = fake.log();
        assert!(
            log.contains(&"deserialize".to_owned()) && !log.contains(&"delete context".to_owned()),
            "{log:?}"
        );
        assert_eq!(device.memory_used(), 0);

        // TensorRT's part leaves no room for the other engine, which would fit alone.
        let used = |opened: Result<Box<dyn Backend>, EngineError>| {
            let _opened = opened.unwrap();
            device.memory_used()
        };
        fake.memory(4096);
        let (base, needs) = (used(open()) - 4096, used(cuda::open(&zoo(), &device, 1, Precision::Half)));
        fake.memory((MEMORY_MAX - base - needs + 512) as i64);
        let backend = open().unwrap();
        let error = cuda::open(&zoo(), &device, 1, Precision::Half).err().unwrap();
        assert!(error.to_string().contains("device memory: "), "{error}");
        drop(backend);
        // Weights count, too: the bytes of both plans, and buffers of a lane.
        fake.memory(4096);
        let backend = open().unwrap();
        let plans =
            ["lungs", "multitask"].map(|name| fake.options().plan_dir.join(name).with_extension("plan"));
        assert!(plans.iter().all(|plan| plan.exists()) && device.memory_used() >= 4096 + 2 * 512);
        run(&*backend).unwrap();
        drop(backend);
        assert_eq!(device.memory_used(), 0);
    }
}

#[test]
fn one_program_provisions_at_a_time_and_only_into_a_folder_of_its_own() {
    let Some(device) = device() else { return };
    let Some(fake) = fake(10, "100300") else { return };
    provisioned(&fake, &device).unwrap();
    let dir = fake.options().plan_dir;
    let lock = fs::File::open(dir.join("lock")).unwrap();
    lock.lock().unwrap();
    let error = provisioned(&fake, &device).unwrap_err();
    assert!(matches!(error, TensorRtError::Busy { .. }), "{error}");
    lock.unlock().unwrap();
    for (path, good) in [(dir.clone(), 0o755), (dir.join("lungs.plan"), 0o644)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        let open = tensorrt::open(&zoo(), &device, 1, &fake.options()).err().unwrap().to_string();
        let provision = provisioned(&fake, &device).unwrap_err().to_string();
        for error in [open, provision] {
            let expected = format!("{} may be written by others (mode 777; chmod go-w)", path.display());
            assert!(error.contains(&expected) && error.contains("a plan is code"), "{error}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(good)).unwrap();
    }
    assert_eq!(provisioned(&fake, &device).unwrap(), ["lungs kept", "multitask kept"]);
}

#[test]
fn plans_that_are_damaged_or_of_others_are_built_anew() {
    let Some(device) = device() else { return };
    let Some(old) = fake(10, "100300") else { return };
    provisioned(&old, &device).unwrap();
    let lungs = old.options().plan_dir.join("lungs.plan");
    let whole = fs::read(&lungs).unwrap();
    let open = || tensorrt::open(&zoo(), &device, 1, &old.options());
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let len = fs::read_to_string(&lungs).unwrap().lines().last().unwrap().len();
    for (bytes, expected) in [
        (
            &whole[..whole.len() - 9],
            format!("lungs.plan is damaged: {} bytes where {len} were written", len - 9),
        ),
        (&flipped, "lungs.plan is damaged: its digest is not that of its bytes".to_owned()),
        (&whole[..30], "lungs.plan is stale: it is for `library TensorR`".to_owned()),
        (b"", "lungs.plan is damaged: it does not start as a plan".to_owned()),
    ] {
        fs::write(&lungs, bytes).unwrap();
        let error = open().err().unwrap().to_string();
        assert!(error.contains(&expected), "{error}");
        assert!(
            matches!(&provisioned(&old, &device).unwrap()[..], [_, done, kept] if done == "lungs done" && kept == "multitask kept")
        );
        run(&*open().unwrap()).unwrap();
    }
    // A plan that was written whole, but that TensorRT does not take.
    old.fail("deserialize");
    let error = open().err().unwrap().to_string();
    assert_eq!(
        error,
        "engine tensorrt: deserializeCudaEngine failed: the fake fails at deserialize (code 7)"
    );
    old.fail("");
    // Another version finds them stale.
    let Some(new) = fake(10, "100400") else { return };
    fs::rename(old.options().plan_dir, new.options().plan_dir).unwrap();
    let open = || tensorrt::open(&zoo(), &device, 1, &new.options());
    let error = open().err().unwrap().to_string();
    let expected =
        "lungs.plan is stale: it is for `library TensorRT 10.3.0`, needed is `library TensorRT 10.4.0`";
    assert!(error.contains(expected), "{error}");
    let steps = provisioned(&new, &device).unwrap();
    assert_eq!(steps[0], "lungs building, lungs.plan is stale");
    run(&*open().unwrap()).unwrap();
}

#[test]
fn what_fails_while_it_runs_is_an_error_and_no_crash() {
    let Some(device) = device() else { return };
    for (major, number, _) in MAJORS {
        let Some(fake) = fake(major, number) else { return };
        provisioned(&fake, &device).unwrap();
        let open = || tensorrt::open(&zoo(), &device, 1, &fake.options());
        for (step, expected) in [
            ("runtime", "createInferRuntime failed: the fake fails at runtime"),
            ("context", "createExecutionContext failed: the fake fails at context (code 7)"),
        ] {
            fake.fail(step);
            assert_eq!(open().err().unwrap().to_string(), format!("engine tensorrt: {expected}"));
        }
        fake.fail("");
        let backend = open().unwrap();
        for (step, expected) in [
            ("shape", "setInputShape failed: the fake fails at shape (code 7)"),
            ("enqueue", "enqueueV3 failed: the fake fails at enqueue (code 7)"),
        ] {
            fake.fail(step);
            let error = run(&*backend).unwrap_err();
            assert!(matches!(error, EngineError::Device { lost: false, .. }), "{error}");
            assert_eq!(error.to_string(), format!("engine tensorrt: {expected}"));
        }
        fake.fail("");
        let large = plane(1, 400, 0);
        let error = backend.lungs(Plane::new(&large, 1, 400, 400)).unwrap_err().to_string();
        assert!(error.contains("1 slices of 1 x 400; its plan takes 1 to 8 of 1 to 384 a side"), "{error}");
        run(&*backend).unwrap();
    }
}

#[test]
fn wrong_libraries_are_refused_and_named() {
    let find = |dir: &Path| Library::find(Some(dir)).unwrap_err().to_string();
    let dir = tempfile::tempdir().unwrap();
    assert!(find(dir.path()).starts_with("no TensorRT in "));
    let path = dir.path().join("libnvinfer.so.10");
    fs::write(&path, "text").unwrap();
    assert!(
        find(dir.path()).starts_with(&format!("{} can't be loaded: ", path.display())),
        "{}",
        find(dir.path())
    );
    fs::remove_file(&path).unwrap();
    // One that needs another one, which is not there: not the same as none.
    let (needed, needs) = (dir.path().join("libneeded.so.7"), dir.path().join("needs.cpp"));
    fs::write(
        &needs,
        "extern \"C\" int needed(); extern \"C\" int getInferLibVersion() { return needed(); }",
    )
    .unwrap();
    fs::write(dir.path().join("needed.cpp"), "extern \"C\" int needed() { return 0; }").unwrap();
    let linked = |source: &Path, to: &Path, with: &[&Path]| {
        let mut gxx = Command::new("g++");
        gxx.args(["-shared", "-fPIC"]).arg(source).args(with).arg("-o").arg(to);
        gxx.status().is_ok_and(|status| status.success())
    };
    if !linked(&dir.path().join("needed.cpp"), &needed, &[]) || !linked(&needs, &path, &[&needed]) {
        return skip("skipped: no g++");
    }
    fs::remove_file(&needed).unwrap();
    let error = find(dir.path());
    let expected =
        format!("{} is there, but {}, which it needs, was not found", path.display(), needed.display());
    assert!(error.starts_with(&expected), "{error}");
    fs::remove_file(&path).unwrap();
    // A library of something else.
    let source = dir.path().join("other.cpp");
    fs::write(&source, "extern \"C\" int something() { return 1; }").unwrap();
    if !compile(&source, &[], &path) {
        return;
    }
    assert_eq!(find(dir.path()), format!("{} has no symbol getInferLibVersion", path.display()));
    for (major, version, more, expected) in [
        (
            10,
            "9300",
            "",
            "says version 9300: TensorRT 9.3.0 is not known; known: 8.5, 8.6, 10, 11 and RTX from 1.5",
        ),
        (8, "8411", "", "says version 8411: TensorRT 8.4.11 is not known"),
        (11, "120000", "", "says version 120000: TensorRT 12.0.0 is not known"),
        (10, "10701", "", "says version 10701: TensorRT 1.7.1 is not known"),
        (10, "100300", "NO_RUNTIME", "has no symbol createInferRuntime_INTERNAL"),
    ] {
        let more = if more.is_empty() { &[][..] } else { &[more][..] };
        let Some(fake) = fake_named(major, version, more, "libnvinfer") else { return };
        let error = Library::find(Some(fake.dir.path())).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains(&fake.path.display().to_string()), "{error}");
    }
    // Without parser or builder it runs plans, and says why it builds none.
    let Some(fake) = fake(10, "100300") else { return };
    fs::remove_file(fake.dir.path().join("libnvonnxparser.so.10")).unwrap();
    let error = fake.library().can_build().unwrap_err().to_string();
    assert!(
        error.starts_with("TensorRT 10.3.0 can't build plans: ") && error.contains("libnvonnxparser.so.10"),
        "{error}"
    );
}

#[test]
fn the_lean_runtime_has_its_plans_from_trtexec() {
    let Some(device) = device() else { return };
    let Some(fake) = fake_named(10, "100300", &["NO_BUILDER"], "libnvinfer_lean") else { return };
    let error = provisioned(&fake, &device).unwrap_err().to_string();
    let expected = "TensorRT lean runtime 10.3.0 can't build plans: ";
    // Where a real trtexec is installed it is tried, and does not know the fake's model.
    assert!(
        error.starts_with(expected) && error.contains("no symbol createInferBuilder_INTERNAL")
            || error.contains("trtexec"),
        "{error}"
    );
    let tool = fake.dir.path().join("trtexec");
    let script = |body: &str| {
        fs::write(&tool, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    };
    script("echo 'no such GPU' >&2; exit 3");
    let error = provisioned(&fake, &device).unwrap_err().to_string();
    assert!(error.contains("trtexec: exit status: 3: no such GPU"), "{error}");
    let write = "case \"$a\" in --onnx=*) grep -q lesions \"${a#*=}\" && n=multitask || n=lungs;; --saveEngine=*) p=${a#*=};; esac";
    script(&format!(
        "for a; do {write}; done; echo \"$@\" >> {}/said; printf 'fake 10 %s 1 1 1 1 1 8 1 192 192 8 1 384 384' $n > $p",
        fake.dir.path().display()
    ));
    let steps = provisioned(&fake, &device).unwrap();
    assert_eq!(steps[0], "lungs building with trtexec, lungs.plan is not there");
    let said = fs::read_to_string(fake.dir.path().join("said")).unwrap();
    assert!(
        said.contains("--versionCompatible") && said.contains("--layerPrecisions=lesions:fp32"),
        "{said}"
    );
    assert!(said.contains("--device=0 "), "{said}");
    run(&*tensorrt::open(&zoo(), &device, 1, &fake.options()).unwrap()).unwrap();
}
