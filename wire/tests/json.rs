//! The JSON bridge by example: what is accepted and as what, what is refused and where, and what happens next.

use std::io::Read;

use blazedb_wire::json::{
    Documents, JsonErrorKind, JsonWriteErrorKind, Layout, Limits, parse_document, parse_value, write_document,
    write_row, write_value, write_value_ref,
};
use blazedb_wire::{Document, Row, Timestamp, Uuid, Value};

/// The canonical text of a value.
fn text(value: &Value) -> String {
    let mut out = Vec::new();
    write_value(value, &mut out).expect("finite and shallow");
    String::from_utf8(out).expect("JSON is UTF-8")
}

/// `input` is the JSON of a value, and that value's own text is `canonical`.
fn accepts(input: &str, canonical: &str) {
    match parse_value(input.as_bytes()) {
        Ok(value) => assert_eq!(text(&value), canonical, "{input}"),
        Err(error) => panic!("{input}: {error}"),
    }
}

/// `input` is refused at this line, column and path, with an error whose words contain `words`.
fn refuses(input: impl AsRef<[u8]>, line: u64, column: u64, path: &str, words: &str) {
    let input = input.as_ref();
    let shown = String::from_utf8_lossy(&input[..input.len().min(120)]).into_owned();
    match parse_value(input) {
        Ok(value) => panic!("{shown}: accepted as {value:?}"),
        Err(error) => {
            assert_eq!((error.line, error.column, error.path.as_str()), (line, column, path), "{shown}: {error}");
            assert!(error.to_string().contains(words), "{shown}: {error}");
        }
    }
}

/// What `layout` makes of `input`: documents as text, errors as their place and whether reading went on.
fn stream(input: &str, layout: Layout) -> Vec<String> {
    let documents = Documents::with_layout(input.as_bytes(), Limits::default(), layout);
    documents
        .map(|element| match element {
            Ok(parsed) => format!("{}#{} {}", parsed.line, parsed.index, text(&Value::Map(parsed.document))),
            Err(error) => {
                let then = if error.resumable { "on" } else { "stop" };
                format!("{}:{} {} {then}", error.line, error.column, error.path)
            }
        })
        .collect()
}

fn nested(depth: usize) -> String {
    "[".repeat(depth) + &"]".repeat(depth)
}

