//! Builds a plan with `trtexec`, which ships with TensorRT, where the library itself can't: the lean runtime has no builder, and a box may
//! lack the ONNX parser.
//!
//! Owns: where the tool is, its command line, how long it may take. Never does: trust what it wrote; the plan is loaded before it is kept.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::TensorRtError;
use super::builder::Recipe;
use super::library::{Abi, Flavour};

/// Where JetPack and Debian put it, when it is not in `PATH`.
const PLACES: [&str; 3] = ["/usr/src/tensorrt/bin", "/usr/local/tensorrt/bin", "/opt/tensorrt/bin"];
/// Longest build of one network. NVIDIA speaks of minutes on a Jetson; half an hour is no build any more.
pub(super) const BUILD_MAX: Duration = Duration::from_secs(30 * 60);
/// How often it is looked whether it has ended.
const LOOK: Duration = Duration::from_millis(50);
/// Characters of its last words that are told.
const SAID_MAX: usize = 400;

/// The tool, beside the library (`lib/../bin`), in `PATH`, or in one of its usual places.
pub(super) fn find(library_dir: Option<&Path>) -> Option<PathBuf> {
    let beside = library_dir.into_iter().flat_map(|dir| [dir.to_path_buf(), dir.join("../bin")]);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = beside.chain(std::env::split_paths(&path)).chain(PLACES.map(PathBuf::from));
    dirs.map(|dir| dir.join("trtexec")).find(|tool| tool.is_file())
}

/// Builds on GPU `gpu`; the tool's files lie in a folder that only this user can enter until the plan is read. One that does not end within `max` is
/// killed.
pub(super) fn build(
    tool: &Path,
    (abi, flavour): (Abi, Flavour),
    gpu: usize,
    recipe: &Recipe<'_>,
    max: Duration,
) -> Result<Vec<u8>, TensorRtError> {
    let failed = |why: String| TensorRtError::Trtexec { tool: tool.to_path_buf(), why };
    let io = |error: std::io::Error| failed(error.to_string());
    let dir = std::env::temp_dir().join(format!("triaged-{}-{}", recipe.name, std::process::id()));
    DirBuilder::new().mode(0o700).create(&dir).map_err(io)?;
    let (model, plan, said) = (dir.join("model.onnx"), dir.join("model.plan"), dir.join("said"));
    let build = || {
        fs::write(&model, recipe.onnx).map_err(io)?;
        // A file, not a pipe: nobody need read it while the tool works.
        let out = File::create(&said).map_err(io)?;
        let mut command = Command::new(tool);
        command.args(arguments(abi, flavour, gpu, recipe, &model, &plan)).stdin(Stdio::null());
        command.stdout(out.try_clone().map_err(io)?).stderr(out);
        match wait(command.spawn().map_err(io)?, max).map_err(io)? {
            Some(status) if status.success() => fs::read(&plan).map_err(io),
            Some(status) => Err(failed(format!("{status}: {}", last_words(&said)))),
            None => {
                let minutes = max.as_secs_f64() / 60.0;
                Err(failed(format!(
                    "killed, because it did not end within {minutes:.1} minutes: {}",
                    last_words(&said)
                )))
            }
        }
    };
    let built = build();
    // Whatever came of it; a folder that stays is only untidy.
    let _ = fs::remove_dir_all(&dir);
    built
}

/// How a program ended; `None` if it had to be killed.
fn wait(mut child: Child, max: Duration) -> std::io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() >= max {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(LOOK);
    }
}

