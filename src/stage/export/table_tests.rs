//! Workbooks and partitions at their limits, which tables of a usual size do not reach.

use std::path::Path;
use std::process::Command;

use arrow::array::Int64Array;

use super::partition::escape;
use super::write::{Losses, Out};
use super::xlsx::{self, Xlsx};
use super::*;
use crate::stage::tokenize::testing;

fn rows(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter(columns).unwrap()
}

/// Writes a workbook of sheets with `sheet_rows` rows.
fn workbook(name: &str, batch: &RecordBatch, sheet_rows: u32, file: &Path) -> Losses {
    let mut made = Xlsx::with_rows(name, &batch.schema(), file.parent().unwrap(), sheet_rows).unwrap();
    // In two batches: where they are cut changes nothing.
    let half = batch.num_rows() / 2;
    made.write(&batch.slice(0, half)).unwrap();
    made.write(&batch.slice(half, batch.num_rows() - half)).unwrap();
    let mut out = Out::create(file, ExportCompression::None).unwrap();
    let losses = made.finish(&mut out).unwrap();
    out.finish().unwrap();
    losses
}

/// Names of the sheets, and the cells of the first column of each but the last, as Python's standard library reads them.
fn read(file: &Path) -> Option<String> {
    let script = "import sys, zipfile, xml.etree.ElementTree as E\n\
        z = zipfile.ZipFile(sys.argv[1])\n\
        ns = '{http://schemas.openxmlformats.org/spreadsheetml/2006/main}'\n\
        names = [s.get('name') for s in E.fromstring(z.read('xl/workbook.xml')).iter(ns + 'sheet')]\n\
        for i, name in enumerate(names[:-1]):\n    \
            root = E.fromstring(z.read(f'xl/worksheets/sheet{i + 1}.xml'))\n    \
            cells = [c for c in root.iter(ns + 'c') if c.get('r')[0] == 'A']\n    \
            print(name, *(''.join(t.text or '' for t in c.iter() if t.tag in (ns + 'v', ns + 't')) for c in cells))\n\
        print(names[-1])";
    let out = Command::new("python3").args(["-c", script]).arg(file).output().ok()?;
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Some(String::from_utf8(out.stdout).unwrap())
}

#[test]
fn rows_that_do_not_fit_a_sheet_go_to_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.xlsx");
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(1..=7));
    let check = |name: &str, expect: &str| {
        workbook(name, &rows(vec![("id", numbers.clone())]), 4, &file);
        if let Some(read) = read(&file) {
            assert_eq!(read, expect);
        }
    };
    check("t", "t id 1 2 3\nt_2 id 4 5 6\nt_3 id 7\ncolumns\n");
    check("Columns", "Columns_ id 1 2 3\nColumns__2 id 4 5 6\nColumns__3 id 7\ncolumns\n");
    check("a[1]:'b'", "a_1___b_ id 1 2 3\na_1___b__2 id 4 5 6\na_1___b__3 id 7\ncolumns\n");
    let (full, cut) = ("x".repeat(31), "x".repeat(29));
    check(&"x".repeat(40), &format!("{full} id 1 2 3\n{cut}_2 id 4 5 6\n{cut}_3 id 7\ncolumns\n"));
    // Just full: no sheet without rows. No rows: the names of the columns.
    let three: ArrayRef = Arc::new(Int64Array::from_iter_values(1..=3));
    for (column, expect) in [(three.clone(), "t id 1 2 3\ncolumns\n"), (three.slice(0, 0), "t id\ncolumns\n")] {
        workbook("t", &rows(vec![("id", column)]), 4, &file);
        if let Some(read) = read(&file) {
            assert_eq!(read, expect);
        }
    }
}

#[test]
fn long_texts_are_cut_and_that_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.xlsx");
    // Characters that are two units of UTF-16 each: 16,383 of them and a unit that stays empty.
    let texts = StringArray::from(vec!["y".repeat(32_767), "z".repeat(32_768), "𝄞".repeat(16_384)]);
    let batch = rows(vec![("id", Arc::new(Int64Array::from(vec![1, 2, 3]))), ("text", Arc::new(texts))]);
    let losses = workbook("t", &batch, xlsx::ROWS, &file);
    assert_eq!(losses, Losses { cut: [1].into(), as_text: 0, rounded: 0 });
    let flipped = batch.project(&[1]).unwrap();
    workbook("t", &flipped, xlsx::ROWS, &file);
    if let Some(read) = read(&file) {
        let expect = format!("t text {} {} {}", "y".repeat(32_767), "z".repeat(32_767), "𝄞".repeat(16_383));
        assert!(read.starts_with(&expect));
    }
    let wide = Schema::new(
        (0..=xlsx::COLUMNS).map(|i| column(&format!("c{i}"), DataType::Int64, true, "", "")).collect::<Vec<_>>(),
    );
    assert!(xlsx::unfit(&wide).unwrap().message.contains("16385 columns"));
}

