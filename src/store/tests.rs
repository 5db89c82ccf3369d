//! The store: what it keeps, what it notices, what a crash leaves.

use std::collections::BTreeMap;
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use serde_json::json;

use super::*;
use crate::plan::testing::{values, values_schema};

fn recipe(config: serde_json::Value) -> Recipe {
    let (inputs, files) = (BTreeMap::new(), BTreeMap::new());
    Recipe { kind: "fake".into(), version: 1, config, seed: 1, inputs, files }
}

fn finished(stage: &str, recipe: Recipe) -> Finished {
    Finished { stage: stage.into(), recipe, answer: Vec::new(), violated: None, millis: 1 }
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

/// Commits `rows` of stage `t`, written in batches of `batch`.
fn put(store: &Store, config: serde_json::Value, rows: &[i64], batch: usize) -> Manifest {
    let staging = store.stage("t").unwrap();
    let mut writer = staging.table("t", values_schema()).unwrap();
    for chunk in rows.chunks(batch) {
        writer.write(&values(chunk)).unwrap();
    }
    writer.finish().unwrap();
    store.commit(staging, finished("t", recipe(config))).unwrap()
}

fn read(handle: &TableHandle) -> RecordBatch {
    let mut batches = Vec::new();
    for part in &handle.parts {
        let file = std::fs::File::open(part).unwrap();
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        batches.extend(reader.build().unwrap().map(|b| b.unwrap()));
    }
    concat_batches(&handle.schema, &batches).unwrap()
}

fn part(store: &Store, manifest: &Manifest) -> PathBuf {
    store.object_dir(&manifest.fingerprint).join("t").join(&manifest.tables[0].parts[0].file)
}

fn entries(dir: &Path) -> usize {
    std::fs::read_dir(dir).map_or(0, Iterator::count)
}

#[test]
fn the_order_of_keys_does_not_matter_and_everything_else_does() {
    let a = recipe(json!({ "a": 1, "b": { "x": [1, 2], "y": null } }));
    let b = recipe(json!({ "b": { "y": null, "x": [1, 2] }, "a": 1 }));
    assert_eq!(a.fingerprint(), b.fingerprint());
    let differ = [
        recipe(json!({ "a": 1.0, "b": { "x": [1, 2], "y": null } })),
        Recipe { seed: 2, ..a.clone() },
        Recipe { version: 2, ..a.clone() },
        Recipe { kind: "other".into(), ..a.clone() },
        Recipe { inputs: BTreeMap::from([("t".into(), Hash::of(b""))]), ..a.clone() },
        Recipe { files: BTreeMap::from([("t".into(), Hash::of(b""))]), ..a.clone() },
    ];
    for other in differ {
        assert_ne!(a.fingerprint(), other.fingerprint(), "{other:?}");
    }
    // Fixed: a change here makes every result in every store anew, and needs a new KEY_SCHEMA.
    assert_eq!(recipe(json!({})).fingerprint().short(), "2d9dc9c8561a");
}

#[test]
fn bytes_do_not_depend_on_the_batches_that_rows_come_in() {
    let (_dir, store) = store();
    let rows: Vec<i64> = (0..40_000).collect();
    let hashes: Vec<Hash> = [1_000, 8_192, 40_000, 777]
        .iter()
        .map(|&batch| put(&store, json!({ "batch": batch }), &rows, batch).tables[0].hash.clone())
        .collect();
    assert!(hashes.iter().all(|h| *h == hashes[0]), "{hashes:?}");
    assert_ne!(put(&store, json!(0), &rows[1..], 777).tables[0].hash, hashes[0]);
}

#[test]
fn parts_are_cut_by_rows() {
    let (_dir, store) = store();
    let rows: Vec<i64> = (0..PART_ROWS as i64 + 5).collect();
    let manifest = put(&store, json!(1), &rows, 300_000);
    let counts: Vec<u64> = manifest.tables[0].parts.iter().map(|p| p.rows).collect();
    assert_eq!(counts, [PART_ROWS as u64, 5]);
    let exact = put(&store, json!(2), &rows[..PART_ROWS], 300_000);
    assert_eq!(exact.tables[0].parts.len(), 1);
    assert_eq!(exact.tables[0].parts[0].hash, manifest.tables[0].parts[0].hash);
    assert_eq!(read(&store.handle(&manifest, "t").unwrap()), values(&rows));
}

#[test]
fn a_table_without_rows_keeps_its_schema_and_metadata() {
    let (_dir, store) = store();
    let manifest = put(&store, json!(1), &[], 1);
    let handle = store.handle(&manifest, "t").unwrap();
    assert_eq!((handle.rows, handle.parts.len()), (0, 1));
    assert_eq!(handle.schema.fields(), values_schema().fields());
    assert_eq!(handle.schema.field(0).metadata()[crate::table::UNIT], "ns");
}

#[test]
fn rows_that_do_not_fit_the_schema_are_refused() {
    let (_dir, store) = store();
    let staging = store.stage("t").unwrap();
    let mut writer = staging.table("t", values_schema()).unwrap();
    let batch = values(&[1]).project(&[0, 0]).unwrap();
    assert!(writer.write(&batch).is_ok());
    let nulls = values(&[0, 1]).project(&[1, 1]).unwrap();
    assert!(writer.write(&nulls).unwrap_err().to_string().contains("table `t`"));
}

#[test]
fn dropped_without_commit_nothing_stays() {
    let (_dir, store) = store();
    let staging = store.stage("t").unwrap();
    let clone = staging.clone();
    staging.table("t", values_schema()).unwrap().finish().unwrap();
    drop(staging);
    assert!(clone.dir.exists());
    drop(clone);
    assert_eq!(entries(&store.root().join("tmp")), 0);
}

#[test]
fn damage_is_found_and_mended() {
    let (dir, store) = store();
    let _lock = store.lock().unwrap();
    let rows: Vec<i64> = (0..1000).collect();
    let manifest = put(&store, json!(1), &rows, 100);
    assert_eq!(store.get(&manifest.fingerprint), Some(manifest.clone()));
    assert!(store.verify(&manifest).is_ok());
    // Same size, other bytes.
    let path = part(&store, &manifest);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    store.save_hashes();
    let fresh = Store::open(dir.path()).unwrap();
    assert!(matches!(fresh.entry(&manifest.fingerprint), Entry::Damaged(why) if why.contains("part-00000")));
    assert!(fresh.verify(&manifest).is_err());
    assert_eq!(fresh.get(&manifest.fingerprint), None);
    // Made again, it is whole again.
    let again = put(&store, json!(1), &rows, 100);
    assert!(matches!(fresh.entry(&again.fingerprint), Entry::Found(_)));
    assert_eq!(again.tables, manifest.tables);
    // Cut short, and gone.
    std::fs::write(&path, &bytes[..10]).unwrap();
    assert!(matches!(store.entry(&manifest.fingerprint), Entry::Damaged(why) if why.contains("10 bytes")));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(store.entry(&manifest.fingerprint), Entry::Damaged(_)));
    std::fs::remove_file(path.parent().unwrap().parent().unwrap().join("manifest.json")).unwrap();
    assert!(matches!(store.entry(&manifest.fingerprint), Entry::Damaged(_)));
}

