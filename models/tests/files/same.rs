//! Files that mean the same.

use engine::cpu::probe::{Probe, instruction_sets};

use crate::build::*;
use crate::support::onnx::{field, number};
use crate::support::{self, Attribute, Data, File, Noise};

/// Two files that mean the same.
type Pair = (&'static str, fn(&mut File) -> String, fn(&mut File) -> String);

/// Many weights, so that they stay as they are in the file.
fn large(f: &mut File, weights: impl Fn(Vec<f32>) -> Data) -> String {
    let x = plain(f);
    let w = f.tensor(&[128, 4, 3, 3], weights(exact(128 * 36)));
    let x = f.node("Conv", &[&x, &w], vec![("pads", ints(&[1; 4]))]);
    let w = f.tensor(&[64, 128, 3, 3], weights(exact(128 * 64 * 9)));
    f.node("Conv", &[&x, &w], vec![("pads", ints(&[1; 4]))])
}

/// The values in a typed field instead of `raw_data`.
fn typed(kind: u64, id: u64, values: &[u64], packed: bool) -> Data {
    let mut fields = Vec::new();
    number(&mut fields, 2, kind);
    if packed {
        let bytes: Vec<u8> = values.iter().flat_map(|&v| (v as u32).to_le_bytes()).collect();
        field(&mut fields, id, &bytes);
    } else {
        values.iter().for_each(|&v| number(&mut fields, id, v));
    }
    Data::Fields(fields)
}

fn pooled_back(f: &mut File, attributes: Vec<(&'static str, Attribute)>, sizes: &[&str]) -> String {
    let x = plain(f);
    let low = f.node("MaxPool", &[&x], vec![("kernel_shape", ints(&[2, 2])), ("strides", ints(&[2, 2]))]);
    let mut all = vec![("mode", Attribute::Text("linear"))];
    all.extend(attributes);
    let sizes: Vec<&str> = [low.as_str()].into_iter().chain(sizes.iter().copied()).collect();
    f.node("Resize", &sizes, all)
}

/// The normalization's source is not written by any layer: only its size is asked for.
fn sized_like(f: &mut File, fused: bool) -> String {
    let x = plain(f);
    let y = norm(f, &x, [0.5, 0.25, -1.0, 2.0], vec![]);
    let y = f.node("Relu", &[&y], vec![]);
    let shape = f.node("Shape", &[if fused { &x } else { &y }], vec![]);
    let low = f.node("MaxPool", &[&y], vec![("kernel_shape", ints(&[2, 2])), ("strides", ints(&[2, 2]))]);
    let up = f.node("Resize", &[&low, "", "", &shape], vec![("mode", Attribute::Text("linear"))]);
    f.node("Add", &[&up, &y], vec![])
}

const PAIRS: &[Pair] = &[
    ("float16", plain, |f| weighted(f, f16(exact(36)))),
    ("bfloat16", plain, |f| weighted(f, bf16(exact(36)))),
    ("many float16", |f| large(f, Data::F32), |f| large(f, f16)),
    ("many bfloat16", |f| large(f, Data::F32), |f| large(f, bf16)),
    ("float_data, packed", plain, |f| {
        let bits: Vec<u64> = exact(36).iter().map(|v| u64::from(v.to_bits())).collect();
        weighted(f, typed(1, 4, &bits, true))
    }),
    ("float16 in int32_data", plain, |f| {
        let bits: Vec<u64> = exact(36).iter().map(|&v| u64::from(support::half(v).0)).collect();
        weighted(f, typed(10, 5, &bits, false))
    }),
    ("bfloat16 in int32_data", plain, |f| {
        let bits: Vec<u64> = exact(36).iter().map(|v| u64::from(v.to_bits() >> 16)).collect();
        weighted(f, typed(16, 5, &bits, false))
    }),
    ("an initializer among the inputs", plain, |f| {
        f.inputs = vec![("x".to_owned(), 1, vec![None; 4]), ("t0".to_owned(), 1, vec![Some(4)])];
        plain(f)
    }),
    ("fixed sizes", plain, |f| {
        f.inputs = vec![("x".to_owned(), 1, vec![Some(1), Some(1), Some(12), Some(14)])];
        plain(f)
    }),
    ("the oldest known versions", plain, |f| {
        (f.ir, f.opset) = (4, Some(11));
        plain(f)
    }),
    ("the last known versions", plain, |f| {
        (f.ir, f.opset) = (14, Some(28));
        plain(f)
    }),
    ("ONNX's name", plain, |f| {
        let y = plain(f);
        f.domain("ai.onnx");
        y
    }),
    ("attributes that say what is so anyway", plain, |f| {
        let w = f.tensor(&[4, 1, 3, 3], Data::F32(exact(36)));
        let mut group = Vec::new();
        number(&mut group, 3, 1);
        number(&mut group, 20, 2);
        let attributes = vec![
            ("auto_pad", Attribute::Text("NOTSET")),
            ("dilations", ints(&[1, 1])),
            ("group", Attribute::Fields(group)),
            ("kernel_shape", ints(&[3, 3])),
            ("pads", ints(&[0; 4])),
            ("strides", ints(&[1, 1])),
        ];
        f.node("Conv", &["x", &w], attributes)
    }),
    ("auto_pad VALID", plain, |f| {
        let w = f.tensor(&[4, 1, 3, 3], Data::F32(exact(36)));
        f.node("Conv", &["x", &w], vec![("auto_pad", Attribute::Text("VALID"))])
    }),
    (
        "zeros that proto3 leaves out, modes that don't matter",
        |f| {
            let sizes = f.tensor(&[4], Data::I64(vec![1, 4, 10, 12]));
            pooled_back(f, vec![], &["", "", &sizes])
        },
        |f| {
            let mut zero = Vec::new();
            number(&mut zero, 20, 2);
            let (roi, scales) = (zeros(f, &[0]), zeros(f, &[0]));
            let sizes = f.tensor(&[4], Data::I64(vec![1, 4, 10, 12]));
            let attributes = vec![
                ("cubic_coeff_a", Attribute::Float(-0.75)),
                ("nearest_mode", Attribute::Text("floor")),
                ("exclude_outside", Attribute::Fields(zero)),
            ];
            pooled_back(f, attributes, &[&roi, &scales, &sizes])
        },
    ),
    ("the size of what was fused away", |f| sized_like(f, false), |f| sized_like(f, true)),
];

#[test]
fn what_means_the_same_gives_the_same() {
    let input = Noise(5).values(12 * 14);
    for &(what, one, other) in PAIRS {
        let run = |build: fn(&mut File) -> String| {
            let mut file = File::default();
            let output = build(&mut file);
            let mut probe = Probe::new(&file.bytes(4, &[&output]), instruction_sets()[0])
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            probe.run(&input, [1, 12, 14]).unwrap_or_else(|error| panic!("{what}: {error}")).remove(0)
        };
        let (one, other) = (run(one), run(other));
        assert_eq!(one.len(), other.len(), "{what}");
        let largest = one.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
        assert!(largest > 0.0, "{what}: nothing to compare");
        for (a, b) in one.iter().zip(&other) {
            assert!((a - b).abs() <= 1e-6 * largest, "{what}: {a} and {b}");
        }
    }
}
