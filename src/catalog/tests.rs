//! The catalog's own facts, its names, and what a project adds.

use super::*;

fn catalog() -> Catalog {
    load(Path::new("/nonexistent")).unwrap()
}

/// Rows of `model_specs.csv` where it is there: as name of a column -> value.
fn specs() -> Vec<BTreeMap<String, String>> {
    let root = crate::repository();
    let shared = root.ancestors().map(|d| d.join("shared")).find(|d| d.join("data/models").is_dir());
    let Some(dir) = std::env::var_os("PIPE_SHARED").map(PathBuf::from).or(shared) else { return Vec::new() };
    let Ok(mut reader) = csv::Reader::from_path(dir.join("data/models/model_specs.csv")) else { return Vec::new() };
    let names = reader.headers().unwrap().clone();
    let row = |r: csv::StringRecord| names.iter().map(str::to_string).zip(r.iter().map(str::to_string)).collect();
    reader.records().map(|r| row(r.unwrap())).collect()
}

#[test]
fn every_figure_is_that_of_the_table_of_models() {
    let catalog = catalog();
    let specs = specs();
    assert!(specs.is_empty() || specs.len() == 31, "{}", specs.len());
    for row in specs {
        let m = &catalog.models[&row["model"]];
        let number = |name: &str| row[name].parse::<u32>().unwrap();
        let figures = [
            ("layers", m.layers),
            ("hidden", m.hidden),
            ("intermediate", m.intermediate),
            ("heads", m.heads),
            ("kv_heads", m.kv_heads),
            ("vocab", m.vocab),
            ("max_pos", m.max_pos),
            ("experts", m.experts),
            ("top_k", m.top_k),
            ("shared", m.shared_experts),
            ("moe_inter", m.moe_intermediate),
            ("first_dense", m.first_dense),
        ];
        for (name, value) in figures {
            assert_eq!(value, number(name), "{} {name}", row["model"]);
        }
        let kv = pipe_kernel::sim::facts::kv_bytes_per_token(m, pipe_kernel::scenario::Dtype::Bf16);
        assert_eq!(kv.to_string(), row["kv_bytes_per_token_bf16"], "{}", row["model"]);
        let params = |name: &str| row[name].parse::<f64>().unwrap();
        assert_eq!((m.params_b, m.active_b), (params("params_B"), params("active_B")), "{}", row["model"]);
        match &m.mla {
            None => assert_eq!(m.head_dim.to_string(), row["head_dim"], "{}", row["model"]),
            Some(a) => {
                let q = if a.q_rank == 0 { "None".to_string() } else { a.q_rank.to_string() };
                assert_eq!(format!("q{q}/kv{}", a.kv_rank), row["mla"]);
                assert_eq!(format!("nope{}+rope{}/v{}", a.nope_dim, a.rope_dim, a.v_dim), row["head_dim"]);
            }
        }
        let window = match m.window_layers {
            0 => String::new(),
            n => format!("{} on {n} layers", m.sliding_window),
        };
        assert_eq!(window, row["sliding"], "{}", row["model"]);
    }
}

#[test]
fn sizes_of_models_give_their_parameters() {
    for (name, m) in catalog().models {
        let params = pipe_kernel::sim::facts::params(&m) / 1e9;
        assert!((params / m.params_b - 1.0).abs() < 2e-3, "{name}: {params} from its sizes, {} listed", m.params_b);
        // Of the experts' biases and router some tables count more, some less.
        let active = pipe_kernel::sim::facts::active_params(&m) / 1e9;
        assert!((active / m.active_b - 1.0).abs() < 0.03, "{name}: {active} from its sizes, {} listed", m.active_b);
    }
}

#[test]
fn every_entry_has_a_source_and_a_day() {
    let catalog = catalog();
    assert!(catalog.gpus.len() >= 30 && catalog.models.len() >= 70);
    let notes = catalog.gpu_notes.iter().chain(&catalog.model_notes);
    for (name, note) in notes {
        assert!(note.source.len() > 10 && is_day(&note.date), "{name}: {note:?}");
    }
    for p in &catalog.prices {
        assert!(p.source.len() > 3 && is_day(&p.date), "{p:?}");
    }
}

fn is_day(text: &str) -> bool {
    text.len() == 10 && text.split('-').all(|part| part.parse::<u16>().is_ok())
}

