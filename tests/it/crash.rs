//! A run that is killed, or interrupted, at any instant: the next one goes on, and ends with the same bytes.

use std::time::{Duration, Instant};

use crate::project::{Project, SMALL};

const FILE: &str = "pipelines/small.yaml";

/// Enough work to be in the middle of something at most instants.
fn larger() -> String {
    SMALL
        .replace("requests: 200", "requests: 4000")
        .replace("[4, 16, 64]", "[4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64]")
}

#[test]
fn kill_at_many_instants() {
    let whole = Project::new();
    whole.write(FILE, &larger());
    let start = Instant::now();
    whole.run(&["run", FILE]).ok();
    let took = start.elapsed();
    let expected = whole.hashes("small");

    let project = Project::new();
    project.write(FILE, &larger());
    for i in 1..8u32 {
        let mut child = project.command(&["run", FILE, "--quiet"]).spawn().expect("the binary starts");
        std::thread::sleep(took * i / 10);
        child.kill().expect("killed");
        child.wait().expect("gone");
    }
    project.run(&["run", FILE]).ok();
    assert_eq!(project.hashes("small"), expected);
}

/// SIGINT, as Ctrl-C sends it.
#[cfg(unix)]
#[test]
fn interrupt_keeps_what_is_finished() {
    let project = Project::new();
    project.write(FILE, &larger().replace("requests: 4000", "requests: 30000"));
    let child = project.command(&["run", FILE, "--quiet"]).spawn().expect("the binary starts");
    // In the middle: some scenarios are finished and remembered, others are not.
    let memo = project.path().join("data/store/memo");
    let started = Instant::now();
    while !std::fs::read_dir(&memo).is_ok_and(|mut d| d.next().is_some()) {
        assert!(started.elapsed() < Duration::from_secs(120), "no scenario is finished");
        std::thread::sleep(Duration::from_millis(5));
    }
    let asked = Instant::now();
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    let status = child.wait_with_output().expect("ends").status;
    // Generous: a loaded machine may be slow to schedule us; the promise is a second.
    assert!(asked.elapsed() < Duration::from_secs(20));
    assert_eq!(status.code(), Some(130));
    let again = project.run(&["run", FILE]).ok();
    assert!(again.out.contains("24 scenarios") && again.out.contains(" reused"), "{}", again.out);
    assert!(!again.out.contains("24 reused"), "it was not in the middle: {}", again.out);
}

#[test]
fn two_writers_at_once_are_refused() {
    let project = Project::new();
    project.write(FILE, &larger().replace("requests: 4000", "requests: 30000"));
    let mut first = project.command(&["run", FILE, "--quiet"]).spawn().expect("the binary starts");
    let (live, started) = (project.path().join("data/store/live"), Instant::now());
    while !std::fs::read_dir(&live).is_ok_and(|mut d| d.next().is_some()) {
        assert!(started.elapsed() < Duration::from_secs(120), "it does not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
    let second = project.run(&["run", FILE]);
    first.kill().expect("killed");
    first.wait().expect("gone");
    assert_ne!(second.code, Some(0), "{}", second.out);
    assert!(second.err.contains("is running a pipeline"), "{}", second.err);
    // The lock went with its process.
    let plan = project.run(&["run", FILE, "--only", "trace"]);
    assert_eq!(plan.code, Some(0), "{}", plan.err);
}
