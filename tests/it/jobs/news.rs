//! Webhooks: signed, tried again, written down.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};

use super::{PATIENCE, id, numbered, over, submit};
use crate::client::{Answer, Form, until};
use crate::house::TestHouse;

/// Somebody who is told: answers with these statuses in turn, and with the last one from then on.
fn receiver(statuses: &'static [u16]) -> (SocketAddr, Receiver<(Vec<String>, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let (told, requests) = channel();
    std::thread::spawn(move || {
        for (n, connection) in listener.incoming().enumerate() {
            let mut connection = connection.expect("a connection");
            let mut reader = BufReader::new(connection.try_clone().expect("a handle"));
            let mut head = Vec::new();
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).expect("a line");
                if line.trim().is_empty() {
                    break;
                }
                head.push(line.trim().to_lowercase());
            }
            let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            let mut body = vec![0; length.expect("a length")];
            reader.read_exact(&mut body).expect("a body");
            let status = statuses.get(n).or(statuses.last()).expect("a status");
            let answer = format!("HTTP/1.1 {status} So\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            connection.write_all(answer.as_bytes()).expect("it listens");
            if told.send((head, serde_json::from_slice(&body).expect("JSON"))).is_err() {
                return;
            }
        }
    });
    (address, requests)
}

fn header<'a>(head: &'a [String], name: &str) -> &'a str {
    head.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap_or_default()
}

#[test]
fn the_end_of_a_job_is_told_once_and_again_by_hand() {
    let house = TestHouse::start(&["--webhook-allow-private"]);
    let (address, told) = receiver(&[204]);
    let url = format!("http://{address}/hook?x=1");
    let form = Form::of(&numbered(0)).text("webhook_url", &url).text("webhook_secret", "whsec_c2VjcmV0");
    let job = submit(&house, &form);
    let (head, event) = told.recv_timeout(PATIENCE).expect("it is told");
    assert_eq!(event["type"], "transcription.completed");
    assert_eq!(
        (event["data"]["id"].as_str(), event["data"]["task_id"].as_str()),
        (Some(id(&job)), Some(id(&job)))
    );
    assert_eq!(event["data"]["status"], "completed");
    assert_eq!(header(&head, "webhook-id"), event["id"].as_str().expect("an id"));
    assert!(header(&head, "webhook-signature").starts_with("v1,"), "{head:?}");
    let log =
        || house.get(&format!("/v1/webhooks/deliveries?task_id={}", id(&job))).json()["data"][0].clone();
    until("it is written down", PATIENCE, || log()["status"] == "delivered");
    assert_eq!((&log()["attempts"][0]["status"], &log()["url"]), (&json!(204), &json!(url)));
    assert!(!log().to_string().contains("c2VjcmV0"), "the secret is not told again");
    let again = format!("/v1/webhooks/deliveries/{}/redeliver", event["id"].as_str().expect("an id"));
    assert_eq!(Answer::to(house.client.post(house.url(&again))).status, 202);
    let (_, repeated) = told.recv_timeout(PATIENCE).expect("it is told again");
    assert_eq!(repeated, event, "byte for byte, so that a receiver knows it");
    until("both are written down", PATIENCE, || log()["attempts"].as_array().map(Vec::len) == Some(2));

    // Whoever comes late is told at once.
    let (late, heard) = receiver(&[200]);
    let body = json!({"task_id": id(&job), "url": format!("http://{late}/")});
    let registered = Answer::to(house.client.post(house.url("/v1/webhooks")).json(&body));
    assert_eq!(registered.status, 201, "{}", registered.text());
    let (head, event) = heard.recv_timeout(PATIENCE).expect("it is told");
    assert_eq!(event["id"], registered.json_of()["id"]);
    assert_eq!(header(&head, "webhook-signature"), "", "without a secret there is no signature");
}

#[test]
fn a_receiver_that_is_busy_is_tried_again() {
    let house = TestHouse::start(&["--webhook-allow-private"]);
    let (address, told) = receiver(&[500, 200]);
    let job = submit(&house, &Form::of(&numbered(1)).text("webhook_url", format!("http://{address}/")));
    let (_, first) = told.recv_timeout(PATIENCE).expect("it is told");
    let (_, second) = told.recv_timeout(PATIENCE).expect("it is told again by itself");
    assert_eq!(first, second);
    let log =
        || house.get(&format!("/v1/webhooks/deliveries?task_id={}", id(&job))).json()["data"][0].clone();
    until("it is delivered", PATIENCE, || log()["status"] == "delivered");
    let statuses: Vec<Value> =
        log()["attempts"].as_array().expect("a log").iter().map(|one| one["status"].clone()).collect();
    assert_eq!(statuses, [500, 200]);
}

#[test]
fn nothing_is_sent_to_this_machine_unless_that_is_allowed() {
    let house = TestHouse::start(&[]);
    let (address, told) = receiver(&[200]);
    let port = address.port();
    for host in
        ["127.0.0.1", "localhost", "[::1]", "2130706433", "0177.0.0.1", "[::ffff:127.0.0.1]", "10.0.0.1"]
    {
        let url = format!("http://{host}:{port}/");
        let answer = Answer::to(house.upload("/v1/jobs", &Form::of(&numbered(0)).text("webhook_url", &url)));
        let error = answer.json_of()["error"].clone();
        assert_eq!((answer.status, &error["param"]), (400, &json!("webhook_url")), "{url}");
    }
    let job = submit(&house, &Form::of(&numbered(0)));
    over(&house, id(&job));
    let body = json!({"task_id": id(&job), "url": format!("http://{address}/")});
    let refused = Answer::to(house.client.post(house.url("/v1/webhooks")).json(&body));
    assert_eq!((refused.status, refused.json_of()["error"]["param"].clone()), (400, json!("url")));
    let nobody = json!({"task_id": "job_none", "url": "https://example.com"});
    assert_eq!(Answer::to(house.client.post(house.url("/v1/webhooks")).json(&nobody)).status, 404);
    for body in ["", "[]", "{\"task_id\": 1}", "no"] {
        let answer = Answer::to(house.client.post(house.url("/v1/webhooks")).body(body));
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
    }
    assert!(told.recv_timeout(Duration::from_millis(200)).is_err(), "nobody was told");
}
