//! Every form leads to the same file, and what is no Whisper model leads to none.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::super::{AlignmentHeads, Head, Silent, Weights as Found, resolve};
use super::forge;
use super::tensors::Kind;
use super::*;

/// A models folder, and one for the source.
pub(super) struct Bench {
    pub(super) hub: HubConfig,
    pub(super) source: tempfile::TempDir,
    _models: tempfile::TempDir,
}

impl Bench {
    pub(super) fn new() -> Self {
        let models = tempfile::tempdir().expect("a folder");
        let hub = HubConfig { offline: true, ..HubConfig::new(models.path().to_path_buf()) };
        Self { hub, source: tempfile::tempdir().expect("a folder"), _models: models }
    }

    pub(super) fn import(&self, name: &str, numbers: Option<Numbers>) -> Result<PathBuf, ModelError> {
        self.import_from(self.source.path(), name, numbers)
    }

    pub(super) fn import_from(
        &self,
        source: &Path,
        name: &str,
        numbers: Option<Numbers>,
    ) -> Result<PathBuf, ModelError> {
        let order = Import { source: source.to_path_buf(), name: Some(name.to_owned()), numbers };
        import(&order, &self.hub, &mut Silent)
    }

    /// What lies in the models folder.
    pub(super) fn left(&self) -> Vec<String> {
        let files = fs::read_dir(&self.hub.cache_dir).into_iter().flatten().flatten();
        files.map(|file| file.file_name().to_string_lossy().into_owned()).collect()
    }
}

/// Writes a model to a folder.
pub(super) type Put = fn(&Shape, &Path);

pub(super) const ENGLISH: u32 = 51_864;
pub(super) const MANY: u32 = 51_865;
pub(super) const NEWEST: u32 = 51_866;

