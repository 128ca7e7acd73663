//! The serde bridge: every shape of Rust type there and back, errors that name their field, and what borrows.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;

use blazedb_wire::json::parse_document;
use blazedb_wire::serde::{
    RowEncoder, SerdeError, SerdeErrorKind, from_document, from_field, from_row, from_value, to_document, to_value,
};
use blazedb_wire::{Document, EncodeError, Row, RowRef, Timestamp, Uuid, Value, ValueRef};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const UUID: Uuid = Uuid(*b"\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23\x45\x67\x89\xab\xcd\xef");

fn json(text: &str) -> Document {
    parse_document(text.as_bytes()).expect("JSON")
}

/// `it` is stored as `stored`, and comes back from there, owned and encoded alike.
fn there_and_back<T: Serialize + DeserializeOwned + PartialEq + Debug>(it: T, stored: impl Into<Value>) {
    let stored = stored.into();
    assert_eq!(to_value(&it).as_ref(), Ok(&stored));
    assert_eq!(from_value::<T>(stored.clone()).as_ref(), Ok(&it));
    let document: Document = [("field", stored)].into_iter().collect();
    let row = Row::encode(&document).expect("a small row");
    assert_eq!(from_field::<T>(row.as_ref().field(0)).as_ref(), Ok(&it));
    // The direct way makes the same bytes, whatever it was used for before, and reads them.
    let it = Field { field: it };
    let mut encoder = RowEncoder::default();
    for _ in 0..2 {
        assert_eq!(encoder.encode_row(&it).as_ref(), Ok(&row));
        encoder.encode_row(&everything()).expect("a document");
    }
    assert_eq!(from_row::<Field<T>>(row.as_ref()).as_ref(), Ok(&it));
}

/// A document of one field.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Field<T> {
    field: T,
}

/// Reading a `T` from `stored` fails at `path` with an error whose words contain `words`, owned and encoded alike.
fn refuses<T: DeserializeOwned + Debug>(stored: impl Into<Value>, path: &str, words: &str) -> SerdeErrorKind {
    let stored = stored.into();
    let error = from_value::<T>(stored.clone()).expect_err("a value that does not fit");
    assert_eq!(error.path, path, "{error}");
    assert!(error.to_string().contains(words), "{error}");
    let document: Document = [("field", stored)].into_iter().collect();
    let row = Row::encode(&document).expect("a small row");
    assert_eq!(from_field::<T>(row.as_ref().field(0)).expect_err("a value that does not fit"), error);
    let inside = from_row::<Field<T>>(row.as_ref()).expect_err("a value that does not fit");
    assert_eq!((inside.path, &inside.kind), (error.path.replacen('$', "$.field", 1), &error.kind));
    error.kind
}

/// Bytes, as `serde_bytes` and its kin write them.
#[derive(Clone, Debug, PartialEq)]
struct Raw(Vec<u8>);

