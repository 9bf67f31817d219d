//! Where things lie on the box: every path that the image, the daemon's commands and the site share.
//!
//! Owns the names. All of them lie below a root, which is `/` on the box and a folder in tests.
use std::path::{Path, PathBuf};

/// The box's files.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The box whose files lie below `root`.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The box itself, not a folder that looks like one.
    pub fn is_the_box(&self) -> bool {
        self.root == Path::new("/")
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// The daemon's configuration, rendered at boot.
    pub fn config(&self) -> PathBuf {
        self.path("run/triaged/triaged.toml")
    }

    /// What the daemon's TLS needs, rendered at boot.
    pub fn tls_dir(&self) -> PathBuf {
        self.path("run/triaged/tls")
    }

    /// What commands tell the box's page.
    pub fn status_dir(&self) -> PathBuf {
        self.path("run/triaged/status")
    }

    /// One stick at a time.
    pub fn stick_lock(&self) -> PathBuf {
        self.path("run/triaged/stick.lock")
    }

    /// systemd-networkd's file for the site's interface.
    pub fn network(&self) -> PathBuf {
        self.path("run/systemd/network/10-site.network")
    }

    /// The open ports, included by the image's ruleset.
    pub fn firewall(&self) -> PathBuf {
        self.path("run/triaged/nftables.conf")
    }

    /// There while the site's settings are on trial, at a start that was counted: the image's scripts look for it.
    pub fn site_on_trial(&self) -> PathBuf {
        self.path("run/triaged/site-on-trial")
    }

    /// The settings that the box went back from, without what is secret: for the support bundle, which the daemon makes.
    pub fn refused_site(&self) -> PathBuf {
        self.path("run/triaged/refused-site.toml")
    }

    /// The host name that the site gives the box.
    pub fn hostname(&self) -> PathBuf {
        self.path("run/triaged/hostname")
    }

    /// State of the box: the folders below are in it.
    pub fn state_dir(&self) -> PathBuf {
        self.path("var/lib")
    }

    /// Where the daemon keeps everything.
    pub fn storage_dir(&self) -> PathBuf {
        self.path("var/lib/triaged")
    }

    /// Public keys for sticks.
    pub fn keys_dir(&self) -> PathBuf {
        self.path("usr/share/triaged/keys")
    }

    /// Which board the image is for.
    pub fn board(&self) -> PathBuf {
        self.path("usr/lib/triaged/board")
    }

    /// Which variant of its board's image it is; without the file, plain.
    pub fn variant(&self) -> PathBuf {
        self.path("usr/lib/triaged/variant")
    }

    /// The board's installer.
    pub fn installer(&self) -> PathBuf {
        self.path("usr/lib/triaged/install-update")
    }

    /// Which version the image is.
    pub fn os_release(&self) -> PathBuf {
        self.path("usr/lib/os-release")
    }

    /// systemd's name for the box.
    pub fn machine_id(&self) -> PathBuf {
        self.path("etc/machine-id")
    }

    /// There while systemd-timesyncd has the time from a server.
    pub fn time_synchronized(&self) -> PathBuf {
        self.path("run/systemd/timesync/synchronized")
    }
}

/// The site's settings that are in force, below a state folder; only root reads them.
pub fn site_toml(state_dir: &Path) -> PathBuf {
    state_dir.join("triaged-site/site.toml")
}

/// Where an update's files wait, verified, to be installed.
pub fn incoming(state_dir: &Path) -> PathBuf {
    state_dir.join("triaged-update/incoming")
}

/// Which update was installed last: the SHA-256 of its manifest. If another version runs afterwards, it was tried and went back.
pub fn tried(state_dir: &Path) -> PathBuf {
    state_dir.join("triaged-update/tried")
}
