//! Downloads from a hub that breaks, names, the cache and the command line.

#![expect(clippy::disallowed_methods, reason = "a hub that is slow or hangs sleeps")]

use std::time::{Duration, Instant};

use super::fake_hub::{FakeHub, Reply, Seen, sum};
use super::header::tests::model;
use super::*;

/// A cache of its own, and little patience.
pub(super) fn config(endpoint: String) -> (HubConfig, tempfile::TempDir) {
    let cache = tempfile::tempdir().expect("a temporary folder");
    let mut hub = HubConfig { endpoint, ..HubConfig::new(cache.path().join("models")) };
    hub.patience.back_off = Duration::from_millis(1);
    hub.patience.stall = Duration::from_millis(300);
    hub.patience.answer = Duration::from_millis(2000);
    (hub, cache)
}

pub(super) fn spec(text: &str) -> Spec {
    text.parse().expect(text)
}

const FILE: &str = "some/repo:ggml-x.bin";

fn pull(hub: &HubConfig) -> Result<PathBuf, ModelError> {
    match resolve(&spec(FILE), hub, Device::Cpu, &mut Silent)?.weights {
        Weights::File(path) => Ok(path),
        Weights::Bundled => panic!("a file was asked for"),
    }
}

/// Every file in the cache, locks aside.
pub(super) fn left(hub: &HubConfig) -> Vec<String> {
    fn walk(folder: &Path, found: &mut Vec<String>) {
        for file in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            if file.path().is_dir() {
                walk(&file.path(), found);
            } else if !name.ends_with(".lock") {
                found.push(name);
            }
        }
    }
    let mut found = Vec::new();
    walk(&hub.cache_dir, &mut found);
    found
}

#[test]
fn a_file_is_downloaded_once_and_whole() {
    struct Watch(PathBuf, Vec<u64>, bool);
    impl Progress for Watch {
        fn moved(&mut self, _: &str, done: u64, total: Option<u64>) {
            assert!(!self.0.exists(), "a half file stands under its final name");
            assert_eq!(total, Some(model().len() as u64));
            self.1.push(done);
        }
        fn finished(&mut self, _: &str) {
            self.2 = self.0.exists();
        }
    }
    let fake = FakeHub::start(|seen, _| Reply::file(seen, &model()).named(&model()));
    let (hub, _cache) = config(fake.url());
    let target = hub.cache_dir.join("some/repo/ggml-x.bin");
    let mut watch = Watch(target.clone(), Vec::new(), false);
    let found = resolve(&spec(FILE), &hub, Device::Cpu, &mut watch).expect("the hub has it");
    assert_eq!((found.name.as_str(), &found.weights), (FILE, &Weights::File(target.clone())));
    assert!(watch.2 && watch.1.is_sorted() && watch.1.last() == Some(&(model().len() as u64)));
    assert_eq!(std::fs::read(&target).expect("it is there"), model());
    assert_eq!(left(&hub), ["ggml-x.bin"]);
    assert_eq!(fake.seen()[0].path, "/some/repo/resolve/main/ggml-x.bin");
    pull(&hub).expect("it is cached");
    assert_eq!(fake.seen().len(), 1, "a cached file was asked for again");
}

#[test]
fn a_broken_connection_is_taken_up_where_it_broke() {
    let fake = FakeHub::start(|seen, before| {
        let reply = Reply::file(seen, &model()).named(&model());
        if before < 3 { reply.cut(100_000) } else { reply }
    });
    let (hub, _cache) = config(fake.url());
    assert_eq!(std::fs::read(pull(&hub).expect("it comes in the end")).expect("it is there"), model());
    let asked: Vec<_> = fake.seen().iter().map(|seen| seen.from).collect();
    assert_eq!(asked, [None, Some(100_000), Some(200_000), Some(300_000)]);
}

#[test]
fn a_stalled_connection_is_given_up_and_taken_up_again() {
    let fake = FakeHub::start(|seen, before| {
        let reply = Reply::file(seen, &model()).named(&model());
        if before == 0 { Reply { stall: true, ..reply.cut(5000) } } else { reply }
    });
    let (hub, _cache) = config(fake.url());
    let start = Instant::now();
    assert_eq!(std::fs::read(pull(&hub).expect("it comes in the end")).expect("it is there"), model());
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!(fake.seen()[1].from, Some(5000));
}