#[test]
fn every_form_leads_to_the_same_file() {
    let forms: [(&str, Put); 14] = [
        ("safetensors", |shape, folder| forge::transformers(shape, folder)),
        ("safetensors", |shape, folder| {
            forge::transformers(shape, folder);
            forge::write(
                folder,
                "model.safetensors",
                forge::safetensors(&forge::table(shape, Kind::F32, "")),
            );
        }),
        ("safetensors", |shape, folder| {
            forge::transformers(shape, folder);
            let table = forge::table(shape, Kind::Bf16, "model.");
            forge::write(folder, "model.safetensors", forge::safetensors(&table));
        }),
        ("safetensors", |shape, folder| {
            // Two shards, the output layer beside the embedding, and keys with biases of zero.
            forge::transformers(shape, folder);
            fs::remove_file(folder.join("model.safetensors")).expect("it was there");
            let mut table = forge::table(shape, Kind::F16, "model.");
            let embedding =
                table.iter().find(|tensor| tensor.0.contains("embed_tokens")).expect("it is there").clone();
            table.push(("proj_out.weight".to_owned(), embedding.1, embedding.2, embedding.3));
            let bias = "model.decoder.layers.0.self_attn.k_proj.bias";
            table.push((bias.to_owned(), "F16", vec![32], vec![0; 64]));
            let second = table.split_off(9);
            let mut map = serde_json::Map::new();
            for (name, table) in [("model-1.safetensors", &table), ("model-2.safetensors", &second)] {
                forge::write(folder, name, forge::safetensors(table));
                map.extend(table.iter().map(|tensor| (tensor.0.clone(), json!(name))));
            }
            forge::write(folder, "model.safetensors.index.json", json!({"weight_map": map}).to_string());
        }),
        ("safetensors", |shape, folder| {
            forge::transformers(shape, folder);
            fs::remove_file(folder.join("tokenizer.json")).expect("it was there");
            forge::vocab_json(shape.vocab, folder);
        }),
        ("safetensors", |shape, folder| {
            // Only the output layer was saved, which is the embedding.
            forge::transformers(shape, folder);
            let mut table = forge::table(shape, Kind::F16, "model.");
            let embedding =
                table.iter_mut().find(|tensor| tensor.0.contains("embed_tokens")).expect("it is there");
            embedding.0 = "proj_out.weight".to_owned();
            forge::write(folder, "model.safetensors", forge::safetensors(&table));
        }),
        ("CTranslate2", |shape, folder| forge::faster_whisper(shape, folder)),
        ("CTranslate2", |shape, folder| with(shape, folder, Kind::F32)),
        ("CTranslate2", |shape, folder| with(shape, folder, Kind::Bf16)),
        ("CTranslate2", |shape, folder| with(shape, folder, Kind::I8)),
        ("CTranslate2", |shape, folder| with(shape, folder, Kind::I16)),
        ("CTranslate2", |shape, folder| {
            forge::faster_whisper(shape, folder);
            fs::remove_file(folder.join("vocabulary.json")).expect("it was there");
            forge::vocabulary(shape.vocab, folder, "vocabulary.txt");
        }),
        ("CTranslate2", |shape, folder| {
            forge::faster_whisper(shape, folder);
            fs::remove_file(folder.join("vocabulary.json")).expect("it was there");
            forge::tokenizer(shape.vocab, folder);
        }),
        ("ggml", |shape, folder| forge::write(folder, "ggml-x.bin", forge::ggml(shape))),
    ];
    for shape in [forge::shape(ENGLISH, 80, 1), forge::shape(MANY, 80, 1), forge::shape(NEWEST, 128, 2)] {
        let wanted = forge::ggml(&shape);
        for (place, (form, put)) in forms.iter().enumerate() {
            let bench = Bench::new();
            put(&shape, bench.source.path());
            let path = bench.import("mine", None).unwrap_or_else(|error| panic!("{place} {form}: {error}"));
            assert!(fs::read(&path).expect("it is there") == wanted, "{place} {form} {}", shape.vocab);
            let mut left = bench.left();
            left.sort();
            assert_eq!(left, ["ggml-mine.bin", "ggml-mine.bin.json"]);
            let record = Record::of(&path).expect("it has a record");
            assert_eq!((record.form.as_str(), record.numbers.as_str()), (*form, "f16"));
            assert_eq!(record.sha256, super::super::fake_hub::sum(&wanted));
            let languages = [1, 99, 100][(shape.vocab - ENGLISH) as usize];
            assert_eq!(record.languages, languages);
            assert!(record.files.iter().all(|file| file.sha256.len() == 64 && file.bytes > 0));
            let found =
                resolve(&Spec::Own("mine".to_owned()), &bench.hub, super::super::Device::Cpu, &mut Silent);
            let found = found.expect("it is here");
            assert_eq!((found.name.as_str(), found.weights), ("mine", Found::File(path)));
            let listed = AlignmentHeads::Listed([Head { layer: 0, head: 1 }].into());
            assert_eq!(found.preset.heads, (*form != "ggml").then_some(listed));
            assert_eq!(found.preset.languages, languages);
        }
    }
}

/// A folder as faster-whisper uses it, with other numbers.
fn with(shape: &Shape, folder: &Path, kind: Kind) {
    forge::faster_whisper(shape, folder);
    forge::write(folder, "model.bin", forge::ctranslate2(&forge::variables(shape, kind)));
}

