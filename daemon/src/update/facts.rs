//! The box as a stick finds it.
use super::source::is_absent;
use crate::layout::{self, Layout};
use crate::site::trial;
use anyhow::{Context, bail};
use std::path::Path;
use stick::{Board, Variant, Version};

/// What a stick is judged by.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Which board.
    pub board: Board,
    /// Which variant of its image.
    pub variant: Variant,
    /// Which version runs.
    pub version: Version,
    /// The text of the key that updates are signed with.
    pub update_key: String,
    /// The text of the key that sites are signed with.
    pub site_key: String,
    /// By which a site may name the box: machine-id, host name.
    pub names: Vec<String>,
    /// The text of the site's settings that are in force.
    pub site: Option<String>,
    /// The text of those that the box went back from last.
    pub refused_site: Option<String>,
    /// The SHA-256 of the manifest of the update that was installed last.
    pub tried: Option<String>,
    /// Where the box's files are: the site is rendered for them to see whether the daemon takes it.
    pub layout: Layout,
}

impl Facts {
    /// Reads them.
    ///
    /// # Errors
    /// The image lacks something, which no stick is to blame for.
    pub fn read(layout: &Layout, keys_dir: &Path, state_dir: &Path) -> anyhow::Result<Self> {
        let site = &layout::site_toml(state_dir);
        let refused_site = trial::refused_text(site)?;
        let key = |name: &str| -> anyhow::Result<String> {
            let text = text(&keys_dir.join(name))?;
            stick::public_key(&text).with_context(|| name.to_owned())?;
            Ok(text)
        };
        let board = text(&layout.board())?.parse().with_context(|| layout.board().display().to_string())?;
        let variant = match std::fs::read_to_string(layout.variant()) {
            Ok(text) => text.parse().with_context(|| layout.variant().display().to_string())?,
            Err(error) if is_absent(&error) => Variant::default(),
            Err(error) => bail!("cannot read {}: {error}", layout.variant().display()),
        };
        let version = image_version(&text(&layout.os_release())?)?;
        let site = match std::fs::read_to_string(site) {
            Ok(text) => Some(text),
            Err(error) if is_absent(&error) => None,
            Err(error) => bail!("cannot read {}: {error}", site.display()),
        };
        let machine_id = std::fs::read_to_string(layout.machine_id()).ok().map(|id| id.trim().to_owned());
        let hostname = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        Ok(Self {
            board,
            variant,
            version,
            update_key: key("update.pub")?,
            site_key: key("site.pub")?,
            names: machine_id.into_iter().chain(hostname).filter(|name| !name.is_empty()).collect(),
            site,
            refused_site,
            tried: std::fs::read_to_string(layout::tried(state_dir)).ok().map(|hash| hash.trim().to_owned()),
            layout: layout.clone(),
        })
    }
}

fn text(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path)
        .with_context(|| format!("cannot read {}: the box's image is damaged", path.display()))
}

/// `IMAGE_VERSION` of os-release(5).
///
/// # Errors
/// There is none, or it is no version.
pub fn image_version(os_release: &str) -> anyhow::Result<Version> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("IMAGE_VERSION="));
    let value = value
        .context("os-release has no IMAGE_VERSION: this is no image of triaged")?
        .trim_matches(['"', '\'']);
    value.parse().with_context(|| format!("IMAGE_VERSION {value:?} of os-release"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_images_version_is_in_os_release() {
        assert_eq!(
            image_version("ID=debian\nIMAGE_ID=triaged\nIMAGE_VERSION=1.2.3\n").unwrap(),
            Version::new(1, 2, 3)
        );
        assert_eq!(image_version("IMAGE_VERSION=\"0.1.0\"").unwrap(), Version::new(0, 1, 0));
        assert!(image_version("ID=debian\n").unwrap_err().to_string().contains("no image of triaged"));
        assert!(image_version("IMAGE_VERSION=v1\n").is_err());
    }
}