#[test]
fn the_next_run_goes_on_from_what_the_last_one_left() {
    let fake = FakeHub::start(|seen, before| {
        let reply = Reply::file(seen, &model()).named(&model());
        if before < 2 { reply.cut(1000) } else { reply }
    });
    let (mut hub, _cache) = config(fake.url());
    hub.patience.attempts = 2;
    let error = pull(&hub).expect_err("two attempts are not enough");
    assert!(matches!(error, ModelError::Broken { done: 2000, .. }), "{error}");
    assert_eq!(left(&hub), ["ggml-x.bin.part"]);
    assert_eq!(std::fs::read(pull(&hub).expect("the third is")).expect("it is there"), model());
    assert_eq!(fake.seen()[2].from, Some(2000));
}

#[test]
fn a_server_without_ranges_starts_over() {
    let fake = FakeHub::start(|_, before| {
        let reply = Reply::file(&Seen::default(), &model()).named(&model());
        if before == 0 { reply.cut(1000) } else { reply }
    });
    let (hub, _cache) = config(fake.url());
    assert_eq!(std::fs::read(pull(&hub).expect("it comes")).expect("it is there"), model());
    let asked: Vec<_> = fake.seen().iter().map(|seen| seen.from).collect();
    assert_eq!(asked, [None, Some(1000)]);
}

#[test]
fn a_range_of_another_place_is_not_glued_on() {
    let fake = FakeHub::start(|seen, before| match before {
        0 => Reply::file(seen, &model()).cut(1000),
        1 => Reply::file(&Seen { from: Some(1100), ..seen.clone() }, &model()),
        _ => Reply::file(seen, &model()),
    });
    let (hub, _cache) = config(fake.url());
    assert_eq!(std::fs::read(pull(&hub).expect("it comes")).expect("it is there"), model());
    assert_eq!(fake.seen()[2].from, None);
}

#[test]
fn a_part_that_is_whole_is_only_checked_and_one_too_long_is_thrown_away() {
    for (surplus, requests) in [(0, 1), (5, 2)] {
        let fake = FakeHub::start(|seen, _| Reply::file(seen, &model()).named(&model()));
        let (hub, _cache) = config(fake.url());
        let folder = hub.cache_dir.join("some/repo");
        std::fs::create_dir_all(&folder).expect("a folder");
        let mut part = model();
        part.resize(part.len() + surplus, 1);
        std::fs::write(folder.join("ggml-x.bin.part"), part).expect("a part");
        assert_eq!(std::fs::read(pull(&hub).expect("it comes")).expect("it is there"), model());
        assert_eq!(fake.seen().len(), requests);
        assert_eq!(left(&hub), ["ggml-x.bin"]);
    }
}

#[test]
fn damaged_bytes_are_thrown_away() {
    let fake = FakeHub::start(|seen, _| {
        let mut bytes = model();
        bytes[500_000] ^= 1;
        Reply::file(seen, &bytes).named(&model())
    });
    let (hub, _cache) = config(fake.url());
    let error = pull(&hub).expect_err("a bit is wrong");
    assert!(matches!(&error, ModelError::Damaged { expected, .. } if *expected == sum(&model())), "{error}");
    assert!(left(&hub).is_empty(), "{:?}", left(&hub));
}

#[test]
fn what_is_no_model_does_not_get_a_models_name() {
    let fake = FakeHub::start(|seen, _| Reply::file(seen, b"<!DOCTYPE html><p>please log in"));
    let (hub, _cache) = config(fake.url());
    let error = pull(&hub).expect_err("that is a web page");
    assert!(matches!(error, ModelError::NotAModel { reason: BadModel::WebPage, .. }), "{error}");
    assert!(left(&hub).is_empty());
}

