//! What is told of pools and nodes, as one tree: a PHP array and JSON are made from it, so
//! that both say the same.
//!
//! Texts are UTF-8, and there are no fractions, so any reader of JSON can hold every value.
//! Names are stable: they are added to, never changed or taken out.

use std::fmt::Write;

/// One value of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// Not known, or nothing.
    Null,
    /// Yes or no.
    Bool(bool),
    /// A number; seconds, counts.
    Int(i64),
    /// Text.
    Text(String),
    /// Values in order.
    List(Vec<Fact>),
    /// Values by name, in order.
    Map(Vec<(&'static str, Fact)>),
}

impl Fact {
    /// The same as JSON (RFC 8259), without blanks.
    pub fn json(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    /// The value under `name`, when this is a map that has it.
    pub fn find(&self, name: &str) -> Option<&Fact> {
        match self {
            Fact::Map(pairs) => pairs
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value),
            _ => None,
        }
    }

    /// The text, when it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Fact::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The values, when this is a list.
    pub fn items(&self) -> &[Fact] {
        match self {
            Fact::List(items) => items,
            _ => &[],
        }
    }

    fn write(&self, out: &mut String) {
        match self {
            Fact::Null => out.push_str("null"),
            Fact::Bool(yes) => out.push_str(if *yes { "true" } else { "false" }),
            Fact::Int(number) => {
                let _ = write!(out, "{number}");
            }
            Fact::Text(text) => quote(text, out),
            Fact::List(items) => {
                out.push('[');
                for (number, item) in items.iter().enumerate() {
                    if number > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                out.push(']');
            }
            Fact::Map(pairs) => {
                out.push('{');
                for (number, (name, value)) in pairs.iter().enumerate() {
                    if number > 0 {
                        out.push(',');
                    }
                    quote(name, out);
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

impl From<bool> for Fact {
    fn from(yes: bool) -> Fact {
        Fact::Bool(yes)
    }
}

impl From<u64> for Fact {
    fn from(number: u64) -> Fact {
        Fact::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<u32> for Fact {
    fn from(number: u32) -> Fact {
        Fact::Int(number.into())
    }
}

impl From<usize> for Fact {
    fn from(number: usize) -> Fact {
        Fact::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<&str> for Fact {
    fn from(text: &str) -> Fact {
        Fact::Text(text.to_owned())
    }
}

impl From<String> for Fact {
    fn from(text: String) -> Fact {
        Fact::Text(text)
    }
}

impl<T: Into<Fact>> From<Option<T>> for Fact {
    fn from(value: Option<T>) -> Fact {
        value.map_or(Fact::Null, Into::into)
    }
}

impl<T: Into<Fact>> FromIterator<T> for Fact {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Fact {
        Fact::List(items.into_iter().map(Into::into).collect())
    }
}

/// Bytes as text: as they are where they are UTF-8, else with what is not ASCII as `\x..`.
pub fn shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.escape_ascii().to_string(),
    }
}

fn quote(text: &str, out: &mut String) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            control if control < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_becomes_json_that_a_strict_reader_takes() {
        let tree = Fact::Map(vec![
            ("text", "a\"b\\c\nď\u{1}".into()),
            ("none", Fact::from(None::<u64>)),
            ("list", ["x", "y"].into_iter().collect()),
            ("yes", true.into()),
            ("many", u64::MAX.into()),
            ("empty", Fact::Map(Vec::new())),
        ]);
        assert_eq!(
            tree.json(),
            r#"{"text":"a\"b\\c\u000aď\u0001","none":null,"list":["x","y"],"yes":true,"many":9223372036854775807,"empty":{}}"#
        );
        assert_eq!(
            tree.find("text").and_then(Fact::text),
            Some("a\"b\\c\nď\u{1}")
        );
        assert_eq!(tree.find("list").map_or(0, |list| list.items().len()), 2);
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_and_not_lost() {
        assert_eq!(shown("ž".as_bytes()), "ž");
        assert_eq!(shown(b"a\xff\x01"), "a\\xff\\x01");
    }
}
