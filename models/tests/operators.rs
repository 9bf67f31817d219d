//! Every operator of the CPU engine against plain loops in f64, on every instruction set of this processor, over odd shapes.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use engine::cpu::probe::{Probe, instruction_sets};
use support::{Attribute, Data, File, Map, Noise, Window, half};

/// Sizes and channels around the blocks and tiles: 8 and 16 channels a block, 12 pixels a tile.
const ODD: [usize; 11] = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33];

/// A network in the making: the file, and beside it what it must give.
struct Case {
    file: File,
    noise: Noise,
    axes: usize,
}

/// A value in both.
#[derive(Clone)]
struct Value {
    name: String,
    map: Map,
}

impl Case {
    fn new(seed: u64, channels: usize, dims: [usize; 3], axes: usize) -> (Self, Value, Vec<f32>) {
        let mut noise = Noise(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let input = noise.values(channels * dims.iter().product::<usize>());
        let map = Map::new(channels, dims, &input);
        (Self { file: File::default(), noise, axes }, Value { name: "x".to_owned(), map }, input)
    }

    fn conv(&mut self, x: &Value, outputs: usize, window: &Window, halves: bool, bias: bool) -> Value {
        let (inputs, [d, h, w]) = (x.map.channels, window.size);
        let mut weights = self.noise.values(outputs * inputs * d * h * w);
        let dims = [vec![outputs, inputs], [d, h, w][3 - self.axes..].to_vec()].concat();
        let data = if halves {
            let rounded: Vec<(u16, f32)> = weights.iter().map(|&v| half(v)).collect();
            weights = rounded.iter().map(|r| r.1).collect();
            Data::F16(rounded.iter().map(|r| r.0).collect())
        } else {
            Data::F32(weights.clone())
        };
        let mut kernel = self.file.tensor(&dims, data);
        if halves {
            kernel = self.file.node("Cast", &[&kernel], vec![("to", Attribute::Int(1))]);
        }
        let biases = if bias { self.noise.values(outputs) } else { vec![0.0; outputs] };
        let name = self.file.tensor(&[outputs], Data::F32(biases.clone()));
        let inputs: &[&str] = if bias { &[&x.name, &kernel, &name] } else { &[&x.name, &kernel] };
        let name = self.file.node("Conv", inputs, window.attributes(self.axes));
        Value { name, map: x.map.conv(&weights, &biases, window) }
    }

    fn norm(&mut self, x: &Value) -> Value {
        let channels = x.map.channels;
        let (scale, shift) = (self.noise.values(channels), self.noise.values(channels));
        let parameters = [scale.clone(), shift.clone(), vec![0.0; channels], vec![1.0; channels]]
            .map(|values| self.file.tensor(&[channels], Data::F32(values)));
        let mut inputs = vec![x.name.as_str()];
        inputs.extend(parameters.iter().map(String::as_str));
        let name = self.file.node("BatchNormalization", &inputs, vec![("epsilon", Attribute::Float(0.0))]);
        Value { name, map: x.map.scale(&scale, &shift) }
    }

    fn relu(&mut self, x: &Value) -> Value {
        Value { name: self.file.node("Relu", &[&x.name], vec![]), map: x.map.relu() }
    }

    fn add(&mut self, a: &Value, b: &Value) -> Value {
        Value { name: self.file.node("Add", &[&a.name, &b.name], vec![]), map: a.map.add(&b.map) }
    }

    fn concat(&mut self, a: &Value, b: &Value) -> Value {
        let name = self.file.node("Concat", &[&a.name, &b.name], vec![("axis", Attribute::Int(1))]);
        Value { name, map: a.map.concat(&b.map) }
    }

    fn pool(&mut self, x: &Value, window: &Window) -> Value {
        let name = self.file.node("MaxPool", &[&x.name], window.attributes(self.axes));
        Value { name, map: x.map.max_pool(window) }
    }

    /// To the size of `like`, as PyTorch exports `interpolate(size=...)`.
    fn resize_like(&mut self, x: &Value, like: &Value) -> Value {
        let size = self.file.node("Shape", &[&like.name], vec![]);
        let dims = like.map.dims;
        let scale = [0, 1, 2].map(|a| dims[a] as f64 / x.map.dims[a] as f64);
        let name = self.file.node("Resize", &[&x.name, "", "", &size], linear());
        Value { name, map: x.map.resize(dims, scale) }
    }

    fn resize_by(&mut self, x: &Value, scales: [f32; 3]) -> Value {
        let given = [vec![1.0, 1.0], scales[3 - self.axes..].to_vec()].concat();
        let given = self.file.tensor(&[given.len()], Data::F32(given));
        let scales = if self.axes == 2 { [1.0, scales[1], scales[2]] } else { scales };
        let dims = [0, 1, 2].map(|a| (x.map.dims[a] as f32 * scales[a]).floor() as usize);
        let name = self.file.node("Resize", &[&x.name, "", &given], linear());
        Value { name, map: x.map.resize(dims, scales.map(f64::from)) }
    }

    /// A convolution that changes nothing but the layout: networks start with one.
    fn start(&mut self, x: &Value) -> Value {
        let channels = x.map.channels;
        let weights = (0..channels * channels).map(|i| if i % (channels + 1) == 0 { 1.0 } else { 0.0 });
        let dims = [vec![channels, channels], vec![1; self.axes]].concat();
        let kernel = self.file.tensor(&dims, Data::F32(weights.collect()));
        let name = self.file.node("Conv", &[&x.name, &kernel], vec![]);
        Value { name, map: x.map.clone() }
    }

    fn check(&self, input: &[f32], dims: [usize; 3], outputs: &[&Value], what: &str) {
        let names: Vec<&str> = outputs.iter().map(|v| v.name.as_str()).collect();
        let bytes = self.file.bytes(self.axes + 2, &names);
        for set in instruction_sets() {
            let mut probe = Probe::new(&bytes, set).unwrap_or_else(|error| panic!("{what}, {set}: {error}"));
            let got = probe.run(input, dims).unwrap_or_else(|error| panic!("{what}, {set}: {error}"));
            for (got, want) in got.iter().zip(outputs) {
                want.map.check(got, &format!("{what}, {set}, {}", want.name));
            }
        }
    }
}

/// The bits of all outputs, by so many threads.
fn bits(file: &[u8], set: &str, threads: usize, input: &[f32], dims: [usize; 3]) -> Vec<u32> {
    let mut probe = Probe::new(file, set).unwrap().with_threads(threads);
    let outputs = probe.run(input, dims).unwrap();
    outputs.iter().flatten().map(|v| v.to_bits()).collect()
}

fn linear() -> Vec<(&'static str, Attribute)> {
    let mode = Attribute::Text("half_pixel");
    vec![("mode", Attribute::Text("linear")), ("coordinate_transformation_mode", mode)]
}

/// Small enough for Miri, which checks every access of the kernels: `cargo +nightly miri test -p engine --test operators`.
#[test]
fn a_small_net_with_everything() {
    for channels in [3, 9] {
        let dims = [1, 3, 5];
        let (mut case, x, input) = Case::new(7, 1, dims, 2);
        let x = case.conv(&x, channels, &Window::square(3, 1, 1), true, true);
        let pre = case.norm(&x);
        let pre = case.relu(&pre);
        let a = case.conv(&pre, 12 - channels, &Window::square(3, 1, 1), false, false);
        let a = case.conv(&a, channels, &Window::square(1, 1, 0), false, true);
        let skip = case.add(&a, &x);
        let low = case.pool(&skip, &Window { ceil: true, ..Window::square(2, 2, 0) });
        let up = case.resize_like(&low, &skip);
        let sum = case.add(&up, &skip);
        case.check(&input, dims, &[&sum, &low], &format!("{channels} channels"));
    }
}

/// As small: what ResNet50 and the 3-D U-Net add, strides, wide kernels, depth, concatenation and vectors.
#[test]
fn a_small_net_of_the_other_kind() {
    let dims = [1, 4, 6];
    let (mut case, x, input) = Case::new(8, 1, dims, 2);
    let x = case.conv(&x, 3, &Window::square(5, 2, 2), true, true);
    let y = case.conv(&x, 17, &Window::square(1, 1, 0), false, false);
    let joined = case.concat(&x, &y);
    let last = case.conv(&joined, 2, &Window::square(3, 2, 1), false, true);
    let name = case.file.node("GlobalAveragePool", &[&last.name], vec![]);
    let pooled = Value { name, map: last.map.global(false) };
    case.check(&input, dims, &[&last, &pooled], "strides");
    let dims = [2, 2, 3];
    let (mut case, x, input) = Case::new(9, 1, dims, 3);
    let x = case.conv(&x, 2, &Window::cube(3, 1, 1), false, true);
    let low = case.pool(&x, &Window { ceil: true, ..Window::cube(2, 2, 0) });
    let up = case.resize_like(&low, &x);
    let sum = case.add(&up, &x);
    case.check(&input, dims, &[&sum], "a volume");
}

#[test]
#[cfg_attr(miri, ignore = "too long under Miri")]
fn convolutions_of_all_kinds() {
    // Size, stride, padding: the nets' own, and ResNet50's stem and reductions.
    let windows = [(3, 1, 1), (1, 1, 0), (3, 2, 1), (1, 2, 0), (7, 2, 3), (3, 1, 0), (5, 1, 2), (2, 2, 0)];
    let mut seed = 0;
    for (size, stride, pad) in windows {
        for inputs in ODD {
            let mut pick = Noise(u64::from(seed as u32) * 7919 + 1);
            for _ in 0..3 {
                seed += 1;
                let (outputs, h, w) = (pick.pick(&ODD), pick.pick(&ODD), pick.pick(&ODD));
                if h + 2 * pad < size || w + 2 * pad < size {
                    continue;
                }
                let window = Window::square(size, stride, pad);
                let (mut case, x, input) = Case::new(seed, inputs, [1, h, w], 2);
                let y = case.conv(&x, outputs, &window, seed % 2 == 0, seed % 3 == 0);
                case.check(&input, [1, h, w], &[&y], &format!("{window:?} {inputs}->{outputs}, {h} x {w}"));
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "too long under Miri")]
fn half_precision_weights_on_small_maps() {
    // More than 60 000 weights: kept in half precision; every number of rows and pixels of a tile.
    for (h, w) in [(1, 1), (1, 2), (2, 3), (3, 3), (4, 5), (6, 6), (5, 7), (7, 10), (12, 12), (13, 25)] {
        let (mut case, x, input) = Case::new((h * 31 + w) as u64, 96, [1, h, w], 2);
        let y = case.conv(&x, 80, &Window::square(3, 1, 1), true, true);
        case.check(&input, [1, h, w], &[&y], &format!("96->80 in half precision, {h} x {w}"));
    }
}

#[test]
#[cfg_attr(miri, ignore = "too long under Miri")]
fn volumes() {
    for (seed, channels, dims) in
        [(1, 1, [5, 7, 9]), (2, 3, [1, 8, 8]), (3, 8, [4, 3, 17]), (4, 17, [3, 4, 5]), (5, 16, [2, 9, 1])]
    {
        let (mut case, x, input) = Case::new(seed, channels, dims, 3);
        let a = case.conv(&x, 9, &Window::cube(3, 1, 1), false, true);
        let a = case.relu(&a);
        let mut window = Window::cube(2, 2, 0);
        window.ceil = true;
        let low = case.pool(&a, &window);
        let low = case.conv(&low, 20, &Window::cube(3, 1, 1), true, false);
        // The shape that a map is resized to has its channels.
        let low = case.conv(&low, 9, &Window::cube(1, 1, 0), false, false);
        let up = case.resize_like(&low, &a);
        let joined = case.concat(&up, &a);
        let b = case.conv(&joined, 5, &Window::cube(3, 1, 1), false, true);
        let strided = case.conv(&b, 4, &Window::cube(3, 2, 1), false, true);
        case.check(&input, dims, &[&a, &b, &strided], &format!("{channels} channels of {dims:?}"));
    }
}

#[test]
#[cfg_attr(miri, ignore = "too long under Miri")]
fn pooling() {
    for (seed, channels) in ODD.into_iter().enumerate() {
        for (size, stride, pad, ceil) in
            [(2, 2, 0, true), (2, 2, 0, false), (3, 2, 1, false), (3, 2, 1, true), (3, 1, 1, false)]
        {
            let mut pick = Noise(seed as u64 * 1000 + size as u64 + 1);
            let (h, w) = (pick.pick(&ODD).max(2), pick.pick(&ODD).max(2));
            let window = Window { ceil, ..Window::square(size, stride, pad) };
            let (mut case, x, input) = Case::new(seed as u64 + 50, channels, [1, h, w], 2);
            let y = case.start(&x);
            let y = case.pool(&y, &window);
            case.check(&input, [1, h, w], &[&y], &format!("{window:?} of {channels}, {h} x {w}"));
        }
    }
    // A window larger than the map still counts when sizes are rounded up.
    let (mut case, x, input) = Case::new(99, 3, [1, 1, 1], 2);
    let y = case.start(&x);
    let y = case.pool(&y, &Window { ceil: true, ..Window::square(2, 2, 0) });
    case.check(&input, [1, 1, 1], &[&y], "2 x 2 of one pixel");
}

#[test]
#[cfg_attr(miri, ignore = "too long under Miri")]
fn resizing() {
    for (seed, channels) in ODD.into_iter().enumerate() {
        let mut pick = Noise(seed as u64 * 77 + 5);
        let (h, w) = (pick.pick(&ODD), pick.pick(&ODD));
        let (mut case, x, input) = Case::new(seed as u64 + 150, channels, [1, h, w], 2);
        let big = case.start(&x);
        let small = case.pool(&big, &Window { ceil: true, ..Window::square(2, 2, 0) });
        let up = case.resize_like(&small, &big);
        let sum = case.add(&up, &big);
        let scaled = case.resize_by(&big, [1.0, 2.0, 1.55]);
        case.check(&input, [1, h, w], &[&sum, &scaled], &format!("{channels} channels, {h} x {w}"));
    }
}

#[test]
#[cfg_attr(miri, ignore = "too long under Miri")]
fn normalizations_clips_and_sums_wherever_they_stand() {
    for (seed, channels) in ODD.into_iter().enumerate() {
        let mut pick = Noise(seed as u64 * 77 + 9);
        let dims = [1, pick.pick(&ODD), pick.pick(&ODD)];
        let (mut case, x, input) = Case::new(seed as u64 + 250, channels, dims, 2);
        let x = case.start(&x);
        // Before a convolution, behind one, behind a sum, without a clip, read twice.
        let pre = case.norm(&x);
        let pre = case.relu(&pre);
        let inner = case.conv(&pre, 11, &Window::square(3, 1, 1), false, false);
        let inner = case.norm(&inner);
        let inner = case.relu(&inner);
        let outer = case.conv(&inner, channels, &Window::square(3, 1, 1), false, true);
        let short = case.conv(&x, channels, &Window::square(1, 1, 0), false, false);
        let sum = case.add(&outer, &short);
        let clipped = case.relu(&sum);
        let twice = case.norm(&clipped);
        let thrice = case.add(&twice, &pre);
        let again = case.add(&thrice, &thrice);
        let last = case.relu(&again);
        let what = format!("{channels} channels of {dims:?}");
        case.check(&input, dims, &[&sum, &last, &twice], &what);
        case.check(&input, dims, &[&last], &what);
    }
}

#[test]
#[cfg_attr(miri, ignore = "too long under Miri")]
fn vectors_and_global_pooling() {
    for (seed, (inputs, outputs)) in [(1, 1), (3, 17), (17, 9), (40, 1), (700, 33)].into_iter().enumerate() {
        for max in [false, true] {
            let dims = [1, 5, 9];
            let (mut case, x, input) = Case::new(seed as u64 + 350, inputs, dims, 2);
            let y = case.start(&x);
            let op = if max { "GlobalMaxPool" } else { "GlobalAveragePool" };
            let pooled = Value { name: case.file.node(op, &[&y.name], vec![]), map: y.map.global(max) };
            let flat = case.file.node("Flatten", &[&pooled.name], vec![]);
            let weights = case.noise.values(inputs * outputs);
            let bias = case.noise.values(outputs);
            let kernel = case.file.tensor(&[outputs, inputs], Data::F32(weights.clone()));
            let shift = case.file.tensor(&[outputs], Data::F32(bias.clone()));
            let inputs = [flat.as_str(), &kernel, &shift];
            let name = case.file.node("Gemm", &inputs, vec![("transB", Attribute::Int(1))]);
            let y = Value { name, map: pooled.map.conv(&weights, &bias, &Window::square(1, 1, 0)) };
            let y = case.relu(&y);
            case.check(&input, dims, &[&y], &format!("{op}, {inputs:?} to {outputs}"));
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "too long under Miri")]
fn large_maps_are_the_same_in_strips() {
    // Larger than what is computed whole, so rows are kept in rings; odd widths; 8 and 16 channels; the skip waits for the way back.
    for (seed, channels, h, w) in [(1, 8, 97, 131), (2, 16, 83, 101), (3, 5, 140, 75)] {
        let dims = [1, h, w];
        let (mut case, x, input) = Case::new(seed + 400, 1, dims, 2);
        let x = case.conv(&x, channels, &Window::square(3, 1, 1), false, true);
        let pre = case.norm(&x);
        let pre = case.relu(&pre);
        let a = case.conv(&pre, channels, &Window::square(3, 1, 1), false, true);
        let skip = case.add(&a, &x);
        let low = case.pool(&skip, &Window { ceil: true, ..Window::square(2, 2, 0) });
        let low = case.conv(&low, 2 * channels, &Window::square(3, 1, 1), false, true);
        let low = case.relu(&low);
        let low = case.conv(&low, channels, &Window::square(3, 1, 1), true, true);
        let up = case.resize_like(&low, &skip);
        let sum = case.add(&up, &skip);
        let last = case.conv(&sum, 1, &Window::square(1, 1, 0), false, false);
        case.check(&input, dims, &[&last, &skip], &format!("{channels} channels, {h} x {w}"));
    }
}

/// Bits, not tolerances: an output's multiply-adds have one order, however the map is cut. Large enough that steps are shared.
#[test]
#[cfg_attr(miri, ignore = "too long under Miri")]
fn any_number_of_threads_gives_the_same_bits() {
    let mut cases = Vec::new();
    // The paper's kind: 8 channels in pairs, skips, and half precision on a map of a few pixels.
    let dims = [1, 101, 93];
    let (mut case, x, input) = Case::new(501, 1, dims, 2);
    let x = case.conv(&x, 8, &Window::square(3, 1, 1), false, true);
    let pre = case.norm(&x);
    let pre = case.relu(&pre);
    let a = case.conv(&pre, 8, &Window::square(3, 1, 1), false, true);
    let b = case.conv(&a, 40, &Window::square(3, 1, 1), false, true);
    let low = case.pool(&b, &Window { ceil: true, ..Window::square(2, 2, 0) });
    let low = case.pool(&low, &Window::square(9, 7, 4));
    let low = case.conv(&low, 200, &Window::square(3, 1, 1), true, true);
    let low = case.conv(&low, 40, &Window::square(1, 1, 0), true, true);
    let up = case.resize_like(&low, &b);
    let sum = case.add(&up, &b);
    cases.push((case.file.bytes(4, &[&sum.name, &a.name]), input, dims));
    // ResNet's kind: 7 x 7, strides, 1 x 1, without pairs; and a concatenation.
    let (mut case, x, input) = Case::new(502, 1, dims, 2);
    let x = case.conv(&x, 64, &Window::square(7, 2, 3), false, true);
    let a = case.conv(&x, 24, &Window::square(3, 1, 1), false, true);
    let joined = case.concat(&a, &x);
    let b = case.conv(&joined, 48, &Window::square(1, 1, 0), false, true);
    let c = case.conv(&b, 80, &Window::square(3, 2, 1), true, true);
    let d = case.conv(&b, 80, &Window::square(1, 2, 0), true, true);
    let sum = case.add(&c, &d);
    cases.push((case.file.bytes(4, &[&sum.name, &joined.name]), input, dims));
    // A volume.
    let dims = [9, 21, 23];
    let (mut case, x, input) = Case::new(503, 2, dims, 3);
    let x = case.conv(&x, 17, &Window::cube(3, 1, 1), false, true);
    let low = case.pool(&x, &Window::cube(2, 2, 0));
    let low = case.conv(&low, 17, &Window::cube(3, 1, 1), false, true);
    let up = case.resize_like(&low, &x);
    let joined = case.concat(&up, &x);
    let y = case.conv(&joined, 16, &Window::cube(3, 1, 1), false, true);
    cases.push((case.file.bytes(5, &[&y.name]), input, dims));
    for (at, (file, input, dims)) in cases.iter().enumerate() {
        for set in instruction_sets() {
            let one = bits(file, set, 1, input, *dims);
            for threads in [2, 3, 5] {
                assert!(
                    one == bits(file, set, threads, input, *dims),
                    "network {at}, {set}: {threads} threads"
                );
            }
        }
    }
}

/// Found in review: a concatenation left what another layer had written in the lanes past the last channel.
#[test]
fn lanes_without_a_channel_hold_zeros() {
    for (first, second) in [(3, 2), (9, 4), (16, 5), (17, 3)] {
        let dims = [1, 5, 7];
        let (mut case, x, input) = Case::new(480, 2, dims, 2);
        let a = case.conv(&x, first, &Window::square(3, 1, 1), false, true);
        let b = case.conv(&x, second, &Window::square(1, 1, 0), false, true);
        let low = case.pool(&a, &Window::square(2, 1, 0));
        let joined = case.concat(&a, &b);
        let bytes = case.file.bytes(4, &[&low.name, &joined.name]);
        for set in instruction_sets() {
            let mut probe = Probe::new(&bytes, set).unwrap();
            assert_eq!(probe.unused_lanes(&input, dims).unwrap(), 0.0, "{first} + {second} channels, {set}");
        }
    }
}

/// What is read under its own name and under another is not changed by what follows one of the two.
#[test]
fn a_value_with_two_names_stays_what_it_is() {
    type Follow = fn(&mut Case, &Value, &Value) -> Value;
    let follows: [(&str, Follow); 3] = [
        ("normalization", |case, alias, _| case.norm(alias)),
        ("ReLU", |case, alias, _| case.relu(alias)),
        ("sum", |case, alias, other| case.add(alias, other)),
    ];
    for op in ["Identity", "Cast"] {
        for (what, follow) in follows {
            let dims = [1, 5, 7];
            let (mut case, x, input) = Case::new(460, 3, dims, 2);
            let x = case.start(&x);
            let y = case.conv(&x, 9, &Window::square(3, 1, 1), false, true);
            let other = case.conv(&x, 9, &Window::square(1, 1, 0), false, true);
            let to = if op == "Cast" { vec![("to", Attribute::Int(1))] } else { vec![] };
            let alias = Value { name: case.file.node(op, &[&y.name], to), map: y.map.clone() };
            let after = follow(&mut case, &alias, &other);
            case.check(&input, dims, &[&after, &y, &other], &format!("{op}, then a {what}; an output"));
            // Read under its own name by a node.
            let beside = case.conv(&y, 4, &Window::square(1, 1, 0), false, false);
            case.check(&input, dims, &[&after, &beside, &other], &format!("{op}, then a {what}"));
        }
    }
}