#[test]
fn quantised_models_are_the_same_from_every_form_and_pass_the_check() {
    let shape = forge::shape(MANY, 80, 1);
    for numbers in [Numbers::Q8_0, Numbers::Q5_1, Numbers::Q5_0, Numbers::Q4_1, Numbers::Q4_0, Numbers::F32] {
        let (direct, again) = (Bench::new(), Bench::new());
        forge::transformers(&shape, direct.source.path());
        forge::write(again.source.path(), "ggml-x.bin", forge::ggml(&shape));
        let direct =
            direct.import("mine", Some(numbers)).map(|path| (fs::read(&path), inspect(&path), direct));
        let (bytes, header, _direct) = direct.expect("it is made");
        assert_eq!(header.expect("it is a model").numbers, numbers.name());
        let path = again.import("mine", Some(numbers)).expect("it is made");
        assert!(fs::read(&path).expect("it is there") == bytes.expect("it is there"), "{numbers:?}");
        // What is quantised already is not quantised again.
        let other = if numbers == Numbers::Q8_0 { Numbers::Q5_0 } else { Numbers::Q8_0 };
        let twice = again.import_from(&path, "twice", Some(other));
        assert_eq!(twice.is_ok(), numbers == Numbers::F32, "{numbers:?}");
        assert!(again.import_from(&path, "copy", Some(numbers)).is_ok());
    }
}

#[test]
fn a_model_with_a_name_of_the_catalogue_is_that_model() {
    // The shape of tiny.en, and nothing else of it.
    let shape = Shape {
        width: 384,
        encoder_heads: 6,
        decoder_heads: 6,
        encoder_layers: 4,
        decoder_layers: 4,
        ..forge::shape(ENGLISH, 80, 4)
    };
    let bench = Bench::new();
    forge::faster_whisper(&shape, bench.source.path());
    for (name, why) in [
        ("base.en", "its shape is that of tiny.en"),
        ("tiny", "its shape is that of tiny.en"),
        ("tiny.en-q8_0", "the name says q8_0"),
        ("whisper-1", "it means something else already"),
        ("auto", "it means something else already"),
        ("../x", "letters, digits"),
        ("a/b", "letters, digits"),
        (".x", "letters, digits"),
        ("", "letters, digits"),
        ("\u{e9}", "letters, digits"),
    ] {
        let error = bench.import(name, Some(Numbers::Q4_0)).expect_err(name).to_string();
        assert!(error.contains(why), "{name}: {error}");
        assert_eq!(bench.left(), Vec::<String>::new(), "{name}");
    }
    let path = bench.import("openai/whisper-tiny.en", Some(Numbers::Q4_0)).expect("it has that shape");
    assert_eq!(path, bench.hub.cache_dir.join("ggml-tiny.en.bin"));
    for name in ["tiny.en", "Systran/faster-whisper-tiny.en", "whisper-tiny.en", "openai/whisper-tiny.en"] {
        let spec = Spec::named(name, &bench.hub).expect(name);
        let found = resolve(&spec, &bench.hub, super::super::Device::Cpu, &mut Silent).expect(name);
        assert_eq!((found.name.as_str(), found.weights), ("tiny.en", Found::File(path.clone())));
    }
    let auto =
        resolve(&Spec::Auto, &bench.hub, super::super::Device::Cpu, &mut Silent).expect("auto never fails");
    assert_eq!(auto.name, "tiny.en");
    assert!(matches!(bench.import("tiny.en", None), Err(ModelError::Exists { .. })));
    super::super::remove("whisper-tiny.en", &bench.hub).expect("it is here");
    assert!(bench.left().iter().all(|name| name.ends_with(".lock")), "{:?}", bench.left());
}

#[test]
fn the_name_is_that_of_the_folder_or_of_the_repository() {
    let shape = forge::shape(MANY, 80, 1);
    for (place, wanted) in [
        ("my-model", "ggml-my-model.bin"),
        ("models--me--whisper-sv/snapshots/0a1b", "me/whisper-sv/imported.bin"),
    ] {
        let bench = Bench::new();
        let folder = bench.source.path().join(place);
        fs::create_dir_all(&folder).expect("a folder");
        forge::transformers(&shape, &folder);
        for source in [folder.clone(), folder.join("model.safetensors")] {
            let order = Import { source, name: None, numbers: None };
            let path = import(&order, &bench.hub, &mut Silent).expect("it is a model");
            assert_eq!(path, bench.hub.cache_dir.join(wanted));
            fs::remove_file(path).expect("it is there");
        }
    }
}