/// The end of what it said, in one line.
fn last_words(said: &Path) -> String {
    let said = fs::read(said).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let skip = said.trim().chars().count().saturating_sub(SAID_MAX);
    said.trim().chars().skip(skip).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn arguments(
    abi: Abi,
    flavour: Flavour,
    gpu: usize,
    recipe: &Recipe<'_>,
    model: &Path,
    plan: &Path,
) -> Vec<OsString> {
    let file = |option: &str, path: &Path| {
        let mut text = OsString::from(option);
        text.push(path);
        text
    };
    // 8.6 renamed the first to the second; 8.5 knows the first alone, 10 the second.
    let no_run = if abi == Abi::Eight { "--buildOnly" } else { "--skipInference" };
    let mut out = vec![file("--onnx=", model), file("--saveEngine=", plan), no_run.into()];
    out.push(format!("--device={gpu}").into());
    out.push(format!("--memPoolSize=workspace:{}", recipe.workspace_bytes >> 20).into());
    for range in &recipe.ranges {
        for (option, sizes) in ["minShapes", "optShapes", "maxShapes"].into_iter().zip(&range.sizes) {
            let sizes: Vec<_> = sizes.iter().map(ToString::to_string).collect();
            out.push(format!("--{option}={}:{}", range.input, sizes.join("x")).into());
        }
    }
    if recipe.half && abi != Abi::Eleven {
        out.push("--fp16".into());
        // A layer has the name of its node, and a node of the zoo that of its output.
        let each: Vec<_> = recipe.sensitive.iter().map(|name| format!("{name}:fp32")).collect();
        if !each.is_empty() {
            out.push("--precisionConstraints=obey".into());
            out.push(format!("--layerPrecisions={}", each.join(",")).into());
            out.push(format!("--layerOutputTypes={}", each.join(",")).into());
        }
    }
    if flavour == Flavour::Lean {
        // The lean runtime loads no other plans; it is here, so the plan need not carry one.
        out.extend(["--versionCompatible".into(), "--excludeLeanRuntime".into()]);
    }
    if let Some(core) = recipe.dla {
        out.extend([format!("--useDLACore={core}").into(), "--allowGPUFallback".into()]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::builder::Range;
    use super::*;

    fn recipe() -> Recipe<'static> {
        let sizes = [vec![1, 1, 1, 1], vec![8, 1, 192, 192], vec![8, 1, 384, 384]];
        Recipe {
            name: "lungs",
            onnx: &[],
            ranges: vec![Range { input: "slice".to_owned(), sizes }],
            profiles: 1,
            half: true,
            sensitive: vec!["lungs".to_owned()],
            workspace_bytes: 256 << 20,
            dla: Some(1),
            capability: None,
            timings: None,
        }
    }

    #[test]
    fn a_tool_that_does_not_end_is_killed() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let tool = dir.path().join("trtexec");
        fs::write(&tool, "#!/bin/sh\necho \"device $*\"\nexec sleep 600\n").unwrap();
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
        let start = Instant::now();
        let recipe = Recipe { name: "killed", ..recipe() };
        let error =
            build(&tool, (Abi::Ten, Flavour::Full), 3, &recipe, Duration::from_millis(600)).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("killed, because it did not end within 0.0 minutes") && text.contains("device "),
            "{text}"
        );
        assert!(start.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn the_command_line_says_what_the_recipe_says() {
        let recipe = recipe();
        let line = |abi, flavour| {
            let all = arguments(abi, flavour, 3, &recipe, Path::new("m"), Path::new("p"));
            let all: Vec<_> = all.into_iter().map(|text| text.into_string().unwrap()).collect();
            let no_run = if abi == Abi::Eight { "--buildOnly" } else { "--skipInference" };
            assert_eq!(all[2], no_run);
            all.join(" ").replacen(&format!("{no_run} "), "", 1)
        };
        let common = "--onnx=m --saveEngine=p --device=3 --memPoolSize=workspace:256 --minShapes=slice:1x1x1x1 \
                      --optShapes=slice:8x1x192x192 --maxShapes=slice:8x1x384x384";
        let half =
            "--fp16 --precisionConstraints=obey --layerPrecisions=lungs:fp32 --layerOutputTypes=lungs:fp32";
        let lean = "--versionCompatible --excludeLeanRuntime";
        let dla = "--useDLACore=1 --allowGPUFallback";
        assert_eq!(line(Abi::Ten, Flavour::Full), format!("{common} {half} {dla}"));
        assert_eq!(line(Abi::Eight, Flavour::Lean), format!("{common} {half} {lean} {dla}"));
        assert_eq!(line(Abi::Eleven, Flavour::Lean), format!("{common} {lean} {dla}"));
    }
}
