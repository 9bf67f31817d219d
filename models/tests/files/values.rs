//! Values, sizes, versions and graphs that are refused.

use crate::Case;
use crate::build::*;
use crate::support::onnx::{field, number};
use crate::support::{Attribute, Data};

pub const VALUES: &[Case] = &[
    ("node `node v0` (Conv): input 1, `t0`, holds a value that is not finite", |f| {
        let w = f.tensor(&[1, 1, 1, 1], Data::F32(vec![f32::NAN]));
        f.node("Conv", &["x", &w], vec![])
    }),
    ("node `node v1` (Conv): input 1, `v0`, holds a value that is not finite", |f| {
        let w = f.tensor(&[1, 1, 1, 2], Data::F16(vec![0x3c00, 0x7c00]));
        let w = f.node("Cast", &[&w], vec![("to", Attribute::Int(1))]);
        f.node("Conv", &["x", &w], vec![])
    }),
    ("not finite", |f| {
        let w = f.tensor(&[1, 1, 1, 1], Data::Bf16(vec![0xff80]));
        f.node("Conv", &["x", &w], vec![])
    }),
    ("node `node v0` (Conv): input 2, `t1`, holds a value that is not finite", |f| {
        let w = zeros(f, &[2, 1, 1, 1]);
        let b = f.tensor(&[2], Data::F32(vec![0.0, f32::INFINITY]));
        f.node("Conv", &["x", &w, &b], vec![])
    }),
    ("input 1, `t1`, holds a value that is not finite", |f| {
        let x = start(f);
        norm(f, &x, [f32::NEG_INFINITY, 0.0, 0.0, 1.0], vec![])
    }),
    ("input 2, `t2`, holds a value that is not finite", |f| {
        let x = start(f);
        norm(f, &x, [1.0, f32::NAN, 0.0, 1.0], vec![])
    }),
    ("node `node v1` (BatchNormalization): scale or shift is not finite", |f| {
        let x = start(f);
        norm(f, &x, [1.0, 0.0, 0.0, -1.0], vec![])
    }),
    ("scale or shift is not finite", |f| {
        let x = start(f);
        norm(f, &x, [0.0, 0.0, 0.0, 0.0], vec![("epsilon", Attribute::Float(0.0))])
    }),
    ("scale or shift is not finite", |f| {
        let x = start(f);
        norm(f, &x, [1e38, 0.0, 1e38, 1.0], vec![])
    }),
    ("node `node v1` (BatchNormalization): the weights before it, scaled, are not finite", |f| {
        let w = f.tensor(&[4, 1, 1, 1], Data::F32(vec![1e30; 4]));
        let x = f.node("Conv", &["x", &w], vec![]);
        norm(f, &x, [1e30, 0.0, 0.0, 1.0], vec![])
    }),
    ("node `node v1` (Resize): input 2, `t1`, holds a value that is not finite", |f| {
        let x = start(f);
        resize(f, &x, &[1.0, 1.0, f32::INFINITY, 2.0], vec![])
    }),
    ("weights are integers", |f| {
        let w = f.tensor(&[1, 1, 1, 1], Data::I64(vec![1]));
        f.node("Conv", &["x", &w], vec![])
    }),
];

