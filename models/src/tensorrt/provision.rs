//! Makes a box's plans: what is there and good is kept, the rest is built.
//!
//! Owns: the decision, the check that a built plan loads, the lock against another program that does the same. Never does: run a study, or print.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use kernels::device::Device;

use super::builder::{self, Built};
use super::library::{Abi, Library};
use super::networks::Network;
use super::plans::{Key, PlanError, Plans};
use super::runtime::Runtime;
use super::{TensorRtError, nets, trtexec};
use crate::zoo::Zoo;

/// Profiles of a plan for TensorRT 8, and so callers at once: there an execution context has its profile to itself.
const PROFILES_OF_EIGHT: usize = 2;

/// Where things are.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Folder of TensorRT's libraries; `None`: where the system's loader looks.
    pub library_dir: Option<PathBuf>,
    /// Folder of the plans.
    pub plan_dir: PathBuf,
    /// Run on this DLA core of a Jetson what it can run. TensorRT places only layers of fixed sizes on a DLA, and the networks take slices of any
    /// size: so far as documented, all of it falls back to the GPU. Not measured.
    pub dla: Option<u32>,
}

/// What happens to a network's plan.
#[derive(Debug)]
pub enum Step {
    /// The plan is there and good.
    Kept {
        /// Which network.
        network: &'static str,
    },
    /// It will be built. This takes seconds to minutes.
    Building {
        /// Which network.
        network: &'static str,
        /// Why: there is none, it is stale or damaged.
        why: PlanError,
        /// With `trtexec` instead of the library.
        tool: Option<PathBuf>,
    },
    /// It was built, loaded once, and written.
    Done {
        /// Which network.
        network: &'static str,
        /// How long that took.
        seconds: f64,
        /// Size of the plan.
        bytes: usize,
        /// The file.
        path: PathBuf,
    },
}

/// Makes the plans of the zoo's networks for this device; `tell` hears of each step.
///
/// # Errors
/// [`TensorRtError`]; plans that were finished before stay.
///
/// [`TensorRtError::Busy`] while another program does the same.
pub fn provision(
    zoo: &Zoo,
    device: &Device,
    library: &Arc<Library>,
    options: &Options,
    tell: &mut dyn FnMut(Step),
) -> Result<(), TensorRtError> {
    let plans = Plans::new(&options.plan_dir);
    let Some(_lock) = plans.lock()? else { return Err(TensorRtError::Busy { lock: plans.lock_path() }) };
    let runtime = Runtime::new(library, device, options.dla)?;
    for network in Network::of_zoo(zoo, library)? {
        let (name, key) = (network.name, key(&network, library, device, options));
        // A plan with a good digest that does not load was written by a TensorRT that calls itself the same and is not.
        let read = plans.read(name, &key).and_then(|plan| {
            let path = plans.path(name);
            let loaded = nets::load(&runtime, name, &plan);
            loaded.map(drop).map_err(|error| PlanError::Damaged { path, why: error.to_string() })
        });
        let why = match read {
            Ok(()) => {
                tell(Step::Kept { network: name });
                continue;
            }
            // Building it anew would hide that somebody else may write here.
            Err(why @ PlanError::Unsafe { .. }) => return Err(why.into()),
            Err(why) => why,
        };
        let tool = match library.can_build() {
            Ok(()) => None,
            Err(error) => Some(trtexec::find(options.library_dir.as_deref()).ok_or(error)?),
        };
        tell(Step::Building { network: name, why, tool: tool.clone() });
        let start = Instant::now();
        let built = build(&network, (library, device), options, &plans, &key, tool.as_deref())?;
        nets::load(&runtime, name, &built.plan)?;
        plans.write(name, &key, &built.plan)?;
        if let Some(timings) = &built.timings
            && let Err(error) = plans.keep_timings(&key, timings)
        {
            log::warn!("timings of the build are lost: {error}");
        }
        let (seconds, bytes) = (start.elapsed().as_secs_f64(), built.plan.len());
        tell(Step::Done { network: name, seconds, bytes, path: plans.path(name) });
    }
    Ok(())
}

/// A network's recipe on this box.
fn recipe<'a>(network: &'a Network, library: &Library, options: &Options) -> builder::Recipe<'a> {
    let profiles = if library.abi == Abi::Eight { PROFILES_OF_EIGHT } else { 1 };
    builder::Recipe { profiles, dla: options.dla, ..network.recipe() }
}

/// What the plan of a network must be good for.
pub(super) fn key(network: &Network, library: &Library, device: &Device, options: &Options) -> Key {
    let card = (device.name(), device.compute_capability());
    Key::new(library.version(), card, network, &recipe(network, library, options))
}

fn build(
    network: &Network,
    (library, device): (&Arc<Library>, &Device),
    options: &Options,
    plans: &Plans,
    key: &Key,
    tool: Option<&Path>,
) -> Result<Built, TensorRtError> {
    let recipe = builder::Recipe { timings: plans.timings(key), ..recipe(network, library, options) };
    match tool {
        None => builder::build(library, &recipe),
        Some(tool) => {
            let kind = (library.abi, library.version().flavour);
            let plan = trtexec::build(tool, kind, device.ordinal(), &recipe, trtexec::BUILD_MAX)?;
            Ok(Built { plan, timings: None, layers: 0 })
        }
    }
}
