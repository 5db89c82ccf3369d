//! The field's configuration: names of logs, arrivals as numpy draws them, and what is wrong with files.

use super::*;
use crate::spec::Text;

#[test]
fn arrivals_are_those_of_numpy() {
    // numpy.random.seed(42); numpy.random.gamma(shape=1.0, scale=1 / 8, size=6) * 1e6
    let expect = [
        58658.51124710739,
        376265.1788646901,
        164593.21169318116,
        114117.81922199416,
        21203.108807793284,
        21199.53648932565,
    ];
    let mut gaps = Mt19937::new(42);
    for want in expect {
        let got = 1.0 / 8.0 * gaps.exponential() * 1e6;
        assert!((got / want - 1.0).abs() < 1e-14, "{got}, not {want}");
    }
    // The sum of 700 of them: the state is made anew once.
    let mut gaps = Mt19937::new(42);
    let sum: f64 = (0..700).map(|_| gaps.exponential() / 8.0).sum();
    assert!((sum - 86.8516890430356).abs() < 1e-9, "{sum}");
    let talk = |n: usize| (vec![7u64; n], vec![9u64; 4]);
    let requests = workload(&[talk(40), talk(40), talk(3)], 8.0, 42).requests;
    // Whole microseconds, cut; the first at once.
    assert_eq!(requests.arrival.iter().map(|t| t.0).collect::<Vec<_>>(), [0, 58_658_000, 434_923_000]);
    assert_eq!((requests.input_tokens.clone(), requests.output_tokens.clone()), (vec![40, 40, 3], vec![4, 4, 4]));
    assert_eq!(requests.hashes(0), requests.hashes(1));
    assert_eq!((requests.hashes(0).len(), requests.hashes(2).len()), (2, 0));
}

fn file(dir: &Path, text: &str) -> CalibrateConfig {
    let path = dir.join("optimizer_config.yaml");
    std::fs::write(&path, text).unwrap();
    let text = |s: &str| Text::new(s.to_string(), None);
    CalibrateConfig {
        path: FilePath { written: path.display().to_string(), path, at: None },
        model: text("llama-3.1-8b"),
        gpu: text("h100-sxm"),
        set: IndexMap::new(),
        fix: IndexMap::new(),
        sampler: pipe_kernel::tune::SamplerSpec::Random,
        trials: None,
        batch: 4,
        arrival_seed: 42,
        racing: None,
    }
}

const FILE: &str = "\
tokens_dir: tokens.json
sim_dir: ./results/test/
vllm_dir: logs
pbounds:
  sum_decode_tokens: [0, 1]
  sum_prefill_tokens: [0, 1]
  intercept: [0, 1]
  vllm_overhead: [0, 1]
scaling: { sum_decode_tokens: 0.0001, sum_prefill_tokens: 0.0001, intercept: 0.05, vllm_overhead: 6000 }
train_config:
  num_prompts: [2, 3]
  request_rate: [8]
  temperature: [0.0]
  max_num_batched_tokens: [256]
  long_prefill_token_threshold: [16]
  datasets: [{ name: sharegpt, path: ShareGPT.json }]
kv_blocks: 36374
error_function: \"mape\"  # or \"mse\"
seed: 10
n_trials: 400
";

#[test]
fn logs_belong_to_the_configurations_that_their_names_begin_with() {
    let dir = tempfile::tempdir().unwrap();
    let spec = file(dir.path(), FILE);
    std::fs::create_dir(dir.path().join("logs")).unwrap();
    let log = "TTFTs: [0.1, 0.2]\nTPOTs: [0.01, 0.01]\n";
    std::fs::write(dir.path().join("logs/EXP_2p_8r_0.0t_256mbt_16lpt_ShareGPT_1.txt"), log).unwrap();
    std::fs::write(dir.path().join("logs/exp_2p_8r_0t_256mbt_16lpt_sharegpt.txt"), log).unwrap();
    std::fs::write(
        dir.path().join("tokens.json"),
        r#"[{"id": "a", "conversations": [{"from": "human", "value": [1, 2]}, {"from": "gpt", "value": [3]}]},
            {"id": "b", "conversations": [{"from": "human", "value": [1]}, {"from": "gpt", "value": []}]}]"#,
    )
    .unwrap();
    let config = Config::read(&spec).unwrap();
    let study = config.study(&spec, dir.path()).unwrap();
    assert_eq!(study.cases.len(), 1);
    assert_eq!(study.cases[0].name, "train/EXP_2p_8r_0.0t_256mbt_16lpt_ShareGPT_1.txt");
    assert_eq!((study.trials, study.seed), (400, 10));
    let scenario = study.scenario(&study.cases[0], &study.space.decode(&[1.0; 4])).unwrap();
    let json = serde_json::to_value(&scenario.deployment).unwrap();
    assert_eq!(json["latency"]["regression"]["sum_decode_tokens_us"], 100.0);
    assert_eq!(json["latency"]["regression"]["intercept_us"], 50_000.0);
    assert_eq!(json["overheads"]["tokenize_us"], 6000.0);
    assert_eq!(json["kv"]["num_gpu_blocks"], 36374);
    assert_eq!(json["scheduler"]["vllm_v1"]["long_prefill_token_threshold"], 16);
    let (workloads, cases) = config.load(&spec).unwrap();
    assert_eq!((workloads.len(), cases.len()), (1, 1));
    assert_eq!(cases[0].1.ttft_ms, [100.0, 200.0]);
    assert_eq!(workloads[0].requests.output_tokens, [1, 1]);
    assert_eq!(config.files(&spec).len(), 2);
    let warnings = config.warnings();
    assert!(warnings[0].contains("sim_dir") && warnings[1].contains("1 of 2 train"), "{warnings:?}");
}

#[test]
fn what_is_wrong_with_the_file_is_told_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let told = |from: &str, to: &str| {
        let spec = file(dir.path(), &FILE.replace(from, to));
        let problems = Config::read(&spec).and_then(|c| c.study(&spec, dir.path())).err().unwrap();
        problems.iter().map(|d| format!("{:?} {} {:?}\n", d.at, d.message, d.help)).collect::<String>()
    };
    let missing = told("seed: 10", "seed: 11");
    assert!(
        missing.contains("exp_2p_8r_0.0t_256mbt_16lpt_sharegpt*") && missing.contains("there is no folder"),
        "{missing}"
    );
    std::fs::create_dir(dir.path().join("logs")).unwrap();
    assert!(told("seed: 10", "seed: 11").contains("the folder is empty"));
    let name = told("  intercept: [0, 1]", "  intercpt: [0, 1]");
    assert!(name.contains("line: 7") && name.contains("did you mean `intercept`"), "{name}");
    let bounds = told("  intercept: [0, 1]", "  intercept: [1, 0]");
    assert!(bounds.contains("write [0, 1]") || bounds.contains("no log"), "{bounds}");
    assert!(told("kv_blocks", "kv_block").contains("kv_blocks"));
    assert!(told("\"mape\"", "\"rmse\"").contains("rmse"));
}
