//! Errors as PostgreSQL's clients read them: five characters of SQLSTATE, a message, a hint.

use datafusion_postgres::pgwire::error::ErrorInfo;

use crate::serve::refusal::Refusal;

/// What a client is told instead of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// SQLSTATE, of appendix A of PostgreSQL's manual.
    pub code: &'static str,
    pub message: String,
    /// May be empty.
    pub hint: String,
    /// Whether the connection ends with it.
    pub fatal: bool,
}

impl Fault {
    pub fn new(code: &'static str, message: impl Into<String>) -> Fault {
        Fault { code, message: message.into(), hint: String::new(), fatal: false }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Fault {
        self.hint = hint.into();
        self
    }

    /// One that ends the connection.
    pub fn fatal(code: &'static str, message: impl Into<String>) -> Fault {
        Fault { fatal: true, ..Fault::new(code, message) }
    }

    /// A message that the protocol does not allow here.
    pub fn protocol(message: impl Into<String>) -> Fault {
        Fault::new("08P01", message)
    }

    /// A feature of PostgreSQL that is not here.
    pub fn unsupported(message: impl Into<String>) -> Fault {
        Fault::new("0A000", message)
    }

    pub fn info(self) -> ErrorInfo {
        let severity = if self.fatal { "FATAL" } else { "ERROR" };
        let mut info = ErrorInfo::new(severity.into(), self.code.into(), self.message);
        info.severity_nonlocalized = Some(severity.into());
        info.hint = (!self.hint.is_empty()).then_some(self.hint);
        info
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Fault {
        Fault::new(refusal.reason.sqlstate(), refusal.message).hint(refusal.hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::error::ArrowError;
    use datafusion::error::DataFusionError;

    #[test]
    fn division_by_zero_has_its_code() {
        let zero = DataFusionError::from(ArrowError::DivideByZero);
        assert_eq!(Fault::from(Refusal::running(&zero)).code, "22012");
    }
}
