//! A single value as written, and the type YAML gives it.

use super::problem::Position;

/// A scalar as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scalar {
    /// The text, without quotes and escapes.
    pub text: Box<str>,
    /// Whether it stood there without quotes, so that YAML gives it a type.
    pub plain: bool,
    /// Where it starts.
    pub at: Position,
}

/// The type YAML 1.2's core schema gives a scalar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing, `~` or `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// An integer; `None` where it does not fit.
    Integer(Option<i64>),
    /// A number with a fraction or an exponent, infinity, not a number.
    Float,
    /// Everything else.
    Text,
}

impl Scalar {
    /// The scalar's type.
    #[must_use]
    pub fn kind(&self) -> Kind {
        if !self.plain {
            return Kind::Text;
        }
        match &*self.text {
            "" | "~" | "null" | "Null" | "NULL" => Kind::Null,
            "true" | "True" | "TRUE" => Kind::Bool(true),
            "false" | "False" | "FALSE" => Kind::Bool(false),
            text => number(text),
        }
    }
}

fn number(text: &str) -> Kind {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("", 10)] {
        let Some(digits) = digits.strip_prefix(prefix) else {
            continue;
        };
        if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
            continue;
        }
        // Octal in YAML 1.1, decimal in 1.2: ambiguous, so no number here.
        if radix == 10 && digits.len() > 1 && digits.starts_with('0') {
            return Kind::Text;
        }
        return Kind::Integer(i64::from_str_radix(digits, radix).ok().map(|n| n * sign));
    }
    let named =
        matches!(digits, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN");
    // What the standard library calls infinite or not a number, YAML spells with a dot.
    let starts = |c: char| c.is_ascii_digit() || c == '.';
    if named || digits.starts_with(starts) && digits.parse::<f64>().is_ok() {
        return Kind::Float;
    }
    Kind::Text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str, plain: bool) -> Kind {
        let at = Position::default();
        Scalar {
            text: text.into(),
            plain,
            at,
        }
        .kind()
    }

    #[test]
    fn has_the_type_that_yaml_gives_it() {
        let integer = |n| Kind::Integer(Some(n));
        for (text, wanted) in [
            ("", Kind::Null),
            ("~", Kind::Null),
            ("null", Kind::Null),
            ("Null", Kind::Null),
            ("NULL", Kind::Null),
            ("nULL", Kind::Text),
            ("true", Kind::Bool(true)),
            ("True", Kind::Bool(true)),
            ("TRUE", Kind::Bool(true)),
            ("tRUE", Kind::Text),
            ("false", Kind::Bool(false)),
            ("False", Kind::Bool(false)),
            ("FALSE", Kind::Bool(false)),
            // A boolean in YAML 1.1 alone.
            ("yes", Kind::Text),
            ("0", integer(0)),
            ("-0", integer(0)),
            ("7", integer(7)),
            ("+7", integer(7)),
            ("-7", integer(-7)),
            ("--7", Kind::Text),
            ("+-7", Kind::Text),
            ("-", Kind::Text),
            ("+", Kind::Text),
            ("9223372036854775807", integer(i64::MAX)),
            ("9223372036854775808", Kind::Integer(None)),
            ("00", Kind::Text),
            ("010", Kind::Text),
            ("0x1F", integer(31)),
            ("-0x1f", integer(-31)),
            ("0x", Kind::Text),
            ("0x1g", Kind::Text),
            ("0x8000000000000000", Kind::Integer(None)),
            ("0o17", integer(15)),
            ("0o18", Kind::Text),
            ("1_000", Kind::Text),
            ("1.5", Kind::Float),
            ("-1.5", Kind::Float),
            ("01.5", Kind::Float),
            (".5", Kind::Float),
            ("5.", Kind::Float),
            ("1e3", Kind::Float),
            ("1E+3", Kind::Float),
            ("1e999", Kind::Float),
            (".", Kind::Text),
            ("1e", Kind::Text),
            (".e1", Kind::Text),
            ("1.2.3", Kind::Text),
            (".inf", Kind::Float),
            (".Inf", Kind::Float),
            ("-.INF", Kind::Float),
            ("inf", Kind::Text),
            ("infinity", Kind::Text),
            (".nan", Kind::Float),
            (".NaN", Kind::Float),
            (".NAN", Kind::Float),
            ("-.nan", Kind::Text),
            ("NaN", Kind::Text),
            ("a.example", Kind::Text),
        ] {
            assert_eq!(kind(text, true), wanted, "{text:?}");
            assert_eq!(kind(text, false), Kind::Text, "{text:?} in quotes");
        }
    }
}
