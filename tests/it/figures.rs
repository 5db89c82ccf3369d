//! Ready-made figures as a user meets them: in a pipeline, in a report, in `pipe show`, and when something is wrong.

use crate::project::{Project, SMALL};

#[test]
fn a_pipeline_of_figures() {
    let project = Project::new();
    let text = std::fs::read_to_string(project.path().join("pipelines/figures.yaml")).unwrap();
    // Small pictures are drawn sooner.
    project.write("pipelines/figures.yaml", &text.replace(", of: ", ", width: 240, height: 160, of: "));
    project.run(&["run", "pipelines/figures.yaml"]).ok();
    let plots = text.matches("figure: ").count();
    assert!(plots >= 25, "{plots}");
    let pictures = std::fs::read_dir(project.path().join("data/figures/figures")).unwrap();
    let names: Vec<String> = pictures.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    let svg: Vec<&String> = names.iter().filter(|n| n.ends_with(".svg")).collect();
    assert_eq!(svg.len(), plots, "{names:?}");
    for name in svg {
        let svg = std::fs::read_to_string(project.path().join("data/figures/figures").join(name)).unwrap();
        assert!(!svg.contains("\nno rows\n"), "{name} is empty");
    }
    // What a plot stage shows is not shown again; the rest of the usual figures is there.
    let told = project.run(&["report", "figures"]).ok().out;
    let html = std::fs::read_to_string(project.path().join("data/reports/figures.html")).unwrap();
    assert!(html.len() < 5_000_000, "{told}");
    assert!(!html.contains("id=\"figure-sim-latency_by_load\"") && html.contains("id=\"figure-latency\""), "{told}");
    assert!(
        html.contains("id=\"figure-judged-slo_margins\"") && html.contains("id=\"figure-split-timeline\""),
        "{told}"
    );
    assert!(html.contains("-- plot: { figure: slo_margins, of: judged }"));
    // Running again draws nothing again.
    assert!(project.actions(&["pipelines/figures.yaml"]).iter().all(|(_, action)| action == "cached"));
}

#[test]
fn a_report_has_the_figures_that_are_asked_for() {
    let project = Project::new();
    project.write("pipelines/small.yaml", SMALL);
    project.run(&["run", "pipelines/small.yaml"]).ok();
    let figures = |which: &str| {
        project.run(&["report", "small", "--figures", which]).ok();
        let html = std::fs::read_to_string(project.path().join("data/reports/small.html")).unwrap();
        let ids = html.split("<figure id=\"figure-").skip(1).map(|rest| rest.split('"').next().unwrap().to_string());
        ids.collect::<Vec<_>>()
    };
    let auto = figures("auto");
    assert!(auto.contains(&"sim-latency_by_load".to_string()) && auto.contains(&"verdict-slo_margins".to_string()));
    assert!(auto.iter().filter(|id| id.starts_with("sim-")).count() <= 8, "{auto:?}");
    assert!(auto.len() < figures("all").len());
    assert_eq!(figures("stages"), Vec::<String>::new());
    assert_eq!(figures("itl_cdf, tokens_pareto"), ["sim-tokens_pareto", "sim-itl_cdf"]);
    for (which, part) in [("itl_cfd", "did you mean `itl_cdf`?"), ("kv_timeline", "no stage of the pipeline has what")]
    {
        let ran = project.run(&["report", "small", "--figures", which]);
        assert!(ran.code == Some(2) && ran.err.contains(part), "{}", ran.err);
    }
}

#[test]
fn figures_are_listed_and_can_be_ones_own() {
    let project = Project::new();
    let list = project.run(&["show", "figures"]).ok().out;
    for part in
        ["latency_by_load", "How long do requests wait at which load", "simulate", "OF_requests", "trial_importance"]
    {
        assert!(list.contains(part), "no `{part}` in:\n{list}");
    }
    let one = project.run(&["show", "figure", "goodput_by_load"]).ok().out;
    for part in ["ttft_ms: 500", "plot: { figure: goodput_by_load, of: OF }", "FROM OF_requests", "answers"] {
        assert!(one.contains(part), "no `{part}` in:\n{one}");
    }
    let ran = project.run(&["show", "figure", "goodput"]);
    assert!(ran.code == Some(2) && ran.err.contains("goodput_by_load"), "{}", ran.err);

    let own = "-- title: \"Requests of {of}\"\n-- about: How many?\n-- for: [simulate]\n-- needs: [\"{of}\"]\n\
               -- with: { over: 0 }\n-- kind: bar\n-- x: scenario_id\n-- y: requests\n\n\
               SELECT scenario_id, requests FROM {of} WHERE scenario_id >= {over} ORDER BY scenario_id\n";
    project.write("queries/figures/count.sql", own);
    let plot = "  count:\n    plot: { figure: count, of: sim, with: { over: 2 }, x_label: Number }\n";
    project.write("pipelines/small.yaml", &format!("{SMALL}{plot}"));
    assert!(project.run(&["show", "figures"]).ok().out.contains("count (own)"));
    project.run(&["run", "pipelines/small.yaml"]).ok();
    assert_eq!(project.rows("SELECT scenario_id FROM small.count").len(), 4);
    let svg = std::fs::read_to_string(project.path().join("data/figures/small/count.svg")).unwrap();
    assert!(svg.contains("\nRequests of sim\n") && svg.contains("\nNumber\n"), "{svg}");
}

#[test]
fn mistakes_are_explained() {
    let project = Project::new();
    let cases = [
        ("{ figure: latency_by_laod, of: sim }", "did you mean `latency_by_load`?"),
        ("{ figure: latency_by_load }", "`of` is missing: the simulate stage that `latency_by_load` shows"),
        ("{ figure: latency_by_load, of: smi }", "did you mean `sim`?"),
        ("{ figure: latency_by_load, of: trace }", "shows a simulate stage, and `trace` is a synthesize"),
        ("{ figure: latency_by_load, of: sim, with: { maxms: 3 } }", "did you mean `max_ms`?"),
        ("{ figure: latency_by_load, of: sim, with: { load: rate } }", "there is no column `rate`"),
        ("{ figure: kv_timeline, of: sim }", "`sim` makes it with `steps: true`"),
        ("{ figure: latency_by_load, of: sim, query: SELECT 1, x: a }", "either `query` or `figure`, not both"),
        ("{ kind: line, x: a, y: b }", "a plot needs either `query` or `figure`"),
        ("{ query: SELECT 1 AS a, x: a, y: a, of: sim }", "`of` belongs to a `figure`"),
    ];
    for (plot, part) in cases {
        project.write(
            "pipelines/wrong.yaml",
            &format!("{}  picture:\n    plot: {plot}\n", SMALL.replace("name: small", "name: wrong")),
        );
        let ran = project.run(&["check", "pipelines/wrong.yaml"]);
        assert!(ran.code == Some(2) && ran.err.contains(part), "{plot}\n{}\n{}", ran.out, ran.err);
        // The place is in the pipeline, whose author knows nothing of the figure's text.
        assert!(ran.err.contains("pipelines/wrong.yaml:"), "{plot}\n{}", ran.err);
    }
}
