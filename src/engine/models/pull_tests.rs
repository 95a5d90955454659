//! Repositories of the hub that hold a model in another form.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use super::fake_hub::{FakeHub, Reply, Seen};
use super::import::forge;
use super::tests::{config, left, spec};
use super::*;

/// The files of a folder, as a repository.
fn repository(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(folder).expect("a folder").flatten();
    let file = |file: std::fs::DirEntry| {
        let name = file.file_name().to_string_lossy().into_owned();
        (name, std::fs::read(file.path()).expect("a file"))
    };
    files.map(file).collect()
}

fn answer(seen: &Seen, repo: &str, files: &BTreeMap<String, Vec<u8>>) -> Reply {
    if seen.path == format!("/api/models/{repo}") {
        let siblings: Vec<_> = files.keys().map(|name| json!({"rfilename": name})).collect();
        let body = json!({"id": repo, "siblings": siblings}).to_string().into_bytes();
        return Reply { status: 200, body, ..Reply::default() };
    }
    match seen.path.strip_prefix(&format!("/{repo}/resolve/main/")).and_then(|name| files.get(name)) {
        Some(bytes) => Reply::file(seen, bytes).named(bytes),
        None => Reply::status(404),
    }
}

/// A repository with these files, and some that nobody needs.
fn hub_with(repo: &'static str, mut files: BTreeMap<String, Vec<u8>>) -> FakeHub {
    for (name, bytes) in [("README.md", "read me"), ("pytorch_model.bin", "PK"), ("onnx/model.bin", "x")] {
        files.insert(name.to_owned(), bytes.as_bytes().to_vec());
    }
    FakeHub::start(move |seen, _| answer(seen, repo, &files))
}

fn bring(name: &str, hub: &HubConfig) -> Result<(String, PathBuf, Preset), ModelError> {
    let found = resolve(&spec(name), hub, Device::Cpu, &mut Silent)?;
    match found.weights {
        Weights::File(path) => Ok((found.name, path, found.preset)),
        Weights::Bundled => panic!("a file was asked for"),
    }
}

#[test]
fn a_repository_without_a_ggml_file_is_imported_once() {
    let shape = forge::shape(51_865, 80, 1);
    for put in [forge::transformers, forge::faster_whisper] {
        let folder = tempfile::tempdir().expect("a folder");
        put(&shape, folder.path());
        let fake = hub_with("me/whisper-sv", repository(folder.path()));
        let (mut hub, _cache) = config(fake.url());
        let (name, path, preset) = bring("me/whisper-sv", &hub).expect("it can be made");
        assert_eq!(
            (name.as_str(), &path),
            ("me/whisper-sv", &hub.cache_dir.join("me/whisper-sv/imported.bin"))
        );
        assert!(std::fs::read(&path).expect("it is there") == forge::ggml(&shape));
        assert_eq!(preset.heads, Some(AlignmentHeads::Listed([Head { layer: 0, head: 1 }].into())));
        let mut files = left(&hub);
        files.sort();
        assert_eq!(files, ["imported.bin", "imported.bin.json"]);
        let record = Record::of(&path).expect("it has a record");
        assert_eq!(record.source, format!("{}/me/whisper-sv", fake.url()));
        assert!(
            !fake.seen().iter().any(|seen| seen.path.contains("README") || seen.path.contains("pytorch"))
        );
        // From now on it is here.
        hub.offline = true;
        let asked = fake.seen().len();
        assert_eq!(bring("me/whisper-sv", &hub).expect("it is here").1, path);
        assert_eq!(fake.seen().len(), asked);
        assert!(on_this_machine(&hub).contains(&"me/whisper-sv".to_owned()));
        remove("me/whisper-sv", &hub).expect("it is here");
        assert_eq!(left(&hub), Vec::<String>::new());
        assert!(matches!(bring("me/whisper-sv", &hub), Err(ModelError::NotCached { .. })));
    }
}

#[test]
fn a_download_that_broke_goes_on_and_shards_are_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let shape = forge::shape(51_866, 128, 2);
    forge::transformers(&shape, folder.path());
    let mut files = repository(folder.path());
    let weights = files.remove("model.safetensors").expect("it is there");
    let map = json!({"weight_map": {"a": "model-00001-of-00001.safetensors"}}).to_string().into_bytes();
    files.insert("model.safetensors.index.json".to_owned(), map);
    files.insert("model-00001-of-00001.safetensors".to_owned(), weights);
    let fake = FakeHub::start(move |seen, before| {
        let reply = answer(seen, "me/large", &files);
        // Often enough that the first run gives up.
        let large = seen.path.ends_with("00001.safetensors");
        if large && before < 8 { reply.cut(500_000) } else { reply }
    });
    let (mut hub, _cache) = config(fake.url());
    hub.patience.attempts = 2;
    assert!(matches!(bring("me/large", &hub), Err(ModelError::Broken { .. })));
    assert!(left(&hub).contains(&"model-00001-of-00001.safetensors.part".to_owned()), "{:?}", left(&hub));
    hub.patience.attempts = 20;
    let (_, path, preset) = bring("me/large", &hub).expect("it comes in the end");
    assert!(std::fs::read(path).expect("it is there") == forge::ggml(&shape));
    assert_eq!((preset.languages, preset.translates), (100, false));
    assert!(fake.seen().iter().any(|seen| seen.from == Some(1_000_000)), "it went on where it broke");
}

