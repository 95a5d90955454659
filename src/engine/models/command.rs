//! `whisperwire models …`, and the progress bar.

use std::fs;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};

use super::download::Lock;
use super::hub::Source;
use super::{
    BUNDLED_NAME, Device, Entry, HubConfig, ModelError, Progress, Spec, auto_download, by_preference,
    catalogue, entries, inspect,
};

/// What to do with the models on this machine.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum ModelsCommand {
    /// Shows the models with names, and which of them are here
    List,
    /// Downloads a model, or finishes an earlier download
    Pull {
        /// A name from the list, or owner/repo:file on the hub
        name: String,
    },
    /// Deletes a downloaded model
    Rm {
        /// A name from the list, or owner/repo:file on the hub
        name: String,
    },
    /// Prints where a downloaded model is
    Path {
        /// A name from the list, or owner/repo:file on the hub
        name: String,
    },
}

/// Does it. What a person asked to see goes to `out`, the progress bar to standard error.
pub fn run(command: ModelsCommand, hub: &HubConfig, out: &mut impl Write) -> Result<(), ModelError> {
    match command {
        ModelsCommand::List => list(hub, out),
        ModelsCommand::Pull { name } => {
            let spec = Named::read(&name)?;
            let path = hub
                .cached(&spec.source())
                .map_or_else(|| hub.fetch(&spec.source(), &mut Bar::default()), Ok)?;
            inspect(&path)?;
            say(out, format_args!("{}", path.display()))
        }
        ModelsCommand::Rm { name } => match remove(&name, hub)? {
            Removed::File(path) => say(out, format_args!("removed {}", path.display())),
            Removed::Part(name) => say(out, format_args!("removed the unfinished download of {name}")),
        },
        ModelsCommand::Path { name } => {
            let spec = Named::read(&name)?;
            let path = hub.cached(&spec.source());
            let missing = || ModelError::NotCached { name: spec.name(), path: hub.target(&spec.source()) };
            say(out, format_args!("{}", path.ok_or_else(missing)?.display()))
        }
    }
}

fn list(hub: &HubConfig, out: &mut impl Write) -> Result<(), ModelError> {
    let taken = |device| {
        by_preference(hub, device).first().copied().unwrap_or_else(|| auto_download(device)).name.clone()
    };
    let (cpu, gpu) = (taken(Device::Cpu), taken(Device::Gpu));
    let width = 26;
    say(
        out,
        format_args!("{:width$} {:>8}  {:9}  {:6}  {}", "NAME", "SIZE", "LANGUAGES", "CACHED", "NOTES"),
    )?;
    let size = megabytes(catalogue::bundled_size());
    let note = "in the program; trained on synthetic speech, for first runs and tests";
    say(out, format_args!("{BUNDLED_NAME:width$} {size:>8}  {:9}  {:6}  {note}", "English", "-"))?;
    for entry in entries() {
        let languages = if entry.preset.multilingual() {
            entry.preset.languages.to_string()
        } else {
            "English".to_owned()
        };
        let cached = if hub.cached(&entry.source()).is_some() { "yes" } else { "" };
        let notes = notes(entry, &cpu, &gpu).join(", ");
        let line =
            format!("{:width$} {:>8}  {languages:9}  {cached:6}  {notes}", entry.name, megabytes(entry.size));
        say(out, format_args!("{}", line.trim_end()))?;
    }
    for (path, name) in others(&hub.cache_dir) {
        let size = fs::metadata(&path).map_or(0, |data| data.len());
        say(out, format_args!("{name:width$} {:>8}  {:9}  yes", megabytes(size), "?"))?;
    }
    say(
        out,
        format_args!("\nThe models are in {}; their licence is {}.", hub.cache_dir.display(), super::LICENSE),
    )
}

fn notes(entry: &Entry, cpu: &str, gpu: &str) -> Vec<String> {
    let mut notes = Vec::new();
    if !entry.aliases.is_empty() {
        notes.push(format!("also called {}", entry.aliases.join(", ")));
    }
    match (entry.name == cpu, entry.name == gpu) {
        (true, true) => notes.push("taken by auto".to_owned()),
        (true, false) => notes.push("taken by auto on a CPU".to_owned()),
        (false, true) => notes.push("taken by auto on a GPU".to_owned()),
        (false, false) => {}
    }
    if entry.preset.multilingual() && !entry.preset.translates {
        notes.push("does not translate".to_owned());
    }
    notes
}

