//! Attributes that are refused.

use crate::Case;
use crate::build::*;
use crate::support::{Attribute, Data};

pub const ATTRIBUTES: &[Case] = &[
    ("node `node v0` (Conv): group is 2; 1 is known", |f| {
        conv(f, "x", &[2, 1, 3, 3], vec![("group", Attribute::Int(2))])
    }),
    ("group is no integer", |f| conv(f, "x", &[2, 1, 3, 3], vec![("group", ints(&[1]))])),
    ("dilation is not known", |f| conv(f, "x", &[1, 1, 3, 3], vec![("dilations", ints(&[2, 2]))])),
    ("dilations has 1 numbers for 2 axes", |f| conv(f, "x", &[1, 1, 3, 3], vec![("dilations", ints(&[1]))])),
    ("strides has 1 numbers for 2 axes", |f| conv(f, "x", &[1, 1, 3, 3], vec![("strides", ints(&[2]))])),
    ("a step of 0", |f| conv(f, "x", &[1, 1, 3, 3], vec![("strides", ints(&[1, 0]))])),
    ("strides holds -1", |f| conv(f, "x", &[1, 1, 3, 3], vec![("strides", ints(&[-1, 1]))])),
    ("pads has 2 numbers for 2 axes", |f| conv(f, "x", &[1, 1, 3, 3], vec![("pads", ints(&[1, 1]))])),
    ("pads holds -1", |f| conv(f, "x", &[1, 1, 3, 3], vec![("pads", ints(&[-1, 0, 0, 0]))])),
    ("padding as wide as the kernel", |f| conv(f, "x", &[1, 1, 3, 3], vec![("pads", ints(&[3, 0, 0, 0]))])),
    ("kernel_shape is Some([5, 5])", |f| conv(f, "x", &[1, 1, 3, 3], vec![("kernel_shape", ints(&[5, 5]))])),
    ("auto_pad `SAME_UPPER` is not known", |f| {
        conv(f, "x", &[1, 1, 3, 3], vec![("auto_pad", Attribute::Text("SAME_UPPER"))])
    }),
    ("auto_pad `VALID` is not known", |f| {
        conv(f, "x", &[1, 1, 3, 3], vec![("auto_pad", Attribute::Text("VALID")), ("pads", ints(&[1; 4]))])
    }),
    ("the attribute ceil_mode is not known", |f| {
        conv(f, "x", &[1, 1, 3, 3], vec![("ceil_mode", Attribute::Int(1))])
    }),
    ("node `node v1` (MaxPool): storage_order is 1; 0 is known", |f| {
        pool(f, vec![("storage_order", Attribute::Int(1))])
    }),
    ("dilation is not known", |f| pool(f, vec![("dilations", ints(&[1, 2]))])),
    ("ceil_mode is 2", |f| pool(f, vec![("ceil_mode", Attribute::Int(2))])),
    ("the attribute count_include_pad is not known", |f| {
        pool(f, vec![("count_include_pad", Attribute::Int(1))])
    }),
    ("kernel of shape []", |f| {
        let x = start(f);
        f.node("MaxPool", &[&x], vec![])
    }),
    ("kernel_shape holds 70000", |f| {
        let x = start(f);
        f.node("MaxPool", &[&x], vec![("kernel_shape", ints(&[70_000, 1]))])
    }),
    ("2 outputs; one is known", |f| {
        let x = start(f);
        f.node_to("MaxPool", &[&x], &["y", "indices"], vec![("kernel_shape", ints(&[2, 2]))]);
        "y".to_owned()
    }),
    ("node `node v1` (BatchNormalization): training_mode is 1; 0 is known", |f| {
        let x = start(f);
        norm(f, &x, [1.0; 4], vec![("training_mode", Attribute::Int(1))])
    }),
    ("epsilon is no number", |f| {
        let x = start(f);
        norm(f, &x, [1.0; 4], vec![("epsilon", Attribute::Int(1))])
    }),
    ("the attribute spatial is not known", |f| {
        let x = start(f);
        norm(f, &x, [1.0; 4], vec![("spatial", Attribute::Int(0))])
    }),
    ("transA is 1; 0 is known", |f| {
        let w = zeros(f, &[1, 4]);
        f.node("Gemm", &["x", &w], vec![("transA", Attribute::Int(1))])
    }),
    ("alpha and beta other than 1", |f| {
        let w = zeros(f, &[1, 4]);
        f.node("Gemm", &["x", &w], vec![("alpha", Attribute::Float(0.5))])
    }),
    ("alpha is no number", |f| {
        let w = zeros(f, &[1, 4]);
        f.node("Gemm", &["x", &w], vec![("alpha", Attribute::Int(2))])
    }),
    ("transB is 2", |f| {
        let w = zeros(f, &[1, 4]);
        f.node("Gemm", &["x", &w], vec![("transB", Attribute::Int(2))])
    }),
    ("axis is 0; 1 is known", |f| {
        let x = start(f);
        f.node("Concat", &[&x, &x], vec![])
    }),
    ("axis is 2; 1 is known", |f| {
        let x = start(f);
        let x = f.node("GlobalMaxPool", &[&x], vec![]);
        f.node("Flatten", &[&x], vec![("axis", Attribute::Int(2))])
    }),
    ("to is 10; 1 is known", |f| {
        let x = start(f);
        f.node("Cast", &[&x], vec![("to", Attribute::Int(10))])
    }),
    ("only constant tensors are known", |f| {
        let w = f.node("Constant", &[], vec![("value", Attribute::Float(1.0))]);
        f.node("Conv", &["x", &w], vec![])
    }),
    ("the attribute value_float is not known", |f| {
        let w = f.node("Constant", &[], vec![("value_float", Attribute::Float(1.0))]);
        f.node("Conv", &["x", &w], vec![])
    }),
    ("`pads` is there twice", |f| {
        conv(f, "x", &[1, 1, 3, 3], vec![("pads", ints(&[1; 4])), ("pads", ints(&[0; 4]))])
    }),
    ("3 inputs; 1..=2 are known", |f| {
        // The third says whether it is training.
        let x = start(f);
        let t = zeros(f, &[1]);
        f.node("Dropout", &[&x, &t, &t], vec![])
    }),
];