#[test]
fn what_a_crash_leaves_is_not_read_and_swept() {
    let (_dir, store) = store();
    // Killed between the parts and the manifest: parts lie in tmp/, and nowhere else.
    let staging = store.stage("t").unwrap();
    staging.table("t", values_schema()).unwrap().finish().unwrap();
    std::mem::forget(staging);
    let memo = store.memo().dir;
    std::fs::create_dir_all(&memo).unwrap();
    std::fs::write(memo.join("orphan.parquet"), "half").unwrap();
    std::fs::write(memo.join("tmp-12"), "half").unwrap();
    assert_eq!(entries(&store.root().join("tmp")), 1);
    assert_eq!(store.get(&recipe(json!(1)).fingerprint()), None);
    let _lock = store.lock().unwrap();
    assert_eq!(entries(&store.root().join("tmp")), 0);
    assert_eq!(entries(&memo), 0);
}

#[test]
fn one_writer_at_a_time() {
    let (dir, store) = store();
    let lock = store.lock().unwrap();
    let other = Store::open(dir.path()).unwrap();
    let refused = other.lock().unwrap_err();
    assert!(refused.to_string().contains(&format!("process {}", std::process::id())), "{refused}");
    assert!(refused.diagnostics[0].help.as_ref().unwrap().contains("goes away with the process"));
    assert_eq!(other.get(&Hash::of(b"")), None);
    drop(lock);
    assert!(other.lock().is_ok());
}

