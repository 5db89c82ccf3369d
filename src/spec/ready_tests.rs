//! Heads, parameters, and what a pipeline says of a figure.

use super::*;
use crate::spec::PlotKind;

fn built_in() -> Figures {
    Figures { folder: None }
}

#[test]
fn every_figure_says_what_it_is() {
    let figures = built_in();
    let all = figures.all().unwrap();
    assert_eq!(all.len(), BUILT_IN.len());
    for figure in &all {
        assert!(!figure.about.is_empty() && !figure.kinds.is_empty() && !figure.needs.is_empty(), "{}", figure.name);
        let plot = figure.plot("stage", &[]).unwrap_or_else(|e| panic!("{}: {e:?}", figure.name));
        let query = plot.query.unwrap().value;
        assert!(!query.contains("{of}") && !query.contains("{most}") && !query.contains("{where}"), "{query}");
        assert!(plot.title.is_some_and(|t| !t.contains('{')), "{}", figure.name);
    }
    // Every file is one of them.
    let folder = crate::repository().join("queries/figures");
    let files = std::fs::read_dir(folder)
        .unwrap()
        .filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|e| e == "sql"));
    assert_eq!(files.count(), BUILT_IN.len());
}

#[test]
fn parameters_go_into_settings_and_query() {
    let figure = built_in().find("tpot_by_load").unwrap().unwrap();
    let plot = figure.plot("runs", &[("max_ms".to_string(), "70".to_string())]).unwrap();
    assert_eq!(
        (plot.kind, plot.rules[0].y, plot.rules[0].label.as_str()),
        (PlotKind::Line, Some(70.0), "objective: 70 ms")
    );
    assert_eq!((plot.title.as_deref(), plot.y_label.as_deref()), (Some("TPOT over load"), Some("TPOT (ms)")));
    let query = plot.query.unwrap().value;
    assert!(query.contains("tpot_ms_p50 AS p50") && query.contains("FROM runs\n"), "{query}");
    // A default may speak of the stage and of other parameters.
    let goodput = built_in().find("goodput_by_load").unwrap().unwrap();
    let query = goodput.plot("runs", &[("ttft_ms".to_string(), "9".to_string())]).unwrap().query.unwrap().value;
    assert!(query.contains("ms(ttft_ns) <= 9 AND"), "{query}");
}

#[test]
fn a_wrong_head_is_explained() {
    let file = |text: &str| Ready::read("own", text, true, &|_| Ok(None)).map(|_| ()).unwrap_err()[0].message.clone();
    for (text, part) in [
        ("SELECT 1", "does not begin with comments"),
        ("-- title: x\n-- for: [simulate]\n", "has no query"),
        ("-- like: other\n", "is like `other`, which is no figure"),
        ("-- title: x\n-- with: { a: [1] }\nSELECT 1", "the parameter `a` of a figure is a number or a piece of SQL"),
        ("-- for: simulate\nSELECT 1", "list"),
    ] {
        assert!(file(text).contains(part), "{text}: {}", file(text));
    }
}

#[test]
fn figures_that_are_like_each_other_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("queries/figures");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::create_dir_all(dir.path().join("pipelines")).unwrap();
    for (name, other) in [("a", "b"), ("b", "a"), ("c", "a"), ("d", "d"), ("e", "timeline"), ("timeline", "e")] {
        std::fs::write(folder.join(format!("{name}.sql")), format!("-- like: {other}\n")).unwrap();
    }
    let figures = Figures::near(&dir.path().join("pipelines"));
    for (name, message) in [
        ("a", "`a` is like itself, by way of `b`"),
        ("b", "`b` is like itself, by way of `a`"),
        ("c", "`a` is like itself, by way of `b`"),
        ("d", "`d` is like itself"),
        ("timeline", "`timeline` is like itself, by way of `e`"),
    ] {
        let found = figures.find(name).map(|_| ()).unwrap_err();
        assert_eq!((found[0].code, found[0].message.as_str()), ("figure::like", message), "{name}");
    }
    assert!(figures.all().is_err());
}

#[test]
fn a_plot_of_nothing_needs_a_query() {
    let message = |settings: &[&str]| {
        let text = |text: &str| Text::new(text.to_string(), None);
        let entry = |name: &&str| (text(name), Tree::new(TreeValue::String("a".to_string()), None));
        let mut plot = Tree::new(TreeValue::Map(settings.iter().map(entry).collect()), None);
        built_in().expand_plot(&text("plot"), &mut plot).map_err(|found| found[0].message.clone()).err()
    };
    let needs = Some("a plot needs either `query` or `figure`".to_string());
    assert_eq!(message(&["x", "y", "facet"]), needs);
    assert_eq!(message(&["columns", "x_min", "theme"]), needs);
    // Reported as what it is: no setting.
    assert_eq!(message(&["x", "facett"]), None);
}

#[test]
fn no_name_leads_out_of_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("queries/figures")).unwrap();
    std::fs::create_dir_all(dir.path().join("pipelines")).unwrap();
    std::fs::write(dir.path().join("queries/secret.sql"), "-- title: x\nSELECT 1").unwrap();
    let figures = Figures::near(&dir.path().join("pipelines"));
    assert!(figures.find("../secret").unwrap().is_none());
    std::fs::write(dir.path().join("queries/figures/itl_cdf.sql"), "-- title: Mine\n-- x: a\nSELECT 1").unwrap();
    let mine = figures.find("itl_cdf").unwrap().unwrap();
    assert!(mine.own && mine.title == "Mine");
    assert_eq!(figures.names().len(), BUILT_IN.len());
}
