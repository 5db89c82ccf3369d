//! A pipeline's results as one HTML file that needs nothing else: the answer first, then figures, tables, stages, and what
//! makes it all again.

use std::fmt::Write as _;

use super::graph::{GraphNode, graph_svg};
use super::hover::escaped;
use super::palette::dark_rules;

/// What a report tells.
#[derive(Clone, Debug, Default)]
pub struct Page {
    pub pipeline: String,
    pub description: String,
    /// When the run that it tells of was finished, and by which pipe.
    pub made: String,
    /// The answers of stages, each with its lines.
    pub answers: Vec<(String, Vec<String>)>,
    /// Texts of violated objectives.
    pub violated: Vec<String>,
    pub stages: Vec<PageStage>,
    pub figures: Vec<PageFigure>,
    /// What the figures leave out.
    pub notes: Vec<String>,
    pub tables: Vec<PageTable>,
    /// Files that were read, with their content hashes.
    pub inputs: Vec<(String, String)>,
    /// The pipeline's file, where it is at hand.
    pub yaml: Option<String>,
    /// The command that makes everything again.
    pub command: String,
}

/// A stage of the pipeline.
#[derive(Clone, Debug, Default)]
pub struct PageStage {
    pub name: String,
    pub kind: String,
    /// `ran`, `cached`, ...
    pub action: String,
    pub time: String,
    pub rows: String,
    pub fingerprint: String,
    /// Stages that it reads from, by place; all before it.
    pub reads: Vec<usize>,
}

/// A picture.
#[derive(Clone, Debug, Default)]
pub struct PageFigure {
    /// Of its place in the page, after `figure-`.
    pub id: String,
    pub stage: String,
    pub title: String,
    /// The question that it answers, if it was not the pipeline that asked for it.
    pub about: String,
    /// An `<svg>` or `<img>` element.
    pub picture: String,
    /// The query of what it shows.
    pub sql: String,
}

/// The first rows of a table.
#[derive(Clone, Debug, Default)]
pub struct PageTable {
    pub name: String,
    /// In all.
    pub rows_total: u64,
    /// Names, units, and whether they are numbers.
    pub columns: Vec<(String, String, bool)>,
    /// Cells as people read them, and as they sort.
    pub rows: Vec<Vec<(String, Option<f64>)>>,
    pub sql: String,
}

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1f242b; --soft: #4a525c; --paper: #ffffff; --line: #d9dde3; --panel: #f6f8fa;
        --link: #0b5cad; --bad: #a41e08; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #a9b4c0; --paper: #161b22; --line: #30363d; --panel: #1c2128; --link: #6cb2f7; --bad: #ff8a70; }
  .picture svg, .picture img, .graph svg { border-radius: 4px; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem; max-width: 76rem; font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
h1 { margin: 0; font-size: 1.7rem; } h2 { margin: 2.2rem 0 .6rem; font-size: 1.25rem; } h3 { margin: 1.4rem 0 .4rem; font-size: 1rem; }
p { margin: .3rem 0; } .soft { color: var(--soft); } a { color: var(--link); }
.answer { padding: .8rem 1rem; background: var(--panel); border-left: 4px solid var(--link); border-radius: 4px; margin: .6rem 0; }
.answer pre { margin: .2rem 0 0; white-space: pre-wrap; overflow-wrap: anywhere; font: inherit; }
.bad { border-left-color: var(--bad); }
nav a { margin-right: 1rem; } .scroll { overflow-x: auto; }
figure { margin: 0; } .figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 1.2rem; }
.picture svg, .picture img { width: 100%; height: auto; display: block; }
@media screen and (max-width: 40rem) { .picture { overflow-x: auto; } .picture svg, .picture img { min-width: 40rem; } }
table { border-collapse: collapse; font-size: .86rem; } th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
thead th { position: sticky; top: 0; background: var(--panel); }
th button { all: unset; cursor: pointer; font-weight: 600; } th button:focus-visible, summary:focus-visible, a:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
th[aria-sort=ascending] button::after { content: ' \\25B2'; } th[aria-sort=descending] button::after { content: ' \\25BC'; }
.unit { font-weight: 400; color: var(--soft); } .rows { max-height: 32rem; overflow: auto; }
details { margin: .3rem 0; } summary { cursor: pointer; color: var(--soft); } pre { overflow-x: auto; background: var(--panel); padding: .7rem; border-radius: 4px; font-size: .82rem; }
@media print {
  .rows, .scroll { max-height: none; overflow: visible; } nav { display: none; } figure, .answer { break-inside: avoid; } body { max-width: none; padding: 0; }
  table { font-size: .6rem; } th, td { padding: .1rem .25rem; white-space: normal; overflow-wrap: anywhere; } pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  thead th { position: static; }
}
";

