//! A report in a browser: Chromium opens it from the disk, as a reader would. Without `chromium` the tests say so and
//! pass; `.ci/run` installs it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::project::{Project, SMALL};
use crate::serving::skipped;

/// Runs the browser without a window on a file, with its own folder for what it keeps.
fn browse(project: &Project, options: &[&str], page: &Path) -> Output {
    let kept = project.path().join("browser");
    let mut command = Command::new("chromium");
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr"]);
    command.args(["--hide-scrollbars", "--virtual-time-budget=10000"]).args(options);
    command.arg(format!("--user-data-dir={}", kept.display())).arg(format!("file://{}", page.display()));
    let out = command.output().expect("the browser starts");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out
}

fn is_there() -> bool {
    let there = Command::new("chromium").arg("--version").output().is_ok_and(|o| o.status.success());
    if !there {
        skipped("no `chromium`: the page is not looked at (apt-get install chromium)");
    }
    there
}

/// A report with a plot stage, figures of its own choice, and a table of six rows.
fn report(project: &Project) -> PathBuf {
    let plot = "  curve:\n    plot: { figure: latency_by_load, of: sim }\n";
    project.write("pipelines/small.yaml", &format!("{SMALL}{plot}"));
    project.run(&["run", "pipelines/small.yaml"]).ok();
    project.run(&["report", "small"]).ok();
    project.path().join("data/reports/small.html")
}

/// A page that shows the report in a frame of each width and writes down what it finds there.
const PROBE: &str = r#"<!doctype html><meta charset="utf-8"><body><pre id="found"></pre><script>
var page = PAGE, found = [];
function cells(table, at) {
  return Array.prototype.map.call(table.tBodies[0].rows, function (row) { return row.cells[at].textContent; });
}
function look(frame, width) {
  var doc = frame.contentDocument, root = doc.documentElement;
  var figures = Array.prototype.map.call(doc.querySelectorAll('figure'), function (figure) {
    var picture = figure.querySelector('.picture > svg, .picture > img'), box = picture.getBoundingClientRect();
    return { id: figure.id, width: box.width, height: box.height, marks: picture.querySelectorAll('*').length,
             image: picture.naturalWidth || 0, sql: figure.querySelector('pre').textContent };
  });
  var table = doc.querySelector('#table-metrics ~ .rows table'), button = table.querySelectorAll('th button')[1];
  var sorts = [cells(table, 1)];
  for (var i = 0; i < 2; i++) { button.click(); sorts.push(cells(table, 1)); }
  var asked = frame.contentWindow.performance.getEntriesByType('resource').map(function (entry) { return entry.name; });
  found.push({ width: width, wide: root.scrollWidth, room: root.clientWidth, figures: figures, sorts: sorts,
               state: button.parentElement.getAttribute('aria-sort'),
               asked: asked.filter(function (name) { return name.indexOf('data:') !== 0; }) });
  document.getElementById('found').textContent = JSON.stringify(found);
}
[1200, 390].forEach(function (width) {
  var frame = document.createElement('iframe');
  frame.style.cssText = 'border:0;height:800px;width:' + width + 'px';
  frame.onload = function () { look(frame, width); };
  frame.srcdoc = page;
  document.body.appendChild(frame);
});
</script></body>"#;

fn probe(project: &Project, page: &Path) -> Vec<Value> {
    let html = std::fs::read_to_string(page).expect("the report");
    let text = serde_json::to_string(&html).expect("a string").replace("</", "<\\/");
    project.write("probe.html", &PROBE.replace("PAGE", &text));
    let out = browse(project, &["--dump-dom"], &project.path().join("probe.html"));
    let dom = String::from_utf8_lossy(&out.stdout).into_owned();
    let from = dom.find("<pre id=\"found\">").expect("the probe ran") + "<pre id=\"found\">".len();
    let found = &dom[from..from + dom[from..].find("</pre>").expect("its end")];
    let found = found.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    serde_json::from_str(&found).unwrap_or_else(|e| panic!("{e}: {found}"))
}

#[test]
fn a_browser_shows_the_report() {
    if !is_there() {
        return;
    }
    let project = Project::new();
    let page = report(&project);

    let shown = browse(&project, &["--dump-dom"], &page);
    let said = String::from_utf8_lossy(&shown.stderr).into_owned();
    assert!(!said.contains("CONSOLE"), "{said}");
    assert!(String::from_utf8_lossy(&shown.stdout).contains("<h1>small</h1>"));

    let found = probe(&project, &page);
    assert_eq!(found.len(), 2, "{found:?}");
    for at in &found {
        let number = |key: &str| at[key].as_f64().expect("a number");
        assert!(number("wide") <= number("room"), "a page {} wide scrolls to {}", at["width"], at["wide"]);
        assert_eq!(at["asked"], serde_json::json!([]), "nothing is fetched");
        let figures = at["figures"].as_array().expect("figures");
        assert!(figures.iter().any(|f| f["id"] == "figure-curve"), "{figures:?}");
        assert!(figures.iter().any(|f| f["id"] == "figure-sim-throughput_by_load"), "{figures:?}");
        assert!(figures.iter().all(|f| f["id"] != "figure-sim-latency_by_load"), "a plot stage shows it");
        for figure in figures {
            let number = |key: &str| figure[key].as_f64().expect("a number");
            assert!(number("width") > 200.0 && number("height") > 100.0, "{figure}");
            assert!(number("marks") > 20.0 || number("image") > 0.0, "{figure}");
            assert!(figure["sql"].as_str().is_some_and(|sql| sql.contains("SELECT")), "{figure}");
        }
        let sorts: Vec<Vec<f64>> = at["sorts"].as_array().expect("three").iter().map(numbers).collect();
        let mut up = sorts[0].clone();
        up.sort_by(f64::total_cmp);
        assert_ne!(sorts[0], up, "the table is not sorted to begin with, so that a click can be seen");
        assert_eq!(sorts[1], up);
        assert_eq!(sorts[2], up.into_iter().rev().collect::<Vec<_>>());
        assert_eq!(at["state"], "descending");
    }

    let file = project.path().join("report.pdf");
    browse(&project, &[&format!("--print-to-pdf={}", file.display())], &page);
    let pdf = std::fs::read(file).expect("the print");
    assert!(pdf.starts_with(b"%PDF") && pdf.len() > 20_000, "{} bytes", pdf.len());
}

fn numbers(cells: &Value) -> Vec<f64> {
    let number = |cell: &Value| cell.as_str().and_then(|text| text.parse().ok()).expect("a number");
    cells.as_array().expect("cells").iter().map(number).collect()
}