#[test]
fn a_file_that_shrinks_or_changes_while_it_is_read_leaves_nothing() {
    /// Does something to a file once the first bytes are written.
    struct Meddler(PathBuf, fn(&Path));
    impl Progress for Meddler {
        fn moved(&mut self, _: &str, done: u64, _: Option<u64>) {
            if (1_500_000..1_700_000).contains(&done) {
                (self.1)(&self.0);
            }
        }
        fn finished(&mut self, _: &str) {}
    }
    let shrink =
        |path: &Path| super::refused::cut(path.parent().expect("a folder"), "model.safetensors", 1_000_000);
    let change = |path: &Path| {
        use std::io::Write;
        let file = fs::OpenOptions::new().append(true).open(path);
        file.and_then(|mut file| file.write_all(b"x")).expect("it can be written");
    };
    for meddle in [shrink as fn(&Path), change] {
        let bench = Bench::new();
        forge::transformers(&forge::shape(MANY, 80, 1), bench.source.path());
        let source = bench.source.path().join("model.safetensors");
        let order = Import { source: source.clone(), name: Some("mine".to_owned()), numbers: None };
        let error = import(&order, &bench.hub, &mut Meddler(source, meddle)).expect_err("it has changed");
        assert!(error.to_string().contains("changed while it was read"), "{error}");
        assert_eq!(bench.left(), Vec::<String>::new());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_nothing() {
    let bench = Bench::new();
    forge::transformers(&forge::shape(MANY, 80, 1), bench.source.path());
    let unfinished = unfinished(&bench.hub.cache_dir.join("ggml-mine.bin"));
    std::os::unix::fs::symlink("/dev/full", unfinished).expect("a link");
    let error = bench.import("mine", None).expect_err("the disk is full");
    assert!(matches!(&error, ModelError::Io { source, .. } if source.raw_os_error() == Some(28)), "{error}");
    assert_eq!(bench.left(), Vec::<String>::new());
    bench.import("mine", None).expect("there is room again");
}

#[test]
fn two_imports_of_one_name_do_not_mix() {
    let bench = Bench::new();
    forge::transformers(&forge::shape(MANY, 80, 1), bench.source.path());
    let wanted = forge::ggml(&forge::shape(MANY, 80, 1));
    std::thread::scope(|scope| {
        let imports: Vec<_> = (0..4).map(|_| scope.spawn(|| bench.import("mine", None))).collect();
        let done: Vec<_> = imports.into_iter().map(|import| import.join().expect("no panic")).collect();
        assert_eq!(done.iter().filter(|done| done.is_ok()).count(), 1, "{done:?}");
    });
    assert!(fs::read(bench.hub.cache_dir.join("ggml-mine.bin")).expect("it is there") == wanted);
}

#[test]
fn heads_of_a_teacher_are_not_those_of_a_distilled_model() {
    let bench = Bench::new();
    forge::transformers(&forge::shape(MANY, 80, 2), bench.source.path());
    let heads = json!({"alignment_heads": [[0, 1], [17, 3]]});
    forge::write(bench.source.path(), "generation_config.json", heads.to_string());
    let path = bench.import("mine", None).expect("it is a model");
    assert_eq!(Record::of(&path).expect("it has a record").alignment_heads, None);
}

#[test]
fn a_record_belongs_to_its_file_alone() {
    let bench = Bench::new();
    forge::transformers(&forge::shape(MANY, 80, 1), bench.source.path());
    let path = bench.import("mine", None).expect("it is a model");
    assert!(Record::of(&path).is_some());
    let mut bytes = fs::read(&path).expect("it is there");
    let end = bytes.len() - 1;
    bytes[end] ^= 1;
    fs::write(&path, bytes).expect("it can be written");
    assert_eq!(Record::of(&path), None);
}
