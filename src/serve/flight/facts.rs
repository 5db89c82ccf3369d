//! What the server says about itself: `SqlInfo`, and the types of its columns as ODBC and JDBC count them.
//!
//! Numbers that name one of several choices are 64-bit and sets of choices are 32-bit, as the clients of Flight SQL's
//! authors read them; only the support of transactions is a choice in 32 bits.

use std::collections::{BTreeMap, BTreeSet};

use arrow_flight::error::FlightError;
use arrow_flight::sql::metadata::{
    SqlInfoData, SqlInfoDataBuilder, XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder,
};
use arrow_flight::sql::{
    Nullable, Searchable, SqlInfo as Info, SqlNullOrdering, SqlOuterJoinsSupportLevel, SqlSupportedCaseSensitivity,
    SqlSupportedGroupBy, SqlSupportedResultSetConcurrency, SqlSupportedResultSetType, SqlSupportedSubqueries,
    SqlSupportedTransaction, SqlSupportedUnions, SqlSupportsConvert, SqlTransactionIsolationLevel, SupportedSqlGrammar,
    XdbcDataType as Xdbc, XdbcDatetimeSubcode as Subcode,
};
use datafusion::execution::context::SessionContext;
use datafusion::sql::sqlparser::keywords::ALL_KEYWORDS;

use crate::diag::{Failure, Result};
use crate::serve::Limits;

/// The answers to `GetSqlInfo` and `GetXdbcTypeInfo`.
pub struct Facts {
    pub info: SqlInfoData,
    pub types: XdbcTypeInfoData,
}

impl Facts {
    /// Of a server with these limits, whose sessions have the functions of `ctx`.
    ///
    /// # Errors
    /// None in practice: the values are fixed.
    pub fn new(ctx: &SessionContext, limits: &Limits) -> Result<Facts> {
        let bug = |e: FlightError| Failure::stage("serve::bug", format!("a description of the server is wrong: {e}"));
        let mut info = SqlInfoDataBuilder::new();
        server(&mut info, limits);
        language(&mut info);
        functions(&mut info, ctx);
        names(&mut info);
        sizes(&mut info, limits);
        transactions(&mut info);
        let mut types = XdbcTypeInfoDataBuilder::new();
        kinds().into_iter().for_each(|kind| types.append(kind));
        Ok(Facts { info: info.build().map_err(bug)?, types: types.build().map_err(bug)? })
    }
}

