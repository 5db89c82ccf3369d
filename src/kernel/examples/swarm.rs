//! Holds the simulator against its oracle on the random scenarios of a range of seeds.
//!
//! `cargo run --release -p pipe-kernel --example swarm -- 0 20000`: the first seed, and the one after the last. Prints
//! what the scenarios have reached, or the first seed that fails. With `oracle` behind the numbers only the oracle runs,
//! and only the invariants are checked; with the name of another scheduler (`sglang`), its scenarios run; with `speculative`
//! those that decode speculatively.

use std::process::ExitCode;

use pipe_kernel::sim::swarm::{ENGINES, Reach, run, run_engine, run_oracle, run_speculative};

fn main() -> ExitCode {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let [from, to] = numbers[..] else {
        let names: Vec<&str> = ENGINES.iter().map(|engine| engine.name).collect();
        eprintln!("usage: swarm FIRST_SEED END_SEED [oracle|speculative|{}]", names.join("|"));
        return ExitCode::from(2);
    };
    let alone = std::env::args().skip(1).any(|a| a == "oracle");
    let known = |a: &String| {
        a.parse::<u64>().is_ok() || a == "oracle" || a == "speculative" || ENGINES.iter().any(|e| a == e.name)
    };
    if let Some(other) = std::env::args().skip(1).find(|a| !known(a)) {
        let names: Vec<&str> = ENGINES.iter().map(|engine| engine.name).collect();
        eprintln!("`{other}` is none of oracle, speculative, {}", names.join(", "));
        return ExitCode::from(2);
    }
    let engine = ENGINES.iter().find(|engine| std::env::args().skip(1).any(|a| a == engine.name));
    let speculative = std::env::args().skip(1).any(|a| a == "speculative");
    let mut reach = Reach::default();
    for seed in from..to {
        let result = match engine {
            Some(engine) => run_engine(engine, seed),
            None if speculative => run_speculative(seed),
            None if alone => run_oracle(seed).map(|(reached, _, _)| reached),
            None => run(seed),
        };
        match result {
            Ok(reached) => reach.add(&reached),
            Err(e) => {
                eprintln!("{e}");
                return ExitCode::FAILURE;
            }
        }
    }
    print!("{reach}");
    ExitCode::SUCCESS
}
