//! Latency models that read profiles, as a user runs them.

use crate::project::Project;

/// Steps of one to eight requests that decode: 10 ms, and one more per request; prompts of 512 tokens: 50 ms.
const STEPS: &str = "prefill_tokens,prefill_requests,prefill_context,decode_requests,decode_context,latency_ms
0,0,0,1,600,11
0,0,0,2,1200,12
0,0,0,4,2400,14
0,0,0,8,4800,18
512,1,0,0,0,50
512,1,0,4,2400,55
";

const PIPELINE: &str = "name: own
seed: 1
stages:
  trace: { synthesize: { requests: 20, rate_rps: 2, input: { constant: { tokens: 512 } }, output: { constant: { tokens: 20 } } } }
  steps: { profile: { generic: { path: ../data/steps.csv } } }
  sim:
    simulate:
      requests: trace
      deployment: { model: meta-llama/Llama-3.1-8B, gpu: h100-sxm }
      sweep:
        grid:
          deployment.latency: [ { steps: { profile: steps } }, { operators: { profile: steps, scale: 2 } }, { auto: { profile: steps } }, auto ]
";

#[test]
fn a_profile_makes_the_steps_of_a_simulation_and_a_changed_one_others() {
    let project = Project::new();
    project.write("data/steps.csv", STEPS);
    project.write("pipelines/own.yaml", PIPELINE);
    project.run(&["run", "pipelines/own.yaml"]).ok();
    let sql = "SELECT latency_model AS m, tpot_ms_mean AS tpot, latency_extrapolated_steps AS beyond, scenario FROM own.sim ORDER BY scenario_id";
    let rows = project.rows(sql);
    let of = |i: usize, column: &str| rows[i][column].as_f64().expect("a number");
    let names: Vec<&str> = rows.iter().map(|r| r["m"].as_str().expect("a name")).collect();
    assert_eq!(names, ["steps steps", "operators steps", "operators steps", "roofline"]);
    // Steps of one or two requests, and now and then a prompt beside them.
    assert!((10.5..16.0).contains(&of(0, "tpot")), "{rows:?}");
    let ratio = of(1, "tpot") / of(2, "tpot");
    assert!((1.9..2.4).contains(&ratio), "{ratio}: {rows:?}");
    assert!(of(3, "tpot") < 9.0 && of(3, "beyond") == 0.0, "{rows:?}");
    // The same again is not simulated again; another measurement is.
    let again = project.run(&["run", "pipelines/own.yaml"]).ok();
    assert!(again.err.contains("cached") || again.out.contains("cached"), "{}{}", again.out, again.err);
    project.write("data/steps.csv", &STEPS.replace(",11\n", ",13\n"));
    project.run(&["run", "pipelines/own.yaml"]).ok();
    let changed = project.rows(sql);
    assert!(changed[0]["tpot"].as_f64() > rows[0]["tpot"].as_f64(), "{changed:?}");
    assert_ne!(changed[0]["scenario"], rows[0]["scenario"]);
    assert_eq!(changed[3]["scenario"], rows[3]["scenario"]);
}

#[test]
fn a_profile_that_does_not_fit_is_refused_with_its_place() {
    let project = Project::new();
    project.write("data/steps.csv", STEPS);
    let wrong = PIPELINE.replace("{ steps: { profile: steps } },", "{ steps: { profile: trace } },");
    project.write("pipelines/wrong.yaml", &wrong);
    let checked = project.run(&["check", "pipelines/wrong.yaml"]);
    assert!(checked.code != Some(0) && checked.err.contains("`trace` is no profile"), "{}", checked.err);
    let operators =
        STEPS.replace("prefill_tokens,prefill_requests,prefill_context,decode_requests,decode_context", "a,b,c,d,e");
    project.write("data/steps.csv", &operators);
    project.write("pipelines/own.yaml", PIPELINE);
    let ran = project.run(&["run", "pipelines/own.yaml"]);
    assert!(ran.code != Some(0) && ran.err.contains("steps.csv"), "{}", ran.err);
    // A GEMM alone makes no step; `auto` takes the roofline then, the others are refused before anything is simulated.
    project.write(
        "data/steps.csv",
        "operator,tokens,n,k,latency_us,dtype\ngemm,1,16,8,5,bfloat16\ngemm,8,16,8,5,bfloat16\n",
    );
    let ran = project.run(&["run", "pipelines/own.yaml"]);
    assert!(
        ran.code != Some(0)
            && ran.err.contains("the profile `steps` does not fit meta-llama/Llama-3.1-8B at tp 1, pp 1")
            && ran.err.contains("own.yaml:12"),
        "{}",
        ran.err
    );
    // Of several items of a list, the one that is wrong.
    let head = PIPELINE.split_once("      sweep:").expect("a sweep").0;
    let list = "        list:\n          - { deployment.latency: roofline }\n          - { deployment.latency: { operators: { profile: steps } } }\n";
    project.write("pipelines/own.yaml", &format!("{head}      sweep:\n{list}"));
    let ran = project.run(&["run", "pipelines/own.yaml"]);
    let line = head.lines().count() + 4;
    assert!(ran.code != Some(0) && ran.err.contains(&format!("own.yaml:{line}")), "{}", ran.err);
}