#[test]
fn the_fitted_coefficients_are_those_of_their_source() {
    let catalog = catalog();
    assert_eq!(catalog.fitted.len(), 111);
    let root = crate::repository();
    let file = root.ancestors().map(|d| d.join("shared/data/models/vllm_linear_coefficients.json"));
    let Some(file) = file.into_iter().find(|f| f.is_file()) else { return };
    let source: Vec<serde_json::Value> = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(source.len(), 111);
    for set in &source {
        let (name, _) = catalog.model(set["id"].as_str().unwrap()).unwrap();
        let gpu = catalog.gpu(set["GPU"].as_str().unwrap()).unwrap().0;
        let list = |key: &str, i: usize| set[key][i].as_f64().unwrap();
        let c = pipe_kernel::sim::latency::Linear {
            base_us: list("beta_coeffs", 0),
            per_prefill_token_us: list("beta_coeffs", 1),
            per_decode_token_us: list("beta_coeffs", 2),
            queue_base_us: list("alpha_coeffs", 0),
            queue_per_input_token_us: list("alpha_coeffs", 1),
            per_output_token_us: list("alpha_coeffs", 2),
            after_request_us: 0.0,
            unit: pipe_kernel::sim::latency::TimeUnit::Us,
        };
        let tp = set["tensor_parallelism"].as_u64().unwrap();
        let vllm = set["vllm_version"].as_str().unwrap();
        let same = |f: &&FittedSet| {
            f.model == name
                && f.gpu == gpu
                && u64::from(f.tp) == tp
                && vllm.ends_with(&format!(":v{}", f.vllm))
                && f.coefficients == c
                && f.loss == set["best_loss"].as_f64()
        };
        assert!(catalog.fitted.iter().any(|f| same(&f)), "{set}");
    }
}

#[test]
fn a_project_adds_coefficients_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("data/catalog");
    std::fs::create_dir_all(&folder).unwrap();
    let set = |model: &str, base: f64| {
        format!(
            "- source: ours\n  date: \"2026-11-22\"\n  sets:\n    {model}:\n      - {{ gpu: l4, tp: 1, vllm: v0.20.0, \
             alpha: [1, 2, 3], beta: [{base}, 5, 6], loss: 0 }}\n"
        )
    };
    let of = |text: String| {
        std::fs::write(folder.join("latency.yaml"), text).unwrap();
        load(dir.path())
    };
    let catalog = of(set("llama-3.1-8b", 4.0)).unwrap();
    let d: pipe_kernel::scenario::Deployment =
        serde_json::from_str(r#"{"model": "meta-llama/Llama-3.1-8B", "gpu": "l4"}"#).unwrap();
    let found = catalog.fitted(&d, Some("0.20.0")).unwrap();
    assert_eq!((found.name().as_str(), found.coefficients.base_us), ("fitted vllm 0.20.0", 4.0));
    assert!(catalog.fitted(&d, Some("0.8.4")).is_none());
    let message = |text: String| of(text).unwrap_err().diagnostics[0].message.clone();
    assert!(message(set("llama-3.1-9b", 4.0)).contains("no model `llama-3.1-9b`"));
    assert!(message(set("llama-3.1-8b", -4.0)).contains("0 or more (microseconds)"));
}

#[test]
fn sizes_give_the_bytes_of_cache_per_token() {
    let catalog = catalog();
    for (name, bytes) in [
        ("meta-llama/Llama-2-7b-hf", 524_288),
        ("meta-llama/Llama-2-70b-hf", 327_680),
        ("meta-llama/Llama-3.1-8B", 131_072),
        ("meta-llama/Llama-3.1-405B", 516_096),
        ("codellama/CodeLlama-34b-Instruct-hf", 196_608),
        ("internlm/internlm-20b", 1_228_800),
        ("internlm/internlm2-20b", 196_608),
        ("Qwen/Qwen-72B", 2_621_440),
        ("Qwen/Qwen2.5-7B-Instruct", 57_344),
        ("Qwen/Qwen3-30B-A3B", 98_304),
        ("Qwen/Qwen3-235B-A22B", 192_512),
        ("mistralai/Mixtral-8x22B-v0.1", 229_376),
        ("microsoft/phi-2", 327_680),
        ("openai/gpt-oss-120b", 73_728),
        ("deepseek-ai/DeepSeek-V3", 70_272),
        ("deepseek-ai/DeepSeek-V2-Lite", 31_104),
        ("moonshotai/Kimi-K2-Instruct", 70_272),
    ] {
        let m = &catalog.models[name];
        let per_layer = match &m.mla {
            Some(a) => a.kv_rank + a.rope_dim,
            None => 2 * m.kv_heads * m.head_dim,
        };
        assert_eq!(m.layers * per_layer * 2, bytes, "{name}");
    }
}

