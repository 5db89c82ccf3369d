//! Files are written, read back as `ingest` reads them, and compared.

use std::collections::BTreeMap;

use arrow::array::{AsArray, Float64Array, Int32Array, ListBuilder, UInt64Builder};
use arrow::datatypes::{Field, Int32Type, Int64Type, UInt64Type};

use super::*;
use crate::spec::{Format, Tree, from_tree};
use crate::stage::tokenize::testing;
use crate::table::requests;
use crate::trace::Settings;

/// Three requests: two turns of a session that share two blocks, and one alone with a comma in its class. Times are whole
/// milliseconds but for the last.
fn table() -> RecordBatch {
    let n = 3;
    let mut hashes = ListBuilder::new(UInt64Builder::new()).with_field(Field::new_list_field(DataType::UInt64, false));
    hashes.append_option(Some([11, 12, 13].map(Some)));
    hashes.append_option(Some([11, 12, 14, u64::MAX].map(Some)));
    hashes.append_option(Some([21].map(Some)));
    let int = |values: [i64; 3]| -> ArrayRef { Arc::new(Int64Array::from(values.to_vec())) };
    let count = |values: [i32; 3]| -> ArrayRef { Arc::new(Int32Array::from(values.to_vec())) };
    let text = |values: [Option<&str>; 3]| -> ArrayRef { Arc::new(StringArray::from(values.to_vec())) };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("request_id", int([0, 1, 2])),
        ("arrival_ns", int([0, 2_000_000, 1_234_567_890_123])),
        ("session_id", text([Some("s"), Some("s"), None])),
        ("turn", Arc::new(Int32Array::from(vec![Some(0), Some(1), None]))),
        ("class", text([Some("chat"), Some("chat"), Some("a, \"b\"")])),
        ("tenant", text([Some("acme"), None, Some("x")])),
        ("input_tokens", count([33, 60, 10])),
        ("output_tokens", count([20, 4, 7])),
        ("block_hashes", Arc::new(hashes.finish())),
        ("block_tokens", count([16, 16, 16])),
        ("encoder_tokens", Arc::new(Int32Array::from(vec![None, Some(10), None]))),
        ("reasoning_tokens", Arc::new(Int32Array::from(vec![Some(5), None, None]))),
        ("observed_ttft_ns", int([5_000_000, 6_000_000, 7_000_000])),
        ("observed_e2e_ns", int([25_000_000, 9_000_000, 13_000_000])),
        ("observed_status", text([Some("completed"), Some("completed"), Some("timeout")])),
        ("acceptance", Arc::new(Float64Array::from(vec![Some(0.5), None, None]))),
    ];
    requests::assemble(&requests::schema(), n, columns).unwrap()
}

struct Made {
    // The files are in it as long as it is there.
    cx: RunCx,
    _dir: tempfile::TempDir,
    files: RecordBatch,
}

impl Made {
    fn path(&self, file: &str) -> std::path::PathBuf {
        self.cx.out.file(file).unwrap()
    }

    fn text(&self, file: &str) -> String {
        std::fs::read_to_string(self.path(file)).unwrap()
    }

    /// The requests of the file, as `ingest` reads them.
    fn read(&self, file: &str, format: Format) -> RecordBatch {
        let settings = Settings::new(self.path(file), file.to_string(), format);
        let (parser, mut chunks) = trace::open(&settings, Box::new(|_| ())).unwrap();
        let chunk = chunks.next_chunk().unwrap().unwrap();
        let parsed = parser.parse(chunk).unwrap();
        assert_eq!(parsed.problems, []);
        assert!(chunks.next_chunk().unwrap().is_none());
        parsed.rows
    }
}

fn export(rows: &RecordBatch, settings: Value) -> Result<Made> {
    let mut all = json!({ "from": "trace" });
    all.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    let stage: Export = from_tree(&Tree::from_json(all)).unwrap_or_else(|problems| panic!("{problems:?}"));
    let dir = tempfile::tempdir().unwrap();
    let mut cx = testing::cx(dir.path(), 2);
    let mut writer = cx.out.table("trace", rows.schema()).unwrap();
    writer.write(rows).unwrap();
    writer.finish().unwrap();
    cx.inputs.insert("trace".to_string(), cx.out.handle("trace").unwrap());
    stage.export(&cx)?;
    let files = testing::read(&cx, "t");
    Ok(Made { cx, _dir: dir, files })
}

/// Which blocks are the same: hashes numbered as they come.
fn sharing(rows: &RecordBatch) -> Vec<Vec<usize>> {
    let mut numbers: BTreeMap<u64, usize> = BTreeMap::new();
    let lists = rows.column_by_name("block_hashes").unwrap().as_list::<i32>();
    let mut number = |hash: &u64| {
        let next = numbers.len();
        *numbers.entry(*hash).or_insert(next)
    };
    (0..rows.num_rows())
        .map(|i| lists.value(i).as_primitive::<UInt64Type>().values().iter().map(&mut number).collect())
        .collect()
}

