//! Decimals and vectors as users meet them: Rust structs, rows, JSON, order.

use blazedb_wire::serde::{RowEncoder, from_document, from_row, from_value, to_document, to_value};
use blazedb_wire::testing::Gen;
use blazedb_wire::{Decimal, Document, Row, RowRef, Value, ValueRef, Vector, VectorRef, json, limits};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Debug, PartialEq)]
struct Offer {
    price: Decimal,
    was: Option<Decimal>,
    embedding: Vector<f32>,
    exact: Vector<f64>,
    plain: Vec<f32>,
    any: Value,
}

fn decimal(text: &str) -> Decimal {
    text.parse().expect("a decimal")
}

fn offer() -> Offer {
    Offer {
        price: decimal("12.50"),
        was: Some(decimal("-99999999999999999999.123456789")),
        embedding: Vector(vec![0.1, -0.0, f32::MAX]),
        exact: Vector(vec![0.1, 5e-324]),
        plain: vec![0.1, 2.0],
        any: Value::Array(vec![decimal("0.5").into(), Vector(vec![0.5f32]).into(), Vector(vec![0.5f64]).into()]),
    }
}

// spec: J-40, J-41
#[test]
fn structs_keep_decimals_and_vectors_by_every_way() {
    let offer = offer();
    let document = to_document(&offer).expect("small");
    assert_eq!(document.get("price"), Some(&Value::Decimal(offer.price)));
    assert_eq!(document.get("embedding"), Some(&Value::VectorF32(offer.embedding.clone())));
    assert_eq!(document.get("exact"), Some(&Value::VectorF64(offer.exact.clone())));
    assert!(matches!(document.get("plain"), Some(Value::Array(_))), "a list stays a list");
    assert_eq!(document.get("any"), Some(&offer.any));
    assert_eq!(from_document::<Offer>(document.clone()).as_ref(), Ok(&offer));
    let row = Row::encode(&document).expect("small");
    let direct = RowEncoder::default().encode_row(&offer).expect("small");
    assert_eq!(direct, row);
    assert_eq!(from_row::<Offer>(row.as_ref()).as_ref(), Ok(&offer));
    assert_eq!(from_row::<Document>(row.as_ref()).as_ref(), Ok(&document));
}

// spec: V-25
#[test]
fn a_vector_is_read_where_it_lies() {
    #[derive(Deserialize)]
    struct Borrowed<'a> {
        #[serde(borrow)]
        embedding: VectorRef<'a, f32>,
    }
    let row = Row::encode(&to_document(&offer()).expect("small")).expect("small");
    let Some(ValueRef::VectorF32(there)) = row.get("embedding") else { panic!("a vector") };
    let body = row.body().as_ptr_range();
    assert!(body.contains(&there.as_bytes().as_ptr()), "no copy");
    assert!(there.iter().eq([0.1f32, -0.0, f32::MAX]));
    assert!(there.iter().rev().eq([f32::MAX, -0.0, 0.1]));
    let borrowed: Borrowed<'_> = from_row(row.as_ref()).expect("the same vector");
    assert_eq!(borrowed.embedding.as_bytes().as_ptr(), there.as_bytes().as_ptr());
}