#[test]
fn more_bytes_than_announced_are_not_taken() {
    let fake = FakeHub::start(|seen, _| {
        let mut reply = Reply::file(seen, &model()).named(&model());
        reply.body.push(0);
        reply
    });
    let (hub, _cache) = config(fake.url());
    assert!(pull(&hub).is_err());
    assert!(!hub.cache_dir.join("some/repo/ggml-x.bin").exists());
}

#[test]
fn a_file_that_differs_from_the_catalogues_is_refused_before_it_is_downloaded() {
    let fake = FakeHub::start(|seen, _| Reply::file(seen, &model()).named(&model()));
    let (hub, _cache) = config(fake.url());
    let error = resolve(&spec("base"), &hub, Device::Cpu, &mut Silent).expect_err("it is not base");
    assert!(matches!(error, ModelError::Changed { .. }), "{error}");
    assert!(!hub.cache_dir.join("ggml-base.bin").exists());
    // A hub that names no sum does not get past the catalogue's either.
    let fake = FakeHub::start(|seen, _| Reply::file(seen, &model()));
    let hub = HubConfig { endpoint: fake.url(), ..hub };
    let error = resolve(&spec("base"), &hub, Device::Cpu, &mut Silent).expect_err("it is not base");
    assert!(matches!(error, ModelError::Damaged { .. }), "{error}");
    assert!(left(&hub).is_empty());
}

#[test]
fn the_token_goes_to_the_hub_alone_and_the_sum_comes_from_it_alone() {
    // The other host lies about the sum, and is not believed.
    let other = FakeHub::start(|seen, _| Reply::file(seen, &model()).named(b"something else"));
    let elsewhere = format!("{}/bucket/x?signature=abc", other.url());
    let fake = FakeHub::start(move |seen, _| match seen.path.as_str() {
        "/some/repo/resolve/main/ggml-x.bin" => Reply::redirect("../../../renamed/file".to_owned()),
        path if path.ends_with("/renamed/file") => Reply::redirect(elsewhere.clone()).named(&model()),
        _ => Reply::status(404),
    });
    let (mut hub, _cache) = config(fake.url());
    hub.token = Some("hf_secret\n".to_owned());
    pull(&hub).expect("it is on the other host");
    let tokens: Vec<_> = fake.seen().into_iter().map(|seen| seen.token).collect();
    assert_eq!(tokens, vec![Some("Bearer hf_secret".to_owned()); 2]);
    assert_eq!(other.seen().len(), 1);
    assert_eq!((other.seen()[0].path.as_str(), &other.seen()[0].token), ("/bucket/x?signature=abc", &None));
}

#[test]
fn endless_redirects_end() {
    let fake = FakeHub::start(|_, _| Reply::redirect("/again".to_owned()));
    let (hub, _cache) = config(fake.url());
    assert!(matches!(pull(&hub), Err(ModelError::Answer { .. })));
    assert_eq!(fake.seen().len(), 6);
}

#[test]
fn refusals_are_not_repeated_and_say_what_to_do() {
    for (status, words) in
        [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (404, "the hub has no some/repo:ggml-x.bin")]
    {
        let fake = FakeHub::start(move |_, _| Reply::status(status));
        let (mut hub, _cache) = config(fake.url());
        hub.token = Some("hf_secret".to_owned());
        let error = pull(&hub).expect_err("refused").to_string();
        assert!(error.contains(words) && !error.contains("hf_secret"), "{error}");
        assert_eq!(fake.seen().len(), 1);
    }
    let fake = FakeHub::start(|_, _| Reply::status(503));
    let (hub, _cache) = config(fake.url());
    assert!(matches!(pull(&hub), Err(ModelError::Unreachable { .. })));
    assert_eq!(fake.seen().len(), 5, "a passing fault is worth more attempts");
}

#[test]
fn two_at_once_download_one_file() {
    let fake = FakeHub::start(|seen, _| {
        std::thread::sleep(Duration::from_millis(100));
        Reply::file(seen, &model()).named(&model())
    });
    let (hub, _cache) = config(fake.url());
    std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..4).map(|_| scope.spawn(|| pull(&hub))).collect();
        for done in pulls {
            let path = done.join().expect("no panic").expect("it comes");
            assert_eq!(std::fs::read(path).expect("it is there"), model());
        }
    });
    assert_eq!(fake.seen().len(), 1);
}