pub const SHAPES: &[Case] = &[
    ("node `node v0` (Conv): weights of shape [1152921504606846976, 0, 3, 3]", |f| {
        let w = f.tensor(&[1 << 60, 0, 3, 3], Data::F32(vec![]));
        f.node("Conv", &["x", &w], vec![])
    }),
    ("weights of shape [0, 1, 3, 3]", |f| {
        let w = f.tensor(&[0, 1, 3, 3], Data::F32(vec![]));
        f.node("Conv", &["x", &w], vec![])
    }),
    ("weights of shape [4, 1, 0, 3]", |f| {
        let w = f.tensor(&[4, 1, 0, 3], Data::F32(vec![]));
        f.node("Conv", &["x", &w], vec![])
    }),
    ("weights of shape [4]", |f| conv(f, "x", &[4], vec![])),
    ("kernel of shape [3]", |f| conv(f, "x", &[4, 1, 3], vec![])),
    ("kernel of shape [1, 1, 1, 1]", |f| conv(f, "x", &[4, 1, 1, 1, 1, 1], vec![])),
    ("a window of 3 axes in a network of 2", |f| conv(f, "x", &[4, 1, 3, 3, 3], vec![])),
    ("tensor `t0` of 18446744073709551615 values has 4 bytes", |f| {
        let w = f.tensor(&[1 << 40, 1 << 40, 1, 1], Data::F32(vec![0.0]));
        f.node("Conv", &["x", &w], vec![])
    }),
    ("tensor `t0` of 2 values has 4 bytes", |f| {
        let w = f.tensor(&[2, 1, 1, 1], Data::F32(vec![0.0]));
        f.node("Conv", &["x", &w], vec![])
    }),
    ("node `node v0` (Conv): weights of shape [300000, 1, 1, 1]", |f| {
        let w = f.tensor(&[300_000, 1, 1, 1], Data::F16(vec![0; 300_000]));
        f.node("Conv", &["x", &w], vec![])
    }),
    ("node `node v17` (Concat): 524288 channels", |f| {
        let mut x = start(f);
        for _ in 0..38 {
            x = f.node("Concat", &[&x, &x], vec![("axis", Attribute::Int(1))]);
        }
        x
    }),
    ("channels, 1056768 in all", |f| {
        // Each ReLU of a value that is read again brings a scale and a shift.
        let w = f.tensor(&[8192, 1, 1, 1], Data::F16(vec![0; 8192]));
        let mut x = f.node("Conv", &["x", &w], vec![]);
        for _ in 0..400 {
            let y = f.node("Relu", &[&x], vec![]);
            x = f.node("Add", &[&y, &x], vec![]);
        }
        x
    }),
    ("weights so far; 268435456 are the most", |f| {
        // Few weights in the file, many once each layer has its own.
        let w = f.tensor(&[512, 512, 3, 3], Data::F16(vec![0; 512 * 512 * 9]));
        let mut x = conv(f, "x", &[512, 1, 1, 1], vec![]);
        for _ in 0..200 {
            x = f.node("Conv", &[&x, &w], vec![("pads", ints(&[1, 1, 1, 1]))]);
        }
        x
    }),
    ("more than 2000 layers", |f| {
        let mut x = start(f);
        for _ in 0..2001 {
            x = f.node("Add", &[&x, &x], vec![]);
        }
        x
    }),
    ("more than 10000 nodes", |f| {
        let mut x = start(f);
        for _ in 0..10_001 {
            x = f.node("Identity", &[&x], vec![]);
        }
        x
    }),
    ("node `node v3` (first of its layer): a map of [1, 16000, 16000]", |f| {
        let mut x = start(f);
        for _ in 0..6 {
            x = resize(f, &x, &[1.0, 1.0, 10.0, 10.0], vec![]);
            x = f.node("MaxPool", &[&x], vec![("kernel_shape", ints(&[1, 1]))]);
        }
        x
    }),
    ("maps of more than 536870912 values", |f| {
        let mut x = start(f);
        x = resize(f, &x, &[1.0, 1.0, 20.0, 20.0], vec![]);
        for _ in 0..4 {
            x = f.node("Add", &[&x, &x], vec![]);
        }
        x
    }),
    ("more than 1099511627776 operations", |f| {
        let x = conv(f, "x", &[512, 1, 1, 1], vec![]);
        let x = resize(f, &x, &[1.0, 1.0, 4.35, 4.35], vec![]);
        conv(f, &x, &[512, 512, 3, 3], vec![])
    }),
    ("node `node v1` (first of its layer): a map of [1, 0, 0] from one of [1, 160, 160]", |f| {
        let x = start(f);
        conv(f, &x, &[4, 4, 161, 161], vec![])
    }),
    ("maps of [1, 160, 160] and [1, 158, 158] can't be joined", |f| {
        let x = start(f);
        let y = conv(f, &x, &[4, 4, 3, 3], vec![]);
        f.node("Add", &[&x, &y], vec![])
    }),
    ("3 channels where 4 are needed", |f| {
        let x = conv(f, "x", &[3, 1, 1, 1], vec![]);
        conv(f, &x, &[4, 4, 1, 1], vec![])
    }),
    ("input 1 of shape [3] is not 4 numbers", |f| {
        let x = start(f);
        let t = zeros(f, &[3]);
        f.node("BatchNormalization", &[&x, &t, &t, &t, &t], vec![])
    }),
];

