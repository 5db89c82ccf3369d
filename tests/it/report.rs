//! `pipe report`: one file with everything in it.

use crate::project::Project;

#[test]
fn a_report_tells_the_answer_and_needs_no_network() {
    let project = Project::new();
    project.run(&["run", "pipelines/sweep.yaml"]).ok();
    let told = project.run(&["report", "pipelines/sweep.yaml", "--figures", "stages"]).ok().out;
    assert!(told.starts_with("data/reports/sweep.html: 2 figures, "), "{told}");
    project.run(&["report", "pipelines/sweep.yaml"]).ok();
    let html = std::fs::read_to_string(project.path().join("data/reports/sweep.html")).unwrap();
    assert!(html.len() < 5_000_000, "{} bytes", html.len());
    for part in [
        "<h1>sweep</h1>",
        "fewest GPUs",
        "id=\"figure-front\"",
        "<title>",
        "id=\"table-metrics\"",
        "pipe run pipelines/sweep.yaml",
        "id=\"stage-sim\"",
        "stages:",
    ] {
        assert!(html.contains(part), "{part}");
    }
    // Nothing is fetched: no addresses but the names of SVG's language.
    let fetched = ["src=\"http", "href=\"http", "url(", "@import", "<script src", "<link rel=\"stylesheet"];
    assert!(fetched.iter().all(|f| !html.contains(f)));
    // By its name, of the last good run, elsewhere.
    project.run(&["report", "sweep", "-o", "r.html", "--rows", "3"]).ok();
    let short = std::fs::read_to_string(project.path().join("r.html")).unwrap();
    assert!(short.contains("The first 3 of 64 rows") && short.len() < html.len());
    let missing = project.run(&["report", "swep"]);
    assert!(missing.code == Some(2) && missing.err.contains("did you mean `sweep`?"), "{}", missing.err);
    let unrun = project.run(&["report", "pipelines/mooncake.yaml"]);
    assert!(unrun.code == Some(2) && unrun.err.contains("run it first"), "{}", unrun.err);
}
