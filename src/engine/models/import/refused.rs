//! What is no Whisper model, and what is said about it.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::forge::{self, Table};
use super::tensors::Kind;
use super::tests::{Bench, ENGLISH, MANY, NEWEST, Put};

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

pub(super) fn cut(folder: &Path, name: &str, length: u64) {
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
    let forms: [(Put, &[Bad]); 2] =
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
