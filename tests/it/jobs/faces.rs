//! Submitting, looking, fetching, calling off: what each face promises.

use serde_json::{Value, json};

use super::{id, numbered, over, submit};
use crate::client::{Answer, Form, until};
use crate::house::TestHouse;
use crate::sound::{quiet, speech, wav};

#[test]
fn a_job_has_the_words_of_the_upload_in_every_format() {
    let house = TestHouse::start(&[]);
    let sound = numbered(3);
    let job = submit(&house, &Form::of(&sound).text("language", "en"));
    assert_eq!(
        (&job["object"], &job["status"], &job["task"]),
        (&json!("job"), &json!("queued"), &json!("transcribe"))
    );
    assert_eq!(job["file"], json!({"name": "speech.wav", "bytes": sound.len()}));
    let done = over(&house, id(&job));
    assert_eq!(
        (&done["status"], &done["progress"], &done["attempts"]),
        (&json!("completed"), &json!(100.0), &json!(1))
    );
    let [created, started, ended, expires] = ["created_at", "started_at", "completed_at", "expires_at"]
        .map(|key| done[key].as_str().unwrap_or_else(|| panic!("{key}: {done}")).to_owned());
    assert!(created <= started && started <= ended && ended < expires && created.ends_with('Z'), "{done}");
    assert!((done["duration"].as_f64().expect("seconds") - 2.55).abs() < 0.01, "{done}");
    for format in ["json", "text", "srt", "vtt", "verbose_json"] {
        let now = house.transcribe(&Form::of(&sound).text("language", "en").text("response_format", format));
        let later = house.get(&format!("/v1/jobs/{}/result?format={format}", id(&job)));
        assert_eq!(later.good(), now.nameless(), "{format}");
        assert_eq!(later.header("content-type"), now.header("content-type"), "{format}");
    }
    let tsv = house.get(&format!("/v1/jobs/{}/result?format=tsv", id(&job)));
    assert!(tsv.good().starts_with("start\tend\ttext\n"), "{}", tsv.text());
    let plain = house.get(&format!("/v1/jobs/{}/result", id(&job)));
    assert_eq!(plain.json()["text"], house.transcribe(&Form::of(&sound)).json()["text"]);
}

#[test]
fn the_format_a_job_asked_for_is_the_one_it_gets() {
    let house = TestHouse::start(&[]);
    let form = Form::of(&numbered(1))
        .text("response_format", "verbose_json")
        .text("timestamp_granularities[]", "word");
    let job = submit(&house, &form.text("task", "translate"));
    assert_eq!(job["task"], "translate");
    over(&house, id(&job));
    let result = house.get(&format!("/v1/jobs/{}/result", id(&job))).json();
    assert_eq!(result["task"], "translate");
    assert!(result["words"].is_array() && result.get("segments").is_none(), "{result}");
}

#[test]
fn what_cannot_be_done_is_refused_at_once() {
    let house = TestHouse::start(&["--max-upload-mb", "1"]);
    let sound = numbered(0);
    let refused = |form: &Form| {
        let answer = Answer::to(house.upload("/v1/jobs", form));
        let error = answer.json_of()["error"].clone();
        (answer.status, error["code"].as_str().unwrap_or_default().to_owned(), error["param"].clone())
    };
    let invalid = |param: &str| (400, "invalid_request".to_owned(), json!(param));
    assert_eq!(refused(&Form::new().text("model", "whisper-1")), invalid("file"));
    assert_eq!(refused(&Form::of(&sound).text("task", "sing")), invalid("task"));
    assert_eq!(refused(&Form::of(&sound).text("stream", "true")), invalid("stream"));
    assert_eq!(refused(&Form::of(&sound).text("temperature", "7")), invalid("temperature"));
    assert_eq!(refused(&Form::of(&sound).text("webhook_secret", "s")), invalid("webhook_secret"));
    assert_eq!(refused(&Form::of(&vec![0; 2_000_000])).0, 413);
    let unsent = Answer::to(house.client.post(house.url("/v1/jobs")).body("no form"));
    assert_eq!((unsent.status, unsent.json_of()["error"]["code"].clone()), (400, json!("invalid_request")));
    let list = house.get("/v1/jobs").json();
    assert_eq!(list, json!({"object": "list", "data": [], "has_more": false}), "none of them was kept");
}