// spec: J-34, J-41
#[test]
fn through_json_a_struct_comes_back_and_a_value_has_become_text_and_lists() {
    let offer = offer();
    let document = to_document(&offer).expect("small");
    let mut text = Vec::new();
    json::write_document(&document, &mut text).expect("all finite");
    let text = String::from_utf8(text).expect("JSON");
    assert_eq!(
        text,
        r#"{"any":["0.5",[0.5],[0.5]],"embedding":[0.10000000149011612,-0.0,3.4028234663852886e38],"exact":[0.1,5e-324],"plain":[0.10000000149011612,2.0],"price":"12.5","was":"-99999999999999999999.123456789"}"#
    );
    let read: Offer = from_document(json::parse_document(text.as_bytes()).expect("JSON")).expect("the same fields");
    let lists = Value::Array(vec!["0.5".into(), Value::Array(vec![0.5.into()]), Value::Array(vec![0.5.into()])]);
    assert_eq!(read, Offer { any: lists, ..offer });
    // Another library for people, and one that is not.
    let theirs = serde_json::to_string(&read).expect("finite");
    assert!(theirs.contains(r#""price":"12.5""#), "{theirs}");
    assert_eq!(serde_json::from_str::<Offer>(&theirs).expect("the same fields"), read);
}

// spec: J-32
#[test]
fn a_vector_that_is_not_finite_has_no_text() {
    let value = Value::Array(vec![Vector(vec![0.5, f32::INFINITY]).into()]);
    let mut out = Vec::new();
    let error = json::write_value(&value, &mut out).expect_err("no text for infinity");
    assert_eq!((error.path.as_str(), out.len()), ("$[0][1]", 0));
}

// spec: J-44
#[test]
fn types_do_not_change_on_the_way() {
    assert!(from_value::<Decimal>(Value::I64(1)).is_err(), "an integer is no decimal");
    assert!(from_value::<Decimal>(Value::F64(0.5)).is_err(), "a float is no decimal");
    assert!(from_value::<f64>(decimal("0.5").into()).is_err(), "a decimal is no float");
    assert!(from_value::<Vec<f32>>(Vector(vec![0.5f32]).into()).is_err(), "a vector is no list");
    assert!(from_value::<Vector<f64>>(Vector(vec![0.5f32]).into()).is_err(), "widths differ");
    assert!(from_value::<Vector<f32>>(Value::Bytes(vec![0; 4])).is_err(), "bytes are no vector");
    assert!(from_value::<Vector<f32>>(Value::Array(vec![Value::F64(1e300)])).is_err(), "J-42");
    assert_eq!(from_value::<Vector<f32>>(Value::Array(vec![1.into()])), Ok(Vector(vec![1.0])));
    assert_eq!(from_value::<Decimal>("1.50".into()), Ok(decimal("1.5")));
    assert!(from_value::<Decimal>("1e3".into()).is_err());
}

/// What calls itself a vector of ours, but is none, does not get into a row.
#[test]
fn a_name_of_ours_on_other_bytes_makes_no_row_that_a_reader_refuses() {
    struct Forged(&'static str, Vec<u8>);
    impl Serialize for Forged {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            struct Raw<'a>(&'a [u8]);
            impl Serialize for Raw<'_> {
                fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    serializer.serialize_bytes(self.0)
                }
            }
            serializer.serialize_newtype_struct(self.0, &Raw(&self.1))
        }
    }
    #[derive(Serialize)]
    struct Holder {
        a: Forged,
    }
    let forged = [
        ("$blaze::VectorF32", vec![0xff; 4]),
        ("$blaze::VectorF32", vec![0; 5]),
        ("$blaze::VectorF64", vec![0xff; 8]),
        ("$blaze::Decimal", vec![]),
        ("$blaze::Decimal", vec![2, 100]),
        ("$blaze::Decimal", vec![255; 17]),
        ("$blaze::Decimal", vec![0; 30]),
    ];
    for (name, bytes) in forged {
        let holder = Holder { a: Forged(name, bytes) };
        let through = to_document(&holder).ok().map(|document| Row::encode(&document).expect("small"));
        let direct = RowEncoder::default().encode_row(&holder).ok();
        assert_eq!(direct, through, "{name}");
        if let Some(row) = direct {
            assert!(RowRef::decode(row.shape(), row.body()).is_ok(), "{name}");
        }
    }
}

// spec: L-5
#[test]
fn a_vector_of_a_mebibyte_is_the_largest() {
    let fits = limits::FIELD_BYTES_MAX / 4;
    let of = |len: usize| Value::VectorF32(Vector(vec![0.5; len]));
    let mut out = Vec::new();
    assert_eq!(blazedb_wire::encode_value(&of(fits), &mut out), Ok(0xc4));
    assert!(Value::decode(0xc4, &out).is_ok());
    assert!(blazedb_wire::encode_value(&of(fits + 1), &mut out).is_err());
    assert_eq!(out.len(), limits::FIELD_BYTES_MAX, "an error leaves the output as it was");
    out.extend([0; 4]);
    assert!(Value::decode(0xc4, &out).is_err());
}

#[test]
fn a_value_did_not_grow_for_them() {
    assert_eq!(size_of::<Value>(), 32);
    assert_eq!(size_of::<ValueRef<'_>>(), 32);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Against fractions over one denominator.
    #[test]
    fn decimals_are_ordered_as_numbers(a in -100_000i128..100_000, b in -100_000i128..100_000, p in 0u8..7, q in 0u8..7) {
        let number = |n: i128, places: u8| n * 10i128.pow(6 - u32::from(places));
        let (left, right) = (Decimal::new(a, p).expect("short"), Decimal::new(b, q).expect("short"));
        prop_assert_eq!(left.cmp(&right), number(a, p).cmp(&number(b, q)));
        prop_assert_eq!(left == right, number(a, p) == number(b, q));
    }

    #[test]
    fn decimals_come_back_from_text_and_from_serde(seed: u64) {
        let decimal = Gen::new(seed).decimal();
        prop_assert_eq!(decimal.to_string().parse(), Ok(decimal));
        prop_assert_eq!(from_value::<Decimal>(to_value(&decimal).expect("a decimal")), Ok(decimal));
        prop_assert_eq!(from_value::<Decimal>(Value::Text(decimal.to_string())), Ok(decimal));
    }
}