#[test]
fn values_of_every_kind() {
    accepts("null", "null");
    accepts(" true ", "true");
    accepts("\t\r\nfalse\n", "false");
    accepts("[]", "[]");
    accepts("[ ]", "[]");
    accepts("{}", "{}");
    accepts("{ }", "{}");
    accepts(r#"[1, [2, {"a": []}], "x"]"#, r#"[1,[2,{"a":[]}],"x"]"#);
    // spec: J-30
    accepts(r#"{"b": 1, "a": {"z": null, "y": 2}}"#, r#"{"a":{"y":2,"z":null},"b":1}"#);
    // spec: J-5
    accepts(r#"{"": 1}"#, r#"{"":1}"#);
}

// spec: J-10, J-11, J-12, J-31
#[test]
fn numbers_come_in_exactly() {
    accepts("0", "0");
    accepts("-7", "-7");
    accepts("9223372036854775807", "9223372036854775807");
    accepts("-9223372036854775808", "-9223372036854775808");
    accepts("9223372036854775808", "9223372036854775808");
    accepts("18446744073709551615", "18446744073709551615");
    accepts("0.1", "0.1");
    accepts("1.0", "1.0");
    accepts("1.50", "1.5");
    accepts("1e3", "1000.0");
    accepts("1E+3", "1000.0");
    accepts("10e-1", "1.0");
    accepts("0.000", "0.0");
    accepts("0e999999999999999999999", "0.0");
    accepts("1e000000000000000000002", "100.0");
    accepts("-0", "-0.0");
    accepts("-0.0e7", "-0.0");
    accepts("100000000000000000000", "1e20");
    accepts("-100000000000000000000", "-1e20");
    accepts("5e-324", "5e-324");
    accepts("1.7976931348623157e308", "1.7976931348623157e308");
    accepts("9007199254740993", "9007199254740993");
    accepts("9007199254740992.0", "9007199254740992.0");
    accepts(&format!("1{}", "0".repeat(308)), "1e308");
    accepts(&format!("0.{}5", "0".repeat(323)), "5e-324");
    accepts(&format!("1.{}", "0".repeat(1000)), "1.0");
}

// spec: J-10, J-12, J-13
#[test]
fn numbers_that_would_lose_something_are_refused() {
    refuses("0.1000000000000000055", 1, 1, "$", "would become 0.1");
    refuses("9007199254740993.0", 1, 1, "$", "would become 9007199254740992.0");
    refuses("[1, 1e-400]", 1, 5, "$[1]", "would become 0.0");
    refuses("9.88e-324", 1, 1, "$", "would become 1e-323");
    refuses("123456789012345678901", 1, 1, "$", "outside -2^63");
    refuses("18446744073709551616", 1, 1, "$", "outside -2^63");
    refuses("-9223372036854775809", 1, 1, "$", "outside -2^63");
    refuses("1e400", 1, 1, "$", "larger than every 64-bit float");
    refuses(format!("1{}", "0".repeat(309)), 1, 1, "$", "outside -2^63");
    refuses(format!("1.{}", "0".repeat(1099)), 1, 1, "$", "1100");
    accepts(&format!("1.{}", "0".repeat(1098)), "1.0");
}

// spec: J-15
#[test]
fn numbers_follow_the_grammar() {
    refuses("01", 1, 2, "$", "a zero in front");
    refuses("-01", 1, 3, "$", "a zero in front");
    refuses("-", 1, 2, "$", "no digit");
    refuses("1.", 1, 3, "$", "behind the point");
    refuses("1.e3", 1, 3, "$", "behind the point");
    refuses("1e", 1, 3, "$", "in the exponent");
    refuses("1e+", 1, 4, "$", "in the exponent");
    refuses("+1", 1, 1, "$", "a value should stand");
    refuses(".5", 1, 1, "$", "a value should stand");
    refuses("NaN", 1, 1, "$", "a value should stand");
    refuses("Infinity", 1, 1, "$", "a value should stand");
    refuses("-Infinity", 1, 2, "$", "no digit");
    refuses("0x10", 1, 2, "$", "follows the end");
    refuses("1_000", 1, 2, "$", "follows the end");
}

// spec: J-7, J-9, J-33
#[test]
fn strings_keep_every_character() {
    accepts(r#""""#, r#""""#);
    accepts(r#""\"\\\/\b\f\n\r\t""#, r#""\"\\/\b\f\n\r\t""#);
    accepts(r#""\u0000\u001F\u007f""#, "\"\\u0000\\u001f\u{7f}\"");
    accepts(r#""\u00e9\u20AC""#, "\"\u{e9}\u{20ac}\"");
    accepts(r#""\ud83d\ude00""#, "\"\u{1f600}\"");
    accepts("\"e\u{301} \u{e9} \u{2028} \u{feff} \u{1f600}\"", "\"e\u{301} \u{e9} \u{2028} \u{feff} \u{1f600}\"");
    accepts(r#""a\r\nb ""#, r#""a\r\nb ""#);
}

// spec: J-8, J-9
#[test]
fn strings_that_are_not_text_are_refused() {
    refuses(r#""\ud83d""#, 1, 2, "$", "half of a surrogate pair");
    refuses(r#""ab\ude00""#, 1, 4, "$", "half of a surrogate pair");
    refuses(r#""\ud83d\ud83d\ude00""#, 1, 2, "$", "\\ud83d is half");
    refuses(r#""\ud83dx\ude00""#, 1, 2, "$", "half of a surrogate pair");
    refuses(r#""\ud83d\n""#, 1, 2, "$", "half of a surrogate pair");
    refuses(r#"{"\udc00": 1}"#, 1, 3, "$", "half of a surrogate pair");
    refuses(b"\"ab\xff\"", 1, 4, "$", "not UTF-8");
    refuses(b"[\"\\n\xc3\", 1]", 1, 5, "$[0]", "not UTF-8");
    refuses(b"\"\xed\xa0\x80\"", 1, 2, "$", "not UTF-8");
    refuses("\"a\tb\"", 1, 3, "$", "a tab stands bare");
    refuses("\"a\nb\"", 1, 3, "$", "a newline stands bare");
    refuses("\"a\0\"", 1, 3, "$", "byte 0x00");
    refuses(r#""\x41""#, 1, 3, "$", "no escape");
    refuses(r#""\u00g0""#, 1, 6, "$", "hexadecimal");
    refuses(r#""\u00"#, 1, 6, "$", "the input ends");
    refuses(r#""abc"#, 1, 5, "$", "the input ends");
    refuses(r#""abc\"#, 1, 6, "$", "the input ends");
    refuses("'abc'", 1, 1, "$", "a value should stand");
}

// spec: J-15, J-16
#[test]
fn broken_texts_name_line_column_and_path() {
    refuses("", 1, 1, "$", "the input ends");
    refuses("  \n ", 2, 2, "$", "the input ends");
    refuses("nul", 1, 4, "$", "the input ends");
    refuses("nulx", 1, 4, "$", "true, false or null");
    refuses("truefalse", 1, 5, "$", "follows the end");
    refuses("1 2", 1, 3, "$", "follows the end");
    refuses("[1,]", 1, 4, "$", "last comma");
    refuses("{\"a\":1,\n}", 2, 1, "$", "last comma");
    refuses("[1 2]", 1, 4, "$", "',' or ']'");
    refuses("[1}", 1, 3, "$", "',' or ']'");
    refuses("[,1]", 1, 2, "$[0]", "a value should stand");
    refuses("{,}", 1, 2, "$", "a key in quotes");
    refuses("{a: 1}", 1, 2, "$", "a key in quotes");
    refuses("{1: 1}", 1, 2, "$", "a key in quotes");
    refuses(r#"{"a" 1}"#, 1, 6, "$", "':'");
    refuses(r#"{"a": }"#, 1, 7, "$.a", "a value should stand");
    refuses(r#"{"a": 1 "b": 2}"#, 1, 9, "$", "',' or '}'");
    refuses(r#"{"a": 1"#, 1, 8, "$", "the input ends");
    refuses("// no\n1", 1, 1, "$", "a value should stand");
    refuses("{\n  \"items\": [0, 1, 2,\r\n    {\"name\": nope}]}", 3, 15, "$.items[3].name", "true, false or null");
    refuses(r#"{"odd key": {"2": [tru]}}"#, 1, 23, r#"$["odd key"]["2"][0]"#, "true, false or null");
}

// spec: J-4
#[test]
fn a_key_occurs_once() {
    refuses(r#"{"a": 1, "b": 2, "a": 3}"#, 1, 18, "$", "\"a\" occurs twice");
    refuses(r#"{"a": 1, "\u0061": 3}"#, 1, 10, "$", "\"a\" occurs twice");
    refuses("[{\"x\": {\"k\": 1,\n\"k\": 1}}]", 2, 1, "$[0].x", "\"k\" occurs twice");
    accepts(r#"{"a": {"a": 1}, "A": 2}"#, r#"{"A":2,"a":{"a":1}}"#);
}

// spec: J-5, J-6, J-7
#[test]
fn limits_are_exact() {
    let key = "k".repeat(255);
    accepts(&format!(r#"{{"{key}":1}}"#), &format!(r#"{{"{key}":1}}"#));
    refuses(format!(r#"{{"a": 1, "{key}k": 2}}"#), 1, 10, "$", "255");
    // Two bytes for one character, whether raw or escaped.
    accepts(&format!(r#"{{"{}x":1}}"#, "\\u00e9".repeat(127)), &format!(r#"{{"{}x":1}}"#, "\u{e9}".repeat(127)));
    refuses(format!(r#"{{"{}":1}}"#, "\\u00e9".repeat(128)), 1, 2, "$", "255");

    let object = |count: usize| {
        let fields: Vec<String> = (0..count).rev().map(|n| format!("\"{n:05}\":{n}")).collect();
        format!("{{{}}}", fields.join(","))
    };
    assert_eq!(parse_document(object(4096).as_bytes()).expect("as many as may be").len(), 4096);
    let too_many = object(4097);
    let last = too_many.find("\"00000\"").expect("the last key") as u64 + 1;
    refuses(too_many, 1, last, "$", "4096");

    let long = "x".repeat(1 << 20);
    assert_eq!(parse_value(format!("\"{long}\"").as_bytes()), Ok(Value::Text(long.clone())));
    refuses(format!("[\"{long}x\"]"), 1, 2, "$[0]", "1048576");
    refuses(format!("[\"{}\\n\"]", &long), 1, 2, "$[0]", "1048576");
}

// spec: J-14
#[test]
fn nesting_is_bounded() {
    accepts(&nested(32), &nested(32));
    refuses(nested(33), 1, 33, &format!("${}", "[0]".repeat(32)), "32 levels");
    let inside = |depth: usize| format!(r#"{{"a":{}}}"#, nested(depth));
    assert!(parse_document(inside(32).as_bytes()).is_ok());
    let error = parse_document(inside(33).as_bytes()).expect_err("one too deep");
    assert_eq!(error.kind, JsonErrorKind::TooDeep { max: 32 });
    assert_eq!(error.path, format!("$.a{}", "[0]".repeat(32)));
    // Far deeper than any stack: followed to its end, or told where that ends too.
    refuses(nested(60_000), 1, 33, &format!("${}", "[0]".repeat(32)), "32 levels");
    assert!(matches!(
        parse_value(nested(200_000).as_bytes()).map_err(|error| error.kind),
        Err(JsonErrorKind::SkipTooDeep { .. })
    ));
    assert!(matches!(
        parse_value("[".repeat(2_000_000).as_bytes()).map_err(|error| error.kind),
        Err(JsonErrorKind::SkipTooDeep { .. })
    ));
}

// spec: J-3
#[test]
fn byte_order_marks() {
    accepts("\u{feff}[1]", "[1]");
    refuses("\u{feff}[x]", 1, 2, "$[0]", "a value should stand");
    refuses(" \u{feff}[1]", 1, 2, "$", "byte 0xef");
    refuses(b"\xef\xbb[1]", 1, 3, "$", "a value should stand");
    refuses(b"\xff\xfe[\0", 1, 1, "$", "UTF-16");
    refuses(b"\xfe\xff\0[", 1, 1, "$", "UTF-16");
    assert_eq!(stream("\u{feff}{\"a\":1}\n", Layout::Auto), [r#"1#0 {"a":1}"#]);
}

// spec: J-1, J-2
#[test]
fn layouts_are_found_out() {
    let none: [&str; 0] = [];
    assert_eq!(stream("", Layout::Auto), none);
    assert_eq!(stream(" \n\r\n ", Layout::Auto), none);
    assert_eq!(stream("[]", Layout::Auto), none);
    assert_eq!(stream(" [ ] \n", Layout::Auto), none);
    assert_eq!(stream("[{\"a\":1},\n {\"a\":2} ]\n", Layout::Auto), [r#"1#0 {"a":1}"#, r#"2#1 {"a":2}"#]);
    assert_eq!(
        stream("{\"a\":1}\n\n{\"a\":2}\r\n{\"a\":3}", Layout::Auto),
        [r#"1#0 {"a":1}"#, r#"3#1 {"a":2}"#, r#"4#2 {"a":3}"#]
    );
    assert_eq!(
        stream("{\"a\":1} {\"a\":2}{\"a\":3}", Layout::Auto),
        [r#"1#0 {"a":1}"#, r#"1#1 {"a":2}"#, r#"1#2 {"a":3}"#]
    );
    assert_eq!(stream("{\n\"a\":1\n}\n{\"b\":\n2}\n", Layout::Auto), [r#"1#0 {"a":1}"#, r#"4#1 {"b":2}"#]);
    assert_eq!(stream("{\"a\":1}\n{\"b\":\n2}\n", Layout::Concatenated), [r#"1#0 {"a":1}"#, r#"2#1 {"b":2}"#]);
    // A scalar or an array is no document.
    assert_eq!(
        stream("[1, {\"a\":1}, [{}], \"x\", null, true]", Layout::Auto),
        ["1:2 $[0] on", r#"1#1 {"a":1}"#, "1:14 $[2] on", "1:20 $[3] on", "1:25 $[4] on", "1:31 $[5] on",]
    );
    assert_eq!(stream("7\n[{}]\n{\"a\":1}", Layout::Lines), ["1:1 $ on", "2:1 $ on", r#"3#2 {"a":1}"#]);
}

// spec: J-17
#[test]
fn reading_goes_on_behind_a_refused_element() {
    let refused = [
        r#"{"n":1e400,"rest":[1,{"deep":[{}]},"]}"]}"#,
        r#"{"s":["\ud800","\"]}"],"x":{}}"#,
        r#"{"k":1,"k":[{"a":"}"}],"z":0}"#,
        r#"{"m":{"k":1,"k":1},"z":[1,2]}"#,
    ];
    for element in refused {
        for (layout, input) in [
            (Layout::Auto, format!("[{{\"a\":1}}, {element} , {{\"a\":2}}]")),
            (Layout::Lines, format!("{{\"a\":1}}\n{element}\n{{\"a\":2}}\n")),
            (Layout::Concatenated, format!("{{\"a\":1}} {element} {{\"a\":2}}\n")),
        ] {
            let seen = stream(&input, layout);
            assert_eq!(seen.len(), 3, "{input}: {seen:?}");
            assert!(seen[0].ends_with(r#"#0 {"a":1}"#) && seen[2].ends_with(r#"#2 {"a":2}"#), "{seen:?}");
            assert!(seen[1].ends_with(" on"), "{seen:?}");
        }
    }
    let deep = format!("[{{\"a\":{}}},{{\"b\":1}}]", nested(1000));
    assert_eq!(
        stream(&deep, Layout::Auto),
        [format!("1:39 $[0].a{} on", "[0]".repeat(32)), "1#1 {\"b\":1}".to_owned()]
    );
}

// spec: J-2, J-17
#[test]
fn reading_goes_on_behind_a_malformed_line_only() {
    assert_eq!(
        stream("{\"a\":1}\n{\"a\":\n{\"a\":2}\n{\"a\":\"tr\n{\"a\":3}\n{\"a\":3,}x\n\\\n{\"a\":4}", Layout::Auto),
        [
            r#"1#0 {"a":1}"#,
            "2:6 $ on",
            r#"3#2 {"a":2}"#,
            "4:9 $.a on",
            r#"5#4 {"a":3}"#,
            "6:8 $ on",
            "7:1 $ on",
            r#"8#7 {"a":4}"#
        ]
    );
    // The first line is broken, and alone says that these are lines.
    assert_eq!(stream("{\"a\":1,}\n{\"a\":2}\n", Layout::Auto), ["1:8 $ on", r#"2#1 {"a":2}"#]);
    assert_eq!(stream("{\"a\":\n{\"a\":2}\n", Layout::Lines), ["1:6 $ on", r#"2#1 {"a":2}"#]);
    assert_eq!(stream("{\"a\":1}\n{\"a\":", Layout::Lines), [r#"1#0 {"a":1}"#, "2:6 $.a on"]);
    // Arrays and values across lines have nowhere to go on.
    assert_eq!(stream("[{\"a\":1},\n{\"a\":},\n{\"a\":2}]", Layout::Auto), [r#"1#0 {"a":1}"#, "2:6 $[1].a stop"]);
    assert_eq!(stream("[{\"a\":1}", Layout::Auto), [r#"1#0 {"a":1}"#, "1:9 $ stop"]);
    assert_eq!(stream("[{\"a\":1},]", Layout::Auto), [r#"1#0 {"a":1}"#, "1:10 $ stop"]);
    assert_eq!(stream("[{\"a\":1}] {}", Layout::Auto), [r#"1#0 {"a":1}"#, "1:11 $ stop"]);
    assert_eq!(stream("{\n\"a\":1}\n{\"a\":}\n{}", Layout::Auto), [r#"1#0 {"a":1}"#, "3:6 $.a stop"]);
    // Both at once: the malformed place is told.
    assert_eq!(stream("[{\"a\":1e400, \"b\": x}, {}]", Layout::Auto), ["1:19 $[0] stop"]);
}

// spec: J-18
#[test]
fn an_element_is_bounded_and_the_stream_is_not() {
    let limits = Limits { element_bytes_max: 40 };
    let small = "{\"a\":[1,2,3]}\n";
    let large = format!("{{\"a\":[{}1]}}\n", "1,".repeat(40));
    let input = small.repeat(1000) + &large + small;
    let seen: Vec<_> = Documents::new(input.as_bytes(), limits).collect();
    assert_eq!(seen.len(), 1002);
    let error = seen[1000].as_ref().expect_err("too long");
    assert_eq!(error.kind, JsonErrorKind::Limit { what: "bytes in one element", max: 40 });
    assert!(error.resumable && error.path.starts_with("$.a["), "{error}");
    assert!(seen[1001].is_ok());
}

/// A reader that fails after some bytes.
struct Failing<'a>(&'a [u8]);

impl Read for Failing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.0.is_empty() {
            return Err(std::io::Error::other("the disk is gone"));
        }
        self.0.read(buffer)
    }
}

#[test]
fn a_reader_that_fails_ends_the_stream() {
    let mut documents = Documents::new(Failing(b"{\"a\":1}\n{\"a\":2"), Limits::default());
    assert!(documents.next().is_some_and(|first| first.is_ok()));
    let error = documents.next().expect("an error").expect_err("the failure");
    assert!(matches!(error.kind, JsonErrorKind::Io { .. }) && !error.resumable, "{error:?}");
    assert!(error.to_string().contains("the disk is gone"));
    assert!(documents.next().is_none());
}

fn document(value: impl Into<Value>) -> Document {
    [("list", Value::Array(vec![Value::Null, value.into()]))].into_iter().collect()
}

// spec: J-34
#[test]
fn what_json_lacks_leaves_as_text() {
    let mut out = Vec::new();
    let all: Document = [
        ("at", Value::Timestamp(Timestamp(1_709_209_800_000_001))),
        ("id", Value::Uuid(Uuid(*b"\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23\x45\x67\x89\xab\xcd\xef"))),
        ("raw", Value::Bytes(vec![0, 255])),
        ("whole", Value::Timestamp(Timestamp(-1_000_000))),
    ]
    .into_iter()
    .collect();
    write_document(&all, &mut out).expect("everything has a text");
    let wanted = r#"{"at":"2024-02-29T12:30:00.000001Z","id":"01234567-89ab-cdef-0123-456789abcdef","raw":"AP8=","whole":"1969-12-31T23:59:59Z"}"#;
    assert_eq!(String::from_utf8(out).expect("UTF-8"), wanted);
    // And stays text.
    assert_eq!(text(&parse_value(wanted.as_bytes()).expect("JSON")), wanted);
}

// spec: J-32
#[test]
fn floats_without_a_text_are_errors() {
    for float in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut out = b"before".to_vec();
        let error = write_document(&document(float), &mut out).expect_err("no text");
        assert_eq!(error.path, "$.list[1]");
        assert!(matches!(error.kind, JsonWriteErrorKind::NotFinite(_)));
        assert_eq!(out, b"before");
        let row = Row::encode(&document(float)).expect("NaN can be stored");
        let error = write_row(row.as_ref(), &mut out).expect_err("no text");
        assert_eq!((error.path.as_str(), out.as_slice()), ("$.list[1]", &b"before"[..]));
    }
}

#[test]
fn values_nested_by_hand_do_not_exhaust_the_stack() {
    let nest = |depth: usize| (1..depth).fold(Value::Array(vec![]), |inner, _| Value::Array(vec![inner]));
    let mut out = Vec::new();
    assert_eq!(write_value(&nest(32), &mut out), Ok(()));
    let error = write_value(&nest(33), &mut out).expect_err("too deep");
    assert_eq!(error.kind, JsonWriteErrorKind::TooDeep { max: 32 });
    assert_eq!(write_document(&document(nest(31)), &mut out), Ok(()));
    assert!(write_document(&document(nest(32)), &mut out).is_err());
}

// spec: J-30
#[test]
fn a_row_writes_what_its_document_writes() {
    let input = r#"{"z":[{"b":1,"a":[2.5,{"c":"\u0000"}]},{"a":null}],"big":18446744073709551615,"m":{},"t":"x"}"#;
    let document = parse_document(input.as_bytes()).expect("JSON");
    let row = Row::encode(&document).expect("a small row");
    let (mut from_document, mut from_row) = (Vec::new(), Vec::new());
    write_document(&document, &mut from_document).expect("finite");
    write_row(row.as_ref(), &mut from_row).expect("finite");
    assert_eq!(from_row, from_document);
    let mut field = Vec::new();
    write_value_ref(row.get("z").expect("it is there"), &mut field).expect("finite");
    assert_eq!(text(document.get("z").expect("it is there")).as_bytes(), field);
}

/// Real files, where the folder with them exists: every one is accepted, and what it says survives a round trip.
#[test]
#[expect(clippy::print_stderr, reason = "a test that skips says so")]
fn real_files_are_accepted() {
    let folder = std::env::var_os("BLAZE_SHARED_DATA")
        .map_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data").into(), std::path::PathBuf::from)
        .join("json");
    let Ok(entries) = std::fs::read_dir(&folder) else {
        eprintln!("skipped: no folder {} (name its parent in BLAZE_SHARED_DATA)", folder.display());
        return;
    };
    for entry in entries {
        let path = entry.expect("a readable folder").path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let file = std::fs::read(&path).expect("a readable file");
        let theirs: serde_json::Value = serde_json::from_slice(&file).expect("JSON");
        let documents: Vec<Document> = Documents::new(&file[..], Limits::default())
            .map(|element| element.unwrap_or_else(|error| panic!("{}: {error}", path.display())).document)
            .collect();
        let theirs = match theirs {
            serde_json::Value::Array(elements) => elements,
            one => vec![one],
        };
        assert_eq!(documents.len(), theirs.len(), "{}", path.display());
        for (document, theirs) in documents.iter().zip(&theirs) {
            let mut ours = Vec::new();
            write_document(document, &mut ours).expect("finite");
            assert_eq!(&serde_json::from_slice::<serde_json::Value>(&ours).expect("JSON"), theirs);
            assert_eq!(&parse_document(&ours).expect("our own text"), document);
        }
    }
}