/// Files of the hub that the catalogue does not know, by their paths and addresses: they lie two folders down.
pub(super) fn others(cache: &Path) -> Vec<(PathBuf, String)> {
    let within = |folder: &Path| -> Vec<PathBuf> {
        let mut found: Vec<_> =
            fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path()).collect();
        found.sort();
        found
    };
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut found = Vec::new();
    for owner in within(cache).iter().filter(|path| path.is_dir()) {
        for repo in within(owner).iter().filter(|path| path.is_dir()) {
            let files = within(repo)
                .into_iter()
                .filter(|path| path.extension().is_some_and(|ending| ending == "bin"));
            found.extend(
                files.map(|file| (file.clone(), format!("{}/{}:{}", name(owner), name(repo), name(&file)))),
            );
        }
    }
    found
}

/// What was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// The file of a model.
    File(PathBuf),
    /// What had come of a model of this name.
    Part(String),
}

/// Deletes a downloaded model, or what has come of it: a name from the list, or owner/repo:file on the hub. Files of
/// a person's own are not touched, whatever they are called.
pub fn remove(name: &str, hub: &HubConfig) -> Result<Removed, ModelError> {
    let spec = Named::read(name)?;
    let target = hub.target(&spec.source());
    // Without its folder the model cannot be here, and looking should not make one.
    let missing = || ModelError::NothingToRemove(spec.name());
    if !target.parent().is_some_and(Path::is_dir) {
        return Err(missing());
    }
    let lock = Lock::try_now(&target)?.ok_or_else(|| ModelError::Busy(spec.name()))?;
    let part = lock.remove_part();
    if target.is_file() {
        fs::remove_file(&target).map_err(ModelError::io(&target))?;
        Ok(Removed::File(target))
    } else if part {
        Ok(Removed::Part(spec.name()))
    } else {
        Err(missing())
    }
}

/// A model that has a place in the cache.
enum Named {
    Catalogue(&'static Entry),
    Hub { repo: String, file: String },
}

impl Named {
    fn read(name: &str) -> Result<Self, ModelError> {
        match name.parse()? {
            Spec::Catalogue(entry) => Ok(Self::Catalogue(entry)),
            Spec::Hub { repo, file } => Ok(Self::Hub { repo, file }),
            Spec::Bundled => Err(ModelError::NoFileOfItsOwn),
            Spec::Auto => Err(ModelError::NotOneModel),
            Spec::Path(_) => Err(ModelError::Unknown(name.to_owned())),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Catalogue(entry) => entry.name.clone(),
            Self::Hub { repo, file } => format!("{repo}:{file}"),
        }
    }

    fn source(&self) -> Source<'_> {
        match self {
            Self::Catalogue(entry) => entry.source(),
            Self::Hub { repo, file } => Source { repo, file, sha256: None },
        }
    }
}

fn say(out: &mut impl Write, line: std::fmt::Arguments<'_>) -> Result<(), ModelError> {
    writeln!(out, "{line}").map_err(ModelError::io(Path::new("standard output")))
}

fn megabytes(bytes: u64) -> String {
    match bytes as f64 / 1e6 {
        mega @ ..999.5 => format!("{mega:.0} MB"),
        mega => format!("{:.1} GB", mega / 1e3),
    }
}

/// A progress bar on standard error; where that is no terminal, a line at the start and one at the end.
#[derive(Debug, Default)]
pub struct Bar {
    shown: Option<ProgressBar>,
    started: bool,
}

impl Progress for Bar {
    fn moved(&mut self, name: &str, done: u64, total: Option<u64>) {
        if !self.started {
            self.started = true;
            if std::io::stderr().is_terminal() {
                let bar = ProgressBar::new(total.unwrap_or(0));
                let known = "{msg} {bar:32} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
                let template = if total.is_some() { known } else { "{msg} {bytes} {bytes_per_sec}" };
                bar.set_style(
                    ProgressStyle::with_template(template).expect("the template is valid; a test reads it"),
                );
                bar.set_message(name.to_owned());
                // What an earlier run has left says nothing about the speed of this one.
                bar.set_position(done);
                bar.reset_eta();
                self.shown = Some(bar);
            } else {
                let size = total.map_or_else(|| "of unknown size".to_owned(), megabytes);
                eprintln!("downloading {name}, {size}");
            }
        }
        if let Some(bar) = &self.shown {
            bar.set_position(done);
        }
    }

    fn finished(&mut self, name: &str) {
        match self.shown.take() {
            Some(bar) => bar.finish(),
            None => eprintln!("downloaded {name}"),
        }
        self.started = false;
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = self.shown.take() {
            bar.abandon();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_valid() {
        for template in
            ["{msg} {bar:32} {bytes}/{total_bytes} {bytes_per_sec} {eta}", "{msg} {bytes} {bytes_per_sec}"]
        {
            ProgressStyle::with_template(template).expect("the template is valid");
        }
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(megabytes(147_951_465), "148 MB");
        assert_eq!(megabytes(3_095_033_483), "3.1 GB");
    }
}
