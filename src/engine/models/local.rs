//! The models that are on this machine, by the names that a stranger may use for them.
//!
//! A stranger names models and never files: whoever may write a path into a request could ask which files there are.

use super::command::others;
use super::{BUNDLED_NAME, HubConfig, Source, Spec, entries, find, hub_address};

impl Spec {
    /// What a name in a request means, apart from paths and `auto`.
    pub fn of_request(name: &str) -> Option<Self> {
        let name = name.trim();
        if name.eq_ignore_ascii_case("bundled") || name.eq_ignore_ascii_case(BUNDLED_NAME) {
            return Some(Self::Bundled);
        }
        if let Some(entry) = find(&name.to_ascii_lowercase()) {
            return Some(Self::Catalogue(entry));
        }
        let (repo, file) = hub_address(name)?;
        Some(match super::catalogue::at(&repo, &file) {
            Some(entry) => Self::Catalogue(entry),
            None => Self::Hub { repo, file },
        })
    }

    /// The name to show people, where the specification is of one model and no path.
    pub fn name(&self) -> Option<String> {
        match self {
            Self::Bundled => Some(BUNDLED_NAME.to_owned()),
            Self::Catalogue(entry) => Some(entry.name.clone()),
            Self::Hub { repo, file } => Some(format!("{repo}:{file}")),
            Self::Auto | Self::Path(_) => None,
        }
    }

    /// Whether its weights are on this machine: in the program, in the models folder, or where the path leads.
    pub fn is_here(&self, hub: &HubConfig) -> bool {
        match self {
            Self::Auto => false,
            Self::Bundled => cfg!(feature = "whisper"),
            Self::Catalogue(entry) => hub.cached(&entry.source()).is_some(),
            Self::Hub { repo, file } => hub.cached(&Source { repo, file, sha256: None }).is_some(),
            Self::Path(path) => path.is_file(),
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
    let others = others.filter(|name| hub_address(name).is_some());
    bundled.into_iter().chain(known).chain(others).collect()
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
        for nothing in [path, "auto", "", "nobody", "../mine.bin", "a/b:../mine.bin", "Cargo.toml"] {
            assert_eq!(Spec::of_request(nothing), None, "{nothing}");
        }
        assert_eq!(Spec::of_request(" Bundled "), Some(Spec::Bundled));
        let name = |text: &str| Spec::of_request(text).and_then(|spec| spec.name());
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
        for place in [tiny.file.as_str(), "me/whisper/x.bin", "me/.hidden/x.bin", "me/whisper/notes.txt"] {
            let path = folder.path().join(place);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("room for a folder");
            std::fs::write(path, "a stand-in").expect("room for a file");
        }
        let found = on_this_machine(&hub);
        assert_eq!(found[bundled.len()..], ["tiny", "me/whisper:x.bin"]);
        let here = |text: &str| Spec::of_request(text).is_some_and(|spec| spec.is_here(&hub));
        assert!(here("tiny") && here("me/whisper:x.bin"));
        assert!(!here("base") && !here("me/whisper:z.bin"));
    }
}