#[test]
fn the_run_of_a_dead_process_is_marked() {
    let (_dir, store) = store();
    let mut lock = store.lock().unwrap();
    let record = RunRecord::start("p", "p.yaml", Vec::new());
    lock.note_run(&record.id);
    store.record_run(&record).unwrap();
    let text = std::fs::read_to_string(store.root().join("lock")).unwrap();
    drop(lock);
    std::fs::write(store.root().join("lock"), text).unwrap();
    let _lock = store.lock().unwrap();
    assert_eq!(store.runs()[0].status, RunStatus::Killed);
}

#[test]
fn tables_are_published_under_the_names_of_the_stage_and_taken_back() {
    let (dir, store) = store();
    let _lock = store.lock().unwrap();
    let staging = store.stage("sim").unwrap();
    for name in ["sim_requests", "sim"] {
        staging.table(name, values_schema()).unwrap().finish().unwrap();
    }
    std::fs::write(staging.file("sim.svg").unwrap(), "<svg/>").unwrap();
    let manifest = store.commit(staging, finished("sim", recipe(json!(1)))).unwrap();
    assert_eq!(manifest.tables[0].name, "sim");
    store.publish("p", "sim", &manifest).unwrap();
    store.publish("p", "other", &manifest).unwrap();
    let names = |store: &Store| store.published().into_iter().map(|p| p.table).collect::<Vec<_>>();
    assert_eq!(names(&store), ["other", "other_requests", "sim", "sim_requests"]);
    let part = format!("part-00000-{}.parquet", manifest.tables[1].parts[0].hash.short());
    assert!(dir.path().join("data/tables/p/other_requests").join(part).is_file());
    assert!(dir.path().join("data/figures/p/other.svg").is_file());
    assert!(std::fs::read_link(dir.path().join("data/tables/p/sim")).unwrap().starts_with("../../store/objects"));
    let handle = store.published_handle(&store.published()[1]).unwrap();
    assert_eq!(handle.name, "other_requests");

    // Another result under the same name replaces the link.
    let next = put(&store, json!(2), &[1, 2], 1);
    store.publish("p", "t", &next).unwrap();
    let newer = put(&store, json!(3), &[1, 2, 3], 1);
    store.publish("p", "t", &newer).unwrap();
    assert_eq!(store.published().last().unwrap().manifest, newer);
    assert_eq!(store.last_recipes("p")["t"].config, json!(3));

    store.retain_stages("p", &["sim"]).unwrap();
    assert_eq!(names(&store), ["sim", "sim_requests"]);
    assert!(!dir.path().join("data/tables/p/other").exists());
    assert_eq!(entries(&dir.path().join("data/figures/p")), 1);

    // What is not ours stays.
    std::fs::create_dir(dir.path().join("data/tables/p/t")).unwrap();
    assert!(store.publish("p", "t", &newer).unwrap_err().to_string().contains("not a link"));
}

