//! What every depot promises: of a folder, and of a bucket whose service is played by a thread.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, Write};
use std::net::TcpListener;

use crate::jobs::depot::{BucketConfig, Depot, DepotConfig};

/// Keeps what is put, and gives it back, where the request is signed. Ends with the process.
fn service() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let mut kept: HashMap<String, Vec<u8>> = HashMap::new();
        for connection in listener.incoming() {
            let mut connection = connection.expect("a connection");
            let mut reader = BufReader::new(connection.try_clone().expect("a handle"));
            while let Some((method, path, body)) = request(&mut reader) {
                let (place, query) = path.split_once('?').expect("a signed request has a query");
                let (status, body) = match method.as_str() {
                    _ if !query.contains("X-Amz-Signature=") => (403, Vec::new()),
                    "PUT" => (200, kept.insert(place.to_owned(), body).map_or_else(Vec::new, |_| Vec::new())),
                    "GET" => kept.get(place).map_or((404, Vec::new()), |body| (200, body.clone())),
                    "DELETE" => (if kept.remove(place).is_some() { 204 } else { 404 }, Vec::new()),
                    other => panic!("{other} is not for us"),
                };
                let head = format!("HTTP/1.1 {status} So\r\nContent-Length: {}\r\n\r\n", body.len());
                connection.write_all(&[head.as_bytes(), &body].concat()).expect("it listens");
            }
        }
    });
    format!("http://{address}")
}

fn request(reader: &mut impl BufRead) -> Option<(String, String, Vec<u8>)> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_owned());
    }
    let mut words = head[0].split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let length =
        head.iter().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some((method, path, body))
}

fn recording(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(bytes).expect("room on the disk");
    file
}

fn read(mut file: File) -> Vec<u8> {
    let mut bytes = Vec::new();
    assert_eq!(file.stream_position().expect("a position"), 0);
    file.read_to_end(&mut bytes).expect("it can be read");
    bytes
}

#[test]
fn what_is_put_in_comes_out_until_it_is_removed() {
    let folder = tempfile::tempdir().expect("a folder");
    let bucket = |endpoint: String| BucketConfig {
        endpoint,
        region: "us-east-1".to_owned(),
        name: "speech".to_owned(),
        prefix: "waiting/".to_owned(),
        key: "id".to_owned(),
        secret: "secret".to_owned(),
        token: None,
    };
    for config in [DepotConfig::Folder(folder.path().join("new")), DepotConfig::Bucket(bucket(service()))] {
        let depot = Depot::open(config.clone()).expect("a depot");
        let sound: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
        depot.put("job_a", recording(&sound)).expect("it is kept");
        depot.put("job_b", recording(b"other")).expect("it is kept");
        assert_eq!(read(depot.get("job_a").expect("it is there")), sound, "{config:?}");
        assert_eq!(read(depot.get("job_a").expect("it stays")), sound, "{config:?}");
        depot.remove("job_a").expect("it goes");
        depot.remove("job_a").expect("nothing is left to remove, and nobody minds");
        assert_eq!(
            depot.get("job_a").err().map(|error| error.kind()),
            Some(ErrorKind::NotFound),
            "{config:?}"
        );
        assert_eq!(read(depot.get("job_b").expect("it is there")), b"other", "{config:?}");
        assert!(!format!("{config:?}").contains("secret"), "{config:?}");
    }
    // Nobody listens there any more.
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let away =
        Depot::open(DepotConfig::Bucket(bucket(format!("http://{closed}")))).expect("it is not asked yet");
    let told = away.put("job_a", recording(b"x")).expect_err("it is away").to_string();
    assert!(!told.contains("X-Amz"), "{told}");
    assert!(Depot::open(DepotConfig::Bucket(bucket("nonsense".to_owned()))).is_err());
}