#[test]
fn jobs_are_listed_page_by_page() {
    let house = TestHouse::start(&[]);
    let mut ids: Vec<String> =
        (0..5).map(|n| id(&submit(&house, &Form::of(&numbered(n)))).to_owned()).collect();
    ids.iter().for_each(|id| drop(over(&house, id)));
    ids.reverse();
    let page = |query: &str| house.get(&format!("/v1/jobs?{query}")).json();
    let names = |page: &Value| -> Vec<String> {
        page["data"].as_array().expect("a list").iter().map(|job| id(job).to_owned()).collect()
    };
    let first = page("limit=3");
    assert_eq!((names(&first), &first["has_more"]), (ids[..3].to_vec(), &json!(true)));
    let second = page(&format!("limit=3&after={}", ids[2]));
    assert_eq!((names(&second), &second["has_more"]), (ids[3..].to_vec(), &json!(false)));
    assert_eq!(names(&page("status=completed")).len(), 5);
    assert_eq!(names(&page("status=failed")).len(), 0);
    for (query, param) in [("limit=0", "limit"), ("limit=x", "limit"), ("status=sleeping", "status")] {
        let answer = house.get(&format!("/v1/jobs?{query}"));
        assert_eq!(
            (answer.status, answer.json_of()["error"]["param"].clone()),
            (400, json!(param)),
            "{query}"
        );
    }
    assert_eq!(house.get("/v1/jobs?after=job_unknown").status, 404);
}

#[test]
fn progress_moves_while_the_file_is_decoded() {
    let house = TestHouse::start(&["--script-delay-ms", "60", "--file-window", "2"]);
    let pcm: Vec<f32> = (0..20).flat_map(|_| [speech(1.2), quiet(0.8)].concat()).collect();
    let job = submit(&house, &Form::of(&wav(&pcm)));
    let events = house.get(&format!("/v1/jobs/{}/events", id(&job)));
    assert_eq!(events.header("content-type"), "text/event-stream");
    let told: Vec<(String, Value)> = events
        .good()
        .split("\n\n")
        .filter_map(|event| {
            let name = event.lines().find_map(|line| line.strip_prefix("event: "))?;
            let data = event.lines().find_map(|line| line.strip_prefix("data: "))?;
            Some((name.to_owned(), serde_json::from_str(data).expect("a job")))
        })
        .collect();
    let (last, before) = told.split_last().expect("there are events");
    assert_eq!((last.0.as_str(), &last.1["progress"]), ("completed", &json!(100.0)));
    let shares: Vec<f64> = before.iter().map(|(_, job)| job["progress"].as_f64().expect("a share")).collect();
    assert!(before.iter().all(|(name, _)| name == "progress") && shares.is_sorted(), "{shares:?}");
    let between = shares.iter().filter(|share| (1.0..=99.0).contains(*share)).count();
    assert!(between >= 2, "it was seen under way: {shares:?}");
}

#[test]
fn a_job_can_be_called_off_and_forgotten() {
    let house = TestHouse::start(&["--script-delay-ms", "2000", "--max-concurrent-tasks", "1"]);
    let long = wav(&[speech(9.0), quiet(1.0)].concat());
    let running = submit(&house, &Form::of(&long));
    let waiting = submit(&house, &Form::of(&long));
    let look = |job: &Value| house.get(&format!("/v1/jobs/{}", id(job))).json()["status"].clone();
    until("it runs", super::PATIENCE, || look(&running) == "running");
    assert_eq!(look(&waiting), "queued", "one at a time");
    assert_eq!(house.get(&format!("/v1/jobs/{}/result", id(&waiting))).status, 409);
    let delete =
        |job: &Value| Answer::to(house.client.delete(house.url(&format!("/v1/jobs/{}", id(job))))).json_of();
    for job in [&waiting, &running] {
        let gone = delete(job);
        assert_eq!((&gone["status"], &gone["deleted"]), (&json!("cancelled"), &json!(false)));
        let result = house.get(&format!("/v1/jobs/{}/result", id(job)));
        assert_eq!((result.status, result.json_of()["error"]["code"].clone()), (409, json!("conflict")));
    }
    house.settle();
    let gone = delete(&running);
    assert_eq!((&gone["status"], &gone["deleted"]), (&json!("cancelled"), &json!(true)));
    assert_eq!(house.get(&format!("/v1/jobs/{}", id(&running))).status, 404);
    assert_eq!(delete(&running)["error"]["code"], "not_found");
}