pub const GRAPHS: &[Case] = &[
    ("node `node v0` (Softmax): this operator is not known", |f| f.node("Softmax", &["x"], vec![])),
    ("node `node v0` (Conv): this operator is not known", |f| {
        let y = start(f);
        f.domain("com.example");
        y
    }),
    ("node `node v0` (Relu): `nowhere` is computed by no node before this", |f| {
        f.node("Relu", &["nowhere"], vec![])
    }),
    ("node `graph` (outputs): `nowhere` is computed by no node", |f| {
        start(f);
        "nowhere".to_owned()
    }),
    ("must start with a convolution", |f| f.node("Relu", &["x"], vec![])),
    ("must start with a convolution", |f| f.node("Shape", &["x"], vec![])),
    ("`x` is the input", |_| "x".to_owned()),
    ("node `node v1` (Relu): `v0` is there already", |f| {
        let x = start(f);
        f.node_to("Relu", &[&x], &["v0"], vec![]);
        x
    }),
    ("node `node v1` (Relu): `t0` is there already", |f| {
        let x = start(f);
        f.node_to("Relu", &[&x], &["t0"], vec![]);
        x
    }),
    ("`t0` is there twice", |f| {
        let x = start(f);
        f.named("t0", &[1], Data::F32(vec![0.0]));
        x
    }),
    ("0 outputs; one is known", |f| {
        f.node_to("Relu", &["x"], &[], vec![]);
        "x".to_owned()
    }),
    ("4 inputs; 2..=3 are known", |f| {
        let w = zeros(f, &[1, 1, 1, 1]);
        f.node("Conv", &["x", &w, &w, &w], vec![])
    }),
    ("input 1, `x`, is no constant", |f| f.node("Conv", &["x", "x"], vec![])),
    ("node `node v1` (last of its layer): nothing reads what it writes", |f| {
        let x = start(f);
        f.node("MaxPool", &[&x], vec![("kernel_shape", ints(&[1, 1]))]);
        x
    }),
    ("a matrix needs a vector", |f| {
        let w = zeros(f, &[1, 4]);
        f.node("Gemm", &["x", &w], vec![])
    }),
    ("node `node v2` (Gemm): a map of one pixel where a vector is needed", |f| {
        let x = start(f);
        let x = f.node("GlobalMaxPool", &[&x], vec![]);
        let w = zeros(f, &[4, 2]);
        f.node("Gemm", &[&x, &w], vec![])
    }),
    ("or a map and a vector", |f| {
        // ONNX would spread [1, 4, 1, 1] and [1, 4] over each other.
        let x = start(f);
        let pooled = f.node("GlobalMaxPool", &[&x], vec![]);
        let clipped = f.node("Relu", &[&pooled], vec![]);
        let flat = f.node("Flatten", &[&pooled], vec![]);
        f.node("Add", &[&clipped, &flat], vec![])
    }),
    ("a vector where a map is needed", |f| {
        let x = start(f);
        let x = f.node("GlobalMaxPool", &[&x], vec![]);
        f.node("MaxPool", &[&x], vec![("kernel_shape", ints(&[1, 1]))])
    }),
    ("only the result of a global pooling can be flattened", |f| {
        let x = start(f);
        f.node("Flatten", &[&x], vec![])
    }),
    ("input 2 of shape [4, 1] is not 4 numbers", |f| {
        f.inputs = vec![("x".to_owned(), 1, vec![None, Some(3)])];
        let (w, b) = (zeros(f, &[3, 4]), zeros(f, &[4, 1]));
        f.node("Gemm", &["x", &w, &b], vec![])
    }),
];

pub const HEADERS: &[Case] = &[
    ("uses operator set 10; known: 11 to 28", |f| {
        f.opset = Some(10);
        start(f)
    }),
    ("uses operator set 29", |f| {
        f.opset = Some(29);
        start(f)
    }),
    ("uses operator set 0", |f| {
        f.opset = None;
        start(f)
    }),
    ("has IR version 3", |f| {
        f.ir = 3;
        start(f)
    }),
    ("has IR version 18446744073709551615", |f| {
        f.ir = u64::MAX;
        start(f)
    }),
    ("node `graph` (inputs): 2 inputs; one is known", |f| {
        f.inputs = ["x", "y"].map(|name| (name.to_owned(), 1, vec![None; 4])).to_vec();
        start(f)
    }),
    ("`x` of type 10, 4 dimensions; 1 (float)", |f| {
        f.inputs = vec![("x".to_owned(), 10, vec![None; 4])];
        start(f)
    }),
    ("`x` of type 1, 3 dimensions", |f| {
        f.inputs = vec![("x".to_owned(), 1, vec![None; 3])];
        start(f)
    }),
    ("`x` is a batch of 2; 1 is known", |f| {
        f.inputs = vec![("x".to_owned(), 1, vec![Some(2), Some(1), None, None])];
        start(f)
    }),
    ("the input has 3 channels, its first layer reads 1", |f| {
        f.inputs = vec![("x".to_owned(), 1, vec![None, Some(3), None, None])];
        start(f)
    }),
    ("node `node v0` (first of its layer): a map of [1, 1000000, 1000000]", |f| {
        f.inputs = vec![("x".to_owned(), 1, vec![None, None, Some(1_000_000), Some(1_000_000)])];
        pool(f, vec![("strides", ints(&[60_000, 60_000]))])
    }),
    ("tensor `t0` has its data in another file", |f| {
        let mut fields = Vec::new();
        number(&mut fields, 2, 1);
        field(&mut fields, 13, b"");
        number(&mut fields, 14, 1);
        let w = f.tensor(&[1, 1, 1, 1], Data::Fields(fields));
        f.node("Conv", &["x", &w], vec![])
    }),
    ("tensor `t0` has data type 11", |f| {
        let mut fields = Vec::new();
        number(&mut fields, 2, 11);
        field(&mut fields, 9, &[0; 8]);
        let w = f.tensor(&[1, 1, 1, 1], Data::Fields(fields));
        f.node("Conv", &["x", &w], vec![])
    }),
    ("tensor `t0` of 1 values has 0 bytes", |f| {
        // Floats in the field of integers.
        let mut fields = Vec::new();
        number(&mut fields, 2, 1);
        number(&mut fields, 7, 0);
        let w = f.tensor(&[1, 1, 1, 1], Data::Fields(fields));
        f.node("Conv", &["x", &w], vec![])
    }),
    ("more than 8 dimensions of a tensor", |f| {
        let w = zeros(f, &[1; 9]);
        f.node("Conv", &["x", &w], vec![])
    }),
];
