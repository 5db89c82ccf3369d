//! `pipe serve` as a process, for tests whose clients are real programs.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::project::{Project, SMALL};

/// A server on free ports of this machine, which ends with the value.
pub struct Serving {
    child: Child,
    pub addresses: BTreeMap<String, SocketAddr>,
    log: Arc<Mutex<String>>,
}

impl Serving {
    /// Serves a project. Protocols that `args` does not name have a free port each.
    pub fn start(project: &Project, args: &[&str], env: &[(&str, &str)]) -> Serving {
        let mut all = vec!["serve", "--refresh", "0.1"];
        let given = |flag: &str, variable: &str| args.contains(&flag) || env.iter().any(|(name, _)| *name == variable);
        let tokens_only = given("--tokens", "PIPE_SERVE_TOKENS") && !given("--users", "PIPE_SERVE_USERS");
        for protocol in ["--postgres", "--flight", "--http"] {
            if !args.contains(&protocol) {
                // PostgreSQL's clients have no tokens: that port would be open.
                all.extend([protocol, if tokens_only && protocol == "--postgres" { "off" } else { "0" }]);
            }
        }
        all.extend_from_slice(args);
        let mut command = project.command(&all);
        for (name, value) in env {
            command.env(name, value);
        }
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let log = Arc::new(Mutex::new(String::new()));
        let (mut stderr, into) = (child.stderr.take().expect("a pipe"), log.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = stderr.read(&mut bytes) {
                into.lock().expect("no panic").push_str(&String::from_utf8_lossy(&bytes[..n]));
            }
        });
        let mut addresses = BTreeMap::new();
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        for line in lines.by_ref() {
            let line = line.expect("text");
            if line.starts_with("Ctrl-C") {
                break;
            }
            if let Some((name, address)) = address(&line) {
                addresses.insert(name, address);
            }
        }
        let serving = Serving { child, addresses, log };
        assert!(!serving.addresses.is_empty(), "it does not listen: {}", serving.log());
        serving
    }

    pub fn port(&self, protocol: &str) -> u16 {
        self.addresses[protocol].port()
    }

    /// What it wrote to standard error.
    pub fn log(&self) -> String {
        self.log.lock().expect("no panic").clone()
    }

    /// Waits until its log has `text`.
    pub fn logs(&self, text: &str) {
        let until = Instant::now() + Duration::from_secs(20);
        while !self.log().contains(text) {
            assert!(Instant::now() < until, "no `{text}` in the log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What `/metrics` shows now.
    pub fn metrics(&self) -> String {
        let mut socket = TcpStream::connect(self.addresses["http"]).expect("a connection");
        socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("it hears");
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes).expect("an answer");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops it as Ctrl-C does; returns its exit code.
    pub fn stop(mut self) -> Option<i32> {
        let _ = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("it does not stop:\n{}", self.log());
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `http      http://127.0.0.1:8080/` and the like.
fn address(line: &str) -> Option<(String, SocketAddr)> {
    let (name, url) = line.split_once(char::is_whitespace)?;
    let at = url.rsplit_once("//")?.1;
    let at = at.rsplit_once('@').map_or(at, |(_, host)| host);
    let at = at.split(['/', '"', '?']).next()?;
    Some((name.to_string(), at.parse().ok()?))
}

/// Says that a test, or a part of it, is left out for want of something. With `PIPE_TEST_ALL=1`, where everything is said
/// to be installed, that fails.
#[track_caller]
pub fn skipped(what: &str) {
    assert!(std::env::var("PIPE_TEST_ALL").as_deref() != Ok("1"), "left out: {what}");
    eprintln!("skipped: {what}");
}

/// Whether Python has these modules; says so where it has not.
#[track_caller]
pub fn has_python(modules: &[&str]) -> bool {
    let import = format!("import {}", modules.join(", "));
    let found = Command::new("python3").args(["-c", &import]).output().is_ok_and(|o| o.status.success());
    if !found {
        skipped(&format!("python3 has not all of {}", modules.join(", ")));
    }
    found
}

/// Runs a Python program with these modules; `None`, with a note, where Python lacks one of them.
#[track_caller]
pub fn python(modules: &[&str], program: &str, args: &[&str], dir: &Path) -> Option<String> {
    if !has_python(modules) {
        return None;
    }
    let out = Command::new("python3").args(["-c", program]).args(args).current_dir(dir).output().expect("it starts");
    let (text, errors) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "python failed\n{text}\n{errors}");
    Some(text.into_owned())
}

/// A project whose pipeline has run.
pub fn small() -> Project {
    let project = Project::new();
    project.write("pipelines/small.yaml", SMALL);
    project.run(&["run", "pipelines/small.yaml", "--quiet"]).ok();
    project
}

/// Makes `cert.pem` for `localhost`, and its `key.pem`, in a project's folder; false, with a note, where there is no openssl.
#[track_caller]
pub fn certificate(project: &Project) -> bool {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:TRUE"])
        .current_dir(project.path())
        .output();
    let made = made.is_ok_and(|o| o.status.success());
    if !made {
        skipped("there is no openssl");
    }
    made
}
