//! What a stick would do to this box: judged before anything is written.
use super::facts::Facts;
use super::source::Source;
use crate::site;
use anyhow::{Context, bail};
use stick::{Manifest, SIGNATURE_SUFFIX, Site, Step, UpdateFile, Variant};

/// What will be done.
#[derive(Debug)]
pub struct Plan {
    /// The update, if the box takes it.
    pub update: Option<Update>,
    /// The site's settings, if they are newer.
    pub site: Option<NewSite>,
    /// What the stick has beside the update, for people.
    pub later: Option<String>,
    /// What is said of what is not done.
    notes: Vec<String>,
    /// The texts as they were verified, to notice another stick.
    seen: Vec<(&'static str, String)>,
}

/// An update that the box takes.
#[derive(Debug)]
pub struct Update {
    /// The signed manifest.
    pub manifest: Manifest,
    /// Its files for this board and variant.
    pub files: Vec<UpdateFile>,
    from: String,
    /// The SHA-256 of the manifest.
    pub hash: String,
}

/// Settings that the box takes.
#[derive(Debug)]
pub struct NewSite {
    /// As signed.
    pub text: String,
    name: String,
    serial: u64,
}

impl NewSite {
    fn called(&self) -> String {
        format!("settings of {:?}, serial {}", self.name, self.serial)
    }
}

impl Plan {
    /// Judges a stick.
    ///
    /// # Errors
    /// The first thing that is wrong, and what to do.
    pub fn make(source: &dyn Source, facts: &Facts) -> anyhow::Result<Self> {
        let mut plan = Self { update: None, site: None, later: None, notes: Vec::new(), seen: Vec::new() };
        let manifest = signed(source, stick::MANIFEST, &facts.update_key)?;
        let site = signed(source, stick::SITE, &facts.site_key)?;
        if manifest.is_none() && site.is_none() {
            bail!(
                "the stick has neither {} nor {}: make it with `cargo xtask image stick`",
                stick::MANIFEST,
                stick::SITE
            );
        }
        if let Some(text) = manifest {
            plan.update(source, facts, &text)?;
            plan.seen.push((stick::MANIFEST, text));
        }
        if let Some(text) = site {
            plan.site(facts, &text)?;
            plan.seen.push((stick::SITE, text));
        }
        // One thing on trial at a time: of two nobody could tell which one fails the self-test. They are judged now all the same.
        if plan.update.is_some() {
            plan.later = plan.site.take().map(|site| site.called());
        }
        Ok(plan)
    }

    /// Whether the box has all of it.
    pub fn is_empty(&self) -> bool {
        self.update.is_none() && self.site.is_none()
    }