fn server(info: &mut SqlInfoDataBuilder, limits: &Limits) {
    info.append(Info::FlightSqlServerName, "pipe");
    info.append(Info::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    info.append(Info::FlightSqlServerArrowVersion, datafusion::arrow::ARROW_VERSION);
    info.append(Info::FlightSqlServerReadOnly, true);
    info.append(Info::FlightSqlServerSql, true);
    info.append(Info::FlightSqlServerSubstrait, false);
    info.append(Info::FlightSqlServerTransaction, SqlSupportedTransaction::None as i32);
    info.append(Info::FlightSqlServerCancel, true);
    info.append(Info::FlightSqlServerBulkIngestion, false);
    info.append(Info::FlightSqlServerIngestTransactionsSupported, false);
    // Handles hold their statement: they never expire.
    info.append(Info::FlightSqlServerStatementTimeout, 0_i32);
    info.append(Info::FlightSqlServerTransactionTimeout, 0_i32);
    info.append(Info::SqlMaxConnections, i64::try_from(limits.connections).unwrap_or(i64::MAX));
}

fn language(info: &mut SqlInfoDataBuilder) {
    for written in [Info::SqlDdlCatalog, Info::SqlDdlSchema, Info::SqlDdlTable] {
        info.append(written, false);
    }
    info.append(Info::SqlKeywords, ALL_KEYWORDS);
    info.append(Info::SqlAllTablesAreSelectable, true);
    // `ORDER BY a` has nulls last, `ORDER BY a DESC` first.
    info.append(Info::SqlNullOrdering, SqlNullOrdering::SqlNullsSortedHigh as i64);
    for supported in [
        Info::SqlSupportsColumnAliasing,
        Info::SqlNullPlusNullIsNull,
        Info::SqlSupportsTableCorrelationNames,
        Info::SqlSupportsExpressionsInOrderBy,
        Info::SqlSupportsOrderByUnrelated,
        Info::SqlSupportsNonNullableColumns,
        Info::SqlCorrelatedSubqueriesSupported,
    ] {
        info.append(supported, true);
    }
    for missing in [
        Info::SqlSupportsDifferentTableCorrelationNames,
        Info::SqlSupportsLikeEscapeClause,
        Info::SqlSupportsIntegrityEnhancementFacility,
        Info::SqlSelectForUpdateSupported,
        Info::SqlStoredProceduresSupported,
        Info::SqlStoredFunctionsUsingCallSyntaxSupported,
        Info::SqlNamedParametersSupported,
        Info::SqlLocatorsUpdateCopy,
    ] {
        info.append(missing, false);
    }
    let group_by =
        [SqlSupportedGroupBy::SqlGroupByUnrelated as i32, SqlSupportedGroupBy::SqlGroupByBeyondSelect as i32];
    info.append(Info::SqlSupportedGroupBy, set(&group_by));
    let grammar = [SupportedSqlGrammar::SqlMinimumGrammar as i32, SupportedSqlGrammar::SqlCoreGrammar as i32];
    info.append(Info::SqlSupportedGrammar, set(&grammar));
    // The entry level of SQL-92: bit 0 of `SupportedAnsi92SqlGrammarLevel`.
    info.append(Info::SqlAnsi92SupportedLevel, set(&[0]));
    info.append(Info::SqlOuterJoinsSupportLevel, SqlOuterJoinsSupportLevel::SqlFullOuterJoins as i64);
    let subqueries = [
        SqlSupportedSubqueries::SqlSubqueriesInComparisons as i32,
        SqlSupportedSubqueries::SqlSubqueriesInExists as i32,
        SqlSupportedSubqueries::SqlSubqueriesInIns as i32,
    ];
    info.append(Info::SqlSupportedSubqueries, set(&subqueries));
    let unions = [SqlSupportedUnions::SqlUnion as i32, SqlSupportedUnions::SqlUnionAll as i32];
    info.append(Info::SqlSupportedUnions, set(&unions));
    info.append(Info::SqlSupportedPositionedCommands, 0_i32);
    info.append(Info::SqlSupportsConvert, conversions());
}

/// Choices as a set: a bit for each.
fn set(choices: &[i32]) -> i32 {
    choices.iter().fold(0, |bits, choice| bits | 1 << choice)
}

/// What `CAST` converts: numbers to numbers, all to text and back.
fn conversions() -> BTreeMap<i32, Vec<i32>> {
    use SqlSupportsConvert as To;
    let numbers = [
        To::SqlConvertTinyint,
        To::SqlConvertSmallint,
        To::SqlConvertInteger,
        To::SqlConvertBigint,
        To::SqlConvertReal,
        To::SqlConvertFloat,
        To::SqlConvertDecimal,
        To::SqlConvertNumeric,
        To::SqlConvertBit,
    ];
    let times = [To::SqlConvertDate, To::SqlConvertTimestamp];
    let text = [To::SqlConvertChar, To::SqlConvertVarchar, To::SqlConvertLongvarchar];
    let codes = |kinds: &[&[To]]| kinds.concat().into_iter().map(|k| k as i32).collect::<Vec<_>>();
    let mut found = BTreeMap::new();
    found.extend(numbers.iter().map(|k| (*k as i32, codes(&[&numbers, &text]))));
    found.extend(times.iter().map(|k| (*k as i32, codes(&[&times, &text]))));
    found.extend(text.iter().map(|k| (*k as i32, codes(&[&numbers, &times, &text]))));
    found
}

/// Functions by what they are about, as their documentation sorts them; aggregates are about numbers.
fn functions(info: &mut SqlInfoDataBuilder, ctx: &SessionContext) {
    let state = ctx.state();
    let mut by: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (name, function) in state.scalar_functions() {
        let section = function.documentation().map_or("Math Functions", |d| d.doc_section.label);
        by.entry(section).or_default().insert(name.clone());
    }
    by.entry("Math Functions").or_default().extend(state.aggregate_functions().keys().cloned());
    let mut named = |info_name, sections: &[&'static str]| {
        let of: BTreeSet<String> = sections.iter().filter_map(|s| by.remove(s)).flatten().collect();
        info.append(info_name, of.into_iter().collect::<Vec<_>>());
    };
    named(Info::SqlNumericFunctions, &["Math Functions"]);
    let text = ["String Functions", "Regular Expression Functions", "Binary String Functions"];
    named(Info::SqlStringFunctions, &text);
    named(Info::SqlDatetimeFunctions, &["Time and Date Functions"]);
    named(Info::SqlSystemFunctions, &["Conditional Functions", "Other Functions"]);
}

fn names(info: &mut SqlInfoDataBuilder) {
    info.append(Info::SqlIdentifierQuoteChar, "\"");
    info.append(Info::SqlIdentifierCase, SqlSupportedCaseSensitivity::SqlCaseSensitivityLowercase as i64);
    // They are kept as they are written, which has no number.
    info.append(Info::SqlQuotedIdentifierCase, SqlSupportedCaseSensitivity::SqlCaseSensitivityUnknown as i64);
    info.append(Info::SqlSearchStringEscape, "\\");
    info.append(Info::SqlExtraNameCharacters, "");
    info.append(Info::SqlCatalogTerm, "catalog");
    info.append(Info::SqlSchemaTerm, "pipeline");
    info.append(Info::SqlProcedureTerm, "");
    info.append(Info::SqlCatalogAtStart, true);
    info.append(Info::SqlSchemasSupportedActions, 0_i32);
    info.append(Info::SqlCatalogsSupportedActions, 0_i32);
}

/// Sizes without a limit are 0; only what is not possible at all is left out.
fn sizes(info: &mut SqlInfoDataBuilder, limits: &Limits) {
    for unlimited in [
        Info::SqlMaxBinaryLiteralLength,
        Info::SqlMaxCharLiteralLength,
        Info::SqlMaxColumnNameLength,
        Info::SqlMaxColumnsInGroupBy,
        Info::SqlMaxColumnsInOrderBy,
        Info::SqlMaxColumnsInSelect,
        Info::SqlMaxColumnsInTable,
        Info::SqlMaxColumnsInIndex,
        Info::SqlMaxCursorNameLength,
        Info::SqlMaxIndexLength,
        Info::SqlDbSchemaNameLength,
        Info::SqlMaxProcedureNameLength,
        Info::SqlMaxCatalogNameLength,
        Info::SqlMaxRowSize,
        Info::SqlMaxTableNameLength,
        Info::SqlMaxTablesInSelect,
        Info::SqlMaxUsernameLength,
    ] {
        info.append(unlimited, 0_i64);
    }
    info.append(Info::SqlMaxRowSizeIncludesBlobs, true);
    info.append(Info::SqlMaxStatementLength, i64::try_from(super::server::REQUEST).unwrap_or(i64::MAX));
    info.append(Info::SqlMaxStatements, i64::try_from(limits.queries).unwrap_or(i64::MAX));
}

fn transactions(info: &mut SqlInfoDataBuilder) {
    let none = SqlTransactionIsolationLevel::SqlTransactionNone as i32;
    info.append(Info::SqlTransactionsSupported, false);
    info.append(Info::SqlDefaultTransactionIsolation, i64::from(none));
    info.append(Info::SqlSupportedTransactionsIsolationLevels, set(&[none]));
    info.append(Info::SqlDataDefinitionCausesTransactionCommit, false);
    info.append(Info::SqlDataDefinitionsInTransactionsIgnored, false);
    info.append(Info::SqlBatchUpdatesSupported, false);
    info.append(Info::SqlSavepointsSupported, false);
    let forward = SqlSupportedResultSetType::SqlResultSetTypeForwardOnly as i32;
    info.append(Info::SqlSupportedResultSetTypes, set(&[forward]));
    let reads = set(&[SqlSupportedResultSetConcurrency::SqlResultSetConcurrencyReadOnly as i32]);
    info.append(Info::SqlSupportedConcurrenciesForResultSetForwardOnly, reads);
    for other in [
        Info::SqlSupportedConcurrenciesForResultSetUnspecified,
        Info::SqlSupportedConcurrenciesForResultSetScrollSensitive,
        Info::SqlSupportedConcurrenciesForResultSetScrollInsensitive,
    ] {
        info.append(other, 0_i32);
    }
}

/// The types that columns have, with the sizes that ODBC gives them: digits of numbers, characters of times.
fn kinds() -> Vec<XdbcTypeInfo> {
    let number = |name: &str, code, digits, unsigned| XdbcTypeInfo {
        unsigned_attribute: Some(unsigned),
        num_prec_radix: Some(10),
        auto_increment: Some(false),
        ..kind(name, code, Some(digits))
    };
    let real = |name: &str, code, bits| XdbcTypeInfo { num_prec_radix: Some(2), ..number(name, code, bits, false) };
    let quoted = |name: &str, code, size, prefix: &str| XdbcTypeInfo {
        literal_prefix: Some(prefix.to_string()),
        literal_suffix: Some("'".to_string()),
        ..kind(name, code, size)
    };
    let time = |name: &str, code, size, prefix: &str, subcode: Option<Subcode>| XdbcTypeInfo {
        sql_data_type: Xdbc::XdbcDatetime,
        datetime_subcode: subcode,
        ..quoted(name, code, Some(size), prefix)
    };
    let decimal = XdbcTypeInfo {
        create_params: Some(vec!["precision".to_string(), "scale".to_string()]),
        minimum_scale: Some(0),
        maximum_scale: Some(38),
        ..number("DECIMAL", Xdbc::XdbcDecimal, 38, false)
    };
    vec![
        kind("BOOLEAN", Xdbc::XdbcBit, Some(1)),
        number("TINYINT", Xdbc::XdbcTinyint, 3, false),
        number("SMALLINT", Xdbc::XdbcSmallint, 5, false),
        number("INTEGER", Xdbc::XdbcInteger, 10, false),
        number("BIGINT", Xdbc::XdbcBigint, 19, false),
        number("BIGINT UNSIGNED", Xdbc::XdbcBigint, 20, true),
        real("REAL", Xdbc::XdbcReal, 24),
        real("DOUBLE", Xdbc::XdbcDouble, 53),
        decimal,
        XdbcTypeInfo {
            case_sensitive: true,
            searchable: Searchable::Full,
            ..quoted("VARCHAR", Xdbc::XdbcVarchar, None, "'")
        },
        quoted("BYTEA", Xdbc::XdbcVarbinary, None, "X'"),
        time("DATE", Xdbc::XdbcDate, 10, "DATE '", None),
        time("TIME", Xdbc::XdbcTime, 18, "TIME '", Some(Subcode::XdbcSubcodeTime)),
        time("TIMESTAMP", Xdbc::XdbcTimestamp, 29, "TIMESTAMP '", Some(Subcode::XdbcSubcodeTimestamp)),
    ]
}

fn kind(name: &str, code: Xdbc, size: Option<i32>) -> XdbcTypeInfo {
    XdbcTypeInfo {
        type_name: name.to_string(),
        data_type: code,
        sql_data_type: code,
        column_size: size,
        nullable: Nullable::NullabilityNullable,
        searchable: Searchable::Basic,
        local_type_name: Some(name.to_string()),
        ..XdbcTypeInfo::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_have_a_bit_per_choice() {
        // The example of Flight SQL's definition: 3 is minimum and core.
        assert_eq!((set(&[]), set(&[0, 1]), set(&[2])), (0, 3, 4));
    }

    #[test]
    fn every_question_has_an_answer() {
        let limits = Limits {
            timeout: std::time::Duration::from_secs(1),
            idle: std::time::Duration::from_secs(1),
            memory_bytes: 1 << 20,
            queries: 1,
            rows: 1,
            connections: 7,
        };
        let ctx = crate::query::session::context(&crate::query::session::SessionOptions::threads(1)).unwrap();
        let facts = Facts::new(&ctx, &limits).unwrap();
        // All of `SqlInfo` but the versions of Substrait, which are null where there is none.
        let all = (0..=11).chain(100..=101).chain(500..=576).filter(|n| ![6, 7].contains(n));
        let missing: Vec<u32> = all.filter(|n| facts.info.record_batch([*n]).unwrap().num_rows() != 1).collect();
        assert!(missing.is_empty(), "{missing:?}");
        assert_eq!(facts.types.record_batch(Xdbc::XdbcBigint as i32).unwrap().num_rows(), 2);
    }
}