/// Writes `batch` in folders by its first column.
fn partitioned(batch: &RecordBatch, buffer_bytes: usize) -> Result<(tempfile::TempDir, Vec<(String, i64)>)> {
    let (dir, files) = written(batch, buffer_bytes)?;
    Ok((dir, files.into_iter().map(|f| (f.name, f.rows)).collect()))
}

fn written(batch: &RecordBatch, buffer_bytes: usize) -> Result<(tempfile::TempDir, Vec<Written>)> {
    let dir = tempfile::tempdir().unwrap();
    let mut cx = testing::cx(dir.path(), 1);
    let mut writer = cx.out.table("in", batch.schema()).unwrap();
    writer.write(batch).unwrap();
    writer.finish().unwrap();
    cx.inputs.insert("in".to_string(), cx.out.handle("in").unwrap());
    let by = [Text::new(batch.schema().field(0).name().clone(), None)];
    let settings = write::Settings { format: ExportFormat::Parquet, compression: None, row_group_rows: None };
    let job =
        Partitions { cx: &cx, input: &cx.inputs["in"], settings, by: &by, folder: "out".to_string(), buffer_bytes };
    let files = job.write()?;
    Ok((dir, files))
}

/// An empty text is in the folder of NULL, and the file of that folder says so; also where it is not the first one.
#[test]
fn the_file_with_unclear_values_says_so() {
    let keys: ArrayRef = Arc::new(StringArray::from(vec![Some("A"), None, Some(""), Some("b")]));
    let values: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3, 4]));
    let (_dir, files) = written(&rows(vec![("k", keys), ("v", values)]), partition::BUFFER_BYTES).unwrap();
    let told: Vec<(&str, i64, Vec<String>)> =
        files.iter().map(|f| (f.name.as_str(), f.rows, f.loss.left_out.clone())).collect();
    let null = "out/k=__HIVE_DEFAULT_PARTITION__/part-00000.parquet";
    let expect = [
        ("out/k=A/part-00000.parquet", 1, vec![]),
        (null, 2, vec!["k".to_string()]),
        ("out/k=b/part-00000.parquet", 1, vec![]),
    ];
    assert_eq!(told, expect);
}

#[test]
fn partitions_have_a_file_per_full_buffer() {
    let keys: ArrayRef = Arc::new(Int64Array::from_iter_values((0..20_000).map(|i| i % 2)));
    let values: ArrayRef = Arc::new(Int64Array::from_iter_values(0..20_000));
    let batch = rows(vec![("k", keys), ("v", values)]);
    let (_dir, files) = partitioned(&batch, partition::BUFFER_BYTES).unwrap();
    let name = |k: i64, part: usize| format!("out/k={k}/part-{part:05}.parquet");
    assert_eq!(files, [(name(0, 0), 10_000), (name(1, 0), 10_000)]);
    // Batches of 8,192 rows of 8 bytes: the buffer is full after each.
    let (_dir, files) = partitioned(&batch, 1).unwrap();
    let expect: Vec<(String, i64)> =
        [0, 1].into_iter().flat_map(|k| [(name(k, 0), 4_096), (name(k, 1), 4_096), (name(k, 2), 1_808)]).collect();
    assert_eq!(files, expect);
}

#[test]
fn too_many_partitions_and_too_long_names_are_refused() {
    let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(0..10_001));
    let failure = partitioned(&rows(vec![("k", keys.clone()), ("v", keys)]), usize::MAX).err().unwrap();
    assert!(failure.to_string().contains("more than 10000 different values of k"), "{failure}");
    let long: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(254)]));
    let failure = partitioned(&rows(vec![("k", long.clone()), ("v", long)]), usize::MAX).err().unwrap();
    assert!(failure.to_string().contains("more than 255 bytes"), "{failure}");
}

/// The characters that Hive escapes, and some that it does not.
#[test]
fn names_of_folders_are_those_of_hive() {
    assert_eq!(escape("a b-c_d.e+f,é~"), "a b-c_d.e+f,é~");
    assert_eq!(escape("\"#%'*/:=?\\{[]^"), "%22%23%25%27%2A%2F%3A%3D%3F%5C%7B%5B%5D%5E");
    assert_eq!(escape("\n\x7f"), "%0A%7F");
}
