//! Builds a plan with `trtexec`, which ships with TensorRT, where the library itself can't: the lean runtime has no builder, and a box may
//! lack the ONNX parser.
//!
//! Owns: where the tool is, its command line. Never does: trust what it wrote; the plan is loaded before it is kept.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::TensorRtError;
use super::builder::Recipe;
use super::library::{Abi, Flavour, Library};

/// Where JetPack and Debian put it, when it is not in `PATH`.
const PLACES: [&str; 3] = ["/usr/src/tensorrt/bin", "/usr/local/tensorrt/bin", "/opt/tensorrt/bin"];
/// Characters of its last words that are told.
const SAID_MAX: usize = 400;

/// The tool, beside the library (`lib/../bin`), in `PATH`, or in one of its usual places.
pub(super) fn find(library_dir: Option<&Path>) -> Option<PathBuf> {
    let beside = library_dir.into_iter().flat_map(|dir| [dir.to_path_buf(), dir.join("../bin")]);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = beside.chain(std::env::split_paths(&path)).chain(PLACES.map(PathBuf::from));
    dirs.map(|dir| dir.join("trtexec")).find(|tool| tool.is_file())
}

/// Builds; its files lie in a folder of their own until the plan is read.
pub(super) fn build(tool: &Path, library: &Library, recipe: &Recipe<'_>) -> Result<Vec<u8>, TensorRtError> {
    let failed = |why: String| TensorRtError::Trtexec { tool: tool.to_path_buf(), why };
    let io = |error: std::io::Error| failed(error.to_string());
    let dir = std::env::temp_dir().join(format!("triaged-{}-{}", recipe.name, std::process::id()));
    std::fs::create_dir(&dir).map_err(io)?;
    let (model, plan) = (dir.join("model.onnx"), dir.join("model.plan"));
    let build = || {
        std::fs::write(&model, recipe.onnx).map_err(io)?;
        let arguments = arguments(library.abi, library.version().flavour, recipe, &model, &plan);
        let done = Command::new(tool).args(arguments).stdin(Stdio::null()).output().map_err(io)?;
        if !done.status.success() {
            let said = [done.stdout, done.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            let skip = said.trim().chars().count().saturating_sub(SAID_MAX);
            let last: String =
                said.trim().chars().skip(skip).map(|c| if c.is_control() { ' ' } else { c }).collect();
            return Err(failed(format!("{}: {last}", done.status)));
        }
        std::fs::read(&plan).map_err(io)
    };
    let built = build();
    // Whatever came of it; a folder that stays is only untidy.
    let _ = std::fs::remove_dir_all(&dir);
    built
}

fn arguments(abi: Abi, flavour: Flavour, recipe: &Recipe<'_>, model: &Path, plan: &Path) -> Vec<OsString> {
    let file = |option: &str, path: &Path| {
        let mut text = OsString::from(option);
        text.push(path);
        text
    };
    // 8.6 renamed the first to the second; 8.5 knows the first alone, 10 the second.
    let no_run = if abi == Abi::Eight { "--buildOnly" } else { "--skipInference" };
    let mut out = vec![file("--onnx=", model), file("--saveEngine=", plan), no_run.into()];
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

    #[test]
    fn the_command_line_says_what_the_recipe_says() {
        let sizes = [vec![1, 1, 1, 1], vec![8, 1, 192, 192], vec![8, 1, 384, 384]];
        let recipe = Recipe {
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
        };
        let line = |abi, flavour| {
            let all = arguments(abi, flavour, &recipe, Path::new("m"), Path::new("p"));
            let all: Vec<_> = all.into_iter().map(|text| text.into_string().unwrap()).collect();
            let no_run = if abi == Abi::Eight { "--buildOnly" } else { "--skipInference" };
            assert_eq!(all[2], no_run);
            all.join(" ").replacen(&format!("{no_run} "), "", 1)
        };
        let common = "--onnx=m --saveEngine=p --memPoolSize=workspace:256 --minShapes=slice:1x1x1x1 \
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