pub const RESIZES: &[Case] = &[
    ("node `node v1` (Resize): mode is `nearest`; `linear` is known", |f| {
        let x = start(f);
        let scales = f.tensor(&[4], Data::F32(vec![1.0, 1.0, 2.0, 2.0]));
        f.node("Resize", &[&x, "", &scales], vec![])
    }),
    ("coordinate_transformation_mode is `align_corners`", |f| {
        let x = start(f);
        let mode = Attribute::Text("align_corners");
        resize(f, &x, &[1.0, 1.0, 2.0, 2.0], vec![("coordinate_transformation_mode", mode)])
    }),
    ("keep_aspect_ratio_policy is `not_larger`", |f| {
        let x = start(f);
        let policy = ("keep_aspect_ratio_policy", Attribute::Text("not_larger"));
        resize(f, &x, &[1.0, 1.0, 2.0, 2.0], vec![policy])
    }),
    ("exclude_outside is 1; 0 is known", |f| {
        let x = start(f);
        resize(f, &x, &[1.0, 1.0, 2.0, 2.0], vec![("exclude_outside", Attribute::Int(1))])
    }),
    ("antialias is 1; 0 is known", |f| {
        let x = start(f);
        resize(f, &x, &[1.0, 1.0, 0.5, 0.5], vec![("antialias", Attribute::Int(1))])
    }),
    ("the attribute axes is not known", |f| {
        let x = start(f);
        resize(f, &x, &[2.0, 2.0], vec![("axes", ints(&[2, 3]))])
    }),
    ("scales Some([2.0, 1.0, 2.0, 2.0])", |f| {
        let x = start(f);
        resize(f, &x, &[2.0, 1.0, 2.0, 2.0], vec![])
    }),
    ("scales Some([1.0, 0.5, 2.0, 2.0])", |f| {
        let x = start(f);
        resize(f, &x, &[1.0, 0.5, 2.0, 2.0], vec![])
    }),
    ("for 2 axes", |f| {
        let x = start(f);
        resize(f, &x, &[1.0, 1.0, 2.0], vec![])
    }),
    ("for 2 axes", |f| {
        let x = start(f);
        resize(f, &x, &[1.0, 1.0, 1.0, 2.0, 2.0], vec![])
    }),
    ("scales Some([1.0, 1.0, 2.0, 0.0])", |f| {
        let x = start(f);
        resize(f, &x, &[1.0, 1.0, 2.0, 0.0], vec![])
    }),
    ("scales Some([1.0, 1.0, 2.0, 100000.0])", |f| {
        let x = start(f);
        resize(f, &x, &[1.0, 1.0, 2.0, 1e5], vec![])
    }),
    ("sizes Some([1, 5, 8, 8]) for 4 channels", |f| {
        let x = start(f);
        let sizes = f.tensor(&[4], Data::I64(vec![1, 5, 8, 8]));
        f.node("Resize", &[&x, "", "", &sizes], vec![("mode", Attribute::Text("linear"))])
    }),
    ("sizes holds -8", |f| {
        let x = start(f);
        let sizes = f.tensor(&[4], Data::I64(vec![1, 4, -8, 8]));
        f.node("Resize", &[&x, "", "", &sizes], vec![("mode", Attribute::Text("linear"))])
    }),
    ("both sizes and scales", |f| {
        let x = start(f);
        let (scales, sizes) = (zeros(f, &[4]), f.tensor(&[4], Data::I64(vec![1, 4, 8, 8])));
        f.node("Resize", &[&x, "", &scales, &sizes], vec![("mode", Attribute::Text("linear"))])
    }),
    ("neither sizes nor scales", |f| {
        let x = start(f);
        f.node("Resize", &[&x], vec![("mode", Attribute::Text("linear"))])
    }),
    ("sizes are neither constant nor another value's shape", |f| {
        let x = start(f);
        f.node("Resize", &[&x, "", "", &x], vec![("mode", Attribute::Text("linear"))])
    }),
    ("to the shape of `v1`, which has other channels", |f| {
        let x = start(f);
        let y = conv(f, &x, &[5, 4, 1, 1], vec![]);
        let shape = f.node("Shape", &[&y], vec![]);
        f.node("Resize", &[&x, "", "", &shape], vec![("mode", Attribute::Text("linear"))])
    }),
    ("node `node v1` (Shape): start is 2; 0 is known", |f| {
        let x = start(f);
        f.node("Shape", &[&x], vec![("start", Attribute::Int(2))])
    }),
    ("node `node v1` (Shape): the attribute end is not known", |f| {
        let x = start(f);
        f.node("Shape", &[&x], vec![("end", Attribute::Int(3))])
    }),
];