#[test]
fn offline_and_unreachable_are_one_sentence_each() {
    let (mut hub, _cache) = config("http://127.0.0.1:1".to_owned());
    let error = resolve(&spec("small"), &hub, Device::Cpu, &mut Silent)
        .expect_err("nobody listens there")
        .to_string();
    assert!(
        error.contains("small") && error.contains("127.0.0.1:1") && error.contains("--model bundled"),
        "{error}"
    );
    hub.offline = true;
    let error = resolve(&spec("small"), &hub, Device::Cpu, &mut Silent).expect_err("offline").to_string();
    assert!(error.contains("models pull small") && error.contains("ggml-small.bin"), "{error}");
    hub.offline = false;
    for endpoint in ["ftp://127.0.0.1", "nonsense", ""] {
        let hub = HubConfig { endpoint: endpoint.to_owned(), ..hub.clone() };
        assert!(matches!(pull(&hub), Err(ModelError::Endpoint(_))), "{endpoint}");
    }
}

#[test]
fn auto_asks_the_hub_for_what_fits_the_device_and_falls_back_to_the_bundled_model() {
    for (device, file) in [(Device::Cpu, "ggml-base.bin"), (Device::Gpu, "ggml-large-v3-turbo.bin")] {
        // It answers, but what it has is not that model.
        let fake = FakeHub::start(|seen, _| Reply::file(seen, &model()).named(&model()));
        let (hub, _cache) = config(fake.url());
        let found = resolve(&Spec::Auto, &hub, device, &mut Silent).expect("auto never fails");
        assert_eq!(found.weights, Weights::Bundled);
        assert!(found.note.expect("there is something to say").contains("models pull base"));
        let seen = fake.seen();
        assert!(seen.iter().all(|seen| seen.path.ends_with(file)));
        assert_eq!(seen.iter().map(|seen| seen.method.as_str()).collect::<Vec<_>>(), ["HEAD", "GET"]);
    }
}

#[test]
fn auto_does_not_wait_for_a_hub_that_hangs() {
    let fake = FakeHub::start(|_, _| {
        std::thread::sleep(Duration::from_secs(20));
        Reply::status(200)
    });
    let (mut hub, _cache) = config(fake.url());
    hub.patience.answer = Duration::from_secs(20);
    hub.patience.probe = Duration::from_millis(200);
    let start = Instant::now();
    let found = resolve(&Spec::Auto, &hub, Device::Cpu, &mut Silent).expect("auto never fails");
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!((found.weights, found.name.as_str()), (Weights::Bundled, BUNDLED_NAME));
    assert!(Patience::default().probe <= Duration::from_secs(4));
    hub.offline = true;
    let found = resolve(&Spec::Auto, &hub, Device::Cpu, &mut Silent).expect("auto never fails");
    assert!(found.note.expect("there is something to say").contains("models pull base"));
}

#[test]
fn auto_takes_the_best_that_is_cached() {
    let (mut hub, _cache) = config("http://127.0.0.1:1".to_owned());
    hub.offline = true;
    std::fs::create_dir_all(&hub.cache_dir).expect("a folder");
    let taken = |device| resolve(&Spec::Auto, &hub, device, &mut Silent).expect("auto never fails").name;
    let put = |name: &str, bytes: &[u8]| {
        std::fs::write(hub.cache_dir.join(format!("ggml-{name}.bin")), bytes).expect("a model");
    };
    for (name, cpu, gpu) in [
        ("large-v3-turbo", "large-v3-turbo", "large-v3-turbo"),
        ("large-v3", "large-v3-turbo", "large-v3"),
        ("tiny.en", "tiny.en", "large-v3"),
        ("tiny-q5_1", "tiny-q5_1", "large-v3"),
        ("base.en", "base.en", "large-v3"),
        ("base", "base", "large-v3"),
        ("small", "small", "large-v3"),
    ] {
        put(name, &model());
        assert_eq!((taken(Device::Cpu).as_str(), taken(Device::Gpu).as_str()), (cpu, gpu), "with {name}");
    }
    // A broken one is passed over, and said so.
    put("small", &model()[..1000]);
    let found = resolve(&Spec::Auto, &hub, Device::Cpu, &mut Silent).expect("auto never fails");
    assert_eq!(found.name, "base");
    assert!(found.note.expect("there is something to say").contains("ggml-small.bin"));
}