/// Sorts the table of a heading that was chosen; numbers by their value, and what is missing last. On paper nothing can be
/// opened: everything is while it is printed.
const SCRIPT: &str = "
document.addEventListener('click', function (event) {
  var button = event.target.closest('th button');
  if (!button) { return; }
  var th = button.parentElement, row = th.parentElement, at = Array.prototype.indexOf.call(row.children, th);
  var down = th.getAttribute('aria-sort') === 'ascending';
  Array.prototype.forEach.call(row.children, function (other) { other.removeAttribute('aria-sort'); });
  th.setAttribute('aria-sort', down ? 'descending' : 'ascending');
  var body = th.closest('table').tBodies[0], rows = Array.prototype.slice.call(body.rows);
  var key = function (r) { var c = r.cells[at], v = c.getAttribute('data-v'); return v === null ? c.textContent : v === '' ? null : Number(v); };
  rows.sort(function (a, b) {
    var x = key(a), y = key(b);
    if (x === null || y === null) { return (x === null) - (y === null); }
    var order = typeof x === 'number' ? x - y : x.localeCompare(y);
    return down ? -order : order;
  });
  rows.forEach(function (r) { body.appendChild(r); });
});
var shut = [];
window.addEventListener('beforeprint', function () {
  shut = Array.prototype.slice.call(document.querySelectorAll('details:not([open])'));
  shut.forEach(function (d) { d.open = true; });
});
window.addEventListener('afterprint', function () { shut.forEach(function (d) { d.open = false; }); });
";

/// Pictures are drawn for light paper; on a dark page they have the colours of dark paper.
fn dark_pictures() -> String {
    let rules = dark_rules(".picture svg:not([data-paper])");
    format!("@media screen and (prefers-color-scheme: dark) {{\n{rules}}}\n")
}

