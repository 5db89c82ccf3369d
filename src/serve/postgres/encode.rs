//! Rows on the wire: the type that each column has for PostgreSQL's clients, and its values as text or in binary.
//!
//! Whole numbers and floats are what they are; unsigned 64-bit numbers and decimals of any length are `numeric`; lists are
//! arrays; structures, maps and lists of them are text, in JSON.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Float32Type, Float64Type, Schema, UInt64Type};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions as Display};
use datafusion_postgres::arrow_pg::datatypes::field_into_pg_type;
use datafusion_postgres::arrow_pg::encoder::encode_value;
use datafusion_postgres::pgwire::api::Type;
use datafusion_postgres::pgwire::api::results::{DataRowEncoder, FieldFormat, FieldInfo};
use datafusion_postgres::pgwire::error::PgWireError;
use datafusion_postgres::pgwire::messages::data::{DataRow, FieldDescription, RowDescription};
use datafusion_postgres::pgwire::types::ToSqlText;
use datafusion_postgres::pgwire::types::format::FormatOptions;
use tokio_util::bytes::BytesMut;

use super::fault::Fault;

/// How values of a column reach the encoder.
#[derive(Clone, Debug, PartialEq)]
enum Shape {
    AsIs,
    /// Of this type first.
    Cast(DataType),
    /// Digits that a binary float would lose.
    Numeric,
    Json,
}

fn shape(kind: &DataType) -> Shape {
    match kind {
        DataType::UInt64
        | DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => Shape::Numeric,
        DataType::Struct(_) | DataType::Map(..) | DataType::Union(..) => Shape::Json,
        DataType::Dictionary(_, value) => Shape::Cast(value.as_ref().clone()),
        DataType::RunEndEncoded(_, value) => Shape::Cast(value.data_type().clone()),
        DataType::Float16 => Shape::Cast(DataType::Float32),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => match item.data_type() {
            DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal256(..) => Shape::Json,
            inner if inner.is_nested() || matches!(inner, DataType::Dictionary(..)) => Shape::Json,
            _ => Shape::Cast(DataType::List(Arc::new(Field::new("item", item.data_type().clone(), true)))),
        },
        _ => Shape::AsIs,
    }
}

/// The type of a column for clients.
pub fn pg_type(field: &Field) -> Type {
    match shape(field.data_type()) {
        Shape::Numeric => Type::NUMERIC,
        Shape::Json => Type::TEXT,
        Shape::Cast(kind) => {
            let kind = Field::new(field.name(), kind, true);
            field_into_pg_type(&Arc::new(kind)).unwrap_or(Type::TEXT)
        }
        // A column of nothing but NULL is text, as it is for PostgreSQL.
        Shape::AsIs if field.data_type().is_null() => Type::TEXT,
        Shape::AsIs => field_into_pg_type(&Arc::new(field.clone())).unwrap_or(Type::TEXT),
    }
}

/// Bytes of a value of a type, -1 where they differ; PostgreSQL's `pg_type.typlen`.
pub fn type_length(kind: &Type) -> i16 {
    match *kind {
        Type::BOOL | Type::CHAR => 1,
        Type::INT2 => 2,
        Type::INT4 | Type::FLOAT4 | Type::DATE | Type::OID => 4,
        Type::INT8 | Type::FLOAT8 | Type::TIMESTAMP | Type::TIMESTAMPTZ | Type::TIME => 8,
        Type::INTERVAL => 16,
        _ => -1,
    }
}

/// The columns of a result.
#[derive(Clone, Debug)]
pub struct Columns {
    infos: Arc<Vec<FieldInfo>>,
    shapes: Vec<Shape>,
}

impl Columns {
    /// Of `schema`, with the names that PostgreSQL gives them where they differ.
    pub fn new(schema: &Schema, names: Option<&[String]>) -> Columns {
        let names = names.filter(|n| n.len() == schema.fields().len());
        let infos = schema.fields().iter().enumerate().map(|(i, field)| {
            let kind = pg_type(field);
            let name = names.map_or(field.name(), |n| &n[i]);
            let size = type_length(&kind);
            FieldInfo::new(name.clone(), None, None, kind, FieldFormat::Text).with_type_size(size)
        });
        let infos = Arc::new(infos.collect());
        Columns { infos, shapes: schema.fields().iter().map(|f| shape(f.data_type())).collect() }
    }

    pub fn len(&self) -> usize {
        self.shapes.len()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.infos.iter().map(FieldInfo::name)
    }