#[track_caller]
fn same(read: &RecordBatch, columns: &[&str]) {
    let table = table();
    for name in columns {
        assert_eq!(read.column_by_name(name).unwrap(), table.column_by_name(name).unwrap(), "{name}");
    }
}

#[test]
fn mooncake_lines_are_read_back() {
    let made = export(&table(), json!({ "format": "mooncake" })).unwrap();
    let expected = concat!(
        r#"{"timestamp":0,"input_length":33,"output_length":20,"hash_ids":[0,1,2],"session_id":"s"}"#,
        "\n",
        r#"{"timestamp":2,"input_length":60,"output_length":4,"hash_ids":[0,1,3,4],"session_id":"s"}"#,
        "\n",
        r#"{"timestamp":1234568,"input_length":10,"output_length":7,"hash_ids":[5]}"#,
        "\n",
    );
    assert_eq!(made.text("t.jsonl"), expected);
    let read = made.read("t.jsonl", Format::Auto);
    same(&read, &["session_id", "input_tokens", "output_tokens"]);
    assert_eq!(sharing(&read), sharing(&table()));
    let ms: Vec<i64> = read.column_by_name("arrival_ns").unwrap().as_primitive::<Int64Type>().values().to_vec();
    assert_eq!(ms, [0, 2_000_000, 1_234_568_000_000]);
    // What is lost is said: the third arrival was rounded, and so many columns have no place.
    let left_out = made.files.column_by_name("left_out").unwrap().as_string::<i32>().value(0).to_string();
    assert_eq!(
        left_out,
        "turn, class, tenant, acceptance, observed_ttft_ns, observed_e2e_ns, observed_status, encoder_tokens, \
         reasoning_tokens"
    );
    assert_eq!(made.files.column_by_name("rounded").unwrap().as_primitive::<Int64Type>().value(0), 1);
}

#[test]
fn vidur_rows_are_read_back_to_the_nanosecond() {
    let made = export(&table(), json!({ "format": "vidur" })).unwrap();
    assert!(made.text("t.csv").contains("\n1234.567890123,10,7,,16,\"[5]\"\n"), "{}", made.text("t.csv"));
    let read = made.read("t.csv", Format::Auto);
    same(&read, &["arrival_ns", "session_id", "input_tokens", "output_tokens", "block_tokens"]);
    assert_eq!(sharing(&read), sharing(&table()));
}

#[test]
fn trace_v2_has_a_header_and_what_was_observed() {
    let made = export(&table(), json!({ "format": "trace_v2", "file": "out.csv" })).unwrap();
    assert!(made.text("out.yaml").contains("mode: real\n"));
    trace::trace_v2_header(&made.text("out.yaml"), "out.yaml").unwrap();
    let text = made.text("out.csv");
    let row = "1,,,chat,s,1,,0,true,60,4,50,10,0,0,0,,0,0,2000,2000,8000,11000,0,ok,,";
    assert_eq!(text.lines().nth(2), Some(row));
    assert!(text.contains("2,,x,\"a, \"\"b\"\"\",,0,"), "{text}");
    // Requests that warmed the server up are counted in the header; one after others cannot be, and that is said.
    let with_status = |status: [&str; 3]| {
        let mut columns = table().columns().to_vec();
        columns[table().schema().index_of("observed_status").unwrap()] = Arc::new(StringArray::from(status.to_vec()));
        let rows = RecordBatch::try_new(table().schema(), columns).unwrap();
        let made = export(&rows, json!({ "format": "trace_v2" })).unwrap();
        let lost = made.files.column_by_name("left_out").unwrap().as_string::<i32>().value(0).to_string();
        (made.text("t.yaml"), lost.contains("observed_status"))
    };
    let (header, lost) = with_status(["warmup", "warmup", "completed"]);
    assert!(header.contains("warm_up_requests: 2\n") && !lost, "{header}");
    let (header, lost) = with_status(["completed", "warmup", "completed"]);
    assert!(header.contains("warm_up_requests: 0\n") && lost, "{header}");
    let read = made.read("out.csv", Format::Auto);
    same(&read, &["input_tokens", "output_tokens", "class"]);
    assert_eq!(read.column_by_name("arrival_ns").unwrap().as_primitive::<Int64Type>().value(1), 2_000_000);
}

#[test]
fn any_table_is_written_whole() {
    for (format, packed, file) in [
        ("csv", "none", "t.csv"),
        ("csv", "gzip", "t.csv.gz"),
        ("jsonl", "none", "t.jsonl"),
        ("jsonl", "zstd", "t.jsonl.zst"),
        ("parquet", "none", "t.parquet"),
    ] {
        let made = export(&table(), json!({ "format": format, "compression": packed })).unwrap();
        let read = made.read(file, Format::Auto);
        same(&read, &["arrival_ns", "session_id", "turn", "class", "input_tokens", "output_tokens", "block_hashes"]);
        same(&read, &["block_tokens", "encoder_tokens"]);
        let again = export(&table(), json!({ "format": format, "compression": packed })).unwrap();
        assert_eq!(std::fs::read(made.path(file)).unwrap(), std::fs::read(again.path(file)).unwrap(), "{file}");
    }
    let made = export(&table(), json!({ "format": "arrow" })).unwrap();
    let file = std::fs::File::open(made.path("t.arrow")).unwrap();
    let rows = arrow::ipc::reader::FileReader::try_new(file, None).unwrap().next().unwrap().unwrap();
    assert_eq!(rows, table());
}

