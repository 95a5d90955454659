//! The models that are on this machine, by the names that a stranger may use for them.
//!
//! A stranger names models and never files: whoever may write a path into a request could ask which files there are.

use std::path::PathBuf;

use super::command::others;
use super::import::is_plain;
use super::{BUNDLED_NAME, HubConfig, ModelError, Source, Spec, catalogue, entries, find, hub_address};

/// What a model is called that was made of a repository of the hub, in the folder of that.
const IMPORTED: &str = "imported.bin";

/// A repository, or a file in one.
pub(super) fn on_the_hub(text: &str) -> Option<Spec> {
    if let Some((repo, file)) = hub_address(text) {
        return Some(match catalogue::at(&repo, &file) {
            Some(entry) => Spec::Catalogue(entry),
            None if file == IMPORTED => Spec::Repo(repo),
            None => Spec::Hub { repo, file },
        });
    }
    let (owner, repo) = text.split_once('/')?;
    let file = [".bin", ".gguf", ".safetensors"].iter().any(|ending| repo.ends_with(ending));
    (is_plain(owner) && is_plain(repo) && !file).then(|| Spec::Repo(text.to_owned()))
}

impl Spec {
    /// Reads what a person writes after `--model`. Beside what [`parse`](str::parse) reads, the name of a model in the
    /// models folder.
    pub fn named(text: &str, hub: &HubConfig) -> Result<Self, ModelError> {
        match text.parse() {
            Err(ModelError::Unknown(name)) => Self::own(&name, hub).ok_or(ModelError::Unknown(name)),
            read => read,
        }
    }

    fn own(name: &str, hub: &HubConfig) -> Option<Self> {
        let usual = is_plain(name) && !super::is_reserved(name);
        let own = usual.then(|| Self::Own(name.to_owned()))?;
        own.is_here(hub).then_some(own)
    }

    /// What a name in a request means, apart from paths and `auto`.
    pub fn of_request(name: &str, hub: &HubConfig) -> Option<Self> {
        let name = name.trim();
        if name.eq_ignore_ascii_case("bundled") || name.eq_ignore_ascii_case(BUNDLED_NAME) {
            return Some(Self::Bundled);
        }
        if let Some(entry) = find(name) {
            return Some(Self::Catalogue(entry));
        }
        on_the_hub(name).map(|spec| spec.found_here(hub)).or_else(|| Self::own(name, hub))
    }

    /// Of a repository that holds a ggml file, that file is here and no imported one.
    pub(super) fn found_here(self, hub: &HubConfig) -> Self {
        let Self::Repo(repo) = &self else { return self };
        if self.is_here(hub) {
            return self;
        }
        let front = format!("{repo}:");
        let mut files = others(&hub.cache_dir).into_iter().filter_map(|(_, name)| {
            let file = name.strip_prefix(&front)?;
            Some(file.to_owned())
        });
        match (files.next(), files.next()) {
            (Some(file), None) => Self::Hub { repo: repo.clone(), file },
            _ => self,
        }
    }

    /// The name to show people, where the specification is of one model and no path.
    pub fn name(&self) -> Option<String> {
        match self {
            Self::Bundled => Some(BUNDLED_NAME.to_owned()),
            Self::Catalogue(entry) => Some(entry.name.clone()),
            Self::Hub { repo, file } => Some(format!("{repo}:{file}")),
            Self::Repo(name) | Self::Own(name) => Some(name.clone()),
            Self::Auto | Self::Path(_) => None,
        }
    }

    /// Where the file of a model with a name is, or will be.
    pub(super) fn place(&self, hub: &HubConfig) -> Option<PathBuf> {
        match self {
            Self::Catalogue(entry) => Some(hub.target(&entry.source())),
            Self::Hub { repo, file } => Some(hub.target(&Source { repo, file, sha256: None })),
            Self::Repo(repo) => Some(hub.target(&Source { repo, file: IMPORTED, sha256: None })),
            Self::Own(name) => Some(hub.cache_dir.join(format!("ggml-{name}.bin"))),
            Self::Auto | Self::Bundled | Self::Path(_) => None,
        }
    }

    /// Whether its weights are on this machine: in the program, in the models folder, or where the path leads.
    pub fn is_here(&self, hub: &HubConfig) -> bool {
        match self {
            Self::Auto => false,
            Self::Bundled => cfg!(feature = "whisper"),
            Self::Path(path) => path.is_file(),
            named => named.place(hub).is_some_and(|path| path.is_file()),
        }
    }
}

