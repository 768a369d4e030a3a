//! `lockstep up` as a service: ready when it says so, alone in its directory, gone when told.

mod support;

use serde_json::Value;
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
};
use support::{lockstep, report};

/// A subnet of four without models, and its line on stdout.
fn up(directory: &Path) -> (Child, Value) {
    let mut child = lockstep(&directory.join("data"))
        .args(["up", "--json", "--port", "0", "--directory"])
        .arg(directory.join("network"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("it is piped"))
        .read_line(&mut line)
        .expect("it says that it is ready");
    let ready = serde_json::from_str(&line).expect("one JSON object");
    (child, ready)
}

fn status(url: &str) -> Value {
    let address = url.strip_prefix("http://").expect("a URL");
    let mut stream = TcpStream::connect(address).expect("it listens");
    let request = "GET /_/lockstep/status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("it is sent");
    let mut response = String::new();
    stream
        .read_to_string(&mut response)
        .expect("it is answered");
    let (_, body) = response.split_once("\r\n\r\n").expect("it has a body");
    serde_json::from_str(body).expect("JSON")
}

fn end(mut child: Child, signal: &str) -> Option<i32> {
    let sent = Command::new("kill")
        .args([signal, &child.id().to_string()])
        .status();
    assert!(sent.expect("there is kill").success());
    child.wait().expect("it is a child").code()
}

#[test]
fn up_is_ready_alone_and_stops_when_told() {
    let directory = tempfile::tempdir().unwrap();
    let (child, ready) = up(directory.path());
    let urls = ready["replicas"].as_array().unwrap();
    assert_eq!(urls.len(), 4);
    for url in urls {
        let status = status(url.as_str().unwrap());
        assert!(status["certified_height"].as_u64().unwrap() > 0, "{status}");
    }
    // DER: 37 bytes that say what it is, and a point of 96.
    let root_key = ready["root_key"].as_str().unwrap().to_owned();
    assert_eq!(root_key.len(), 2 * 133);

    let network = directory.path().join("network");
    let second = report(
        lockstep(directory.path())
            .args(["up", "--port", "0", "--directory"])
            .arg(&network),
    );
    assert_eq!(
        second,
        format!(
            "exit code: 3\nerror: another process uses directory {}\n\
             hint: stop that one first, or choose another with --directory\n",
            network.display()
        )
    );
    let reached = status(urls[0].as_str().unwrap())["certified_height"].as_u64();

    assert_eq!(end(child, "-TERM"), Some(0));
    let (child, ready) = up(directory.path());
    assert_eq!(ready["root_key"], root_key.as_str());
    let again = status(ready["replicas"][3].as_str().unwrap());
    assert!(again["certified_height"].as_u64() > reached, "{again}");
    assert_eq!(end(child, "-INT"), Some(0));
}
