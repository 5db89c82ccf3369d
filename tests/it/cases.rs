//! Wrong pipelines: every problem at once, with its place and its remedy. One file of `tests/cases/` each, and a
//! snapshot of what pipe says to it.

use std::path::Path;

use crate::project::{Project, repository};

/// Runs `tests/cases/<name>.yaml` as a user would, and compares all that is printed.
fn check(name: &str) {
    let project = Project::new();
    let from = repository().join("tests/cases");
    std::fs::create_dir_all(project.path().join("tests/cases")).expect("a folder");
    for entry in std::fs::read_dir(&from).expect("cases") {
        let path = entry.expect("an entry").path();
        if path.is_file() {
            std::fs::copy(&path, project.path().join("tests/cases").join(path.file_name().expect("a name")))
                .expect("a copy");
        }
    }
    let ran = project.run(&["run", "--quiet", "--root", ".", &format!("tests/cases/{name}.yaml")]);
    let text = format!("exit code {}\n\n{}{}", ran.code.unwrap_or(-1), ran.out, ran.err);
    let text = text.replace(&project.path().canonicalize().expect("a path").display().to_string(), "<project>");
    insta::with_settings!({
        snapshot_path => "../cases/snapshots", prepend_module_to_snapshot => false, omit_expression => true,
    }, {
        insta::assert_snapshot!(name, text);
    });
}

macro_rules! cases {
    ($($test:ident: $name:literal),* $(,)?) => {
        $(#[test] fn $test() { check($name); })*

        /// A case without a test would be forgotten.
        #[test]
        fn every_case_has_a_test() {
            let listed = [$($name),*];
            for entry in std::fs::read_dir(repository().join("tests/cases")).expect("cases") {
                let path = entry.expect("an entry").path();
                if path.extension().is_some_and(|e| e == "yaml") {
                    let name = path.file_stem().and_then(|s| Path::new(s).to_str()).expect("a name");
                    assert!(listed.contains(&name), "{name} has no test");
                }
            }
        }
    };
}

cases! {
    typo_in_a_key: "01_typo_in_a_key",
    unknown_kind: "02_unknown_kind",
    cycle: "03_cycle",
    bad_sql: "04_bad_sql",
    unknown_column: "05_unknown_column",
    missing_file: "06_missing_file",
    wrong_type: "07_wrong_type",
    unknown_model_and_gpu: "08_unknown_model_and_gpu",
    impossible_memory: "09_impossible_memory",
    bad_row_in_a_trace: "10_bad_row_in_a_trace",
    dangling_reference: "11_dangling_reference",
    duplicate_stage: "12_duplicate_stage",
    unknown_param: "13_unknown_param",
    yaml_syntax: "14_yaml_syntax",
    unknown_path_in_sweep: "15_unknown_path_in_sweep",
    missing_order_by: "16_missing_order_by",
    rule_without_limit: "17_rule_without_limit",
    environment_not_set: "18_environment_not_set",
    objective_of_optimize: "19_objective_of_optimize",
    texts_where_tokens_are_needed: "20_texts_where_tokens_are_needed",
    no_arrival_times: "21_no_arrival_times",
    many_at_once: "22_many_at_once",
    assertion: "23_assert",
    requests_that_cannot_be: "24_requests_that_cannot_be",
    requests_of_one_number: "25_requests_of_one_number",
    classes_and_measurement: "26_classes_and_measurement",
    classes_that_cannot_be: "27_classes_that_cannot_be",
    routers_that_cannot_be: "28_routers_that_cannot_be",
    pools_that_cannot_be: "29_pools_that_cannot_be",
    users_who_wait: "30_users_who_wait",
    requests_that_wait_for_nobody: "31_requests_that_wait_for_nobody",
    steps_without_an_order: "36_steps_without_an_order",
    sessions_and_chains: "37_sessions_and_chains",
    queueing_deployments: "40_queueing_deployments",
    profiles_that_cannot_be: "50_profiles_that_cannot_be",
    rows_of_a_profile_that_cannot_be: "51_rows_of_a_profile_that_cannot_be",
}