#[test]
fn models_are_asked_for_in_many_ways() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("ggml-mine.bin");
    std::fs::write(&file, model()).expect("a file");
    assert_eq!(spec("auto"), Spec::Auto);
    assert_eq!(spec("bundled"), Spec::Bundled);
    assert_eq!(spec(BUNDLED_NAME), Spec::Bundled);
    assert_eq!(spec("Large"), Spec::Catalogue(find("large-v3").expect("it is there")));
    assert_eq!(spec("ggerganov/whisper.cpp:ggml-base.bin"), spec("base"));
    assert_eq!(spec("a/b:c/d.bin"), Spec::Hub { repo: "a/b".to_owned(), file: "c/d.bin".to_owned() });
    assert_eq!(spec(&file.to_string_lossy()), Spec::Path(file.clone()));
    let wrong = |text: &str| text.parse::<Spec>().expect_err(text);
    for path in
        ["/nowhere/at/all", "gone.bin", "gone.gguf", "gone/model.bin", "../x", "a/b:../../c.bin", "a/..:c"]
    {
        assert!(matches!(wrong(path), ModelError::NoFile(_)), "{path}");
    }
    assert!(matches!(wrong(&folder.path().to_string_lossy()), ModelError::Folder(_)));
    assert_eq!(spec("me/whisper-sv"), Spec::Repo("me/whisper-sv".to_owned()));
    for (names, entry) in [
        (
            &["openai/whisper-base", "Systran/faster-whisper-base", "whisper-base", "faster-whisper-base"][..],
            "base",
        ),
        (&["openai/whisper-base.en", "guillaumekln/faster-whisper-base.en", "whisper-base.en"], "base.en"),
        (&["openai/whisper-large", "openai/whisper-large-v1"], "large-v1"),
        (&["openai/whisper-large-v3", "Systran/faster-whisper-large-v3", "whisper-large"], "large-v3"),
        (
            &[
                "openai/whisper-large-v3-turbo",
                "whisper-large-v3-turbo",
                "deepdml/faster-whisper-large-v3-turbo-ct2",
                "mobiuslabsgmbh/faster-whisper-large-v3-turbo",
                "OPENAI/WHISPER-TURBO",
            ],
            "large-v3-turbo",
        ),
        (&["distil-whisper/distil-large-v3", "Systran/faster-distil-whisper-large-v3"], "distil-large-v3"),
    ] {
        for name in names {
            assert_eq!(spec(name), Spec::Catalogue(find(entry).expect("it is there")), "{name}");
        }
    }
    for name in ["distil-whisper/distil-small.en", "someone/whisper-base", "openai/whisper"] {
        assert_eq!(spec(name), Spec::Repo(name.to_owned()));
    }
    for name in ["huge", "whisper-1", "a:b"] {
        assert!(matches!(wrong(name), ModelError::Unknown(_)), "{name}");
    }
    let (hub, _cache) = config("http://127.0.0.1:1".to_owned());
    let found = resolve(&Spec::Path(file), &hub, Device::Cpu, &mut Silent).expect("it is a model");
    assert_eq!((found.name.as_str(), found.preset.languages), ("mine", 1));
}

#[test]
fn requests_may_use_other_services_names() {
    for name in REQUEST_ALIASES.iter().chain(&[
        "base",
        "BASE",
        "openai/whisper-base",
        "Systran/faster-whisper-base",
        "whisper-base",
    ]) {
        assert!(request_name_known(name, "base"), "{name}");
    }
    for name in [
        "large-v3",
        "openai/whisper-large-v3",
        "Systran/faster-whisper-small",
        "me/whisper-base",
        "gpt-5",
        "",
        "whisper",
        "/whisper",
        "a/b/whisper",
        "openai/clip",
    ] {
        assert!(!request_name_known(name, "base"), "{name}");
    }
    assert!(request_name_known("turbo", "large-v3-turbo") && request_name_known("bundled", BUNDLED_NAME));
    assert!(!request_name_known("bundled", "base"));
}