#[test]
fn openai_s_endpoint_answers_later_and_page_by_page() {
    let house = TestHouse::start(&[]);
    let pcm: Vec<f32> = (0..7).flat_map(|_| [speech(1.0), quiet(1.0)].concat()).collect();
    let sound = wav(&pcm);
    let accepted = house.transcribe(&Form::of(&sound).text("async", "true"));
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    let task = accepted.json_of()["task_id"].as_str().expect("an id").to_owned();
    assert_eq!(
        (accepted.header("x-task-id"), &accepted.json_of()["status"]),
        (task.as_str(), &json!("queued"))
    );
    over(&house, &task);
    let page = |query: &str| house.get(&format!("/v1/audio/transcriptions/{task}?{query}")).json();
    let whole = page("");
    assert_eq!(
        (&whole["status"], &whole["page"], &whole["page_size"]),
        (&json!("completed"), &json!(1), &json!(50))
    );
    let now = house.transcribe(&Form::of(&sound).text("response_format", "verbose_json")).json();
    for key in ["text", "segments", "language", "duration"] {
        assert_eq!(whole[key], now[key], "{key}");
    }
    let all = whole["segments"].as_array().expect("segments").clone();
    assert!(all.len() > 3, "{whole}");
    let pages = all.len().div_ceil(2);
    let mut joined = Vec::new();
    for n in 1..=pages {
        let part = page(&format!("page={n}&page_size=2"));
        assert_eq!((&part["total_segments"], &part["total_pages"]), (&json!(all.len()), &json!(pages)));
        joined.extend(part["segments"].as_array().expect("segments").clone());
    }
    assert_eq!(joined, all);
    assert_eq!(page(&format!("page={}&page_size=2", pages + 1))["segments"], json!([]));
    for query in ["page=0", "page_size=501", "page=x"] {
        assert_eq!(house.get(&format!("/v1/audio/transcriptions/{task}?{query}")).status, 400, "{query}");
    }
    assert_eq!(house.get("/v1/audio/transcriptions/job_none").status, 404);
    let alone = house.transcribe(&Form::of(&sound).text("webhook_url", "https://example.com"));
    assert_eq!((alone.status, alone.json_of()["error"]["param"].clone()), (400, json!("webhook_url")));
}

#[test]
fn what_was_answered_at_once_can_be_asked_for_again_while_it_is_kept() {
    let house = TestHouse::start(&["--api-key", "mine", "--api-key", "yours"]);
    let ask = |key: &str, form: &Form| {
        Answer::to(house.upload("/v1/audio/transcriptions", form).header("x-api-key", key))
    };
    let page = |key: &str, id: &str, query: &str| {
        let url = house.url(&format!("/v1/audio/transcriptions/{id}?{query}"));
        Answer::to(house.client.get(url).header("x-api-key", key))
    };
    let pcm: Vec<f32> = (0..3).flat_map(|_| [speech(1.0), quiet(1.0)].concat()).collect();
    let form = Form::of(&wav(&pcm));

    let verbose = ask("mine", &form.clone().text("response_format", "verbose_json"));
    let (told, id) = (verbose.json(), verbose.header("x-task-id"));
    assert_eq!(told["task_id"], id);
    let again = page("mine", id, "");
    assert_eq!((again.header("x-task-id"), &again.json()["task_id"]), (id, &json!(id)));
    let again = again.json();
    assert_eq!((&again["status"], &again["progress"]), (&json!("completed"), &json!(100.0)));
    for key in ["text", "segments", "language", "duration"] {
        assert_eq!(again[key], told[key], "{key}");
    }
    assert!(again["created_at"].as_str() <= again["completed_at"].as_str(), "{again}");
    let second = page("mine", id, "page=2&page_size=1").json();
    assert_eq!(second["segments"][0], told["segments"][1]);

    // It is the one's who asked, and no job.
    page("yours", id, "").refused(404, "not_found", None);
    let job = house.client.get(house.url(&format!("/v1/jobs/{id}"))).header("x-api-key", "mine");
    assert_eq!(Answer::to(job).status, 404);

    // Every answer has its own, whatever made it: kept, streamed, decoded and told, or an English one.
    let others = [
        ask("yours", &form),
        ask("yours", &form.clone().text("stream", "true")),
        ask("yours", &form.clone().text("stream", "true").text("temperature", "0.5")),
        Answer::to(house.upload("/v1/audio/translations", &form).header("x-api-key", "yours")),
    ];
    for answer in others {
        assert_eq!(answer.status, 200, "{}", answer.text());
        let other = answer.header("x-task-id");
        assert_ne!(other, id);
        assert_eq!(page("yours", other, "").json()["text"], told["text"]);
    }

    // Nothing is told of what is not kept.
    let secret = ask("mine", &form.text("cache", "false").text("response_format", "verbose_json"));
    assert!(secret.header("x-task-id").is_empty() && secret.json().get("task_id").is_none());
}

