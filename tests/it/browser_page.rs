//! The page of `pipe serve` in Chromium, without a window: needs `chromedriver`, and is skipped where there is none.
//!
//! With `PIPE_TEST_PICTURES` set to a folder, what the page looks like is left there.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use crate::project::Project;
use crate::serve_http::slow;
use crate::serving::{Serving, python, skipped, small};

const DRIVER: &str = include_str!("browser/driver.py");
const PAGE: &str = include_str!("browser/page.py");
const LIVE: &str = include_str!("browser/live.py");

fn is_there() -> bool {
    let there = ["chromedriver", "python3"].iter().all(|p| Command::new(p).arg("--version").output().is_ok());
    if !there {
        skipped("there is no chromedriver");
    }
    there
}

fn pictures() -> String {
    std::env::var("PIPE_TEST_PICTURES").unwrap_or_default()
}

const ONLY_HTTP: [&str; 4] = ["--postgres", "off", "--flight", "off"];

fn look(token: &str) {
    if !is_there() {
        return;
    }
    let project = small();
    let env: &[(&str, &str)] = if token.is_empty() { &[] } else { &[("PIPE_SERVE_TOKENS", token)] };
    let serving = Serving::start(&project, &ONLY_HTTP, env);
    let url = format!("http://{}/", serving.addresses["http"]);
    let program = format!("{DRIVER}\n{PAGE}");
    let out = python(&["json"], &program, &[&url, &pictures(), token], project.path());
    assert_eq!(out.unwrap_or_default().trim(), "fine");
}

#[test]
fn tables_queries_and_downloads() {
    look("");
}

#[test]
fn with_a_token() {
    look("0123456789abcdef0123");
}

#[test]
fn a_run_that_goes_on() {
    if !is_there() {
        return;
    }
    let project = Project::new();
    let serving = Serving::start(&project, &ONLY_HTTP, &[]);
    let url = format!("http://{}/", serving.addresses["http"]);
    project.write("pipelines/slow.yaml", &slow());
    let mut run =
        project.command(&["run", "pipelines/slow.yaml", "--quiet", "-j", "1"]).stderr(Stdio::null()).spawn().unwrap();
    let mut browser = Command::new("python3")
        .args(["-c", &format!("{DRIVER}\n{LIVE}"), &url, &pictures()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(browser.stdout.take().unwrap()).lines();
    let seen = lines.next();
    let _ = Command::new("kill").args(["-INT", &run.id().to_string()]).status();
    run.wait().unwrap();
    assert_eq!(seen.and_then(Result::ok).as_deref(), Some("seen"));
    browser.stdin.take().unwrap().write_all(b"ended\n").unwrap();
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    assert_eq!(rest, ["fine"]);
    assert!(browser.wait().unwrap().success());
}