#[test]
fn the_cache_is_where_caches_are() {
    let with = |pairs: &'static [(&str, &str)]| {
        default_cache_dir(|name| {
            pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
        })
    };
    assert_eq!(with(&[("XDG_CACHE_HOME", "/x"), ("HOME", "/h")]), Path::new("/x/whisperwire/models"));
    assert_eq!(with(&[("XDG_CACHE_HOME", "x"), ("HOME", "/h")]), Path::new("/h/.cache/whisperwire/models"));
    assert_eq!(with(&[]), Path::new(".cache/whisperwire/models"));
}

#[test]
fn the_command_line_lists_pulls_finds_and_removes() {
    let fake = FakeHub::start(|seen, _| Reply::file(seen, &model()).named(&model()));
    let (hub, _cache) = config(fake.url());
    let say = |command: ModelsCommand| {
        let mut out = Vec::new();
        run(command, &hub, &mut out).map(|()| String::from_utf8(out).expect("text"))
    };
    // The only model of the catalogue whose sum is not known beforehand.
    let name = || "small.en-tdrz".to_owned();
    let line = |list: &str, name: &str| {
        list.lines().find(|line| line.split(' ').next() == Some(name)).expect("it is listed").to_owned()
    };
    let list = say(ModelsCommand::List).expect("a list");
    assert!(entries().iter().all(|entry| list.contains(&entry.name)) && list.contains(BUNDLED_NAME));
    assert!(line(&list, "base").ends_with("taken by auto on a CPU"));
    assert!(line(&list, "large-v3-turbo").contains("taken by auto on a GPU"));
    assert!(!line(&list, &name()).contains("yes"));
    assert!(
        say(ModelsCommand::Path { name: name() }).is_err()
            && say(ModelsCommand::Rm { name: name() }).is_err()
    );

    let path = hub.cache_dir.join("ggml-small.en-tdrz.bin");
    assert_eq!(say(ModelsCommand::Pull { name: name() }).expect("pulled").trim(), path.to_string_lossy());
    assert_eq!(say(ModelsCommand::Path { name: name() }).expect("a path").trim(), path.to_string_lossy());
    say(ModelsCommand::Pull { name: FILE.to_owned() }).expect("pulled");
    let list = say(ModelsCommand::List).expect("a list");
    assert!(line(&list, &name()).contains("yes") && line(&list, &name()).ends_with("taken by auto"));
    assert!(line(&list, FILE).contains("yes"));
    assert!(say(ModelsCommand::Rm { name: name() }).expect("removed").starts_with("removed "));
    assert!(!path.exists() && say(ModelsCommand::Rm { name: name() }).is_err());
    for name in ["bundled", "auto", "nothing"] {
        for command in
            [ModelsCommand::Pull { name: name.to_owned() }, ModelsCommand::Rm { name: name.to_owned() }]
        {
            assert!(say(command).is_err(), "{name}");
        }
    }
}

#[cfg(feature = "whisper")]
#[test]
fn the_bundled_model_is_whole() {
    let bytes = bundled().expect("it unpacks");
    assert_eq!(bytes.len() as u64, catalogue::bundled_size());
    let header = inspect_bytes(&bytes).expect("it is a model");
    assert_eq!((header.class(), header.numbers), (Some(BUNDLED_NAME), "q8_0"));
    assert_eq!(header.preset(), catalogue::bundled_preset());
    let (hub, cache) = config("http://127.0.0.1:1".to_owned());
    let found = resolve(&Spec::Bundled, &hub, Device::Cpu, &mut Silent).expect("it is in the binary");
    assert_eq!(found.preset, header.preset());
    // Unpacked by hand it is the same model.
    let file = cache.path().join(format!("{BUNDLED_NAME}.bin"));
    std::fs::write(&file, &bytes).expect("a file");
    let unpacked = resolve(&Spec::Path(file), &hub, Device::Cpu, &mut Silent).expect("it is a model");
    assert_eq!((unpacked.name, unpacked.preset), (found.name, found.preset));
}