#[test]
fn clients_of_a_whisperx_server_find_their_endpoints() {
    let house = TestHouse::start(&[]);
    let sound = numbered(2);
    let form = Form::new().file("talk.wav", &sound).text("language", "en").text("min_speakers", "1");
    let accepted = Answer::to(house.upload("/api/v1/transcribe/upload", &form)).json();
    assert_eq!(accepted["status"], "pending");
    let task = accepted["task_id"].as_str().expect("an id");
    over(&house, task);
    let status = house.get(&format!("/api/v1/transcribe/status/{task}")).json();
    assert_eq!(
        (&status["status"], &status["progress"], &status["error"]),
        (&json!("completed"), &json!(100.0), &Value::Null)
    );
    let result = house.get(&format!("/api/v1/transcribe/result/{task}")).json();
    assert_eq!(status["result"], result);
    assert_eq!(result["language"], "en");
    let now = house.transcribe(&Form::of(&sound)).json();
    let texts = result["segments"].as_array().expect("segments").iter();
    let words: Vec<&str> = texts
        .clone()
        .flat_map(|one| one["words"].as_array().expect("words"))
        .map(|word| word["word"].as_str().expect("a word"))
        .collect();
    let joined: Vec<&str> = texts.map(|one| one["text"].as_str().expect("text")).collect();
    assert_eq!(joined.join(" "), now["text"].as_str().expect("text"));
    assert_eq!(words.join(" "), now["text"].as_str().expect("text"));
    let gone = Answer::to(house.client.delete(house.url(&format!("/api/v1/transcribe/task/{task}")))).json();
    assert_eq!(gone["status"], "deleted");
    assert_eq!(house.get(&format!("/api/v1/transcribe/status/{task}")).status, 404);
}

#[test]
fn what_was_kept_for_its_time_is_gone_and_said_to_be() {
    let house = TestHouse::start(&["--jobs-keep-hours", "0", "--jobs-sweep-seconds", "1"]);
    let job = submit(&house, &Form::of(&numbered(0)));
    let result = || house.get(&format!("/api/v1/transcribe/result/{}", id(&job))).status;
    until("it is forgotten", super::PATIENCE, || result() == 410);
    let gone = house.get(&format!("/v1/jobs/{}", id(&job)));
    assert_eq!((gone.status, gone.json_of()["error"]["code"].clone()), (410, json!("gone")));
}

#[test]
fn a_full_queue_says_when_to_come_back() {
    let house = TestHouse::start(&[
        "--max-queued-tasks",
        "1",
        "--max-concurrent-tasks",
        "1",
        "--script-delay-ms",
        "1000",
    ]);
    let sound = wav(&speech(5.0));
    let first = submit(&house, &Form::of(&sound));
    until("it runs", super::PATIENCE, || {
        house.get(&format!("/v1/jobs/{}", id(&first))).json()["status"] == "running"
    });
    let second = submit(&house, &Form::of(&sound));
    let third = Answer::to(house.upload("/v1/jobs", &Form::of(&sound)));
    assert_eq!((third.status, third.header("retry-after")), (503, "30"));
    for job in [&second, &first] {
        Answer::to(house.client.delete(house.url(&format!("/v1/jobs/{}", id(job))))).json();
    }
}
