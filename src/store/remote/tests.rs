//! Against a server on this machine: whole objects, missing ones, and connections that break.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const CONTENT: &[u8] = b"arrival,input_tokens,output_tokens\n1,2,3\n";

/// How the server behaves.
#[derive(Clone, Copy, PartialEq)]
enum Server {
    /// With or without a tag of the content.
    Whole { tag: Option<u8> },
    /// The first so many connections break half way.
    Breaks { times: usize, tag: bool },
}

/// Starts a server of one object `/dir/t.csv`; its address.
fn serve(server: Server) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/dir/t.csv", listener.local_addr().unwrap());
    let gets = Arc::new(AtomicUsize::new(0));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let gets = gets.clone();
            std::thread::spawn(move || answer(stream, server, &gets));
        }
    });
    address
}

fn answer(mut stream: TcpStream, server: Server, gets: &AtomicUsize) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let mut from = 0;
    for line in reader.by_ref().lines().map_while(std::result::Result::ok).take_while(|l| !l.is_empty()) {
        if let Some(range) = line.to_lowercase().strip_prefix("range: bytes=") {
            from = range.split('-').next()?.parse().ok()?;
        }
    }
    if !first.contains(" /dir/t.csv ") {
        stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").ok()?;
        return Some(());
    }
    let (tag, breaks) = match server {
        Server::Whole { tag } => (tag, false),
        Server::Breaks { times, tag } => {
            let get = first.starts_with("GET") && gets.fetch_add(1, Ordering::SeqCst) < times;
            (tag.then_some(1), get)
        }
    };
    let size = CONTENT.len();
    let (status, range) = match from {
        0 => ("200 OK", String::new()),
        _ => ("206 Partial Content", format!("Content-Range: bytes {from}-{}/{size}\r\n", size - 1)),
    };
    let tag = tag.map_or(String::new(), |tag| format!("ETag: \"{tag}\"\r\n"));
    let length = size - from;
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{range}{tag}Connection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    if first.starts_with("GET") {
        let to = if breaks { from + length / 2 } else { size };
        stream.write_all(&CONTENT[from..to]).ok()?;
    }
    Some(())
}

fn file(written: &str) -> FilePath {
    FilePath { written: written.to_string(), path: written.into(), at: None }
}

fn fetched(address: &str) -> Result<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let mut come = 0;
    let got = fetch(&file(address), dir.path(), &mut |n| come += n)?;
    let bytes = std::fs::read(got.path()).unwrap();
    assert_eq!(come, bytes.len() as u64);
    Ok(bytes)
}

#[test]
fn an_object_is_fetched_and_known_by_its_tag_or_its_content() {
    let id = |tag| identity(&file(&serve(Server::Whole { tag }))).unwrap();
    assert_eq!(fetched(&serve(Server::Whole { tag: None })).unwrap(), CONTENT);
    assert_eq!(id(Some(1)), id(Some(1)));
    assert_ne!(id(Some(1)), id(Some(2)));
    assert_eq!(id(None), Hash::of(CONTENT));
}

#[test]
fn what_is_not_there_is_said() {
    let address = serve(Server::Whole { tag: None }).replace("t.csv", "u.csv");
    let found = problem(&file(&address)).unwrap();
    assert_eq!(found.message, format!("cannot fetch `{address}`: it is not there"));
    assert!(fetched(&address).is_err());
}

#[test]
fn a_connection_that_breaks_is_taken_up_or_reported() {
    assert_eq!(fetched(&serve(Server::Breaks { times: 1, tag: true })).unwrap(), CONTENT);
    // Without a tag, nothing says that the rest would be of the same object.
    let failure = fetched(&serve(Server::Breaks { times: 1, tag: false })).unwrap_err();
    assert!(failure.to_string().contains("the connection broke after 20 of 41 bytes"), "{failure}");
}
