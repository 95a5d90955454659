//! Every form leads to the same file, and what is no Whisper model leads to none.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::super::{AlignmentHeads, Head, Silent, Weights as Found, resolve};
use super::forge::{self, Table};
use super::tensors::Kind;
use super::*;

/// A models folder, and one for the source.
struct Bench {
    hub: HubConfig,
    source: tempfile::TempDir,
    _models: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let models = tempfile::tempdir().expect("a folder");
        let hub = HubConfig { offline: true, ..HubConfig::new(models.path().to_path_buf()) };
        Self { hub, source: tempfile::tempdir().expect("a folder"), _models: models }
    }

    fn import(&self, name: &str, numbers: Option<Numbers>) -> Result<PathBuf, ModelError> {
        self.import_from(self.source.path(), name, numbers)
    }

    fn import_from(
        &self,
        source: &Path,
        name: &str,
        numbers: Option<Numbers>,
    ) -> Result<PathBuf, ModelError> {
        let order = Import { source: source.to_path_buf(), name: Some(name.to_owned()), numbers };
        import(&order, &self.hub, &mut Silent)
    }

    /// What lies in the models folder.
    fn left(&self) -> Vec<String> {
        let files = fs::read_dir(&self.hub.cache_dir).into_iter().flatten().flatten();
        files.map(|file| file.file_name().to_string_lossy().into_owned()).collect()
    }
}

const ENGLISH: u32 = 51_864;
const MANY: u32 = 51_865;
const NEWEST: u32 = 51_866;