#[test]
fn an_input_file_is_hashed_by_content() {
    let (dir, store) = store();
    let path = dir.path().join("in.csv");
    let file = crate::spec::FilePath { written: "in.csv".into(), path: path.clone(), at: None };
    std::fs::write(&path, "one").unwrap();
    let one = store.input_hash(&file).unwrap();
    assert_eq!(one, Hash::of(b"one"));
    std::fs::write(&path, "two").unwrap();
    assert_ne!(store.input_hash(&file).unwrap(), one);
    // Old enough to be remembered; then the memory is used, also by the next process.
    std::fs::create_dir_all(store.root()).unwrap();
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    let touch = || std::fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
    touch();
    let two = store.input_hash(&file).unwrap();
    store.save_hashes();
    std::fs::write(&path, "six").unwrap();
    touch();
    assert_eq!(Store::open(dir.path()).unwrap().input_hash(&file).unwrap(), two);
    let wrong = crate::spec::FilePath { written: "im.csv".into(), path: dir.path().join("im.csv"), at: None };
    assert_eq!(input_problem(&wrong).unwrap().help.unwrap(), "did you mean `in.csv`?");
}

fn memo_entries() -> Vec<MemoEntry> {
    let entry = |key: &str, rows| MemoEntry { key: Hash::of(key.as_bytes()), rows, summary: json!({ "key": key }) };
    vec![entry("a", 3), entry("none", 0), entry("b", 20_000), entry("c", 2)]
}

#[test]
fn a_finished_scenario_is_found_and_read() {
    let (dir, store) = store();
    let rows: Vec<i64> = (0..20_005).collect();
    let entries = memo_entries();
    let keys: Vec<Hash> = entries.iter().map(|e| e.key.clone()).chain([Hash::of(b"absent")]).collect();
    assert!(store.memo().find(&keys).unwrap().is_empty());
    let batches: Vec<RecordBatch> = rows.chunks(333).map(values).collect();
    store.memo().put(values_schema(), &batches, &entries).unwrap();
    store
        .memo()
        .put(values_schema(), &[values(&[9, 9, 9])], &[MemoEntry { key: Hash::of(b"d"), rows: 3, summary: json!(1) }])
        .unwrap();
    for memo in [store.memo(), Memo::open(dir.path().join("data/store/memo"))] {
        let found = memo.find(&keys).unwrap();
        assert_eq!(found.len(), 4);
        assert_eq!(found[&keys[2]].summary, json!({ "key": "b" }));
        let read = |key: &Hash| concat_batches(&values_schema(), &memo.read(&found[key]).unwrap()).unwrap();
        assert_eq!(read(&keys[0]), values(&rows[..3]));
        assert_eq!(read(&keys[1]).num_rows(), 0);
        assert_eq!(read(&keys[2]), values(&rows[3..20_003]));
        assert_eq!(read(&keys[3]), values(&rows[20_003..]));
    }
}

#[test]
fn a_damaged_pack_is_dropped_and_can_be_made_again() {
    let (dir, store) = store();
    let entries = memo_entries();
    let keys: Vec<Hash> = entries.iter().map(|e| e.key.clone()).collect();
    let rows: Vec<i64> = (0..20_005).collect();
    store.memo().put(values_schema(), &[values(&rows)], &entries).unwrap();
    let pack = store.memo().find(&keys).unwrap()[&keys[0]].pack.clone();
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[30] ^= 1;
    std::fs::write(&pack, &bytes).unwrap();
    let memo = Memo::open(dir.path().join("data/store/memo"));
    assert!(memo.find(&keys).unwrap().is_empty());
    assert!(!pack.exists());
    // A process that found it before sees it go away.
    let hit = MemoHit { pack, row_start: 0, rows: 3, summary: json!(null) };
    assert_eq!(store.memo().read(&hit).unwrap_err().diagnostics[0].code, MEMO_CORRUPT);
    assert!(store.memo().find(&keys).unwrap().is_empty());
    store.memo().put(values_schema(), &[values(&rows)], &entries).unwrap();
    assert_eq!(memo.find(&keys).unwrap().len(), 4);
}