impl Serialize for Raw {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Raw;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Raw, E> {
                Ok(Raw(bytes.to_vec()))
            }
            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Raw, E> {
                Ok(Raw(bytes))
            }
            // As that of `serde_bytes`: it is for the deserializer to keep text from it.
            fn visit_str<E>(self, text: &str) -> Result<Raw, E> {
                Ok(Raw(text.as_bytes().to_vec()))
            }
        }
        deserializer.deserialize_byte_buf(Visitor)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Unit;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Newtype(u32);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Pair(i8, String);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Shape {
    Point,
    Circle(f64),
    Line(i32, i32),
    Box { width: u16, label: Option<String> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Everything {
    flag: bool,
    small: i8,
    large: u64,
    wide: i128,
    real: f64,
    single: f32,
    letter: char,
    text: String,
    raw: Raw,
    at: Timestamp,
    id: Uuid,
    any: Value,
    rest: Document,
    nothing: Option<u8>,
    something: Option<Box<Newtype>>,
    unit: (),
    unit_struct: Unit,
    pair: Pair,
    tuple: (u8, bool, Option<char>),
    list: Vec<Shape>,
    by_name: BTreeMap<String, Newtype>,
    by_number: HashMap<i64, u8>,
    by_flag: BTreeMap<bool, ()>,
    by_shape: BTreeMap<Letter, u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Letter {
    A,
    B,
}

fn everything() -> Everything {
    Everything {
        flag: true,
        small: -128,
        large: u64::MAX,
        wide: i128::from(i64::MIN),
        real: -0.0,
        single: 0.1,
        letter: '\u{1f600}',
        text: "nul \0 and \u{e9}".into(),
        raw: Raw(vec![0, 255]),
        at: Timestamp(-1),
        id: UUID,
        any: Value::Array(vec![
            Value::Timestamp(Timestamp(7)),
            Value::Uuid(UUID),
            Value::Bytes(vec![1]),
            Value::U64(u64::MAX),
            Value::Null,
            Value::Map([("deep", Value::Timestamp(Timestamp(8)))].into_iter().collect()),
        ]),
        rest: [("id", Value::Uuid(UUID))].into_iter().collect(),
        nothing: None,
        something: Some(Box::new(Newtype(7))),
        unit: (),
        unit_struct: Unit,
        pair: Pair(1, "x".into()),
        tuple: (1, false, Some('y')),
        list: vec![Shape::Point, Shape::Circle(1.5), Shape::Line(-1, 1), Shape::Box { width: 9, label: None }],
        by_name: [("one".to_owned(), Newtype(1))].into(),
        by_number: [(-5, 5), (i64::MAX, 0)].into(),
        by_flag: [(false, ()), (true, ())].into(),
        by_shape: [(Letter::A, 1), (Letter::B, 2)].into(),
    }
}

// spec: J-40, J-41
#[test]
fn a_struct_with_everything_comes_back() {
    let it = everything();
    let document = to_document(&it).expect("it fits");
    assert_eq!(from_document::<Everything>(document.clone()).as_ref(), Ok(&it));
    let row = Row::encode(&document).expect("a small row");
    assert_eq!(from_row::<Everything>(row.as_ref()).as_ref(), Ok(&it));
    // And stored as the types that they are.
    assert_eq!(document.get("at"), Some(&Value::Timestamp(Timestamp(-1))));
    assert_eq!(document.get("id"), Some(&Value::Uuid(UUID)));
    assert_eq!(document.get("raw"), Some(&Value::Bytes(vec![0, 255])));
    assert_eq!(document.get("any"), Some(&it.any));
    assert_eq!(document.get("rest"), Some(&Value::Map(it.rest.clone())));
    let shapes =
        json(r#"{"list": ["Point", {"Circle": 1.5}, {"Line": [-1, 1]}, {"Box": {"width": 9, "label": null}}]}"#);
    assert_eq!(document.get("list"), shapes.get("list"));
    let numbers = json(r#"{"by_number": {"-5": 5, "9223372036854775807": 0}}"#);
    assert_eq!(document.get("by_number"), numbers.get("by_number"));
}

// spec: J-40
#[test]
fn single_values_come_back() {
    there_and_back(7u8, 7);
    there_and_back(u64::MAX, Value::U64(u64::MAX));
    there_and_back(u128::from(u64::MAX), Value::U64(u64::MAX));
    there_and_back(i128::from(i64::MIN), Value::I64(i64::MIN));
    there_and_back(f64::NAN.to_bits(), f64::NAN.to_bits());
    there_and_back(f64::INFINITY, f64::INFINITY);
    there_and_back(0.1f32, f64::from(0.1f32));
    there_and_back('x', "x");
    there_and_back((), Value::Null);
    there_and_back(Unit, Value::Null);
    there_and_back(Some(3), 3);
    there_and_back(None::<u8>, Value::Null);
    there_and_back(Newtype(3), 3);
    there_and_back(Pair(3, "x".into()), vec![Value::I64(3), "x".into()]);
    there_and_back(Shape::Point, "Point");
    there_and_back(Shape::Circle(2.0), Document::from_iter([("Circle", 2.0)]));
    there_and_back(Raw(vec![]), Value::Bytes(vec![]));
    there_and_back(vec![1u8, 2], vec![Value::I64(1), Value::I64(2)]);
    there_and_back([1u8, 2], vec![Value::I64(1), Value::I64(2)]);
    there_and_back(Vec::<u8>::new(), Value::Array(vec![]));
    there_and_back(BTreeMap::<String, u8>::new(), Document::new());
    there_and_back(Timestamp(i64::MIN), Timestamp(i64::MIN));
    there_and_back(Some(UUID), UUID);
    there_and_back(std::net::IpAddr::from([127, 0, 0, 1]), "127.0.0.1");
    there_and_back(BTreeMap::from([(UUID, 1)]), Document::from_iter([(UUID.to_string(), 1)]));
    there_and_back(BTreeMap::from([('k', 1)]), Document::from_iter([("k", 1)]));
}

// spec: J-45
#[test]
fn a_missing_field_is_none() {
    #[derive(Debug, PartialEq, Deserialize)]
    struct Todo {
        title: String,
        due: Option<i64>,
        #[serde(default)]
        done: bool,
    }
    let todo: Todo = from_document(json(r#"{"title": "a", "unknown": [1]}"#)).expect("enough");
    assert_eq!(todo, Todo { title: "a".into(), due: None, done: false });
    let todo: Todo = from_document(json(r#"{"title": "a", "due": null}"#)).expect("enough");
    assert_eq!(todo.due, None);
    let error = from_document::<Todo>(json(r#"{"due": 1}"#)).expect_err("no title");
    assert_eq!(error.kind, SerdeErrorKind::MissingField("title"));
    assert_eq!(error.path, "$");
}

// spec: J-44, J-46
#[test]
fn errors_name_the_field() {
    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only their types matter")]
    struct Order {
        items: Vec<Item>,
        #[serde(default)]
        by_day: BTreeMap<String, u8>,
        #[serde(default)]
        shape: Option<Shape>,
    }
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only their types matter")]
    struct Item {
        name: String,
    }
    refuses::<Order>(
        json(r#"{"items": [{"name": "a"}, {"name": 7}]}"#),
        "$.items[1].name",
        "found integer `7`, expected a string",
    );
    refuses::<Order>(json(r#"{"items": [{"name": "a", "colour": 1}]}"#), "$.items[0].colour", "no field \"colour\"");
    refuses::<Order>(json(r#"{"items": [{}]}"#), "$.items[0]", "\"name\" is missing");
    refuses::<Order>(json(r#"{"items": {}}"#), "$.items", "found a map");
    refuses::<Order>(
        json(r#"{"items": [], "by_day": {"first of may": 256}}"#),
        r#"$.by_day["first of may"]"#,
        "expected u8",
    );
    refuses::<Order>(
        json(r#"{"items": [], "shape": "Cube"}"#),
        "$.shape",
        "no variant \"Cube\"; the type has \"Point\", \"Circle\"",
    );
    refuses::<Order>(json(r#"{"items": [], "shape": {"Circle": "x"}}"#), "$.shape.Circle", "found string \"x\"");
    refuses::<Order>(json(r#"{"items": [], "shape": {"Line": [1, null]}}"#), "$.shape.Line[1]", "found null");
    refuses::<Order>(
        json(r#"{"items": [], "shape": {"Line": [1, 2, 3]}}"#),
        "$.shape.Line",
        "found 3 items, expected 2 items",
    );
    refuses::<Order>(json(r#"{"items": [], "shape": {"Box": {"width": -1}}}"#), "$.shape.Box.width", "integer `-1`");
    refuses::<Order>(
        json(r#"{"items": [], "shape": {"Point": null, "Circle": 1.0}}"#),
        "$.shape",
        "a map of one entry",
    );
    refuses::<Order>(json(r#"{"items": [], "shape": {"Point": 1}}"#), "$.shape.Point", "found integer `1`");
    refuses::<Order>(json(r#"{"items": [], "shape": "Circle"}"#), "$.shape", "unit variant");
}

// spec: J-44
#[test]
fn reading_never_changes_a_type() {
    refuses::<String>(Value::Bytes(b"text".to_vec()), "$", "found bytes");
    refuses::<String>(Timestamp(0), "$", "found a timestamp, expected a string");
    refuses::<String>(UUID, "$", "found a UUID");
    refuses::<char>("xy", "$", "expected a character");
    refuses::<Raw>("text", "$", "found string");
    refuses::<i64>(Timestamp(0), "$", "found a timestamp");
    refuses::<i64>(1.0, "$", "found floating point `1.0`");
    refuses::<bool>(1, "$", "found integer");
    refuses::<u8>(-1, "$", "expected u8");
    refuses::<u32>(Value::Null, "$", "found null");
    refuses::<()>(0, "$", "found integer");
    refuses::<Pair>(Document::new(), "$", "found a map");
    refuses::<(u8, u8)>(vec![Value::I64(1)], "$", "expected a tuple of size 2");
    refuses::<(u8, u8)>(vec![Value::I64(1); 3], "$", "found 3 items");
    refuses::<Timestamp>(0, "$", "expected a timestamp");
    refuses::<Timestamp>("yesterday", "$", "expected a timestamp");
    refuses::<Uuid>("01234567", "$", "expected a UUID");
    refuses::<Uuid>(Value::Bytes(vec![0; 16]), "$", "expected a UUID");
    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only its type matters")]
    struct One {
        a: u8,
    }
    refuses::<One>(vec![Value::I64(1)], "$", "found an array");
}

// spec: J-41
#[test]
fn native_types_are_read_from_their_text_too() {
    #[derive(Debug, PartialEq, Deserialize)]
    struct Event {
        at: Timestamp,
        id: Uuid,
    }
    let imported = json(r#"{"at": "1970-01-01T00:00:00.000007Z", "id": "01234567-89ab-cdef-0123-456789abcdef"}"#);
    let wanted = Event { at: Timestamp(7), id: UUID };
    assert_eq!(from_document::<Event>(imported.clone()), Ok(Event { at: Timestamp(7), id: UUID }));
    let row = Row::encode(&imported).expect("a small row");
    assert_eq!(from_row::<Event>(row.as_ref()), Ok(wanted));
}

// spec: J-41
#[test]
fn other_formats_see_readable_forms() {
    let it: Document = [
        ("at", Value::Timestamp(Timestamp(7))),
        ("id", Value::Uuid(UUID)),
        ("raw", Value::Bytes(vec![0, 255])),
        ("list", Value::Array(vec![Value::Null, Value::F64(1.0)])),
    ]
    .into_iter()
    .collect();
    let text = serde_json::to_string(&it).expect("JSON");
    assert_eq!(
        text,
        r#"{"at":"1970-01-01T00:00:00.000007Z","id":"01234567-89ab-cdef-0123-456789abcdef","list":[null,1.0],"raw":"AP8="}"#
    );
    let back: Document = serde_json::from_str(&text).expect("JSON");
    assert_eq!(back, json(&text));
    assert_eq!(
        serde_json::from_str::<Timestamp>("\"1970-01-01T00:00:00.000007Z\"").expect("a timestamp"),
        Timestamp(7)
    );
    assert_eq!(serde_json::from_str::<Uuid>(&serde_json::to_string(&UUID).expect("JSON")).expect("a UUID"), UUID);
    assert!(serde_json::from_str::<Timestamp>("7").is_err());
    assert!(serde_json::from_str::<Document>(r#"{"a":1,"a":2}"#).is_err());
    // The other way: a type that asks for anything gets the readable form from us. Bytes it is given as they are.
    let mut it = it;
    it.remove("raw");
    let theirs: serde_json::Value = from_document(it.clone()).expect("anything goes");
    assert_eq!(theirs, serde_json::to_value(&it).expect("JSON"));
    let raw = Document::from_iter([("raw", Value::Bytes(vec![0, 255]))]);
    let error = from_document::<serde_json::Value>(raw).expect_err("it takes no bytes");
    assert_eq!(error.path, "$.raw");
}

// spec: J-41
#[test]
fn buffered_content_holds_readable_forms() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Open {
        at: Timestamp,
        #[serde(flatten)]
        known: Known,
        #[serde(flatten)]
        rest: Document,
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Known {
        id: Uuid,
        seen: Timestamp,
    }
    let it = Open {
        at: Timestamp(1),
        known: Known { id: UUID, seen: Timestamp(2) },
        rest: [("n", 7)].into_iter().collect(),
    };
    let document = to_document(&it).expect("it fits");
    assert_eq!(document.get("seen"), Some(&Value::Timestamp(Timestamp(2))));
    assert_eq!(from_document::<Open>(document.clone()), Ok(it));
    let mut document = document;
    document.insert("other", Timestamp(3));
    let open: Open = from_document(document).expect("still an Open");
    assert_eq!(open.rest.get("other"), Some(&Value::from("1970-01-01T00:00:00.000003Z")));
}

// spec: J-42
#[test]
fn floats_and_integers_do_not_round_each_other() {
    assert_eq!(from_value::<f64>(Value::I64(1 << 53)), Ok(9_007_199_254_740_992.0));
    assert_eq!(from_value::<f64>(Value::I64(i64::MIN)), Ok(i64::MIN as f64));
    assert_eq!(from_value::<f64>(Value::U64(1 << 63)), Ok((1u64 << 63) as f64));
    for integer in [Value::I64((1 << 53) + 1), Value::I64(i64::MAX), Value::U64(u64::MAX)] {
        assert!(matches!(refuses::<f64>(integer, "$", "no exact f64"), SerdeErrorKind::Inexact { wanted: "f64", .. }));
    }
    assert_eq!(from_value::<f32>(Value::I64(1 << 24)), Ok(16_777_216.0));
    refuses::<f32>((1 << 24) + 1, "$", "no exact f32");
    assert_eq!(from_value::<f32>(Value::F64(0.1)), Ok(0.1));
    assert_eq!(from_value::<f32>(Value::F64(f64::INFINITY)), Ok(f32::INFINITY));
    refuses::<f32>(1e300, "$", "no exact f32");
    refuses::<Vec<f64>>(vec![Value::F64(1.0), Value::I64(i64::MAX)], "$[1]", "9223372036854775807");
}

// spec: J-42, J-44
#[test]
fn what_serde_buffers_is_converted_as_serde_does() {
    #[derive(Debug, PartialEq, Deserialize)]
    struct Inner {
        wide: f64,
        narrow: f32,
        raw: Raw,
        pair: Plain,
    }
    #[derive(Debug, PartialEq, Deserialize)]
    struct Plain {
        a: u8,
        b: u8,
    }
    #[derive(Debug, PartialEq, Deserialize)]
    struct Flat {
        #[serde(flatten)]
        inner: Inner,
    }
    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(untagged)]
    enum Untagged {
        Inner(Inner),
    }
    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(tag = "kind")]
    enum Tagged {
        Inner(Inner),
    }
    let document: Document = [
        ("kind", Value::from("Inner")),
        ("wide", Value::I64((1 << 53) + 1)),
        ("narrow", Value::F64(1e300)),
        ("raw", Value::from("text")),
        ("pair", Value::Array(vec![Value::I64(1), Value::I64(2)])),
    ]
    .into_iter()
    .collect();
    // What the mapping itself refuses ...
    assert!(from_document::<Inner>(document.clone()).is_err());
    // ... goes through where serde holds it in between. Should this change, spec/json.md has to.
    let inner = || Inner {
        wide: 9_007_199_254_740_992.0,
        narrow: f32::INFINITY,
        raw: from_value(Value::Bytes(b"text".to_vec())).expect("bytes"),
        pair: Plain { a: 1, b: 2 },
    };
    assert_eq!(from_document(document.clone()), Ok(Flat { inner: inner() }));
    assert_eq!(from_document(document.clone()), Ok(Untagged::Inner(inner())));
    assert_eq!(from_document(document.clone()), Ok(Tagged::Inner(inner())));
    // The way around: a value in between keeps what it was, and is turned by the mapping.
    #[derive(Debug, Deserialize)]
    struct Held {
        #[serde(flatten)]
        rest: BTreeMap<String, Value>,
    }
    let held: Held = from_document(document).expect("any map");
    for name in ["wide", "narrow", "raw", "pair"] {
        let value = held.rest[name].clone();
        let refused = match name {
            "wide" => from_value::<f64>(value).is_err(),
            "narrow" => from_value::<f32>(value).is_err(),
            "raw" => from_value::<Raw>(value).is_err(),
            _ => from_value::<Plain>(value).is_err(),
        };
        assert!(refused, "{name}");
    }
}

#[test]
fn integers_outside_the_domain_are_refused() {
    #[derive(Serialize)]
    struct Wide {
        sizes: Vec<i128>,
    }
    let error = to_document(&Wide { sizes: vec![0, -(1 << 70)] }).expect_err("too small");
    assert_eq!(error.path, "$.sizes[1]");
    assert_eq!(error.kind, SerdeErrorKind::IntegerOutOfRange((-(1i128 << 70)).to_string()));
    assert!(to_value(&(u128::from(u64::MAX) + 1)).is_err());
    assert!(to_value(&(i128::from(i64::MIN) - 1)).is_err());
}

// spec: J-43
#[test]
fn keys_are_text_in_one_form() {
    let key = |name: &str| Value::Map(Document::from_iter([(name, 1)]));
    assert_eq!(from_value(key("-7")), Ok(BTreeMap::from([(-7i64, 1)])));
    for wrong in ["+7", "07", "7.0", " 7", "", "-0", "99999999999999999999"] {
        let path = format!("$[\"{wrong}\"]");
        refuses::<BTreeMap<i64, u8>>(key(wrong), &path, "the text of an i64");
    }
    refuses::<BTreeMap<bool, u8>>(key("True"), "$.True", "\"true\" or \"false\"");
    refuses::<BTreeMap<char, u8>>(key("ab"), "$.ab", "expected a character");
    refuses::<BTreeMap<Letter, u8>>(key("C"), "$.C", "no variant \"C\"");
    let bad = [
        to_value(&BTreeMap::from([(vec![1], 1)])),
        to_value(&BTreeMap::from([(Some(1), 1)])),
        to_value(&BTreeMap::from([((), 1)])),
        to_value(&BTreeMap::from([((1, 2), 1)])),
    ];
    for result in bad {
        assert!(matches!(result.map_err(|error| error.kind), Err(SerdeErrorKind::KeyType(_))));
    }
    // Two keys that become one text.
    struct Twice;
    impl Serialize for Twice {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_map([(Value::I64(1), 1), (Value::Text("1".into()), 2)])
        }
    }
    let error = to_value(&vec![Twice]).expect_err("one text twice");
    assert_eq!(error.kind, SerdeErrorKind::Encode(EncodeError::Duplicate { name: "1".into() }));
    assert_eq!(error.path, "$[0]");
}

#[test]
fn limits_name_the_field() {
    let long = BTreeMap::from([("k".repeat(256), 1)]);
    let error = to_value(&BTreeMap::from([("a", long)])).expect_err("a long name");
    assert_eq!(error.path, "$.a");
    assert!(matches!(error.kind, SerdeErrorKind::Encode(EncodeError::Limit { given: 256, max: 255, .. })));
    let many: BTreeMap<u32, ()> = (0..4097).map(|n| (n, ())).collect();
    assert!(to_value(&many).is_err());
    let most: BTreeMap<u32, ()> = (0..4096).map(|n| (n, ())).collect();
    assert!(to_document(&most).is_ok());
}

#[test]
fn depth_is_bounded_both_ways() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Chain {
        next: Option<Box<Self>>,
    }
    let chain = |links: usize| (1..links).fold(Chain { next: None }, |next, _| Chain { next: Some(Box::new(next)) });
    let nest = |depth: usize| (1..depth).fold(Value::Array(vec![]), |inner, _| Value::Array(vec![inner]));
    // A document and 32 levels inside it.
    let document = to_document(&chain(33)).expect("as deep as may be");
    assert_eq!(from_document::<Chain>(document.clone()), Ok(chain(33)));
    assert!(Row::encode(&document).is_ok(), "what fits here can be stored");
    let error = to_document(&chain(34)).expect_err("one too deep");
    assert_eq!(error.kind, SerdeErrorKind::TooDeep { max: 32 });
    assert_eq!(error.path, format!("${}", ".next".repeat(33)));
    assert!(to_document(&chain(2000)).is_err());
    assert_eq!(to_value(&nest(32)), Ok(nest(32)));
    assert!(to_value(&nest(33)).is_err());
    assert_eq!(from_value(nest(32)), Ok(nest(32)));
    let error = from_value::<Value>(nest(33)).expect_err("one too deep");
    assert_eq!(error.kind, SerdeErrorKind::TooDeep { max: 32 });
    // A variant with content is a container around it.
    #[derive(Serialize)]
    enum Wrapped {
        In(Value),
    }
    assert!(to_value(&Wrapped::In(nest(31))).is_ok());
    assert!(to_value(&Wrapped::In(nest(32))).is_err());
}

#[test]
fn only_structs_and_maps_are_documents() {
    assert!(to_document(&Document::new()).is_ok());
    assert!(to_document(&Shape::Circle(1.0)).is_ok());
    let kind = |result: Result<Document, SerdeError>| result.expect_err("no document").kind;
    assert_eq!(kind(to_document(&7)), SerdeErrorKind::NotADocument("an integer"));
    assert_eq!(kind(to_document(&Shape::Point)), SerdeErrorKind::NotADocument("a text"));
    assert_eq!(kind(to_document(&[1])), SerdeErrorKind::NotADocument("an array"));
    assert_eq!(kind(to_document(&Some(()))), SerdeErrorKind::NotADocument("null"));
}

// spec: J-40
#[test]
fn borrowed_fields_lie_in_the_row() {
    #[derive(Debug, PartialEq, Deserialize)]
    struct Lent<'a> {
        title: &'a str,
        raw: &'a [u8],
        #[serde(borrow)]
        nested: Nested<'a>,
        #[serde(borrow)]
        tags: Vec<&'a str>,
        #[serde(borrow)]
        names: BTreeMap<&'a str, Option<&'a str>>,
        #[serde(borrow)]
        maybe: Cow<'a, str>,
    }
    #[derive(Debug, PartialEq, Deserialize)]
    enum Nested<'a> {
        #[serde(borrow)]
        Inner(&'a str),
    }
    let document: Document = [
        ("title", Value::from("water the plants")),
        ("raw", Value::Bytes(vec![1, 2, 3])),
        ("nested", Document::from_iter([("Inner", "in a map")]).into()),
        ("tags", vec![Value::from("one"), Value::from("two")].into()),
        ("names", Document::from_iter([("key", Value::from("value")), ("none", Value::Null)]).into()),
        ("maybe", Value::from("lent")),
    ]
    .into_iter()
    .collect();
    let row = Row::encode(&document).expect("a small row");
    let body = row.body().as_ptr_range();
    let lent: Lent<'_> = from_row(row.as_ref()).expect("it fits");
    let Nested::Inner(inner) = lent.nested;
    let texts = [lent.title, inner, lent.tags[0], lent.tags[1], lent.names["key"].expect("a value")];
    for text in texts.into_iter().chain(lent.names.keys().copied()) {
        assert!(body.contains(&text.as_ptr()), "{text} was copied");
    }
    assert!(body.contains(&lent.raw.as_ptr()));
    assert_eq!(texts, ["water the plants", "in a map", "one", "two", "value"]);
    assert_eq!(lent.raw, [1, 2, 3]);
}

#[test]
fn a_value_of_many_shapes_comes_back() {
    // 4,000 maps, no two of one shape: names are found through the table's index, not by their place.
    let maps: Vec<Value> = (0..8000)
        .map(|n| Value::Map(Document::from_iter([(format!("{:x}", n % 4000), n), ("m".to_owned(), 2)])))
        .collect();
    let document: Document = [("maps", Value::Array(maps))].into_iter().collect();
    let row = Row::encode(&document).expect("less than 4,096 shapes");
    let read: HashMap<String, Vec<HashMap<String, u32>>> = from_row(row.as_ref()).expect("it fits");
    let maps = &read["maps"];
    assert_eq!(maps.len(), 8000);
    assert_eq!(maps[7999], HashMap::from([("f9f".to_owned(), 7999), ("m".to_owned(), 2)]));
    assert_eq!(from_row::<Document>(row.as_ref()), Ok(document));
}

/// Says that it has three items and has `n`.
struct Liar(usize);

impl Serialize for Liar {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeSeq;
        let mut items = serializer.serialize_seq(Some(3))?;
        (0..self.0).try_for_each(|n| items.serialize_element(&n))?;
        items.end()
    }
}

/// Wants to be written in one way and says so.
struct Refuses;

impl Serialize for Refuses {
    fn serialize<S: Serializer>(&self, _serializer: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("not today"))
    }
}

#[test]
fn the_direct_way_agrees_with_the_one_through_a_document() {
    #[derive(Clone, Serialize)]
    struct Skips {
        z: u8,
        #[serde(skip_serializing_if = "Option::is_none")]
        m: Option<&'static str>,
        a: Vec<Vec<f32>>,
    }
    #[derive(Serialize)]
    struct Twice {
        #[serde(rename = "same")]
        one: u8,
        #[serde(rename = "same")]
        two: u8,
    }
    #[derive(Serialize)]
    struct Flat {
        before: u8,
        #[serde(flatten)]
        rest: BTreeMap<String, u64>,
    }
    #[derive(Serialize)]
    struct Texts {
        b: String,
        c: String,
        a: String,
    }
    #[derive(Serialize)]
    struct Nothing {}
    fn agree<T: Serialize>(encoder: &mut RowEncoder, it: &T) {
        let through = to_document(it).and_then(|document| {
            let row = Row::encode(&document);
            row.map_err(|error| SerdeError { path: "$".into(), kind: SerdeErrorKind::Encode(error) })
        });
        let mut body = b"before".to_vec();
        let direct = encoder.encode(it, &mut body);
        match (&through, &direct) {
            (Ok(row), Ok(shape)) => {
                assert_eq!((row.shape(), &b"before"[..], &row.body()[..]), (*shape, &body[..6], &body[6..]));
            }
            _ => assert_eq!((through.as_ref().err(), &body[..]), (direct.as_ref().err(), &b"before"[..])),
        }
    }
    let mut encoder = RowEncoder::default();
    for _ in 0..2 {
        let skips = Skips { z: 1, m: None, a: vec![vec![], vec![0.5, -1.0], vec![0.1]] };
        agree(&mut encoder, &skips);
        agree(&mut encoder, &Skips { m: Some("there"), ..skips.clone() });
        agree(&mut encoder, &Some(Skips { a: vec![], ..skips }));
        // Payloads of every length around that of a block, with others behind them and without.
        for len in 0..40 {
            let (text, other) = ("x".repeat(len), "y".repeat(len / 3));
            agree(&mut encoder, &Skips { z: 1, m: None, a: vec![vec![0.5; len]] });
            agree(&mut encoder, &BTreeMap::from([("a", &text), ("b", &other)]));
            agree(&mut encoder, &Texts { b: text.clone(), c: other, a: text });
        }
        agree(&mut encoder, &Twice { one: 1, two: 2 });
        agree(&mut encoder, &Flat { before: 1, rest: [("a".to_owned(), u64::MAX), ("z".to_owned(), 0)].into() });
        agree(&mut encoder, &Nothing {});
        (0..5).for_each(|n| agree(&mut encoder, &Field { field: Liar(n) }));
        agree(&mut encoder, &Field { field: Refuses });
        agree(&mut encoder, &Field { field: (u128::MAX, 1) });
        agree(&mut encoder, &Field { field: i128::from(i64::MIN) });
        agree(&mut encoder, &Field { field: vec![0_u8; 70_000] });
        agree(&mut encoder, &Field { field: "x".repeat(1 << 20) });
        agree(&mut encoder, &Field { field: "x".repeat((1 << 20) + 1) });
        agree(&mut encoder, &Field { field: ["x".repeat(600 << 10), "x".repeat(600 << 10)] });
        let nest = |depth: usize| (1..depth).fold(Value::Array(vec![]), |inner, _| Value::Array(vec![inner]));
        (30..35).for_each(|depth| agree(&mut encoder, &Field { field: nest(depth) }));
        agree(&mut encoder, &(1, 2));
        agree(&mut encoder, &Timestamp(5));
        agree(&mut encoder, &Shape::Circle(1.0));
    }
    // More types than an encoder remembers.
    for n in 0..100_u64 {
        let names: BTreeMap<String, u64> = (0..=n).map(|i| (i.to_string(), i)).collect();
        agree(&mut encoder, &Flat { before: 0, rest: names });
    }
}

#[test]
fn a_value_whose_fields_change_while_it_is_encoded_has_each_under_its_own_name() {
    use serde::ser::SerializeStruct as _;
    use std::cell::Cell;

    /// As one of two fields, which are there or not, by what another thread says meanwhile.
    struct Flips(Cell<usize>);
    impl Serialize for Flips {
        fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
            let time = self.0.replace(self.0.get() + 1);
            let mut fields = out.serialize_struct("Flips", 2)?;
            let (name, text) =
                if time.is_multiple_of(2) { ("approved", "yes, it is") } else { ("refused", "no, it isn't") };
            fields.serialize_field(name, &text[..10])?;
            fields.serialize_field("z", "the same")?;
            fields.end()
        }
    }
    let mut encoder = RowEncoder::default();
    for time in 0..4 {
        let row = encoder.encode_row(&Flips(Cell::new(time))).expect("small");
        let texts = [("approved", "yes, it is"), ("refused", "no, it isn")];
        for (name, wanted) in texts {
            let Some(value) = row.get(name) else { continue };
            assert!(matches!(value, ValueRef::Text(text) if text == wanted), "{name}: {value:?}");
        }
        assert_eq!(row.len(), 2);
    }
}

#[test]
fn a_display_that_fails_or_never_ends_is_an_error() {
    use std::fmt;

    struct Shown(fn(&mut fmt::Formatter<'_>) -> fmt::Result);
    impl fmt::Display for Shown {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            (self.0)(f)
        }
    }
    impl Serialize for Shown {
        fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
            out.collect_str(self)
        }
    }
    #[derive(Serialize)]
    struct Record {
        shown: Shown,
    }
    let fails: fn(&mut fmt::Formatter<'_>) -> fmt::Result = |_| Err(fmt::Error);
    let endless: fn(&mut fmt::Formatter<'_>) -> fmt::Result = |f| loop {
        f.write_str("and so on, ")?;
    };
    for shown in [fails, endless] {
        let record = Record { shown: Shown(shown) };
        let error = to_document(&record).expect_err("it is no text");
        assert!(error.to_string().contains("display"), "{error}");
        let mut body = b"before".to_vec();
        assert!(RowEncoder::default().encode(&record, &mut body).is_err());
        assert_eq!(body, b"before");
    }
}

#[test]
fn a_value_that_changes_while_it_is_encoded_still_makes_a_row() {
    use std::cell::Cell;

    /// Says something else each time.
    struct Fickle(Cell<usize>, fn(usize) -> String);
    impl Serialize for Fickle {
        fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
            let time = self.0.replace(self.0.get() + 1);
            out.serialize_str(&(self.1)(time))
        }
    }
    #[derive(Serialize)]
    struct Record {
        z: i64,
        y: Fickle,
        list: Vec<Fickle>,
        a: &'static str,
    }
    let grows: fn(usize) -> String = |time| "x".repeat(10 * time);
    let shrinks: fn(usize) -> String = |time| "x".repeat(40 - time);
    let changes: fn(usize) -> String = |time| time.to_string();
    let mut encoder = RowEncoder::default();
    for says in [grows, shrinks, changes] {
        for in_list in [false, true, false] {
            let constant: fn(usize) -> String = |_| "constant".to_owned();
            let list = vec![
                Fickle(Cell::new(1), if in_list { says } else { constant }),
                Fickle(Cell::new(0), |_| "still".to_owned()),
            ];
            let record = Record { z: 300, y: Fickle(Cell::new(0), says), list, a: "a" };
            let mut body = b"before".to_vec();
            let shape = encoder.encode(&record, &mut body).expect("small").clone();
            assert_eq!(&body[..6], b"before");
            let row = RowRef::decode(&shape, &body[6..]).expect("what was encoded is accepted");
            assert!(matches!(row.get("z"), Some(ValueRef::I64(300))));
            assert!(matches!(row.get("a"), Some(ValueRef::Text("a"))));
            let Some(ValueRef::Text(y)) = row.get("y") else { panic!("a text became something else") };
            assert!(y.bytes().all(|byte| byte.is_ascii_alphanumeric()), "no byte is left unwritten: {y:?}");
        }
    }
}