    /// With the formats that a client asked for: none is text for all, one is for all, else one each.
    ///
    /// # Errors
    /// Another number of them.
    pub fn with_formats(&self, codes: &[i16]) -> Result<Columns, Fault> {
        let format = |i: usize| match codes {
            [] => Some(0),
            [all] => Some(*all),
            each => each.get(i).copied(),
        };
        if codes.len() > 1 && codes.len() != self.len() {
            let message = format!("{} formats were given for {} columns", codes.len(), self.len());
            return Err(Fault::protocol(message));
        }
        let infos = self.infos.iter().enumerate().map(|(i, info)| {
            let format = FieldFormat::from(format(i).unwrap_or(0));
            FieldInfo::new(info.name().to_string(), None, None, info.datatype().clone(), format)
                .with_type_size(info.type_size())
        });
        Ok(Columns { infos: Arc::new(infos.collect()), shapes: self.shapes.clone() })
    }

    pub fn description(&self) -> RowDescription {
        RowDescription::new(self.infos.iter().map(FieldDescription::from).collect())
    }

    /// The rows of a batch, encoded.
    ///
    /// # Errors
    /// A value that its type cannot hold.
    pub fn rows(&self, batch: &RecordBatch) -> Result<Vec<DataRow>, Fault> {
        if batch.num_columns() != self.len() {
            return Err(Fault::new("XX000", "the result has other columns than its plan"));
        }
        let schema = batch.schema();
        let mut columns = Vec::with_capacity(self.len());
        for (i, shape) in self.shapes.iter().enumerate() {
            columns.push(Values::new(shape, schema.fields()[i].clone(), batch.column(i)).map_err(failed)?);
        }
        let mut encoder = DataRowEncoder::new(self.infos.clone());
        let options = FormatOptions::default();
        let mut rows = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            for (values, info) in columns.iter().zip(self.infos.iter()) {
                values.encode(&mut encoder, row, info, &options).map_err(refused)?;
            }
            rows.push(encoder.take_row());
        }
        Ok(rows)
    }
}

fn failed(error: ArrowError) -> Fault {
    Fault::new("22000", format!("a value cannot be sent: {error}"))
}

fn refused(error: PgWireError) -> Fault {
    Fault::new("22000", format!("a value cannot be sent: {error}"))
}

/// The values of one column of a batch, ready for the encoder.
enum Values {
    Plain(ArrayRef, FieldRef),
    Text(Vec<Option<String>>),
    Digits(Vec<Option<String>>),
}

impl Values {
    fn new(shape: &Shape, field: FieldRef, array: &ArrayRef) -> Result<Values, ArrowError> {
        Ok(match shape {
            Shape::AsIs => Values::Plain(array.clone(), field),
            Shape::Cast(kind) => {
                let field = Arc::new(Field::new(field.name(), kind.clone(), true));
                Values::Plain(cast(array, kind)?, field)
            }
            Shape::Numeric => Values::Digits(digits(array)?),
            Shape::Json => Values::Text(json(&field, array)?),
        })
    }

    fn encode(
        &self,
        encoder: &mut DataRowEncoder,
        row: usize,
        info: &FieldInfo,
        options: &FormatOptions,
    ) -> Result<(), PgWireError> {
        match self {
            Values::Plain(array, field) if array.is_null(row) || field.data_type().is_null() => {
                encoder.encode_field_with_type_and_format(&None::<&str>, &Type::TEXT, FieldFormat::Text, options)
            }
            Values::Plain(array, field) => match endless(array, row).filter(|_| info.format() == FieldFormat::Text) {
                Some(text) => {
                    let text = Some(text.as_str());
                    encoder.encode_field_with_type_and_format(&text, &Type::TEXT, FieldFormat::Text, options)
                }
                None => encode_value(encoder, array, row, field, info),
            },
            Values::Text(texts) => {
                let text = texts[row].as_deref();
                encoder.encode_field_with_type_and_format(&text, &Type::TEXT, FieldFormat::Text, options)
            }
            Values::Digits(texts) if info.format() == FieldFormat::Text => {
                let text = texts[row].as_deref();
                encoder.encode_field_with_type_and_format(&text, &Type::TEXT, FieldFormat::Text, options)
            }
            Values::Digits(texts) => {
                let bytes = texts[row].as_deref().map(numeric);
                let bytes = bytes.as_deref();
                encoder.encode_field_with_type_and_format(&bytes, &Type::BYTEA, FieldFormat::Binary, options)
            }
        }
    }
}

