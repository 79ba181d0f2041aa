//! `postrider suppression`.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};

use serde_json::json;

use crate::command_line::scripted::{ScriptedService, json as answer, other};
use crate::command_line::{postrider, run, run_with};

#[test]
fn entries_are_added_listed_and_taken_off() {
    let entry =
        json!({"address": "a@example.org", "reason": "manual", "since": "2026-01-31T12:00:00Z"});
    let service = ScriptedService::new([answer(201, entry.clone())]);
    let words = [
        "suppression",
        "add",
        "a@example.org",
        "--list",
        "news",
        "--note",
        "asked by phone",
    ];

    assert_eq!(
        run(&service, &words).well(),
        "a@example.org gets no mail (manual)\n"
    );

    let asked = service.asked_once();
    assert_eq!(asked.line, "POST /v1/suppressions");
    let expected = json!({"address": "a@example.org", "list": "news", "note": "asked by phone"});
    assert_eq!(asked.json(), expected);

    let service =
        ScriptedService::new([answer(200, json!({"suppressions": [entry], "next": "abc"}))]);
    let shown = run(&service, &["suppression", "list", "--reason", "manual"]).well();
    assert!(
        shown.contains("a@example.org") && shown.contains("--cursor abc"),
        "{shown}"
    );

    assert_eq!(
        service.asked_once().line,
        "GET /v1/suppressions?reason=manual&limit=50"
    );

    let service = ScriptedService::new([answer(200, json!({"count": 2}))]);
    let shown = run(&service, &["suppression", "remove", "a@example.org"]).well();
    assert_eq!(shown, "entries removed: 2\n");
    assert_eq!(
        service.asked_once().line,
        "DELETE /v1/suppressions?address=a%40example.org"
    );

    run(&ScriptedService::new([]), &["suppression", "remove"]).failed(2);
}

#[test]
fn files_go_in_and_come_out() {
    let done =
        json!({"imported": 1, "refused": 1, "errors": [{"line": 2, "detail": "has no address"}]});
    let service = ScriptedService::new([answer(200, done)]);
    let told = run_with(
        &service,
        &["suppression", "import", "-"],
        b"a@example.org\n,x\n",
    );

    assert_eq!(told.code, 1, "{}", told.err);
    assert_eq!(
        told.out,
        "imported: 1, refused: 1\nline 2: has no address\n"
    );
    assert_eq!(service.asked_once().body, b"a@example.org\n,x\n");

    let service = ScriptedService::new([other(200, "text/csv", "address\na@example.org\n")]);
    let shown = run(&service, &["suppression", "export", "--list", "news"]).well();
    assert_eq!(shown, "address\na@example.org\n");
    assert_eq!(
        service.asked_once().line,
        "GET /v1/suppressions/export?list=news"
    );
}

/// How many lines there are in a large file; `SUPPRESSIONS=1000000` has more.
fn many() -> usize {
    std::env::var("SUPPRESSIONS").map_or(200_000, |lines| lines.parse().unwrap())
}

fn line(n: usize) -> String {
    format!("somebody.with.a.name.{n}@example.org,bounce,,,,\"550 5.1.1 no such user here, {n}\"\n")
}

/// Runs a command against a service that does this; what it took of memory at the most when the
/// service had done so, in KiB, and how it ended.
fn peak(words: &[&str], serve: impl FnOnce(&mut TcpStream), end: &[u8]) -> (u64, i32) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut child: Child = postrider()
        .args(words)
        .env(
            "POSTRIDER_URL",
            format!("http://{}", listener.local_addr().unwrap()),
        )
        .stdout(Stdio::null())
        .spawn()
        .unwrap();

    let (mut stream, _) = listener.accept().unwrap();
    serve(&mut stream);
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.unwrap().trim_end_matches("kB").trim().parse().unwrap();
    stream.write_all(end).unwrap();
    drop(stream);
    (peak, child.wait().unwrap().code().unwrap())
}

/// Reads a request up to the last piece of its body; how many bytes it had.
fn take_chunked(stream: &mut TcpStream) -> usize {
    let (mut length, mut end) = (0, Vec::new());
    let mut piece = vec![0; 64 * 1024];
    while !end.ends_with(b"\r\n0\r\n\r\n") {
        let read = stream.read(&mut piece).unwrap();
        assert!(read > 0, "it broke off");
        length += read;
        end.extend_from_slice(&piece[..read]);
        end.drain(..end.len().saturating_sub(16));
    }
    length
}

#[cfg(target_os = "linux")]
#[test]
fn a_large_file_goes_in_and_comes_out_without_standing_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, lines: usize| {
        let path = dir.path().join(name);
        let mut file = std::io::BufWriter::new(File::create(&path).unwrap());
        for n in 0..lines {
            file.write_all(line(n).as_bytes()).unwrap();
        }
        file.flush().unwrap();
        (path.to_str().unwrap().to_owned(), lines * line(0).len())
    };

    let done = r#"{"imported": 1, "refused": 0, "errors": []}"#;
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{done}",
        done.len()
    );
    let import = |(path, size): (String, usize)| {
        let words = ["suppression", "import", &path];
        let serve = |stream: &mut TcpStream| assert!(take_chunked(stream) > size);
        let (peak, code) = peak(&words, serve, answer.as_bytes());
        assert_eq!(code, 0);
        peak
    };
    let export = |lines: usize| {
        let serve = |stream: &mut TcpStream| {
            let mut head = [0; 4096];
            assert!(stream.read(&mut head).unwrap() > 0);
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/csv\r\nConnection: close\r\n\r\n";
            stream.write_all(head.as_bytes()).unwrap();
            for n in 0..lines {
                stream.write_all(line(n).as_bytes()).unwrap();
            }
        };
        let (peak, code) = peak(&["suppression", "export"], serve, b"");
        assert_eq!(code, 0);
        peak
    };

    for (what, small, large) in [
        (
            "import",
            import(file("small", 10)),
            import(file("large", many())),
        ),
        ("export", export(10), export(many())),
    ] {
        println!(
            "{what}: {small} KiB for 10 lines, {large} KiB for {}",
            many()
        );
        assert!(
            large < small + 6 * 1024,
            "{what}: {small} KiB and {large} KiB"
        );
    }
}

#[test]
fn a_file_that_cannot_be_read_is_reported_by_its_name_or_with_what_the_system_says() {
    let service = ScriptedService::silent();
    let told = run(&service, &["suppression", "import", "/nowhere/at.csv"]).failed(1);
    assert!(told.contains("/nowhere/at.csv"), "{told}");

    let done = json!({"imported": 0, "refused": 0, "errors": []});
    let service = ScriptedService::new([answer(200, done)]);
    let told = run(&service, &["suppression", "import", "/"]).failed(1);
    assert!(
        told.contains("the file cannot be read: Is a directory"),
        "{told}"
    );
}
