//! What runs again, and what does not.

use crate::project::{Project, SMALL};

const FILE: &str = "pipelines/small.yaml";

fn small() -> Project {
    let project = Project::new();
    project.write(FILE, SMALL);
    project
}

fn ran(actions: &[(String, String)]) -> Vec<&str> {
    actions.iter().filter(|(_, a)| a == "ran").map(|(s, _)| s.as_str()).collect()
}

#[test]
fn the_second_run_is_cached_and_threads_do_not_matter() {
    let one = small();
    assert_eq!(ran(&one.actions(&[FILE, "-j", "1"])).len(), 4);
    assert!(ran(&one.actions(&[FILE])).is_empty());
    let many = small();
    many.run(&["run", FILE, "-j", "7"]).ok();
    assert_eq!(one.hashes("small"), many.hashes("small"));
}

#[test]
fn comments_order_and_names_change_nothing() {
    let project = small();
    project.run(&["run", FILE]).ok();
    project.write(FILE, &SMALL.replace("stages:\n", "# a remark\nstages:\n\n"));
    assert!(ran(&project.actions(&[FILE])).is_empty());
}

#[test]
fn a_sweep_that_grows_simulates_only_what_is_new() {
    let project = small();
    project.run(&["run", FILE]).ok();
    project.write(FILE, &SMALL.replace("[4, 16, 64]", "[2, 4, 16, 64]"));
    let plan = project.run(&["plan", FILE]).ok();
    assert!(plan.out.contains("sweep.grid"), "{}", plan.out);
    let again = project.run(&["run", FILE]).ok();
    assert!(again.out.contains("8 scenarios"), "{}", again.out);
    assert!(again.out.contains("6 reused"), "{}", again.out);

    let fresh = small();
    fresh.write(FILE, &SMALL.replace("[4, 16, 64]", "[2, 4, 16, 64]"));
    fresh.run(&["run", FILE]).ok();
    assert_eq!(project.hashes("small"), fresh.hashes("small"));
}

#[test]
fn the_same_rows_stop_the_reruns() {
    let project = small();
    project.run(&["run", FILE]).ok();
    // Another query that gives the same table: what reads it stays cached.
    let changed = SMALL.replace("avg(ms(e2e_ns))", "avg(e2e_ns / 1e6)");
    let more = changed.clone() + "  few:\n    sql: SELECT scenario_id, ttft_ms_p99 FROM metrics ORDER BY scenario_id\n";
    let before =
        SMALL.to_string() + "  few:\n    sql: SELECT scenario_id, ttft_ms_p99 FROM metrics ORDER BY scenario_id\n";
    project.write(FILE, &before);
    project.run(&["run", FILE]).ok();
    project.write(FILE, &more);
    assert_eq!(ran(&project.actions(&[FILE])), ["metrics"]);
}

#[test]
fn only_from_and_force() {
    let project = small();
    assert_eq!(ran(&project.actions(&[FILE, "--only", "sim"])), ["trace", "sim"]);
    // The two do not need each other: either may be done first.
    let actions = project.actions(&[FILE]);
    let mut rest = ran(&actions);
    rest.sort_unstable();
    assert_eq!(rest, ["metrics", "verdict"]);
    assert_eq!(ran(&project.actions(&[FILE, "--force", "metrics"])), ["metrics"]);
    assert_eq!(project.run(&["run", FILE, "--force", "metrisc"]).code, Some(2));
}

#[test]
fn a_damaged_part_is_made_again() {
    let project = small();
    project.run(&["run", FILE]).ok();
    let before = project.hashes("small");
    let part = project.path().join("data/tables/small/metrics/part-00000.parquet");
    let part = part.canonicalize().expect("a published part");
    let mut bytes = std::fs::read(&part).expect("a part");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&part, bytes).expect("written");
    let ran_again = project.run(&["run", FILE]).ok();
    assert!(ran_again.err.contains("damaged") || ran_again.err.contains("hash"), "{}", ran_again.err);
    assert_eq!(project.hashes("small"), before);
    assert!(ran(&project.actions(&[FILE])).is_empty());
}

#[test]
fn plan_says_why() {
    let project = small();
    let plan = project.run(&["plan", FILE]).ok();
    assert!(plan.out.contains("never ran"), "{}", plan.out);
    project.run(&["run", FILE]).ok();
    let plan = project.run(&["plan", FILE]).ok();
    assert!(!plan.out.contains("never ran") && plan.out.contains("cached"), "{}", plan.out);
    let plan = project.run(&["plan", FILE, "--set", "seed=6"]).ok();
    assert!(plan.out.contains("seed"), "{}", plan.out);
}