#[test]
fn names_are_found_by_alias_and_case_and_wrong_ones_are_corrected() {
    let catalog = catalog();
    assert_eq!(catalog.model("llama-3.1-8b").unwrap().0, "meta-llama/Llama-3.1-8B");
    assert_eq!(catalog.model("META-LLAMA/llama-3.1-8b").unwrap().0, "meta-llama/Llama-3.1-8B");
    assert_eq!(catalog.gpu("H100").unwrap().0, "h100-sxm");
    let wrong = catalog.gpu("h100-smx").unwrap_err();
    assert_eq!(wrong.help.unwrap(), "did you mean `h100-sxm`?");
    assert!(catalog.model("gpt-5").unwrap_err().help.unwrap().contains("openai/gpt-oss-20b"));
}

#[test]
fn prices_are_of_known_gpus() {
    let catalog = catalog();
    for price in &catalog.prices {
        assert!(catalog.gpus.contains_key(&price.gpu), "{}", price.gpu);
        assert!(price.usd_per_gpu_hour > 0.0);
    }
}

#[test]
fn a_project_overrides_by_name_and_its_mistakes_have_a_place() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("data/catalog");
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("gpus.yaml");
    let facts = "facts: { bf16_tflops: 1, memory_gib: 2, memory_tb_per_s: 3 }";
    std::fs::write(&file, format!("h100-sxm:\n  source: ours\n  {facts}\n")).unwrap();
    assert_eq!(load(dir.path()).unwrap().gpu("h100").unwrap().1.bf16_tflops, 1.0);
    std::fs::write(&file, "h100-sxm:\n  source: ours\n  facts: { bf16: 1 }\n").unwrap();
    let failure = load(dir.path()).unwrap_err();
    assert_eq!(failure.diagnostics[0].at.as_ref().unwrap().line, 3);
}

#[test]
fn a_gpu_is_added_in_five_lines_and_a_model_by_its_config() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("data/catalog");
    std::fs::create_dir_all(folder.join("mine")).unwrap();
    let gpu = "my-gpu:\n  source: its datasheet\n  date: \"2026-11-22\"\n  aliases: [mine]\n  facts: { bf16_tflops: 400, \
               memory_gib: 64, memory_tb_per_s: 2 }\n";
    assert_eq!(gpu.lines().count(), 5);
    std::fs::write(folder.join("gpus.yaml"), gpu).unwrap();
    let model = "my-model:\n  config: mine\nmy-copy:\n  same_as: my-model\nmy-llama:\n  same_as: llama-3.1-8b\n";
    std::fs::write(folder.join("models.yaml"), model).unwrap();
    let config = r#"{"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 128, "vocab_size": 1000, "max_position_embeddings": 512}"#;
    std::fs::write(folder.join("mine/config.json"), config).unwrap();
    let catalog = load(dir.path()).unwrap();
    assert_eq!(catalog.gpu("MINE").unwrap().1.memory_gib, 64.0);
    assert_eq!(catalog.gpu("mine").unwrap().1.fp8_tflops, 0.0);
    assert_eq!(catalog.model("my-copy").unwrap().1.hidden, 64);
    assert_eq!(catalog.model("my-llama").unwrap().1, catalog.model("llama-3.1-8b").unwrap().1);
    // The same file by its path, relative to where the path was written.
    let (name, facts) = catalog.find_model("./mine", Some(&folder)).unwrap();
    assert_eq!((name.as_str(), &facts), ("./mine", catalog.model("my-model").unwrap().1));
    assert_eq!(catalog.find_model("./mine", None).unwrap().1, facts);
    assert_eq!(catalog.find_model("mine/config.json", Some(&folder)).unwrap().1, facts);
    let missing = catalog.find_model("./no.json", Some(&folder)).unwrap_err();
    assert!(missing.message.starts_with("no file `") && missing.help.is_some(), "{missing:?}");
    for (text, expect) in [
        ("m:\n  same_as: nothing\n", "`m` in"),
        ("m:\n  source: x\n", "needs one of `facts`, `config` and `same_as`"),
        ("m:\n  config: no.json\n", "no file `"),
    ] {
        std::fs::write(folder.join("models.yaml"), text).unwrap();
        let message = load(dir.path()).unwrap_err().diagnostics[0].message.clone();
        assert!(message.contains(expect), "{message}");
    }
}