impl Page {
    /// The file.
    pub fn html(&self) -> String {
        let mut out = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{0}</title>\n<link rel=\"icon\" href=\"data:,\">\n<style>{STYLE}{1}</style></head><body>\n<header><h1>{0}</h1>\n",
            escaped(&self.pipeline),
            dark_pictures(),
        );
        if !self.description.is_empty() {
            let _ = writeln!(out, "<p>{}</p>", escaped(&self.description));
        }
        let _ = writeln!(out, "<p class=\"soft\">{}</p>", escaped(&self.made));
        let parts = [
            ("answer", true, "Answer"),
            ("figures", !self.figures.is_empty() || !self.notes.is_empty(), "Figures"),
            ("tables", !self.tables.is_empty(), "Tables"),
            ("stages", !self.stages.is_empty(), "Stages"),
            ("again", true, "How to make it again"),
        ];
        out += "<nav aria-label=\"parts\">";
        for (id, there, title) in parts {
            if there {
                let _ = write!(out, "<a href=\"#{id}\">{title}</a>");
            }
        }
        out += "</nav></header>\n<main>\n";
        self.answer(&mut out);
        self.pictures(&mut out);
        self.all_tables(&mut out);
        self.pipeline_stages(&mut out);
        self.again(&mut out);
        let _ = write!(out, "</main>\n<script>{SCRIPT}</script>\n</body></html>\n");
        out
    }

    fn answer(&self, out: &mut String) {
        out.push_str("<section id=\"answer\"><h2>Answer</h2>\n");
        for text in &self.violated {
            let _ =
                writeln!(out, "<div class=\"answer bad\"><strong>Violated</strong><pre>{}</pre></div>", escaped(text));
        }
        for (stage, lines) in &self.answers {
            let _ = writeln!(
                out,
                "<div class=\"answer\"><strong>{}</strong><pre>{}</pre></div>",
                escaped(stage),
                escaped(&lines.join("\n")),
            );
        }
        if self.violated.is_empty() && self.answers.is_empty() {
            out.push_str("<p>No stage of this pipeline judges or searches; its tables and figures follow.</p>\n");
        }
        out.push_str("</section>\n");
    }

    fn pictures(&self, out: &mut String) {
        if self.figures.is_empty() && self.notes.is_empty() {
            return;
        }
        out.push_str("<section id=\"figures\"><h2>Figures</h2>\n<div class=\"figures\">\n");
        for figure in &self.figures {
            let about = match figure.about.is_empty() {
                true => String::new(),
                false => format!("<br>{}", escaped(&figure.about)),
            };
            let _ = writeln!(
                out,
                "<figure id=\"figure-{0}\"><div class=\"picture\" tabindex=\"0\" role=\"img\" aria-label=\"{1}\">{2}</div>\
                 <figcaption class=\"soft\">{1} (<a href=\"#stage-{4}\">{4}</a>){5}<details><summary>SQL</summary><pre>{3}</pre></details></figcaption></figure>",
                escaped(&figure.id),
                escaped(&figure.title),
                figure.picture,
                escaped(&figure.sql),
                escaped(&figure.stage),
                about,
            );
        }
        out.push_str("</div>\n");
        for note in &self.notes {
            let _ = writeln!(out, "<p class=\"soft\">{}</p>", escaped(note));
        }
        out.push_str("</section>\n");
    }

    fn all_tables(&self, out: &mut String) {
        if self.tables.is_empty() {
            return;
        }
        out.push_str("<section id=\"tables\"><h2>Tables</h2>\n<p class=\"soft\">Click a heading to sort.</p>\n");
        for table in &self.tables {
            let _ = writeln!(out, "<h3 id=\"table-{0}\">{0}</h3>", escaped(&table.name));
            let shown = table.rows.len() as u64;
            if shown < table.rows_total {
                let _ = writeln!(out, "<p class=\"soft\">The first {shown} of {} rows.</p>", table.rows_total);
            }
            out.push_str("<div class=\"rows\" tabindex=\"0\"><table><thead><tr>");
            for (name, unit, number) in &table.columns {
                let unit = if unit.is_empty() {
                    String::new()
                } else {
                    format!(" <span class=\"unit\">{}</span>", escaped(unit))
                };
                let class = if *number { " class=\"n\"" } else { "" };
                let _ = write!(
                    out,
                    "<th scope=\"col\"{class}><button type=\"button\">{}{unit}</button></th>",
                    escaped(name)
                );
            }
            out.push_str("</tr></thead><tbody>\n");
            for row in &table.rows {
                out.push_str("<tr>");
                for ((text, value), (_, _, number)) in row.iter().zip(&table.columns) {
                    if *number {
                        let value = value.map(|v| v.to_string()).unwrap_or_default();
                        let _ = write!(out, "<td class=\"n\" data-v=\"{value}\">{}</td>", escaped(text));
                    } else {
                        let _ = write!(out, "<td>{}</td>", escaped(text));
                    }
                }
                out.push_str("</tr>\n");
            }
            let _ = writeln!(
                out,
                "</tbody></table></div>\n<details><summary>SQL</summary><pre>{}</pre></details>",
                escaped(&table.sql),
            );
        }
        out.push_str("</section>\n");
    }

    fn pipeline_stages(&self, out: &mut String) {
        if self.stages.is_empty() {
            return;
        }
        let node = |stage: &PageStage| GraphNode {
            name: stage.name.clone(),
            kind: stage.kind.clone(),
            note: if stage.action == "ran" { stage.time.clone() } else { stage.action.clone() },
            reads: stage.reads.clone(),
        };
        let graph = graph_svg(&self.stages.iter().map(node).collect::<Vec<_>>());
        let _ = writeln!(
            out,
            "<section id=\"stages\"><h2>Stages</h2>\n<div class=\"scroll graph\" tabindex=\"0\">{graph}</div>"
        );
        out.push_str("<div class=\"scroll\"><table><thead><tr><th scope=\"col\">Stage</th><th scope=\"col\">Kind</th><th scope=\"col\">Last run</th>");
        out.push_str("<th scope=\"col\" class=\"n\">Time</th><th scope=\"col\" class=\"n\">Rows</th><th scope=\"col\">Fingerprint</th></tr></thead><tbody>\n");
        for stage in &self.stages {
            let cell = |text: &str| escaped(text);
            let _ = writeln!(
                out,
                "<tr id=\"stage-{0}\"><td>{0}</td><td>{1}</td><td>{2}</td><td class=\"n\">{3}</td><td class=\"n\">{4}</td><td><code>{5}</code></td></tr>",
                cell(&stage.name),
                cell(&stage.kind),
                cell(&stage.action),
                cell(&stage.time),
                cell(&stage.rows),
                cell(&stage.fingerprint),
            );
        }
        out.push_str("</tbody></table></div></section>\n");
    }

    fn again(&self, out: &mut String) {
        let _ =
            writeln!(out, "<section id=\"again\"><h2>How to make it again</h2>\n<pre>{}</pre>", escaped(&self.command));
        if !self.inputs.is_empty() {
            out.push_str("<p>Files that were read, with the BLAKE3 hash of their content:</p>\n<div class=\"scroll\"><table><tbody>\n");
            for (file, hash) in &self.inputs {
                let _ = writeln!(out, "<tr><td>{}</td><td><code>{}</code></td></tr>", escaped(file), escaped(hash));
            }
            out.push_str("</tbody></table></div>\n");
        }
        if let Some(yaml) = &self.yaml {
            let _ =
                writeln!(out, "<details open><summary>The pipeline</summary><pre>{}</pre></details>", escaped(yaml));
        }
        out.push_str("</section>\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_drawn_is_said() {
        let page = Page { notes: vec!["`mine` of `sim` could not be drawn".to_string()], ..Page::default() };
        let html = page.html();
        assert!(html.contains("could not be drawn") && html.contains("#figures"), "{html}");
    }

    #[test]
    fn everything_is_in_it_as_text() {
        let page = Page {
            pipeline: "p<q>".to_string(),
            answers: vec![("best".to_string(), vec!["2 GPUs & more".to_string()])],
            stages: vec![PageStage { name: "a".to_string(), kind: "sql".to_string(), ..PageStage::default() }],
            tables: vec![PageTable {
                name: "a".to_string(),
                rows_total: 5,
                columns: vec![("x_ms".to_string(), "ms".to_string(), true), ("name".to_string(), String::new(), false)],
                rows: vec![
                    vec![("1.5".to_string(), Some(1.5)), ("<b>".to_string(), None)],
                    vec![(String::new(), None), (String::new(), None)],
                ],
                sql: "SELECT 1 < 2".to_string(),
            }],
            ..Page::default()
        };
        let html = page.html();
        for part in [
            "<h1>p&lt;q&gt;</h1>",
            "2 GPUs &amp; more",
            "data-v=\"1.5\">1.5",
            "data-v=\"\"",
            "<td>&lt;b&gt;</td>",
            "The first 2 of 5 rows",
            "1 &lt; 2",
        ] {
            assert!(html.contains(part), "{part}\n{html}");
        }
        assert!(
            !html.contains("http://") || html.matches("http://").count() == html.matches("http://www.w3.org").count()
        );
        let none = Page::default().html();
        assert!(none.contains("No stage of this pipeline judges") && !none.contains("id=\"figures\""));
    }
}
