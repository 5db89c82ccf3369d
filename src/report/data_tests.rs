//! What is drawn of points that are given.

use super::*;
use crate::report::Series;

fn chart(kind: ChartKind, points: &[(f64, f64)]) -> Chart {
    Chart { kind, series: vec![Series { points: points.to_vec(), ..Series::default() }], ..Chart::default() }
}

#[test]
fn colours_on_both_sides_of_a_middle() {
    let points = [(0.0, 0.0), (1.0, 0.0), (2.0, 0.0)];
    let heat = |middle| {
        let mut heat = Chart { middle, ..chart(ChartKind::Heat, &points) };
        heat.series[0].values = vec![-1.0, 0.0, 0.5];
        Data::new(&heat)
    };
    let (plain, sided) = (heat(None), heat(Some(0.0)));
    assert_eq!((plain.range, sided.range), (Some((-1.0, 0.5)), Some((-1.0, 1.0))));
    let red_and_blue = |v: f64| (sided.colour(v).0, sided.colour(v).2);
    let ((r, b), (other_r, other_b)) = (red_and_blue(-0.01), red_and_blue(0.0));
    assert!(r > b && other_r < other_b);
}

#[test]
fn a_path_keeps_the_order_of_its_points() {
    let points = [(1.0, 10.0), (3.0, 20.0), (2.0, 90.0)];
    assert_eq!(Data::new(&chart(ChartKind::Path, &points)).series[0], points);
    assert_eq!(Data::new(&chart(ChartKind::Line, &points)).series[0], [(1.0, 10.0), (2.0, 90.0), (3.0, 20.0)]);
}

#[test]
fn a_distribution_is_a_step_per_distinct_value() {
    let data = Data::new(&chart(ChartKind::Cdf, &[(2.0, 0.0), (1.0, 0.0), (2.0, 0.0), (f64::NAN, 0.0), (4.0, 0.0)]));
    assert_eq!(data.series[0], [(1.0, 0.0), (1.0, 0.25), (2.0, 0.25), (2.0, 0.75), (4.0, 0.75), (4.0, 1.0)]);
    assert_eq!(data.notes, ["1 row without a number not drawn"]);
}

#[test]
fn a_distribution_counts_what_its_log_axis_cannot_show() {
    let log = Chart { x_log: true, ..chart(ChartKind::Cdf, &[(0.0, 0.0), (-1.0, 0.0), (1.0, 0.0), (10.0, 0.0)]) };
    let data = Data::new(&log);
    assert_eq!(data.series[0], [(1.0, 0.5), (1.0, 0.75), (10.0, 0.75), (10.0, 1.0)]);
    assert_eq!(data.notes, ["2 rows with x ≤ 0 not on the log axis"]);
}

#[test]
fn lines_follow_x_and_leave_out_what_has_no_place() {
    let points = [(3.0, 1.0), (1.0, 0.0), (2.0, f64::NAN), (0.0, 5.0), (1.5, 2.0)];
    let data = Data::new(&Chart { x_log: true, y_log: true, ..chart(ChartKind::Line, &points) });
    assert_eq!(data.series[0], [(1.5, 2.0), (3.0, 1.0)]);
    assert_eq!(data.notes.len(), 3, "{:?}", data.notes);
}

