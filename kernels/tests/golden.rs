//! The kernels against SciPy and PyTorch: `data/golden.json`, written by `make_golden.py`.

use kernels::{PyramidPool, Zoom};

/// The same numbers as `noise` in `make_golden.py`.
fn noise(count: usize) -> Vec<f32> {
    let mut state: u64 = 12345;
    let mut next = || {
        state = (state * 1_103_515_245 + 12345) % (1 << 31);
        ((state >> 8) % 4096) as f32 - 1024.0
    };
    (0..count).map(|_| next()).collect()
}

fn golden(key: &str) -> Vec<serde_json::Value> {
    let text = include_str!("data/golden.json");
    let all: serde_json::Value = serde_json::from_str(text).expect("golden.json is JSON");
    all[key].as_array().expect("golden.json has this list").clone()
}

fn numbers<T: serde::de::DeserializeOwned>(value: &serde_json::Value) -> Vec<T> {
    serde_json::from_value(value.clone()).expect("a list of numbers")
}

#[test]
fn zoom_equals_scipy() {
    for case in golden("zoom") {
        let (from, to) = (numbers::<usize>(&case["from"]), numbers::<usize>(&case["to"]));
        let expected = numbers::<f32>(&case["values"]);
        let source = noise(from[0] * from[1]);
        let out = Zoom::new([from[0], from[1]], [to[0], to[1]]).plane(&source, from[1]);
        assert_eq!(out.len(), expected.len());
        for (index, (got, want)) in out.iter().zip(&expected).enumerate() {
            assert!((got - want).abs() <= 1e-4, "{from:?} to {to:?}, value {index}: {got} for {want}");
        }
    }
}

#[test]
fn pyramid_equals_torch_to_the_bit() {
    for case in golden("pool") {
        let shape = numbers::<usize>(&case["shape"]);
        let [channels, rows, columns, slices] = [shape[0], shape[1], shape[2], shape[3]];
        let volume = noise(channels * rows * columns * slices);
        let mut pool = PyramidPool::new(channels, rows, columns, slices);
        for slice in 0..slices {
            let features: Vec<f32> = volume.iter().skip(slice).step_by(slices).copied().collect();
            pool.push(slice, &features).expect("the slice fits");
        }
        assert_eq!(pool.finish().expect("all slices"), numbers::<f32>(&case["values"]), "{shape:?}");
    }
}