#[test]
fn what_a_format_cannot_do_is_refused() {
    let mut columns = table().columns().to_vec();
    let at = |name: &str| table().schema().index_of(name).unwrap();
    columns[at("block_tokens")] = Arc::new(Int32Array::from(vec![16, 16, 32]));
    let mixed = RecordBatch::try_new(table().schema(), columns.clone()).unwrap();
    let failure = export(&mixed, json!({ "format": "mooncake" })).err().unwrap();
    assert!(failure.to_string().contains("request 2 has blocks of 32 tokens"), "{failure}");
    let made = export(&mixed, json!({ "format": "vidur" })).unwrap();
    let sizes = made.read("t.csv", Format::Vidur);
    assert_eq!(sizes.column_by_name("block_tokens").unwrap().as_primitive::<Int32Type>().value(2), 32);
    columns[at("arrival_ns")] = arrow::array::new_null_array(&DataType::Int64, 3);
    let untimed = RecordBatch::try_new(table().schema(), columns).unwrap();
    let failure = export(&untimed, json!({ "format": "vidur" })).err().unwrap();
    assert!(failure.to_string().contains("request 0 has no `arrival_ns`"), "{failure}");

    let stage = |settings: Value| -> Export { from_tree(&Tree::from_json(settings)).unwrap() };
    let check = |stage: Export, schema: SchemaRef| -> Vec<String> {
        let tables = BTreeMap::from([("x".to_string(), TableShape { name: "x".to_string(), schema: Some(schema) })]);
        let dir = tempfile::tempdir().unwrap();
        let cx = CheckCx { stages: &[], tables: &tables, seed: 1, project: dir.path() };
        stage.check("t", &cx).into_iter().map(|d| d.message).collect()
    };
    let texts = requests::texts_schema();
    let found = check(stage(json!({ "from": "x", "format": "vidur", "file": "../x" })), texts.clone());
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("lacks `input_tokens`") && found[1].contains("without a folder"));
    let found = check(stage(json!({ "from": "x", "format": "arrow", "compression": "gzip" })), texts.clone());
    assert!(found.len() == 1 && found[0].contains("for text formats"), "{found:?}");
    assert!(check(stage(json!({ "from": "x", "format": "jsonl" })), texts).is_empty());
}

#[test]
fn two_stages_do_not_write_one_file() {
    let stage = |name: &str, settings: Value| Stage {
        name: Text::new(name.to_string(), None),
        spec: StageSpec::Export(from_tree(&Tree::from_json(settings)).unwrap()),
    };
    let told = |a: Value, b: Value| -> Vec<String> {
        let stages = [stage("a", a), stage("b", b)];
        let dir = tempfile::tempdir().unwrap();
        let tables = BTreeMap::new();
        let cx = CheckCx { stages: &stages, tables: &tables, seed: 1, project: dir.path() };
        let check = |s: &Stage| match &s.spec {
            StageSpec::Export(export) => export.check(&s.name.value, &cx),
            _ => Vec::new(),
        };
        stages.iter().flat_map(check).map(|d| d.message).collect()
    };
    let json = |settings: Value| {
        let mut all = json!({ "from": "x" });
        all.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        all
    };
    let same = told(json(json!({ "format": "csv" })), json(json!({ "format": "jsonl", "file": "a.csv" })));
    assert_eq!(same, ["`b` and `a` both write `a.csv`"]);
    let header = told(json(json!({ "format": "trace_v2" })), json(json!({ "format": "csv", "file": "a.yaml" })));
    assert_eq!(header, ["`b` and `a` both write `a.yaml`"]);
    assert!(told(json(json!({ "format": "csv" })), json(json!({ "format": "csv" }))).is_empty());
}

/// JSON has no NaN: it is null there, as NULL is, and the table says so.
#[test]
fn lines_of_json_have_every_column() {
    let ratio: ArrayRef = Arc::new(Float64Array::from(vec![Some(0.5), Some(f64::NAN), None]));
    let whole: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.0), None, Some(2.0)]));
    let rows = RecordBatch::try_from_iter([("ratio", ratio), ("whole", whole)]).unwrap();
    let made = export(&rows, json!({ "format": "jsonl" })).unwrap();
    let expected = "{\"ratio\":0.5,\"whole\":1.0}\n{\"ratio\":null,\"whole\":null}\n{\"ratio\":null,\"whole\":2.0}\n";
    assert_eq!(made.text("t.jsonl"), expected);
    assert_eq!(made.files.column_by_name("left_out").unwrap().as_string::<i32>().value(0), "ratio");
}