/// The names of the bundled model and of those in the models folder.
pub fn on_this_machine(hub: &HubConfig) -> Vec<String> {
    let bundled = cfg!(feature = "whisper").then(|| BUNDLED_NAME.to_owned());
    let known = entries().iter().filter(|entry| hub.cached(&entry.source()).is_some());
    let known = known.map(|entry| entry.name.clone());
    // What somebody has laid there under a name that no request could write cannot be asked for.
    let others = others(&hub.cache_dir).into_iter().map(|(_, name)| name);
    let others = others.filter(|name| Spec::of_request(name, hub).is_some());
    bundled.into_iter().chain(known).chain(others).collect()
}

/// The name of a file in the models folder, by the path in it.
pub(super) fn name_of(parts: &[String]) -> Option<String> {
    match parts {
        [file] => {
            let name = file.strip_prefix("ggml-")?.strip_suffix(".bin")?;
            (is_plain(name) && find(name).is_none() && !super::is_reserved(name)).then(|| name.to_owned())
        }
        [owner, repo, file] if file == IMPORTED => Some(format!("{owner}/{repo}")),
        [owner, repo, file] => Some(format!("{owner}/{repo}:{file}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_models_and_no_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let hub = HubConfig::new(folder.path().to_path_buf());
        let file = folder.path().join("mine.bin");
        std::fs::write(&file, "mine").expect("room for a file");
        let path = file.to_str().expect("a plain path");
        assert!(path.parse::<Spec>().is_ok_and(|spec| spec.is_here(&hub)));
        for nothing in [
            path,
            "auto",
            "",
            "nobody",
            "../mine.bin",
            "a/b:../mine.bin",
            "Cargo.toml",
            "src/lib.rs/x",
            "../x",
        ] {
            assert_eq!(Spec::of_request(nothing, &hub), None, "{nothing}");
        }
        assert_eq!(Spec::of_request(" Bundled ", &hub), Some(Spec::Bundled));
        let name = |text: &str| Spec::of_request(text, &hub).and_then(|spec| spec.name());
        assert_eq!(name("openai/whisper-base").as_deref(), Some("base"));
        assert_eq!(name("me/whisper:imported.bin").as_deref(), Some("me/whisper"));
        assert_eq!(name("TURBO").as_deref(), Some("large-v3-turbo"));
        assert_eq!(name("ggerganov/whisper.cpp:ggml-base.bin").as_deref(), Some("base"));
        assert_eq!(name("me/whisper:x/y.bin").as_deref(), Some("me/whisper:x/y.bin"));
    }

    #[test]
    fn what_is_in_the_folder_is_here() {
        let folder = tempfile::tempdir().expect("a folder");
        let hub = HubConfig::new(folder.path().to_path_buf());
        let bundled: Vec<String> =
            cfg!(feature = "whisper").then(|| BUNDLED_NAME.to_owned()).into_iter().collect();
        assert_eq!(on_this_machine(&hub), bundled);
        let tiny = find("tiny").expect("in the catalogue");
        for place in [
            tiny.file.as_str(),
            "ggml-own.bin",
            "ggml-whisper-1.bin",
            "me/whisper/x.bin",
            "me/made/imported.bin",
            "me/.hidden/x.bin",
            "me/whisper/notes.txt",
        ] {
            let path = folder.path().join(place);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("room for a folder");
            std::fs::write(path, "a stand-in").expect("room for a file");
        }
        let found = on_this_machine(&hub);
        assert_eq!(found[bundled.len()..], ["tiny", "own", "me/made", "me/whisper:x.bin"]);
        let here = |text: &str| Spec::of_request(text, &hub).is_some_and(|spec| spec.is_here(&hub));
        assert!(here("tiny") && here("Systran/faster-whisper-tiny") && here("own") && here("me/made"));
        assert!(here("me/whisper:x.bin"));
        assert!(!here("base") && !here("me/whisper:z.bin") && !here("whisper-1") && !here("other"));
        // A repository of which one file is here is that file.
        assert_eq!(
            Spec::of_request("me/whisper", &hub),
            Some(Spec::Hub { repo: "me/whisper".to_owned(), file: "x.bin".to_owned() })
        );
        assert_eq!(Spec::named("own", &hub).ok(), Some(Spec::Own("own".to_owned())));
        assert!(matches!(Spec::named("other", &hub), Err(ModelError::Unknown(_))));
    }
}
