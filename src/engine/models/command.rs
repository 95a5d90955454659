//! `whisperwire models …`, and the progress bar.

use std::fs;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};

use super::download::Lock;
use super::import::{WORKSHOP, unfinished};
use super::local::name_of;
use super::{
    BUNDLED_NAME, Device, Entry, HubConfig, Import, ModelError, Numbers, Progress, Record, Spec,
    auto_download, bring, by_preference, catalogue, entries, import, inspect,
};

/// What to do with the models on this machine.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum ModelsCommand {
    /// Shows the models with names, and which of them are here
    List,
    /// Downloads a model, or finishes an earlier download; one in another form is imported
    Pull {
        /// A name from the list, owner/repo on the hub, or owner/repo:file there
        name: String,
    },
    /// Makes a model of weights in another form: a folder of Hugging Face or CTranslate2, or a ggml file
    Import {
        /// The folder, or a file in it
        source: PathBuf,
        /// What to call the model; by default as its folder or file is called. A name from the list makes it that
        /// model
        #[arg(long)]
        name: Option<String>,
        /// How to write the weights; by default as the name says, else in f16, or as they are in a ggml file
        #[arg(long, value_enum)]
        quantize: Option<Numbers>,
    },
    /// Deletes a downloaded or imported model
    #[command(visible_alias = "remove")]
    Rm {
        /// A name from the list, owner/repo or owner/repo:file
        name: String,
    },
    /// Prints where a downloaded or imported model is
    Path {
        /// A name from the list, owner/repo or owner/repo:file
        name: String,
    },
}

/// Does it. What a person asked to see goes to `out`, the progress bar to standard error.
pub fn run(command: ModelsCommand, hub: &HubConfig, out: &mut impl Write) -> Result<(), ModelError> {
    match command {
        ModelsCommand::List => list(hub, out),
        ModelsCommand::Pull { name } => {
            let (path, _) = bring(&named(&name, hub)?, hub, &mut Bar::default())?;
            inspect(&path)?;
            say(out, format_args!("{}", path.display()))
        }
        ModelsCommand::Import { source, name, quantize } => {
            let order = Import { source, name, numbers: quantize };
            let path = import(&order, hub, &mut Bar::importing())?;
            say(out, format_args!("{}", path.display()))
        }
        ModelsCommand::Rm { name } => match remove(&name, hub)? {
            Removed::File(path) => say(out, format_args!("removed {}", path.display())),
            Removed::Part(name) => say(out, format_args!("removed the unfinished download of {name}")),
        },
        ModelsCommand::Path { name } => {
            let spec = named(&name, hub)?;
            let path = spec.place(hub).ok_or(ModelError::NotOneModel)?;
            if !path.is_file() {
                return Err(ModelError::NotCached { name: spec.name().unwrap_or(name), path });
            }
            say(out, format_args!("{}", path.display()))
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
        let mut notes = notes(entry, &cpu, &gpu);
        let path = hub.cached(&entry.source());
        notes.extend(path.as_deref().and_then(came_from));
        let size = path.map_or(entry.size, |path| length(&path));
        let (size, notes) = (megabytes(size), notes.join(", "));
        let line = format!("{:width$} {size:>8}  {languages:9}  {cached:6}  {notes}", entry.name);
        say(out, format_args!("{}", line.trim_end()))?;
    }
    for (path, name) in others(&hub.cache_dir) {
        let size = megabytes(length(&path));
        let (languages, note) = match inspect(&path) {
            Ok(header) if header.multilingual() => (header.languages().to_string(), came_from(&path)),
            Ok(_) => ("English".to_owned(), came_from(&path)),
            Err(_) => ("?".to_owned(), Some("cannot be used".to_owned())),
        };
        let line = format!("{name:width$} {size:>8}  {languages:9}  yes     {}", note.unwrap_or_default());
        say(out, format_args!("{}", line.trim_end()))?;
    }
    say(
        out,
        format_args!("\nThe models are in {}; their licence is {}.", hub.cache_dir.display(), super::LICENSE),
    )
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |data| data.len())
}

/// What an imported model was made of.
fn came_from(path: &Path) -> Option<String> {
    Record::of(path).map(|record| format!("imported from {}, {}", record.form, record.numbers))
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

/// Models in the folder that the catalogue does not know, by their paths and names: those with a plain name lie in
/// it, those of the hub two folders down.
pub(super) fn others(cache: &Path) -> Vec<(PathBuf, String)> {
    let within = |folder: &Path| -> Vec<PathBuf> {
        let mut found: Vec<_> =
            fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path()).collect();
        found.sort();
        found
    };
    let last = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let is_model = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "bin") && path.is_file();
    let mut files: Vec<PathBuf> = within(cache).into_iter().filter(is_model).collect();
    for owner in within(cache).iter().filter(|path| path.is_dir()) {
        for repo in within(owner).iter().filter(|path| path.is_dir()) {
            files.extend(within(repo).into_iter().filter(is_model));
        }
    }
    let named = files.into_iter().filter_map(|path| {
        let parts: Vec<String> =
            path.strip_prefix(cache).ok()?.iter().map(|part| last(Path::new(part))).collect();
        Some((path, name_of(&parts)?))
    });
    named.collect()
}

/// What was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// The file of a model.
    File(PathBuf),
    /// What had come of a model of this name.
    Part(String),
}

/// Deletes a downloaded or imported model, or what has come of it. Files of a person's own are not touched, whatever
/// they are called.
pub fn remove(name: &str, hub: &HubConfig) -> Result<Removed, ModelError> {
    let spec = named(name, hub)?;
    let target = spec.place(hub).ok_or(ModelError::NotOneModel)?;
    let name = spec.name().unwrap_or_else(|| name.to_owned());
    // Without its folder the model cannot be here, and looking should not make one.
    let missing = || ModelError::NothingToRemove(name.clone());
    if !target.parent().is_some_and(Path::is_dir) {
        return Err(missing());
    }
    let lock = Lock::try_now(&target)?.ok_or_else(|| ModelError::Busy(name.clone()))?;
    let mut part = lock.remove_part() | fs::remove_file(unfinished(&target)).is_ok();
    if matches!(spec, Spec::Repo(_)) {
        part |= fs::remove_dir_all(target.with_file_name(WORKSHOP)).is_ok();
    }
    if target.is_file() {
        fs::remove_file(&target).map_err(ModelError::io(&target))?;
        // There is one of imported models alone.
        drop(fs::remove_file(Record::place(&target)));
        Ok(Removed::File(target))
    } else if part {
        Ok(Removed::Part(name))
    } else {
        Err(missing())
    }
}

/// A model that has a place in the models folder.
fn named(name: &str, hub: &HubConfig) -> Result<Spec, ModelError> {
    match Spec::named(name, hub)? {
        Spec::Bundled => Err(ModelError::NoFileOfItsOwn),
        Spec::Auto => Err(ModelError::NotOneModel),
        Spec::Path(_) => Err(ModelError::Unknown(name.to_owned())),
        spec => Ok(spec.found_here(hub)),
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
    imports: bool,
}

impl Bar {
    fn importing() -> Self {
        Self { shown: None, started: false, imports: true }
    }

    fn verb(&self) -> &'static str {
        if self.imports { "import" } else { "download" }
    }
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
                eprintln!("{}ing {name}, {size}", self.verb());
            }
        }
        if let Some(bar) = &self.shown {
            bar.set_position(done);
        }
    }

    fn finished(&mut self, name: &str) {
        match self.shown.take() {
            Some(bar) => bar.finish(),
            None => eprintln!("{}ed {name}", self.verb()),
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
