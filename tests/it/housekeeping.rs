//! Commands around runs: `init`, `graph`, `history`, `diff`, `gc`, `completion`.

use crate::project::{Project, SMALL};

fn small() -> Project {
    let project = Project::new();
    project.write("pipelines/small.yaml", SMALL);
    project.run(&["run", "pipelines/small.yaml"]).ok();
    project
}

#[test]
fn a_question_becomes_a_pipeline_that_answers_it() {
    let project = Project::new();
    let question = "How many L40S does Llama 3.1 8B need for 6 requests/s with TTFT p95 under 800 ms?";
    let told = project.run(&["init", "--name", "mine", question]).ok().out;
    for part in ["pipelines/mine.yaml", "fewest replicas for 6", "l40s", "ttft_ms <= 800", "quantile 0.95"] {
        assert!(told.contains(part), "{part}\n{told}");
    }
    let ran = project.run(&["run", "pipelines/mine.yaml"]).ok();
    assert!(ran.out.contains("answer"), "{}", ran.out);
    let again = project.run(&["init", "--name", "mine"]);
    assert_eq!(again.code, Some(2));
    assert!(again.err.contains("is there already") && again.err.contains("--force"), "{}", again.err);
    project.run(&["init", "--name", "mine", "--force", "what load does an H100 carry"]).ok();
    project.run(&["check", "pipelines/mine.yaml"]).ok();
    assert_eq!(project.run(&["init", "--name", "No Name"]).code, Some(2));
}

#[test]
fn a_graph_says_what_reads_what() {
    let project = Project::new();
    let text = project.run(&["graph", "pipelines/sweep.yaml"]).ok().out;
    assert!(text.lines().any(|l| l.contains("tokens") && l.contains("tokenize") && l.contains("trace")), "{text}");
    let text = project.run(&["graph", "pipelines/sweep.yaml", "--format", "mermaid"]).ok().out;
    assert!(text.starts_with("flowchart LR\n") && text.contains("  trace --> tokens\n"), "{text}");
    project.run(&["graph", "pipelines/sweep.yaml", "-o", "g.svg"]).ok();
    let svg = std::fs::read_to_string(project.path().join("g.svg")).unwrap();
    assert!(svg.starts_with("<svg ") && svg.matches("<g>").count() == 8, "{svg}");
}

#[test]
fn history_lists_runs_and_what_they_did() {
    let project = small();
    project.run(&["run", "pipelines/small.yaml"]).ok();
    let runs = project.run(&["history", "--json"]).ok().out;
    let runs: Vec<serde_json::Value> = runs.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(runs.len(), 2);
    let text = project.run(&["history", "small"]).ok().out;
    assert!(text.contains("finished") && text.lines().count() == 3, "{text}");
    let id = runs[1]["id"].as_str().unwrap();
    let first = project.run(&["history", id]).ok().out;
    assert!(first.contains("never ran") && first.contains("simulate"), "{first}");
    let missing = project.run(&["history", "smal"]);
    assert_eq!(missing.code, Some(2));
    assert!(missing.err.contains("did you mean `small`?"), "{}", missing.err);
}

#[test]
fn runs_and_tables_are_compared() {
    let project = small();
    let other = SMALL.replace("name: small", "name: other").replace("seed: ", "seed: 1");
    assert_ne!(other, SMALL);
    project.write("pipelines/other.yaml", &other);
    project.run(&["run", "pipelines/other.yaml"]).ok();
    let same = project.run(&["diff", "small.sim", "small.sim", "--exit-code"]).ok().out;
    assert!(same.contains("settings of small.sim and small.sim: the same") && same.contains("sim: the same"), "{same}");
    let differ = project.run(&["diff", "small.sim", "other.sim", "--exit-code", "--rows", "1"]);
    assert_eq!(differ.code, Some(1), "{}", differ.err);
    assert!(differ.out.contains("by scenario_id") && differ.out.contains("ttft_ms_p99"), "{}", differ.out);
    // Nothing differs by more than everything.
    let near = project.run(&["diff", "small.sim", "other.sim", "--tolerance", "10"]).ok().out;
    assert!(!near.contains("ttft_ms_p99"), "{near}");
    let wrong = project.run(&["diff", "small.sim", "other.sim", "--key", "nosuch"]);
    assert!(wrong.code != Some(0) && wrong.err.contains("nosuch"), "{}", wrong.err);
    let wrong = project.run(&["diff", "small.sim", "other.sim", "--key", "rate_rps"]);
    assert!(wrong.code != Some(0) && wrong.err.contains("several rows have the same key"), "{}", wrong.err);

    // A run with another setting, against the one before.
    project.run(&["run", "pipelines/small.yaml", "--set", "stages.sim.simulate.deployment.gpu=a100-80-sxm"]).ok();
    let runs = project.run(&["history", "small", "--json"]).ok().out;
    let ids: Vec<String> = runs
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["id"].as_str().unwrap().to_string())
        .collect();
    let text = project.run(&["diff", &ids[1], &ids[0]]).ok().out;
    assert!(text.contains("gpu") && text.contains("a100-80-sxm"), "{text}");
}

#[test]
fn what_no_pipeline_uses_is_listed_and_then_removed() {
    let project = small();
    let clean = project.run(&["gc"]).ok().out;
    assert!(clean.starts_with("0 results"), "{clean}");
    project.run(&["run", "pipelines/small.yaml", "--set", "stages.sim.simulate.deployment.gpu=a100-80-sxm"]).ok();
    // Somebody may still be reading what was published a moment ago.
    assert!(project.run(&["gc"]).ok().out.starts_with("0 results"));
    let gc = |args: &[&str]| project.run(&[&["gc", "--grace", "0"], args].concat()).ok().out;
    let listed = gc(&[]);
    assert!(listed.contains("sim") && listed.contains("simulate") && listed.contains("--delete"), "{listed}");
    assert!(gc(&["--keep-days", "1"]).starts_with("0 results"));
    let hashes = project.hashes("small");
    let removed = gc(&["--delete"]);
    assert!(removed.contains("removed "), "{removed}");
    assert!(gc(&[]).starts_with("0 results"));
    assert_eq!(project.hashes("small"), hashes);
    let listed = gc(&["--forget", "small"]);
    assert!(listed.contains("simulate"), "{listed}");
    assert_eq!(project.hashes("small"), hashes, "without --delete nothing changes");
    // With a grace, nothing goes at once; that is what --delete does then, too.
    for args in [&["gc", "--forget", "small"][..], &["gc", "--forget", "small", "--delete"]] {
        let told = project.run(args).ok().out;
        assert!(told.contains("0 results") && told.contains("minutes after they are forgotten"), "{told}");
    }
    assert!(!project.path().join("data/tables/small").exists());
    let unknown = project.run(&["gc", "--forget", "nosuch"]);
    assert!(unknown.code == Some(2) && unknown.err.contains("nosuch"), "{}", unknown.err);
}

#[test]
fn shells_complete_commands() {
    let project = Project::new();
    for shell in ["bash", "zsh", "fish"] {
        let text = project.run(&["completion", shell]).ok().out;
        assert!(text.contains("history") && text.len() > 1000, "{shell}");
    }
}