#[test]
fn bins_are_equal_and_count_everything() {
    let points: Vec<(f64, f64)> = (0..=10).map(|i| (f64::from(i), 0.0)).collect();
    let chart = Chart { bins: 5, ..chart(ChartKind::Histogram, &points) };
    let data = Data::new(&chart);
    // The last bin has its upper edge too.
    let counts: Vec<f64> = data.series[0].iter().step_by(2).map(|p| p.1).collect();
    assert_eq!(counts, [2.0, 2.0, 2.0, 2.0, 3.0]);
    assert_eq!((data.series[0][0].0, data.series[0][9].0), (0.0, 10.0));
    let log = Chart { x_log: true, bins: 2, ..chart };
    let data = Data::new(&log);
    // From 1 to 10 by factors: 1, 2, 3 and 4 to 10.
    let counts: Vec<f64> = data.series[0].iter().step_by(2).map(|p| p.1).collect();
    assert_eq!((counts, &data.notes[..]), (vec![3.0, 7.0], &["1 row with x ≤ 0 not on the log axis".to_string()][..]));
    let one = Data::new(&Chart { bins: 3, ..self::chart(ChartKind::Histogram, &[(7.0, 0.0)]) });
    assert_eq!(one.series[0].iter().map(|p| p.1).fold(0.0, f64::max), 1.0);
}

#[test]
fn areas_stand_on_each_other() {
    let mut chart = chart(ChartKind::Area, &[(2.0, 1.0), (1.0, 2.0)]);
    chart.series.push(Series { points: vec![(2.0, 5.0), (3.0, 1.0)], ..Series::default() });
    let data = Data::new(&chart);
    assert_eq!(data.series[0], [(1.0, 2.0), (2.0, 1.0), (3.0, 0.0)]);
    assert_eq!(data.series[1], [(1.0, 2.0), (2.0, 6.0), (3.0, 1.0)]);
}

#[test]
fn boxes_have_five_numbers_per_slot() {
    let points: Vec<(f64, f64)> = (0..=20).map(|i| (4.0, f64::from(i))).chain([(9.0, 7.0)]).collect();
    let data = Data::new(&chart(ChartKind::Box, &points));
    assert_eq!(data.slots.as_deref(), Some(&["4", "9"].map(String::from)[..]));
    assert_eq!(data.series[0][..5], [(0.0, 1.0), (0.0, 5.0), (0.0, 10.0), (0.0, 15.0), (0.0, 19.0)]);
    assert!(data.series[0][5..].iter().all(|p| *p == (1.0, 7.0)));
}

#[test]
fn cells_have_slots_on_both_axes() {
    let mut chart = chart(ChartKind::Heat, &[(8.0, 2.0), (4.0, 2.0), (4.0, 1.0), (4.0, 1.0), (f64::NAN, 1.0)]);
    chart.series[0].values = vec![0.5, 0.25, 1.0, 9.0, 1.0];
    let data = Data::new(&chart);
    assert_eq!(data.slots.as_deref(), Some(&["4", "8"].map(String::from)[..]));
    assert_eq!(data.row_slots.as_deref(), Some(&["1", "2"].map(String::from)[..]));
    assert_eq!((&data.series[0][..], data.range), (&[(1.0, 1.0), (0.0, 1.0), (0.0, 0.0)][..], Some((0.25, 1.0))));
    assert_eq!(data.notes.len(), 2, "{:?}", data.notes);
}

#[test]
fn a_rule_is_in_sight() {
    let rule = super::super::chart::Rule { value: 500.0, label: "SLO".to_string(), upright: false };
    let data = Data::new(&Chart { rules: vec![rule], ..chart(ChartKind::Line, &[(1.0, 10.0), (2.0, 20.0)]) });
    assert!(data.y.unit(500.0) <= 1.0 && data.y.unit(20.0) < 0.1);
}

#[test]
fn bars_stand_in_slots_by_number_and_show_their_first_row() {
    let data = Data::new(&chart(ChartKind::Bar, &[(8.0, 1.0), (-1.0, 2.0), (0.0, 3.0), (-0.0, 9.0), (-3.0, 4.0)]));
    assert_eq!(data.slots.as_deref(), Some(&["-3", "-1", "0", "8"].map(String::from)[..]));
    assert_eq!(data.series[0], [(3.0, 1.0), (1.0, 2.0), (2.0, 3.0), (0.0, 4.0)]);
    assert_eq!(data.notes, ["1 row not drawn: their bar shows an earlier row"]);
}