    /// For people.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(Update { manifest, files, from, .. }) = &self.update {
            let mib = files.iter().map(|file| file.bytes).sum::<u64>() >> 20;
            lines.push(format!(
                "Update from version {from} to {} (commit {}, {mib} MiB).",
                manifest.version, manifest.commit
            ));
        }
        if let Some(site) = &self.site {
            lines.push(format!("Site {}.", site.called()));
        }
        lines.extend(self.later.iter().map(|what| format!("Then: site {what}.")));
        lines.extend(self.notes.iter().cloned());
        lines
    }

    /// Whether the stick still holds what was judged.
    pub fn is_still_there(&self, source: &dyn Source) -> bool {
        source.is_there()
            && self.seen.iter().all(|(path, text)| matches!(source.text(path), Ok(Some(now)) if now == *text))
    }

    fn update(&mut self, source: &dyn Source, facts: &Facts, text: &str) -> anyhow::Result<()> {
        let manifest = Manifest::parse(text).context("make the stick again")?;
        let (running, offered) = (&facts.version, &manifest.version);
        let hash = stick::Sha256::of(text.as_bytes()).to_string();
        match manifest.step(running) {
            Step::Same => {
                self.notes.push(format!("Version {running} runs already: there is nothing to update."));
                return Ok(());
            }
            Step::OlderRefused => bail!(
                "the stick's version {offered} is older than {running}, which runs: use a newer stick; going back needs one whose manifest says allow_older"
            ),
            Step::Newer => {}
            // systemd-boot takes the newest version that came up: the older one would be installed, and never start.
            Step::OlderAllowed if facts.board == stick::Board::X86_64 => bail!(
                "this board can't go back from {running} to {offered} by a stick: build the older commit under a version above {running}"
            ),
            Step::OlderAllowed => {
                self.notes.push("This is an OLDER version; the stick's manifest allows it.".to_owned())
            }
        }
        // A stick that is left in would otherwise be installed again after each rollback, for ever.
        if facts.tried.as_deref() == Some(hash.as_str()) {
            self.notes.clear();
            self.notes.push(format!(
                "Version {offered} of this stick was tried, and the box went back to {running}: it is not tried again. Use a stick with another version."
            ));
            return Ok(());
        }
        let files: Vec<UpdateFile> = manifest.files_of(facts.board, facts.variant).cloned().collect();
        if files.is_empty() {
            bail!("{}", not_for(&manifest, facts));
        }
        // What nobody signed is never read; that it is there means that the stick was changed after it was made.
        let dir = format!("{}/{}", stick::UPDATE_DIR, facts.board.folder(facts.variant));
        let is_known = |name: &String| files.iter().any(|file| file.name().eq_ignore_ascii_case(name));
        // Desktop computers leave files whose names begin with a dot.
        if let Some(name) =
            source.names(&dir)?.into_iter().find(|name| !name.starts_with('.') && !is_known(name))
        {
            bail!(
                "{dir}/{name} on the stick is not in the signed manifest: delete it, or make the stick again"
            );
        }
        self.update = Some(Update { manifest, files, from: running.to_string(), hash });
        Ok(())
    }

    fn site(&mut self, facts: &Facts, text: &str) -> anyhow::Result<()> {
        let site = Site::parse(text)?;
        if let Some(for_box) = &site.site.for_box
            && !facts.names.iter().any(|name| name.eq_ignore_ascii_case(for_box))
        {
            bail!(
                "site.toml is for box {for_box:?}, this one is {}: use the stick of this box",
                facts.names.join(" or ")
            );
        }
        if facts.site.as_deref() == Some(text) {
            self.notes
                .push(format!("The site's settings, serial {}, are in force already.", site.site.serial));
            return Ok(());
        }
        // A stick that is left in would otherwise be tried again after each time that the box went back from it.
        if facts.refused_site.as_deref() == Some(text) {
            self.notes.push(format!(
                "The site's settings, serial {}, were tried, and the box went back from them: they are not tried again. Mend them and raise the serial.",
                site.site.serial
            ));
            return Ok(());
        }
        // One that this version can't read any more has no serial to hold on to.
        let old = facts.site.as_deref().and_then(|old| Site::parse(old).ok());
        match old.map(|old| old.site.serial) {
            Some(serial) if site.site.serial < serial => bail!(
                "site.toml has serial {}, the box has {serial}: it is older; raise the serial if it is what you want",
                site.site.serial
            ),
            Some(serial) if site.site.serial == serial => bail!(
                "site.toml has serial {serial}, which the box has with other contents: raise the serial"
            ),
            _ => {}
        }
        // By the version that runs: it must live with these settings if an update is rolled back.
        let rendered = site::render(Some(&site), &facts.layout);
        rendered
            .and_then(|rendered| site::check(&site, &rendered.config))
            .context("site.toml can't be used")?;
        self.site = Some(NewSite { text: text.to_owned(), name: site.site.name, serial: site.site.serial });
        Ok(())
    }
}

/// Why an update without a file for this box is none for it, and what to do.
fn not_for(manifest: &Manifest, facts: &Facts) -> String {
    if manifest.variants_of(facts.board).is_empty() {
        let boards: Vec<&str> = manifest.boards().into_iter().map(stick::Board::name).collect();
        let boards = boards.join(" and ");
        return format!(
            "the stick's update is for {boards}, this box is {}: use a stick for this board",
            facts.board
        );
    }
    match facts.variant {
        // It would start, and work without its GPU.
        Variant::Nvidia => "this box has NVIDIA's parts (variant nvidia), the stick's update has none: use a stick with the set of `cargo xtask image build --nvidia`; to leave NVIDIA's parts out for good, flash the box".to_owned(),
        Variant::Plain => "the stick's update has NVIDIA's parts (variant nvidia), this box has none, and no room for them: use a stick with the plain set; to have NVIDIA's parts, flash the box".to_owned(),
    }
}

/// A text whose signature was verified; `None` if it is not on the stick.
fn signed(source: &dyn Source, path: &str, key: &str) -> anyhow::Result<Option<String>> {
    let Some(text) = source.text(path)? else { return Ok(None) };
    let Some(signature) = source.text(&format!("{path}{SIGNATURE_SUFFIX}"))? else {
        bail!(
            "{path} on the stick has no signature ({path}{SIGNATURE_SUFFIX}): make the stick with `cargo xtask image stick`"
        );
    };
    stick::verify(key, text.as_bytes(), &signature, path)?;
    Ok(Some(text))
}