#[test]
fn a_repository_with_one_ggml_file_is_that_file_and_with_several_they_are_named() {
    let ggml = forge::ggml(&forge::shape(51_865, 80, 1));
    let fake = hub_with("me/one", BTreeMap::from([("ggml-one.bin".to_owned(), ggml.clone())]));
    let (mut hub, _cache) = config(fake.url());
    let (name, path, _) = bring("me/one", &hub).expect("it is there");
    assert_eq!((name.as_str(), path), ("me/one:ggml-one.bin", hub.cache_dir.join("me/one/ggml-one.bin")));
    hub.offline = true;
    assert_eq!(bring("me/one", &hub).expect("it is here").0, name);
    let two = ["ggml-a.bin", "ggml-b.bin"].map(|name| (name.to_owned(), ggml.clone()));
    let fake = hub_with("me/two", BTreeMap::from(two));
    let (hub, _cache) = config(fake.url());
    let error = bring("me/two", &hub).expect_err("which one").to_string();
    assert!(error.contains("ggml-a.bin, ggml-b.bin") && error.contains("me/two:FILE"), "{error}");
}

#[test]
fn repositories_that_hold_no_model_are_one_sentence_and_leave_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    forge::transformers(&forge::shape(51_865, 80, 1), folder.path());
    let whole = repository(folder.path());
    type Change = fn(&mut BTreeMap<String, Vec<u8>>);
    let changes: [(Change, &str); 5] = [
        (|files| drop(files.remove("model.safetensors")), "PyTorch's own form"),
        (|files| drop(files.remove("config.json")), "config.json"),
        (|files| drop(files.insert("config.json".into(), b"{}".to_vec())), "not the JSON"),
        (|files| drop(files.insert("tokenizer.json".into(), b"<html>".to_vec())), "web page"),
        (|files| files.values_mut().for_each(|bytes| bytes.truncate(bytes.len() / 2)), "not the JSON"),
    ];
    for (change, why) in changes {
        let mut files = whole.clone();
        change(&mut files);
        let fake = hub_with("me/bad", files);
        let (hub, _cache) = config(fake.url());
        let error = bring("me/bad", &hub).expect_err(why).to_string();
        assert!(error.contains(why) && !error.contains('\n'), "{error}");
        assert_eq!(left(&hub), Vec::<String>::new(), "{why}");
    }
    for (status, body, why) in [
        (200, "<!DOCTYPE html><p>please log in", "makes no sense"),
        (200, "{}", "makes no sense"),
        (401, "", "HF_TOKEN"),
        (404, "", "the hub has no me/bad"),
        (503, "", "cannot be reached"),
    ] {
        let reply = Reply { status, body: body.as_bytes().to_vec(), ..Reply::default() };
        let fake = FakeHub::start(move |_, _| reply.clone());
        let (hub, _cache) = config(fake.url());
        let error = bring("me/bad", &hub).expect_err(why).to_string();
        assert!(error.contains(why), "{error}");
        assert_eq!(left(&hub), Vec::<String>::new(), "{why}");
    }
}

#[test]
fn the_command_line_imports_pulls_and_removes() {
    let folder = tempfile::tempdir().expect("a folder");
    forge::transformers(&forge::shape(51_865, 80, 1), folder.path());
    let fake = hub_with("me/whisper-sv", repository(folder.path()));
    let (hub, _cache) = config(fake.url());
    let say = |command: ModelsCommand| {
        let mut out = Vec::new();
        run(command, &hub, &mut out).map(|()| String::from_utf8(out).expect("text"))
    };
    let name = |name: &str| name.to_owned();
    let (source, quantize) = (folder.path().to_path_buf(), Some(Numbers::Q5_0));
    let import = ModelsCommand::Import { source, name: Some(name("mine")), quantize };
    let path = say(import).expect("it is made");
    assert_eq!(say(ModelsCommand::Path { name: name("mine") }).expect("a path"), path);
    say(ModelsCommand::Pull { name: name("me/whisper-sv") }).expect("it is made");
    let list = say(ModelsCommand::List).expect("a list");
    for (name, note) in
        [("mine", "imported from safetensors, q5_0"), ("me/whisper-sv", "from safetensors, f16")]
    {
        let line = list.lines().find(|line| line.split(' ').next() == Some(name)).expect("it is listed");
        assert!(line.contains("yes") && line.contains("99") && line.ends_with(note), "{line}");
    }
    for model in ["mine", "me/whisper-sv"] {
        assert!(say(ModelsCommand::Rm { name: name(model) }).expect("removed").starts_with("removed "));
        assert!(say(ModelsCommand::Rm { name: name(model) }).is_err());
    }
    assert_eq!(left(&hub), Vec::<String>::new());
}
