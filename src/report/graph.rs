//! A pipeline as a picture: stages from left to right, each behind what it reads.

use std::fmt::Write as _;

use super::hover::escaped;

/// A stage to be drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct GraphNode {
    pub name: String,
    pub kind: String,
    /// What is said under the kind, such as `cached` or a time; may be empty.
    pub note: String,
    /// Places of the stages that it reads from, all before its own.
    pub reads: Vec<usize>,
}

const BOX_W: i32 = 150;
const BOX_H: i32 = 46;
const GAP_X: i32 = 56;
const GAP_Y: i32 = 18;
const MARGIN: i32 = 16;
/// Characters of a name that fit a box.
const NAME_MAX: usize = 20;

/// Column and row of every stage: the column is one more than that of the last it reads from; in a column, stages stand by
/// the middle of what they read.
fn places(nodes: &[GraphNode]) -> Vec<(usize, usize)> {
    let mut column = vec![0; nodes.len()];
    for (i, node) in nodes.iter().enumerate() {
        column[i] = node.reads.iter().map(|&from| column[from] + 1).max().unwrap_or(0);
    }
    let columns = column.iter().max().map_or(0, |most| most + 1);
    let mut row = vec![0; nodes.len()];
    for c in 0..columns {
        let mut here: Vec<usize> = (0..nodes.len()).filter(|i| column[*i] == c).collect();
        // Twice the mean, so that it is a whole number; of equals, as in the file.
        let middle = |i: usize| {
            let reads = &nodes[i].reads;
            reads.iter().map(|&from| 2 * row[from]).sum::<usize>() / reads.len().max(1)
        };
        here.sort_by_key(|&i| middle(i));
        here.into_iter().enumerate().for_each(|(r, i)| row[i] = r);
    }
    column.into_iter().zip(row).collect()
}

/// The graph as SVG. Nodes are in an order in which each comes after what it reads.
pub fn graph_svg(nodes: &[GraphNode]) -> String {
    let places = places(nodes);
    let at = |i: usize| {
        let (column, row) = places[i];
        (MARGIN + column as i32 * (BOX_W + GAP_X), MARGIN + row as i32 * (BOX_H + GAP_Y))
    };
    let end = |f: fn((i32, i32)) -> i32| (0..nodes.len()).map(|i| f(at(i))).max().unwrap_or(0);
    let (width, height) = (end(|p| p.0) + BOX_W + MARGIN, end(|p| p.1) + BOX_H + MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"system-ui, sans-serif\" role=\"img\" aria-label=\"stages of the pipeline\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    for (i, node) in nodes.iter().enumerate() {
        let (x, y) = at(i);
        for &from in &node.reads {
            let (fx, fy) = at(from);
            let (x0, y0, x1, y1) = (fx + BOX_W, fy + BOX_H / 2, x, y + BOX_H / 2);
            let bend = (x1 - x0) / 2;
            let _ = writeln!(
                svg,
                "<path d=\"M{x0} {y0} C{} {y0} {} {y1} {x1} {y1}\" fill=\"none\" stroke=\"#8a94a6\" stroke-width=\"1.5\"/>",
                x0 + bend,
                x1 - bend,
            );
        }
    }
    for (i, node) in nodes.iter().enumerate() {
        let (x, y) = at(i);
        let below = match node.note.as_str() {
            "" => node.kind.clone(),
            note => format!("{} · {note}", node.kind),
        };
        let _ = writeln!(
            svg,
            "<g><title>{}</title><rect x=\"{x}\" y=\"{y}\" width=\"{BOX_W}\" height=\"{BOX_H}\" rx=\"6\" fill=\"#eef4fb\" \
             stroke=\"#3b82c4\"/><text x=\"{}\" y=\"{}\" font-size=\"13\" font-weight=\"600\" fill=\"#1f2937\">{}</text>\
             <text x=\"{}\" y=\"{}\" font-size=\"11\" fill=\"#4b5563\">{}</text></g>",
            escaped(&format!("{} ({below})", node.name)),
            x + 10,
            y + 20,
            escaped(&shortened(&node.name)),
            x + 10,
            y + 36,
            escaped(&shortened(&below)),
        );
    }
    svg + "</svg>\n"
}

/// The graph in the language of Mermaid.
pub fn graph_mermaid(nodes: &[GraphNode]) -> String {
    let mut text = String::from("flowchart LR\n");
    for node in nodes {
        let _ = writeln!(text, "  {}[\"{}<br/><small>{}</small>\"]", node.name, node.name, node.kind);
    }
    for node in nodes {
        for &from in &node.reads {
            let _ = writeln!(text, "  {} --> {}", nodes[from].name, node.name);
        }
    }
    text
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(NAME_MAX + 1) {
        Some(_) => text.chars().take(NAME_MAX).chain(['…']).collect(),
        None => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, reads: &[usize]) -> GraphNode {
        GraphNode { name: name.to_string(), kind: "sql".to_string(), note: String::new(), reads: reads.to_vec() }
    }

    #[test]
    fn stages_stand_behind_what_they_read() {
        let nodes = [node("a", &[]), node("b", &[]), node("c", &[1]), node("d", &[0]), node("e", &[0, 2])];
        assert_eq!(places(&nodes), [(0, 0), (0, 1), (1, 1), (1, 0), (2, 0)]);
        let svg = graph_svg(&nodes);
        assert_eq!(svg.matches("<path ").count(), 4);
        assert_eq!(svg.matches("<g>").count(), 5);
        assert!(graph_svg(&[]).ends_with("</svg>\n"));
    }

    #[test]
    fn mermaid_has_an_arrow_for_each_input() {
        let text = graph_mermaid(&[node("a", &[]), node("b", &[0])]);
        assert_eq!(
            text,
            "flowchart LR\n  a[\"a<br/><small>sql</small>\"]\n  b[\"b<br/><small>sql</small>\"]\n  a --> b\n"
        );
    }

    #[test]
    fn names_are_text() {
        let odd = GraphNode { note: "<b> & \"c\"".to_string(), ..node("a_name_that_is_rather_long_for_a_box", &[]) };
        let svg = graph_svg(&[odd]);
        assert!(svg.contains("a_name_that_is_rathe…") && svg.contains("&lt;b&gt; &amp; &quot;c&quot;"), "{svg}");
    }
}