#[test]
fn every_form_leads_to_the_same_file() {
    type Put = fn(&Shape, &Path);
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

/// A change to a folder of transformers or of CTranslate2, and a part of what is said about it.
type Bad = (&'static str, fn(&Path), &'static str);

fn edit(folder: &Path, name: &str, change: impl FnOnce(&mut serde_json::Value)) {
    let json = fs::read(folder.join(name)).expect("it is there");
    let mut value = serde_json::from_slice(&json).expect("it is JSON");
    change(&mut value);
    forge::write(folder, name, value.to_string());
}

fn tensors(folder: &Path, change: impl FnOnce(&mut Table)) {
    let mut table = forge::table(&forge::shape(MANY, 80, 1), Kind::F16, "model.");
    change(&mut table);
    forge::write(folder, "model.safetensors", forge::safetensors(&table));
}

fn cut(folder: &Path, name: &str, length: u64) {
    let file = fs::OpenOptions::new().write(true).open(folder.join(name)).expect("it is there");
    file.set_len(length).expect("it can be cut");
}

fn gone(folder: &Path, name: &str) {
    fs::remove_file(folder.join(name)).expect("it was there");
}

const BAD_TRANSFORMERS: &[Bad] = &[
    ("no config", |at| gone(at, "config.json"), "config.json cannot be imported: it is missing"),
    ("no tokenizer", |at| gone(at, "tokenizer.json"), "it has no tokenizer"),
    ("no weights", |at| gone(at, "model.safetensors"), "it holds no weights"),
    (
        "another model's config",
        |at| edit(at, "config.json", |json| json["model_type"] = json!("wav2vec2")),
        "wav2vec2",
    ),
    (
        "more layers than there are",
        |at| edit(at, "config.json", |json| json["encoder_layers"] = json!(2)),
        "is missing",
    ),
    (
        "a wider model",
        |at| {
            edit(at, "config.json", |json| {
                json["d_model"] = json!(64);
                json["encoder_ffn_dim"] = json!(256);
                json["decoder_ffn_dim"] = json!(256);
            })
        },
        "has the size",
    ),
    (
        "an absurd width",
        |at| edit(at, "config.json", |json| json["d_model"] = json!(4_000_000_000_u32)),
        "four times as wide",
    ),
    (
        "absurdly many layers",
        |at| edit(at, "config.json", |json| json["decoder_layers"] = json!(4_000_000_000_u32)),
        "number of decoder layers",
    ),
    (
        "a negative number",
        |at| edit(at, "config.json", |json| json["decoder_layers"] = json!(-1)),
        "not the JSON",
    ),
    (
        "a vocabulary of its own",
        |at| edit(at, "config.json", |json| json["vocab_size"] = json!(60_000)),
        "vocabulary size 60000",
    ),
    (
        "a web page as its config",
        |at| forge::write(at, "config.json", "<!DOCTYPE html><p>log in"),
        "it is a web page",
    ),
    ("a config that is cut", |at| cut(at, "config.json", 40), "not the JSON"),
    ("weights that are cut", |at| cut(at, "model.safetensors", 1_000_000), "incomplete"),
    ("a table that is cut", |at| cut(at, "model.safetensors", 100), "incomplete"),
    ("an empty file", |at| cut(at, "model.safetensors", 0), "not a safetensors file"),
    (
        "a table of absurd length",
        |at| forge::write(at, "model.safetensors", [&u64::MAX.to_le_bytes()[..], b"{}"].concat()),
        "cannot be",
    ),
    (
        "a pointer",
        |at| forge::write(at, "model.safetensors", "version https://git-lfs.github.com/spec/v1\noid"),
        "Git LFS pointer",
    ),
    (
        "a page in place of weights",
        |at| forge::write(at, "model.safetensors", "<!DOCTYPE html><html><body>log in"),
        "web page",
    ),
    (
        "no table",
        |at| forge::write(at, "model.safetensors", [&9_u64.to_le_bytes()[..], b"nonsense!"].concat()),
        "table of contents is damaged",
    ),
    (
        "bytes that are no text in the table",
        |at| {
            forge::write(
                at,
                "model.safetensors",
                [&4_u64.to_le_bytes()[..], &[b'{', b'"', 0xff, 0xfe]].concat(),
            )
        },
        "table of contents is damaged",
    ),
    ("half of the tensors", |at| tensors(at, |table| table.truncate(30)), "is missing"),
    (
        "a tensor that Whisper has not",
        |at| tensors(at, |table| table.push(("model.lora".into(), "F16", vec![2], vec![0; 4]))),
        "model.lora",
    ),
    (
        "sizes that overflow",
        |at| tensors(at, |table| table[3].2 = vec![u64::MAX, u64::MAX]),
        "impossible size",
    ),
    ("a size that is not that of the bytes", |at| tensors(at, |table| table[3].2[0] += 1), "impossible size"),
    (
        "quantised elsewhere",
        |at| tensors(at, |table| (table[3].1, table[3].3) = ("F8_E4M3", vec![0; 4])),
        "not supported",
    ),
    (
        "a value that is no number",
        |at| tensors(at, |table| table[1].3[..2].copy_from_slice(&[0xff, 0x7f])),
        "no numbers",
    ),
    (
        "keys with biases",
        |at| {
            tensors(at, |table| {
                table.push((
                    "model.encoder.layers.0.self_attn.k_proj.bias".into(),
                    "F16",
                    vec![32],
                    vec![60; 64],
                ))
            })
        },
        "keys have no bias",
    ),
    (
        "an output layer of its own",
        |at| {
            tensors(at, |table| {
                let embedding = table
                    .iter()
                    .find(|tensor| tensor.0.contains("embed_tokens"))
                    .expect("it is there")
                    .clone();
                table.push(("proj_out.weight".into(), embedding.1, embedding.2, vec![0; embedding.3.len()]));
            })
        },
        "not its embedding",
    ),
    (
        "the tokenizer of the English models",
        |at| forge::tokenizer(ENGLISH, at),
        "not the tokenizer of this model",
    ),
    ("the tokenizer of the newest models", |at| forge::tokenizer(NEWEST, at), "<|notimestamps|>"),
    (
        "the tokenizer of another model",
        |at| {
            forge::write(
                at,
                "tokenizer.json",
                json!({"model": {"vocab": {"<pad>": 0, "\u{2581}a": 1}}}).to_string(),
            )
        },
        "not the tokenizer of this model",
    ),
    (
        "a tokenizer of other letters",
        |at| {
            edit(at, "tokenizer.json", |json| {
                let vocab = json["model"]["vocab"].as_object_mut().expect("a table");
                vocab.remove("t300");
                vocab.insert("\u{2581}a".into(), json!(300));
            })
        },
        "token 300",
    ),
    (
        "a tokenizer with a hole",
        |at| {
            edit(at, "tokenizer.json", |json| {
                drop(json["model"]["vocab"].as_object_mut().expect("a table").remove("t300"));
            })
        },
        "no token 300",
    ),
    ("a tokenizer that is cut", |at| cut(at, "tokenizer.json", 1000), "not the JSON"),
    (
        "alignment heads that are no list",
        |at| forge::write(at, "generation_config.json", "{\"alignment_heads\": 5}"),
        "not the JSON",
    ),
    (
        "PyTorch's form",
        |at| {
            gone(at, "model.safetensors");
            forge::write(at, "pytorch_model.bin", "PK\x03\x04");
        },
        "PyTorch's own form",
    ),
    (
        "an adapter",
        |at| fs::rename(at.join("model.safetensors"), at.join("adapter_model.safetensors")).expect("renamed"),
        "adapter",
    ),
    (
        "shards without an index",
        |at| {
            fs::copy(at.join("model.safetensors"), at.join("a.safetensors")).expect("copied");
            fs::rename(at.join("model.safetensors"), at.join("b.safetensors")).expect("renamed");
        },
        "no model.safetensors.index.json",
    ),
    ("a shard that is missing", |at| index(at, "model-2.safetensors"), "shard"),
    ("a shard elsewhere", |at| index(at, "../model.safetensors"), "no file beside it"),
    ("a shard by its path", |at| index(at, "/etc/x.safetensors"), "no file beside it"),
    (
        "an index of nothing",
        |at| {
            gone(at, "model.safetensors");
            forge::write(at, "model.safetensors.index.json", "{\"weight_map\": {}}");
        },
        "names 0 shards",
    ),
];

fn index(folder: &Path, shard: &str) {
    fs::rename(folder.join("model.safetensors"), folder.join("model-1.safetensors")).expect("renamed");
    let map = json!({"a": "model-1.safetensors", "b": shard});
    forge::write(folder, "model.safetensors.index.json", json!({"weight_map": map}).to_string());
}

fn model(folder: &Path, change: impl FnOnce(&mut forge::Variables)) {
    let mut variables = forge::variables(&forge::shape(MANY, 80, 1), Kind::I8);
    change(&mut variables);
    forge::write(folder, "model.bin", forge::ctranslate2(&variables));
}

fn patch(folder: &Path, at: usize, bytes: &[u8]) {
    let mut file = fs::read(folder.join("model.bin")).expect("it is there");
    file[at..at + bytes.len()].copy_from_slice(bytes);
    forge::write(folder, "model.bin", file);
}

const BAD_CTRANSLATE2: &[Bad] = &[
    ("no vocabulary", |at| gone(at, "vocabulary.json"), "it has no tokenizer"),
    ("cut", |at| cut(at, "model.bin", 1_000_000), "incomplete"),
    ("cut in its head", |at| cut(at, "model.bin", 10), "incomplete"),
    ("of an old version", |at| patch(at, 0, &[2, 0, 0, 0]), "version 2"),
    ("another kind of model", |at| patch(at, 6, b"Transformer"), "Transformer"),
    ("absurdly many variables", |at| patch(at, 22, &u32::MAX.to_le_bytes()), "4294967295 variables"),
    ("a name that is no text", |at| patch(at, 30, &[0xff, 0xfe]), "no text"),
    (
        "keys with biases",
        |at| {
            model(at, |all| {
                let bias = all.get_mut("encoder/layer_0/self_attention/linear_0/bias").expect("it is there");
                bias.2[32 * 4 + 2..32 * 4 + 4].copy_from_slice(&[0x80, 0x3f]);
            })
        },
        "bias for keys",
    ),
    (
        "whole numbers without scales",
        |at| {
            model(at, |all| {
                drop(all.remove("decoder/embeddings/weight_scale"));
            })
        },
        "no fitting scale",
    ),
    (
        "a scale of nothing",
        |at| {
            model(at, |all| {
                all.get_mut("decoder/embeddings/weight_scale").expect("it is there").2.fill(0);
            })
        },
        "no fitting scale",
    ),
    (
        "too few scales",
        |at| {
            model(at, |all| {
                let scale = all.get_mut("decoder/embeddings/weight_scale").expect("it is there");
                (scale.1, scale.2) = (vec![3], vec![0; 12]);
            })
        },
        "no fitting scale",
    ),
    (
        "half of it",
        |at| model(at, |all| all.retain(|name, _| name.starts_with("decoder"))),
        "no fitting encoder",
    ),
    (
        "a layer that is missing",
        |at| model(at, |all| all.retain(|name, _| !name.starts_with("decoder/layer_0/ffn"))),
        "is missing",
    ),
    (
        "a variable that Whisper has not",
        |at| {
            model(at, |all| {
                drop(all.insert("decoder/lora".into(), (Kind::F32, vec![1], vec![0; 4])));
            })
        },
        "decoder/lora",
    ),
    (
        "as many heads as do not fit",
        |at| {
            model(at, |all| {
                all.insert("decoder/num_heads".into(), (Kind::I16, Vec::new(), vec![7, 0]));
            })
        },
        "number of attention heads 7",
    ),
    (
        "another vocabulary",
        |at| forge::vocabulary(ENGLISH, at, "vocabulary.json"),
        "not the tokenizer of this model",
    ),
    (
        "a vocabulary that is no text",
        |at| {
            gone(at, "vocabulary.json");
            forge::write(at, "vocabulary.txt", [0xff, 0xfe, b'\n']);
        },
        "not UTF-8",
    ),
];

#[test]
fn what_is_no_whisper_model_is_refused_in_one_sentence_and_leaves_nothing() {
    let shape = forge::shape(MANY, 80, 1);
    let forms: [(fn(&Shape, &Path), &[Bad]); 2] =
        [(forge::transformers, BAD_TRANSFORMERS), (forge::faster_whisper, BAD_CTRANSLATE2)];
    for (put, table) in forms {
        for (what, change, why) in table {
            let bench = Bench::new();
            put(&shape, bench.source.path());
            change(bench.source.path());
            let error = bench.import("mine", None).expect_err(what).to_string();
            assert!(error.contains(why), "{what}: {error}");
            assert!(!error.contains('\n') && error.len() < 500, "{what}: {error}");
            assert_eq!(bench.left(), Vec::<String>::new(), "{what}");
        }
    }
    assert!(BAD_TRANSFORMERS.len() + BAD_CTRANSLATE2.len() > 50);
    // And the ones that are files.
    let bench = Bench::new();
    for (bytes, why) in [
        (&b""[..], "it is empty"),
        (b"GGUF\x03\0\0\0", "GGUF"),
        (b"PK\x03\x04rest", "zip"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"hello, this is a text", "not a whisper.cpp model"),
        (&forge::ggml(&shape)[..2_000_000], "incomplete"),
    ] {
        forge::write(bench.source.path(), "model.bin", bytes);
        for source in [bench.source.path().to_path_buf(), bench.source.path().join("model.bin")] {
            let error = bench.import_from(&source, "mine", None).expect_err(why).to_string();
            assert!(error.contains(why), "{error}");
        }
    }
    assert!(bench.import_from(Path::new("/nowhere/at/all"), "mine", None).is_err());
    assert_eq!(bench.left(), Vec::<String>::new());
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
    let shrink = |path: &Path| cut(path.parent().expect("a folder"), "model.safetensors", 1_000_000);
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
