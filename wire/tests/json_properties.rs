//! The JSON bridge against serde_json: on what both accept they agree, and what is written reads back.

use blazedb_wire::json::{parse_document, parse_value, write_document, write_value};
use blazedb_wire::{Document, Value};
use proptest::prelude::*;

/// Any value that JSON can say: no timestamps, UUIDs, bytes, no NaN, no infinities.
fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::I64),
        any::<u64>().prop_map(Value::from),
        (-20i64..20).prop_map(Value::I64),
        any::<f64>().prop_filter("finite", |float| float.is_finite()).prop_map(Value::F64),
        (-1000i32..1000, -30i32..30).prop_map(|(digits, scale)| Value::F64(f64::from(digits) * 10f64.powi(scale))),
        any::<String>().prop_map(Value::Text),
        "[\\x00-\\x7f]{0,12}".prop_map(Value::Text),
    ];
    leaf.prop_recursive(6, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::Array),
            prop::collection::btree_map(any::<String>().prop_map(short), inner, 0..8)
                .prop_map(|entries| Value::Map(entries.into_iter().collect())),
        ]
    })
}

/// A name that fits.
fn short(name: String) -> String {
    name.chars().take(60).collect()
}

/// Our value as serde_json has it.
fn theirs(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(value) => (*value).into(),
        Value::I64(value) => (*value).into(),
        Value::U64(value) => (*value).into(),
        Value::F64(value) => (*value).into(),
        Value::Text(value) => value.as_str().into(),
        Value::Array(items) => items.iter().map(theirs).collect(),
        Value::Map(document) => document.iter().map(|(name, value)| (name.to_owned(), theirs(value))).collect(),
        Value::Bytes(_) | Value::Timestamp(_) | Value::Uuid(_) => unreachable!("JSON says none of these"),
        Value::Decimal(_) | Value::VectorF32(_) | Value::VectorF64(_) => unreachable!("JSON says none of these"),
    }
}

/// Whether a value differs from what serde_json made of the same text only in the sign of a zero or not at all.
fn agree(ours: &Value, theirs: &serde_json::Value) -> bool {
    match (ours, theirs) {
        (Value::F64(ours), serde_json::Value::Number(theirs)) => {
            theirs.is_f64() && theirs.as_f64().is_some_and(|theirs| theirs.to_bits() == ours.to_bits())
        }
        (Value::I64(ours), serde_json::Value::Number(theirs)) => theirs.as_i64() == Some(*ours),
        (Value::U64(ours), serde_json::Value::Number(theirs)) => theirs.as_u64() == Some(*ours),
        (Value::Array(ours), serde_json::Value::Array(theirs)) => {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, theirs)| agree(ours, theirs))
        }
        (Value::Map(ours), serde_json::Value::Object(theirs)) => {
            ours.len() == theirs.len()
                && ours.iter().all(|(name, ours)| theirs.get(name).is_some_and(|theirs| agree(ours, theirs)))
        }
        (ours, other) => self::theirs(ours) == *other,
    }
}

/// Texts that are JSON or nearly so: numbers of every shape, escapes, and punctuation out of place.
fn nearly_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        "-?(0|[1-9][0-9]{0,22})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?",
        "-?[0-9.eE+-]{1,8}",
        "\"([a-z]|\\\\[\"\\\\/bfnrtux]|\\\\u[0-9a-fA-F]{4}|\\\\ud83d\\\\ude00|[\\x00-\\x20]){0,6}\"",
        "\"\\PC{0,6}\"",
        "(null|true|false|nul|True)",
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            4 => (prop::collection::vec(inner.clone(), 0..4), "[ \n]{0,2}").prop_map(|(items, space)| format!("[{}]", items.join(&format!(",{space}")))),
            4 => prop::collection::vec(("\"[a-d]{1,2}\"", inner.clone()), 0..4).prop_map(|entries| {
                let entries: Vec<String> = entries.iter().map(|(name, value)| format!("{name}: {value}")).collect();
                format!("{{{}}}", entries.join(","))
            }),
            1 => (inner, "[\\[\\]{},: ]{1,2}").prop_map(|(text, noise)| text + &noise),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    // spec: J-35
    #[test]
    fn what_is_written_reads_back(value in json_value()) {
        let mut text = Vec::new();
        write_value(&value, &mut text).expect("finite and shallow");
        prop_assert_eq!(parse_value(&text).expect("our own text"), value.clone());
        let independent: serde_json::Value = serde_json::from_slice(&text).expect("JSON for everyone");
        prop_assert!(agree(&value, &independent), "{value:?} {independent:?}");
        prop_assert_eq!(&independent, &theirs(&value));
    }

    // spec: J-30
    #[test]
    fn equal_documents_have_equal_texts(entries in prop::collection::btree_map("[a-z\u{e9}\u{1f600}]{0,4}", json_value(), 0..6), seed in any::<u64>()) {
        let mut pairs: Vec<(String, Value)> = entries.clone().into_iter().collect();
        let straight: Document = entries.into_iter().collect();
        let len = pairs.len().max(1);
        pairs.rotate_left(seed as usize % len);
        if seed % 2 == 0 {
            pairs.reverse();
        }
        // The same fields in another order of text.
        let mut shuffled = b"{".to_vec();
        for (index, (name, value)) in pairs.iter().enumerate() {
            if index > 0 {
                shuffled.extend_from_slice(b" ,\n");
            }
            write_value(&Value::Text(name.clone()), &mut shuffled).expect("text");
            shuffled.extend_from_slice(b" : ");
            write_value(value, &mut shuffled).expect("finite and shallow");
        }
        shuffled.push(b'}');
        let read = parse_document(&shuffled).expect("an object");
        prop_assert_eq!(&read, &straight);
        let (mut one, mut other) = (Vec::new(), Vec::new());
        write_document(&read, &mut one).expect("finite and shallow");
        write_document(&straight, &mut other).expect("finite and shallow");
        prop_assert_eq!(one, other);
    }

    // spec: J-10, J-15
    #[test]
    fn both_mean_the_same(text in nearly_json()) {
        let ours = parse_value(text.as_bytes());
        let independent = serde_json::from_str::<serde_json::Value>(&text);
        match (ours, independent) {
            (Ok(ours), Ok(independent)) => prop_assert!(agree(&ours, &independent), "{text}: {ours:?} {independent:?}"),
            (Ok(ours), Err(error)) => prop_assert!(false, "{text}: we read {ours:?}, serde_json says {error}"),
            // What both refuse needs no agreement; what only we refuse must be JSON that we said would lose something.
            (Err(error), Ok(_)) => prop_assert!(!error.kind.is_malformed(), "{text}: {error}"),
            (Err(error), Err(_)) => prop_assert!(error.line >= 1 && error.column >= 1),
        }
    }
}