/// The text of a number without end, or of a list with one: PostgreSQL's word for it is not the encoder's.
fn endless(array: &ArrayRef, row: usize) -> Option<String> {
    fn listed<T>(values: &PrimitiveArray<T>, kind: &Type) -> Option<String>
    where
        T: ArrowPrimitiveType,
        T::Native: Into<f64>,
        Vec<Option<T::Native>>: ToSqlText,
    {
        if !values.iter().flatten().any(|v| Into::<f64>::into(v).is_infinite()) {
            return None;
        }
        let mut text = BytesMut::new();
        let values: Vec<Option<T::Native>> = values.iter().collect();
        values.to_sql_text(kind, &mut text, &FormatOptions::default()).ok()?;
        // There are no other letters in it but those of NaN and NULL.
        Some(String::from_utf8_lossy(&text).replace("inf", "Infinity"))
    }
    let word = |v: f64| v.is_infinite().then(|| if v > 0.0 { "Infinity" } else { "-Infinity" }.to_string());
    match array.data_type() {
        DataType::Float64 => word(array.as_primitive_opt::<Float64Type>()?.value(row)),
        DataType::Float32 => word(array.as_primitive_opt::<Float32Type>()?.value(row).into()),
        DataType::List(item) if item.data_type().is_floating() => {
            let values = array.as_list_opt::<i32>()?.value(row);
            match values.as_primitive_opt::<Float64Type>() {
                Some(values) => listed(values, &Type::FLOAT8_ARRAY),
                None => listed(values.as_primitive_opt::<Float32Type>()?, &Type::FLOAT4_ARRAY),
            }
        }
        _ => None,
    }
}

fn digits(array: &ArrayRef) -> Result<Vec<Option<String>>, ArrowError> {
    if let Some(numbers) = array.as_primitive_opt::<UInt64Type>() {
        return Ok(numbers.iter().map(|n| n.map(|n| n.to_string())).collect());
    }
    let display = Display::default();
    let formatter = ArrayFormatter::try_new(array, &display)?;
    (0..array.len())
        .map(|i| if array.is_null(i) { Ok(None) } else { formatter.value(i).try_to_string().map(Some) })
        .collect()
}

fn json(field: &FieldRef, array: &ArrayRef) -> Result<Vec<Option<String>>, ArrowError> {
    let options = arrow::json::writer::EncoderOptions::default().with_explicit_nulls(true);
    let mut encoder = arrow::json::writer::make_encoder(field, array.as_ref(), &options)?;
    let mut texts = Vec::with_capacity(array.len());
    for i in 0..array.len() {
        let mut text = Vec::new();
        if !encoder.is_null(i) {
            encoder.encode(i, &mut text);
        }
        texts.push((!text.is_empty()).then(|| String::from_utf8_lossy(&text).into_owned()));
    }
    Ok(texts)
}

