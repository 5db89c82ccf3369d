//! The README's commands and the example pipelines work as written.

use crate::project::{Project, repository};

/// Command lines of the README's `sh` blocks that begin with `pipe `.
fn commands() -> Vec<String> {
    let readme = std::fs::read_to_string(repository().join("README.md")).expect("README.md");
    let mut inside = false;
    let mut found = Vec::new();
    for line in readme.lines() {
        if line.starts_with("```") {
            inside = line == "```sh";
        } else if inside && line.starts_with("pipe ") {
            found.push(line.to_string());
        }
    }
    found
}

#[test]
fn every_command_of_the_readme_works() {
    let project = Project::new();
    let commands = commands();
    assert!(commands.len() >= 8, "only {} commands in README.md", commands.len());
    for line in commands {
        let out = std::process::Command::new("bash")
            .args(["-c", &line.replacen("pipe ", &format!("{} ", env!("CARGO_BIN_EXE_pipe")), 1)])
            .current_dir(project.path())
            .env("NO_COLOR", "1")
            .output()
            .expect("bash starts");
        assert!(out.status.success(), "`{line}`:\n{}", String::from_utf8_lossy(&out.stderr));
    }
}

#[test]
fn every_example_pipeline_is_valid() {
    for entry in std::fs::read_dir(repository().join("pipelines")).expect("pipelines") {
        let path = entry.expect("an entry").path();
        let project = Project::new();
        let file = format!("pipelines/{}", path.file_name().and_then(|n| n.to_str()).expect("a name"));
        // What was measured is not part of the project.
        let data = crate::project::shared().map(|dir| format!("data={}", dir.join("data").display()));
        match (file.as_str(), data) {
            ("pipelines/fidelity.yaml", None) => {}
            ("pipelines/fidelity.yaml", Some(data)) => drop(project.run(&["check", &file, "--set", &data]).ok()),
            _ => drop(project.run(&["check", &file]).ok()),
        }
    }
}