/// A decimal number in PostgreSQL's binary format: groups of four digits, the weight of the first, the sign, and the digits
/// after the point.
fn numeric(text: &str) -> Vec<u8> {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |t| (true, t));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut padded = "0".repeat((4 - whole.len() % 4) % 4) + whole;
    let mut weight = (padded.len() / 4) as i16 - 1;
    padded += fraction;
    padded += &"0".repeat((4 - fraction.len() % 4) % 4);
    let group = |g: &[u8]| g.iter().fold(0_i16, |sum, d| sum * 10 + i16::from(d - b'0'));
    let mut groups: Vec<i16> = padded.as_bytes().chunks(4).map(group).collect();
    while groups.last() == Some(&0) {
        groups.pop();
    }
    let zeros = groups.iter().take_while(|g| **g == 0).count();
    groups.drain(..zeros);
    weight = if groups.is_empty() { 0 } else { weight - zeros as i16 };
    let sign: u16 = if negative && !groups.is_empty() { 0x4000 } else { 0 };
    let mut bytes = Vec::with_capacity(8 + 2 * groups.len());
    bytes.extend((groups.len() as i16).to_be_bytes());
    bytes.extend(weight.to_be_bytes());
    bytes.extend(sign.to_be_bytes());
    bytes.extend((fraction.len() as u16).to_be_bytes());
    groups.iter().for_each(|g| bytes.extend(g.to_be_bytes()));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::array::{
        Decimal128Array, Float32Array, Float64Array, Int64Array, ListArray, StringArray, StructArray, UInt64Array,
    };
    use datafusion::arrow::datatypes::{Int64Type, Schema};

    /// Fields of a row: `None` is NULL.
    fn fields(row: &DataRow) -> Vec<Option<Vec<u8>>> {
        let mut rest = &row.data[..];
        let mut out = Vec::new();
        while rest.len() >= 4 {
            let length = i32::from_be_bytes(rest[..4].try_into().unwrap());
            rest = &rest[4..];
            if length < 0 {
                out.push(None);
                continue;
            }
            let (field, after) = rest.split_at(length as usize);
            out.push(Some(field.to_vec()));
            rest = after;
        }
        out
    }

    #[test]
    fn numbers_in_binary() {
        // Derived by hand: groups of base 10000 around the point.
        let cases: [(&str, Vec<i16>, i16, u16, u16); 7] = [
            ("0", vec![], 0, 0, 0),
            ("1", vec![1], 0, 0, 0),
            ("12345.678", vec![1, 2345, 6780], 1, 0, 3),
            ("-0.0005", vec![5], -1, 0x4000, 4),
            ("0.00001", vec![1000], -2, 0, 5),
            ("10000", vec![1], 1, 0, 0),
            ("18446744073709551615", vec![1844, 6744, 737, 955, 1615], 4, 0, 0),
        ];
        for (text, groups, weight, sign, scale) in cases {
            let mut expected = Vec::new();
            expected.extend((groups.len() as i16).to_be_bytes());
            expected.extend(weight.to_be_bytes());
            expected.extend(sign.to_be_bytes());
            expected.extend(scale.to_be_bytes());
            groups.iter().for_each(|g| expected.extend(g.to_be_bytes()));
            assert_eq!(numeric(text), expected, "{text}");
        }
    }

    #[test]
    fn every_kind_has_a_type_and_text() {
        let list = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None]), None]);
        let inner = Arc::new(Field::new("a", DataType::Int64, true));
        let pair = StructArray::from(vec![(inner, Arc::new(Int64Array::from(vec![7, 8])) as ArrayRef)]);
        // 38 digits: more than a 96-bit number holds.
        let long = Decimal128Array::from(vec![99_999_999_999_999_999_999_999_999_999_999_999_999_i128, -5])
            .with_precision_and_scale(38, 2)
            .unwrap();
        let ends = ListArray::from_iter_primitive::<Float64Type, _, _>([
            Some(vec![Some(f64::NEG_INFINITY), None, Some(0.1), Some(f64::NAN), Some(f64::INFINITY)]),
            None,
        ]);
        let columns: Vec<(&str, ArrayRef, Type, Option<&str>)> = vec![
            ("f", Arc::new(Float64Array::from(vec![f64::INFINITY, 0.1])), Type::FLOAT8, Some("Infinity")),
            ("g", Arc::new(Float32Array::from(vec![f32::NEG_INFINITY, 0.1])), Type::FLOAT4, Some("-Infinity")),
            ("n", Arc::new(Float64Array::from(vec![f64::NAN, 0.1])), Type::FLOAT8, Some("NaN")),
            ("e", Arc::new(ends), Type::FLOAT8_ARRAY, Some("{-Infinity,NULL,0.1,NaN,Infinity}")),
            ("u", Arc::new(UInt64Array::from(vec![u64::MAX, 1])), Type::NUMERIC, Some("18446744073709551615")),
            ("t", Arc::new(StringArray::from(vec![None, Some("x")])), Type::TEXT, None),
            ("l", Arc::new(list), Type::INT8_ARRAY, Some("{1,NULL}")),
            ("s", Arc::new(pair), Type::TEXT, Some("{\"a\":7}")),
            ("d", Arc::new(long), Type::NUMERIC, Some("999999999999999999999999999999999999.99")),
        ];
        let schema = Schema::new(
            columns.iter().map(|(n, a, ..)| Field::new(*n, a.data_type().clone(), true)).collect::<Vec<_>>(),
        );
        let out = Columns::new(&schema, None);
        let batch = RecordBatch::try_new(Arc::new(schema), columns.iter().map(|c| c.1.clone()).collect()).unwrap();
        let rows = out.rows(&batch).unwrap();
        assert_eq!(rows.len(), 2);
        for ((name, _, kind, expected), (info, got)) in columns.iter().zip(out.infos.iter().zip(fields(&rows[0]))) {
            assert_eq!(info.datatype(), kind, "{name}");
            assert_eq!(got.map(|g| String::from_utf8(g).unwrap()).as_deref(), *expected, "{name}");
        }
        assert!(out.with_formats(&[0, 1]).is_err() && out.with_formats(&[1]).is_ok());
    }
}
